"""Where time, ids and randomness come from; handed on as arguments from here."""

from __future__ import annotations

import secrets
import time
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from gatelog.ids import uuid7


def utc_now() -> datetime:
    """The wall clock: for what people read and for session lifetimes, never for leases."""
    return datetime.now(UTC) + _Moved.ahead


def utc_now_us() -> int:
    """The same clock in microseconds since 1970."""
    return utc_now_ns() // 1000


def utc_now_ns() -> int:
    """The same clock in nanoseconds since 1970."""
    return time.time_ns() + _Moved.ahead_ns


class _Moved:
    """By how much tests of the life of sessions have moved the clock of this process."""

    ahead = timedelta()
    ahead_ns = 0


def put_ahead(seconds: float) -> None:
    """Have the clock read this much more than the machine's; for ``gatelog.testing`` alone."""
    _Moved.ahead = timedelta(seconds=seconds)
    _Moved.ahead_ns = int(seconds * 1e9)


def moved_ahead() -> timedelta:
    """By how much tests have moved the clock of this process; nothing anywhere else."""
    return _Moved.ahead


def new_event_id() -> UUID:
    return uuid7(time.time_ns() // 1_000_000, secrets.token_bytes(10))


def new_random_id() -> UUID:
    """A session's public id or a user's id: 122 random bits that tell nothing."""
    return uuid4()
