"""What an application keeps in a session: as bytes that only its user's key opens, and changed.

Formats (nothing else is needed to open them, given the user's key)::

    key      HMAC-SHA-256(user's key, "session_data" ‖ 0x00 ‖ session id (16 bytes))
    sealed   nonce (12 bytes) ‖ AES-256-GCM(key, nonce, plain, AAD) with its 16-byte tag
    AAD      session id (16 bytes) ‖ revision (8 bytes, big-endian)
    plain    MessagePack array [created, {name: value as text}]

    visitor  the same under HMAC-SHA-256(address key, "visitor_data" ‖ 0x00), AAD "visitor"

Rules:

- A value is text, as the application's encoder makes it; two are the same if their texts are.
- The session and the revision are bound into the seal: what is put under another session, or an
  old state that is put back under a new revision, does not open.
- A change is what one request did, by name. Changes of different names do not touch each other.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from uuid import UUID

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gatelog.errors import SessionDataTooLarge
from gatelog.privacy.rules import NONCE_BYTES

MAX_BYTES = 4096  # of one session, before it is sealed
MAX_VISITOR_BYTES = 2800  # so that the cookie, in base64, is below what browsers keep (4096)
VISITOR_AAD = b"visitor"


class Content(msgspec.Struct, frozen=True, array_like=True):
    """What is in a session: each value as text, and since when (seconds since 1970)."""

    created: int = 0
    values: dict[str, str] = {}


class Change(msgspec.Struct, frozen=True):
    """What a request did: names with new values, and names that are gone."""

    put: dict[str, str]
    gone: frozenset[str]

    def __bool__(self) -> bool:
        return bool(self.put or self.gone)


_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(Content).decode


def change_between(before: Mapping[str, str], after: Mapping[str, str]) -> Change:
    """What makes ``after`` of ``before``."""
    put = {name: value for name, value in after.items() if before.get(name) != value}
    return Change(put, frozenset(before.keys() - after.keys()))


def changed(latest: Content, change: Change, created: int) -> Content:
    """The latest content with this change, whoever has changed it meanwhile."""
    kept = {name: value for name, value in latest.values.items() if name not in change.gone}
    return Content(max(created, latest.created), kept | change.put)


def packed(content: Content, limit: int) -> bytes:
    """The content as bytes. Raises SessionDataTooLarge."""
    plain = _pack(content)
    if len(plain) > limit:
        raise SessionDataTooLarge(
            f"The session holds {len(plain)} bytes, and {limit} is the most: keep large things"
            " elsewhere, and their name here."
        )
    return plain


def session_key(subject_key: bytes, session_id: UUID) -> bytes:
    """The key of one session's data."""
    return hmac.digest(subject_key, b"session_data\x00" + session_id.bytes, "sha256")


def visitor_key(address_key: bytes) -> bytes:
    """The key of what is kept by visitors who have not logged in."""
    return hmac.digest(address_key, b"visitor_data\x00", "sha256")


def bound_to(session_id: UUID, revision: int) -> bytes:
    """What a session's seal is bound to."""
    return session_id.bytes + revision.to_bytes(8, "big")


def seal(plain: bytes, key: bytes, nonce: bytes, aad: bytes) -> bytes:
    """What may be stored."""
    return nonce + AESGCM(key).encrypt(nonce, plain, aad)


def unseal(sealed: bytes, key: bytes, aad: bytes) -> Content:
    """The content. Raises ValueError for what was sealed otherwise, or is none."""
    try:
        return _unpack(AESGCM(key).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], aad))
    except (InvalidTag, msgspec.DecodeError):
        raise ValueError("this does not open") from None
