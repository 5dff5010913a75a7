"""Where time, ids and randomness come from; handed on as arguments from here."""

from __future__ import annotations

import secrets
import time
from datetime import UTC, datetime
from uuid import UUID, uuid4

from gatelog.ids import uuid7


def utc_now() -> datetime:
    """The wall clock: for what people read and for session lifetimes, never for leases."""
    return datetime.now(UTC)


def new_event_id() -> UUID:
    return uuid7(time.time_ns() // 1_000_000, secrets.token_bytes(10))


def new_random_id() -> UUID:
    """A session's public id or a user's id: 122 random bits that tell nothing."""
    return uuid4()
