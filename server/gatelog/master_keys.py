"""The master keys, which wrap all other keys: what they are known by, and how they are written.

key id   the first 8 bytes of SHA-256("gatelog master key" ‖ 0x00 ‖ master key)
"""

from __future__ import annotations

import hashlib
import re
from base64 import b64decode, urlsafe_b64encode

KEY_ID_BYTES = 8

MasterKeys = dict[bytes, bytes]  # by their ids; the first one is the newest

_base64 = re.compile(r"[A-Za-z0-9+/_-]{43}=?").fullmatch


def master_key_id(master_key: bytes) -> bytes:
    """What a master key is known by; it tells nothing of the key."""
    return hashlib.sha256(b"gatelog master key\x00" + master_key).digest()[:KEY_ID_BYTES]


def parse_master_keys(text: str) -> MasterKeys:
    """Master keys from text: one or several, separated by white space, the newest first.

    Each is 32 bytes in base64, of either alphabet. Raises ValueError, which quotes nothing.
    """
    keys = [_parse_master_key(word) for word in text.split()]
    if not keys:
        raise ValueError("there is no key")
    return {master_key_id(key): key for key in keys}


def _parse_master_key(word: str) -> bytes:
    if _base64(word) is None:
        raise ValueError("a master key is 32 random bytes in base64 (openssl rand -base64 32)")
    return b64decode(word.rstrip("=").translate(_TO_STANDARD) + "=")


_TO_STANDARD = str.maketrans("-_", "+/")


def format_master_keys(keys: MasterKeys) -> str:
    """The text that ``parse_master_keys`` reads, one key on each line."""
    return "\n".join(urlsafe_b64encode(key).rstrip(b"=").decode() for key in keys.values())
