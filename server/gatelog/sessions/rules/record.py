"""A session as everybody sees it who checks one: a packed record, read field by field.

The record is what the replica stores and what a request carries; nothing is decoded that nobody
asks for. Layout, big-endian; times are microseconds since 1970::

    0   1  state: 1 active, 2 ended
    1   8  quiet_until
    9  16  session_id
    25 16  subject_id
    41  8  started_at
    49  6  absolute_at, in microseconds since it started; 0: ``quiet_until`` is when it is over
    55  4  idle_s, in seconds; 0: it need not be used; of a token, and of nothing else, ``idle_s``
           is 0 and ``absolute_at`` is not
    59  …  roles, UTF-8, comma-separated
     …  …  where there is any: 0x00 ‖ amr, comma-separated
     …  …  where it is not when it started: 0x00 ‖ authenticated_at, after amr, be that empty

Before ``quiet_until`` there is nothing to do about a session; from then on its use is to be
recorded, or it is over. So one comparison tells of nearly every session that it is active and that
nobody needs to be told of it. It is over three quarters of ``idle_s`` later, or at ``absolute_at``.
A token's use is to be recorded again when the next day begins (UTC).
Of a session that has ended there are the first two fields; the second one says when it would have
been over.
"""

from __future__ import annotations

import struct
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from gatelog.sessions.rules.lifetimes import DAY_US, QUARTER_US

if TYPE_CHECKING:
    from gatelog.sessions.rules.state import ActiveSession

ACTIVE = 1
ENDED = 2

_fields = struct.Struct(">xQ16s16sQHII").unpack_from
_times = struct.Struct(">xQ32xQHII").unpack_from
_ROLES_AT = 59
_NO_TIME = bytes(6)
_S = 1_000_000
KEPT_AFTER_IDLING_US = 600 * _S
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_US = timedelta(microseconds=1)


def to_us(moment: datetime) -> int:
    """Microseconds since the epoch."""
    return (moment - _EPOCH) // _US


def from_us(us: int) -> datetime:
    return _EPOCH + timedelta(0, 0, us)


class Session:
    """An active session: whose it is, since when and until when, in which roles, by which login.

    A view of its packed record: a field costs something when it is read. Two are equal when all of
    their fields are. It is as it was when the request was checked; use moves ``expires_at`` on.
    """

    __slots__ = ("record",)

    def __init__(self, record: bytes) -> None:
        self.record = record

    @property
    def expires_us(self) -> int:
        """When it is over unless it is used, in microseconds since 1970 (UTC)."""
        return _expires_us(*_times(self.record))

    @property
    def expires_at(self) -> datetime:
        """When it is over, unless it is used until then (UTC)."""
        return from_us(self.expires_us)

    @property
    def absolute_at(self) -> datetime:
        """When it is over at the latest, however much it is used (UTC)."""
        return from_us(self.absolute_us)

    @property
    def absolute_us(self) -> int:
        """When it is over at the latest, in microseconds since 1970 (UTC)."""
        return _absolute_us(*_times(self.record))

    @property
    def idle_s(self) -> int | None:
        """How long it lasts without being used, in seconds; None: it need not be used."""
        return int.from_bytes(self.record[55:59], "big") or None

    @property
    def quiet_until_us(self) -> int:
        """From when on its use is to be recorded, in microseconds since 1970 (UTC)."""
        return int.from_bytes(self.record[1:9], "big")

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
        """When it started (UTC)."""
        return from_us(int.from_bytes(self.record[41:49], "big"))

    @property
    def authenticated_at(self) -> datetime:
        """When its user was authenticated (UTC): before it started, if only the token is new."""
        told = _login_of(self.record)[2]
        return from_us(int.from_bytes(told or self.record[41:49], "big"))

    @property
    def amr(self) -> frozenset[str]:
        """By which methods its user was authenticated, by their names in RFC 8176.

        Empty where that was not recorded: of logins of before.
        """
        text = self.amr_text
        return frozenset(text.split(",")) if text else frozenset()

    @property
    def amr_text(self) -> str:
        """The methods, comma-separated."""
        return _login_of(self.record)[0].decode()

    @property
    def is_token(self) -> bool:
        """Whether it is a token that a user has made for a machine, and no login's session."""
        return _is_token(self.record)

    @property
    def roles(self) -> frozenset[str]:
        """The user's roles; constant for a session, a change of roles ends it."""
        text = self.roles_text
        return frozenset(text.split(",")) if text else frozenset()

    @property
    def roles_text(self) -> str:
        """The roles, comma-separated."""
        return _roles_text(self.record)

    def texts(self) -> tuple[str, str, datetime, datetime, str]:
        """User, session, start and expiry (UTC), and roles; quicker than one by one."""
        quiet_us, session, subject, started_us, *rest = _fields(self.record)
        return (
            _uuid_text(subject),
            _uuid_text(session),
            from_us(started_us),
            from_us(_expires_us(quiet_us, started_us, *rest)),
            _roles_text(self.record),
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Session) and self.record == other.record

    def __hash__(self) -> int:
        return hash(self.record)

    def __repr__(self) -> str:
        return f"Session({self.session_id}, subject {self.subject_id})"


def _absolute_us(quiet_us: int, started_us: int, high: int, low: int, _idle_s: int) -> int:
    return started_us + (high << 32 | low) if high or low else quiet_us


def _expires_us(quiet_us: int, started_us: int, high: int, low: int, idle_s: int) -> int:
    absolute_us = _absolute_us(quiet_us, started_us, high, low, idle_s)
    return min(absolute_us, quiet_us + 3 * QUARTER_US * idle_s) if idle_s else absolute_us


def _roles_text(record: bytes) -> str:
    return record[_ROLES_AT:].partition(b"\x00")[0].decode()


def _login_of(record: bytes) -> tuple[bytes, bytes, bytes]:
    """By which methods its user was authenticated, and (the last one) when."""
    return record[_ROLES_AT:].partition(b"\x00")[2].partition(b"\x00")


def _is_token(record: bytes) -> bool:
    return record[55:59] == b"\x00\x00\x00\x00" and record[49:55] != _NO_TIME


def _uuid_text(raw: bytes) -> str:
    text = raw.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def packed(session: ActiveSession) -> bytes:
    """The record of this session."""
    started_us, login = to_us(session.started_at), ",".join(session.amr).encode()
    if session.authenticated is not None:
        login += b"\x00" + to_us(session.authenticated).to_bytes(8, "big")
    renewed = session.idle is not None or session.is_token
    lifetime_us = to_us(session.absolute_at) - started_us if renewed else 0
    return b"".join(
        (
            b"\x01",
            to_us(session.due_at).to_bytes(8, "big"),
            session.session_id.bytes,
            session.subject_id.bytes,
            started_us.to_bytes(8, "big"),
            lifetime_us.to_bytes(6, "big"),
            (session.idle.limit_s if session.idle else 0).to_bytes(4, "big"),
            ",".join(session.roles).encode(),
            b"\x00" + login if login else b"",
        )
    )


def seen(record: bytes, at: datetime) -> bytes:
    """The record of the same active session after it was used then (``ActiveSession.seen``)."""
    times, at_us = _times(record), to_us(at)
    quiet_us: int = times[0]
    idle_s: int = times[-1]
    if _is_token(record):
        due_us = at_us - at_us % DAY_US + DAY_US
    elif idle_s:
        due_us = at_us + idle_s * QUARTER_US
    else:
        return record
    due_us = min(due_us, _absolute_us(*times))
    return record[:1] + max(quiet_us, due_us).to_bytes(8, "big") + record[9:]


def over_by_idling(record: bytes) -> bool:
    """Whether an active session whose time is over might have been used meanwhile."""
    times = _times(record)
    return _expires_us(*times) < _absolute_us(*times)


def tombstone(record: bytes) -> bytes:
    """The record of the same session, ended: state and expiry are all that is kept."""
    return b"\x02" + _expires_us(*_times(record)).to_bytes(8, "big")


def forgettable_us(record: bytes) -> int:
    """From when on a replica needs this record no more, in microseconds since 1970.

    Of one that may idle, a while after it has: its end is recorded by then as a rule.
    """
    if record[0] == ENDED:
        return int.from_bytes(record[1:9], "big")
    after_us = KEPT_AFTER_IDLING_US if over_by_idling(record) else 0
    return _expires_us(*_times(record)) + after_us
