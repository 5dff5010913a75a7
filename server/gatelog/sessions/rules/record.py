"""A session as everybody sees it who checks one: a packed record, read field by field.

The record is what the replica stores and what a request carries; nothing is decoded that nobody
asks for. Layout, big-endian::

    0   1  state: 1 active, 2 ended
    1   8  expires_at, microseconds since the epoch
    9  16  session_id
    25 16  subject_id
    41  8  started_at, microseconds since the epoch
    49  …  roles, UTF-8, comma-separated
"""

from __future__ import annotations

import struct
from datetime import UTC, datetime, timedelta
from uuid import UUID

ACTIVE = 1
ENDED = 2

_fields = struct.Struct(">xQ16s16sQ").unpack_from
_ROLES_AT = 49
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_US = timedelta(microseconds=1)


def to_us(moment: datetime) -> int:
    """Microseconds since the epoch."""
    return (moment - _EPOCH) // _US


def from_us(us: int) -> datetime:
    return _EPOCH + timedelta(0, 0, us)


class Session:
    """An active session: whose it is, since when, until when, and in which roles.

    A view of its packed record: a field costs something when it is read. Two are equal when all of
    their fields are.
    """

    __slots__ = ("record",)

    def __init__(self, record: bytes) -> None:
        self.record = record

    @property
    def expires_us(self) -> int:
        """When it is over at the latest, in microseconds since 1970 (UTC)."""
        return int.from_bytes(self.record[1:9], "big")

    @property
    def expires_at(self) -> datetime:
        """When it is over at the latest (UTC)."""
        return from_us(self.expires_us)

    @property
    def session_id(self) -> UUID:
        """Its public id; it tells nothing of the token."""
        return UUID(bytes=self.record[9:25])

    @property
    def session_text(self) -> str:
        """The session's id as text; quicker than by way of the UUID."""
        return _uuid_text(self.record[9:25])

    @property
    def subject_id(self) -> UUID:
        """The user whose session it is."""
        return UUID(bytes=self.record[25:41])

    @property
    def subject_text(self) -> str:
        """The user's id as text; quicker than by way of the UUID."""
        return _uuid_text(self.record[25:41])

    @property
    def started_at(self) -> datetime:
        """When its user logged in (UTC)."""
        return from_us(int.from_bytes(self.record[41:49], "big"))

    @property
    def roles(self) -> frozenset[str]:
        """The user's roles; constant for a session, a change of roles ends it."""
        text = self.roles_text
        return frozenset(text.split(",")) if text else frozenset()

    @property
    def roles_text(self) -> str:
        """The roles, comma-separated."""
        return self.record[_ROLES_AT:].decode()

    def texts(self) -> tuple[str, str, datetime, datetime, str]:
        """User, session, start and expiry (UTC), and roles; quicker than one by one."""
        expires_us, session, subject, started_us = _fields(self.record)
        return (
            _uuid_text(subject),
            _uuid_text(session),
            from_us(started_us),
            from_us(expires_us),
            self.record[_ROLES_AT:].decode(),
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Session) and self.record == other.record

    def __hash__(self) -> int:
        return hash(self.record)

    def __repr__(self) -> str:
        return f"Session({self.session_id}, subject {self.subject_id})"


def _uuid_text(raw: bytes) -> str:
    text = raw.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def pack_session(
    *,
    session_id: UUID,
    subject_id: UUID,
    started_at: datetime,
    expires_at: datetime,
    roles: tuple[str, ...] = (),
) -> bytes:
    """The record of an active session."""
    return b"".join(
        (
            b"\x01",
            to_us(expires_at).to_bytes(8, "big"),
            session_id.bytes,
            subject_id.bytes,
            to_us(started_at).to_bytes(8, "big"),
            ",".join(roles).encode(),
        )
    )


def tombstone(record: bytes) -> bytes:
    """The record of the same session, ended: state and expiry are all that is kept."""
    return b"\x02" + record[1:9]
