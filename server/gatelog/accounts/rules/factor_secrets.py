"""What is secret or personal of a factor, and recovery codes, as they are made and kept.

Formats (nothing else is needed to open one, given the user's key)::

    key       HMAC-SHA-256(user's key, "factor" ‖ 0x00 ‖ factor id (16 bytes))
    sealed    nonce (12 bytes) ‖ AES-256-GCM(key, nonce, plain, AAD) with its 16-byte tag
    AAD       factor id (16 bytes)
    plain     MessagePack array [name, seed, credential id, public key (COSE), transports]

    seed      the first 20 bytes of SHA-256("totp seed" ‖ 0x00 ‖ challenge), whose text has 256
              random bits: what is not confirmed is kept nowhere
    code      120 random bits in base32 (RFC 4648, section 6), lower case, four groups of six
    kept      SHA-256("recovery code" ‖ 0x00 ‖ user's id (16 bytes) ‖ the code's 15 bytes)

A code has more than the 112 bits from which on a plain hash is enough (OWASP ASVS 5.0, 6.5.2).
"""

from __future__ import annotations

import hmac
from base64 import b32decode, b32encode
from hashlib import sha256
from uuid import UUID

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gatelog.accounts.rules.totp import SEED_BYTES
from gatelog.privacy.rules import NONCE_BYTES

CODE_BYTES = 15
_GROUP = 6
_LONGEST_TEXT = 64  # of what somebody types for a code


class FactorSecret(msgspec.Struct, frozen=True, array_like=True):
    """A factor's name, and its seed, or its passkey's credential. New fields come at the end."""

    name: str
    seed: bytes = b""
    credential_id: bytes = b""
    public_key: bytes = b""
    transports: tuple[str, ...] = ()


_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(FactorSecret).decode


def seal_secret(secret: FactorSecret, subject_key: bytes, factor_id: UUID, nonce: bytes) -> bytes:
    """What may be stored of it."""
    cipher = AESGCM(_key(subject_key, factor_id))
    return nonce + cipher.encrypt(nonce, _pack(secret), factor_id.bytes)


def open_secret(sealed: bytes, subject_key: bytes, factor_id: UUID) -> FactorSecret | None:
    """The secret; None for what was sealed otherwise."""
    nonce, text = sealed[:NONCE_BYTES], sealed[NONCE_BYTES:]
    try:
        cipher = AESGCM(_key(subject_key, factor_id))
        return _unpack(cipher.decrypt(nonce, text, factor_id.bytes))
    except (InvalidTag, ValueError, msgspec.DecodeError):
        return None


def _key(subject_key: bytes, factor_id: UUID) -> bytes:
    return hmac.digest(subject_key, b"factor\x00" + factor_id.bytes, "sha256")


def seed_of(challenge: str) -> bytes:
    """The seed that who has this challenge is shown, and confirms."""
    return sha256(b"totp seed\x00" + challenge.encode()).digest()[:SEED_BYTES]


def spell_code(random: bytes) -> str:
    """A recovery code of 15 random bytes, as it is shown."""
    text = b32encode(random).decode().lower()
    return "-".join(text[at : at + _GROUP] for at in range(0, len(text), _GROUP))


def code_digest(text: str, subject_id: UUID) -> bytes | None:
    """What is kept of this recovery code, however it is typed; None for what cannot be one."""
    plain = "".join(char for char in text[:_LONGEST_TEXT] if char.isalnum()).upper()
    try:
        code = b32decode(plain)
    except ValueError:
        return None
    if len(code) != CODE_BYTES:
        return None
    return sha256(b"recovery code\x00" + subject_id.bytes + code).digest()
