"""The name that a user gives to a session of theirs: personal, so only their key opens it.

Formats (nothing else is needed to open one, given the user's key)::

    key      HMAC-SHA-256(user's key, "session_name" ‖ 0x00 ‖ session id (16 bytes))
    sealed   nonce (12 bytes) ‖ AES-256-GCM(key, nonce, name as UTF-8, AAD) with its 16-byte tag
    AAD      session id (16 bytes)
"""

from __future__ import annotations

import hmac
import unicodedata
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gatelog.errors import InvalidInput
from gatelog.privacy.rules import NONCE_BYTES

MAX_NAME_LENGTH = 64


def normalise_name(text: str) -> str:
    """The name as it is kept: NFC, trimmed, 1 to 64 characters that can be seen, on one line.

    Raises InvalidInput.
    """
    name = unicodedata.normalize("NFC", text[: 4 * MAX_NAME_LENGTH]).strip()
    if not name or len(name) > MAX_NAME_LENGTH:
        raise InvalidInput(f"A name has 1 to {MAX_NAME_LENGTH} characters.")
    # Of the categories, C is what cannot be seen, Zl and Zp are line ends.
    if any(unicodedata.category(char)[0] == "C" or char in "\u2028\u2029" for char in name):
        raise InvalidInput("The name contains characters that cannot be seen.")
    return name


def seal_name(name: str, subject_key: bytes, session_id: UUID, nonce: bytes) -> bytes:
    """What may be stored of a name."""
    cipher = AESGCM(_key(subject_key, session_id))
    return nonce + cipher.encrypt(nonce, name.encode(), session_id.bytes)


def open_name(sealed: bytes, subject_key: bytes, session_id: UUID) -> str | None:
    """The name; None for what was sealed otherwise."""
    nonce, text = sealed[:NONCE_BYTES], sealed[NONCE_BYTES:]
    try:
        cipher = AESGCM(_key(subject_key, session_id))
        return cipher.decrypt(nonce, text, session_id.bytes).decode()
    except (InvalidTag, ValueError):
        return None


def _key(subject_key: bytes, session_id: UUID) -> bytes:
    return hmac.digest(subject_key, b"session_name\x00" + session_id.bytes, "sha256")
