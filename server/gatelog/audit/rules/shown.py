"""Questions to the log, and an event as an auditor reads it: who did what, when, from where.

Every way out of the log (pages, exports, streams, command line, SIEM formats) shows events in one
form, so that they agree.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal
from uuid import UUID

import msgspec

from gatelog.log.rules import events as ev
from gatelog.moments import Moment
from gatelog.privacy.rules import Personal

NOTHING = Personal()
MAX_PAGE = 1000
DEFAULT_PAGE = 100
MAX_POSITION = 2**63 - 1  # PostgreSQL's bigint

Order = Literal["asc", "desc"]
Side = Literal["before", "after"]


class Cursor(msgspec.Struct, frozen=True):
    """Where a page lies: right before (older than) or right after (newer than) a position."""

    side: Side
    position: int


class AuditFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which events are asked for, and which page of them.

    ``user`` is whom they are about. ``types`` empty means all. ``since`` (inclusive) and ``until``
    (exclusive) are about ``recorded_at``, ``after`` and ``before`` (both exclusive) about the
    position. ``address``, ``network`` (give one of them) and ``login`` are in their normal
    spelling, and are of who acted: an event says them of nobody else. Without a cursor it is the
    first page.
    """

    user: UUID | None = None
    session: UUID | None = None
    types: tuple[str, ...] = ()
    since: datetime | None = None
    until: datetime | None = None
    address: str | None = None
    network: str | None = None
    login: str | None = None
    after: int | None = None
    before: int | None = None
    order: Order = "desc"
    limit: int = DEFAULT_PAGE
    cursor: Cursor | None = None


class ShownEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One event of the log. What an event does not have is missing.

    ``user_id`` is whom it is about and ``actor_id`` who did it, when it was somebody else. The
    ``login``, ``address``, ``user_agent`` and ``trace_id`` are of who acted and of the request;
    they are missing when they are sealed for the reader, were never known, or are erased. A session
    ends by ``expires_at``, and when it is not used for ``idle_s`` seconds; so many ``sessions``
    have been used. ``what`` was read, by an auditor; ``count`` of them were refused, or are
    there; ``up_to`` a position, all of it recorded ``before`` then, the log was purged. ``factor``
    is the sort of second factor. ``name`` is the own type of what a composed endpoint has recorded,
    and ``data`` what, or what became of a composition: a text of JSON. ``build`` is a composition's
    number.
    """

    position: int
    event_id: UUID
    type: str
    recorded_at: Moment
    occurred_at: Moment
    user_id: UUID | None = None
    session_id: UUID | None = None
    actor_id: UUID | None = None
    reason: str | None = None
    role: str | None = None
    what: str | None = None
    expires_at: Moment | None = None
    idle_s: int | None = None
    sessions: int | None = None
    count: int | None = None
    up_to: int | None = None
    before: Moment | None = None
    factor: str | None = None
    factor_id: UUID | None = None
    login: str | None = None
    address: str | None = None
    user_agent: str | None = None
    trace_id: str | None = None
    name: str | None = None
    data: str | None = None
    build: int | None = None


def shown(
    position: int, recorded_at: datetime, event: ev.Event, personal: Personal | None = None
) -> ShownEvent:
    """The event at this position, with what is personal if that has been opened."""
    opened = personal or NOTHING
    return ShownEvent(
        position=position,
        event_id=event.event_id,
        type=event.type,
        recorded_at=recorded_at,
        occurred_at=event.occurred_at,
        user_id=event.subject_id,
        session_id=getattr(event, "session_id", None),
        actor_id=getattr(event, "actor_id", None),
        reason=getattr(event, "reason", None),
        role=getattr(event, "role", None),
        what=getattr(event, "what", None),
        expires_at=getattr(event, "expires_at", None),
        idle_s=getattr(event, "idle_s", None),
        sessions=len(digests) if (digests := getattr(event, "token_digests", ())) else None,
        count=getattr(event, "count", None),
        up_to=getattr(event, "up_to", None),
        before=getattr(event, "before", None),
        factor=getattr(event, "factor", None),
        factor_id=getattr(event, "factor_id", None),
        name=getattr(event, "name", None),
        data=_data(getattr(event, "data", None), opened),
        build=getattr(event, "build", None),
        login=opened.login,
        address=opened.address,
        user_agent=opened.agent,
        trace_id=opened.trace_id,
    )


def _data(text: str | None, opened: Personal) -> str | None:
    """What the event says, with the fields that are personal where they have been opened."""
    if not opened.more or text is None:
        return text
    return msgspec.json.encode(msgspec.json.decode(text) | dict(opened.more)).decode()
