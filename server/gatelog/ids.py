"""Identifiers made from time and randomness that the caller brings along."""

from __future__ import annotations

import hashlib
from uuid import UUID

_VERSION_7_VARIANT_10 = (0x7 << 76) | (0b10 << 62)
_MASK = ~((0xF << 76) | (0b11 << 62)) & ((1 << 128) - 1)


def uuid7(unix_ms: int, random: bytes) -> UUID:
    """A time-ordered UUID (RFC 9562, section 5.7) from milliseconds and 10 random bytes.

    Time order keeps the unique index over event ids local: new ids land on its right edge.
    """
    value = (unix_ms & 0xFFFFFFFFFFFF) << 80 | int.from_bytes(random[:10], "big")
    return UUID(int=value & _MASK | _VERSION_7_VARIANT_10)


def derived_event_id(first: UUID, index: int) -> UUID:
    """The id of the ``index``-th event of a command whose first event has the id ``first``.

    Derived and not random, so that a retried command yields the same ids. It keeps the time part.
    """
    if index == 0:
        return first
    digest = hashlib.sha256(first.bytes + index.to_bytes(4, "big")).digest()
    return uuid7(first.int >> 80, digest[:10])


def audit_read_id(subject_id: UUID, unix_minute: int) -> UUID:
    """The id of the event that this user read about others in this minute.

    Derived from both, so that whoever records it, on any host, records it once.
    """
    text = b"audit_read\x00" + subject_id.bytes + unix_minute.to_bytes(8, "big")
    return uuid7(unix_minute * 60_000, hashlib.sha256(text).digest()[:10])
