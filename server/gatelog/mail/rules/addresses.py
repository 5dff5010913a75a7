"""Addresses of mail: their form, and how one is kept.

Rules: an address is what everybody's servers take: ASCII, a dot-atom and the name of a host (RFC
5321, section 4.1.2, without quoted names and address literals), 254 characters at most. It is kept
as it was typed, for only its host knows what its name means; the host in lower case.

Format::

    key      HMAC-SHA-256(user's key, "mail_address" ‖ 0x00 ‖ user id (16 bytes))
    sealed   nonce (12 bytes) ‖ AES-256-GCM(key, nonce, address, AAD) with its 16-byte tag
    AAD      user id (16 bytes)
"""

from __future__ import annotations

import hmac
import re
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gatelog.errors import InvalidInput
from gatelog.privacy.rules import NONCE_BYTES

MAX_ADDRESS_LENGTH = 254
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_address = re.compile(rf"({_ATOM}(?:\.{_ATOM})*)@({_LABEL}(?:\.{_LABEL})*)").fullmatch
_MAX_NAME_LENGTH = 64


def check_address(text: str) -> str:
    """The address as it is kept. Raises InvalidInput, which does not quote it."""
    found = _address(text.strip()) if len(text) <= 2 * MAX_ADDRESS_LENGTH else None
    if found is None or len(found[0]) > MAX_ADDRESS_LENGTH or len(found[1]) > _MAX_NAME_LENGTH:
        raise InvalidInput("This is no address of mail.")
    return f"{found[1]}@{found[2].lower()}"


def seal_address(address: str, subject_key: bytes, subject_id: UUID, nonce: bytes) -> bytes:
    """What may be stored of an address."""
    cipher = AESGCM(_key(subject_key, subject_id))
    return nonce + cipher.encrypt(nonce, address.encode("ascii"), subject_id.bytes)


def open_address(sealed: bytes, subject_key: bytes, subject_id: UUID) -> str | None:
    """The address; None for what was sealed otherwise."""
    nonce, text = sealed[:NONCE_BYTES], sealed[NONCE_BYTES:]
    try:
        cipher = AESGCM(_key(subject_key, subject_id))
        return cipher.decrypt(nonce, text, subject_id.bytes).decode("ascii")
    except (InvalidTag, ValueError):
        return None


def _key(subject_key: bytes, subject_id: UUID) -> bytes:
    return hmac.digest(subject_key, b"mail_address\x00" + subject_id.bytes, "sha256")
