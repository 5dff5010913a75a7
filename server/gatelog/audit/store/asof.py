"""Who was logged in at a position of the log, and how that ended since.

Rules:

- A session was active at a position when it had started, had not ended by an event up to there,
  and its time was not over at that moment: one that has expired is not logged in, whether that was
  recorded by then or not.
- How long it was used is told by its end: that of a timeout says when its time was over. Of one
  that has not ended the projection knows.
- What a start and an end mean is ``evolve``'s. Which sessions to look at comes from the mark before
  the position (``gatelog.audit.store.marks``), so that the answer takes as long at any position.
- Of what lies before a purge's cut only the state at the cut is known.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg
import msgspec

from gatelog import moments
from gatelog.audit.store import sql
from gatelog.audit.store.marks import mark_before
from gatelog.errors import InvalidInput, LogDamaged, Purged
from gatelog.log.rules import events as ev
from gatelog.log.store.cuts import Cut, read_cut
from gatelog.log.store.reading import read_head
from gatelog.sessions.rules.events import EndReason, SessionEnded
from gatelog.sessions.rules.state import ActiveSession, PutSession, evolve
from gatelog.sessions.store.kind import TABLE, session_of

if TYPE_CHECKING:
    from gatelog.log.store.database import PooledConnection

MAX_PAGE = 1000
TIMEOUTS = frozenset({"idle_timeout", "absolute_timeout"})
CANDIDATES = 1000  # looked at in one query, at least
MAX_ROUNDS = 8  # of that for one page, which then is short: many may have ended just before
_INSTANT = timedelta(microseconds=1)
# For connections that ask this: whatever the statistics say, a partition is not read as a whole,
# and what has ended is not gone through for each session.
PLANNED_FOR_MARKS = {
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_nestloop": "off",
    "enable_mergejoin": "off",
}


class Moment(msgspec.Struct, frozen=True):
    """A position and a time: all events up to the one, what has expired by the other."""

    position: int
    at: datetime


class End(msgspec.Struct, frozen=True):
    """When and why a session ended; no ``position``: its time is over, and that is not recorded."""

    at: moments.Moment
    reason: EndReason
    position: int | None = None


class SessionThen(msgspec.Struct, frozen=True):
    """A session that was active: by which event it had started, and how it ended since."""

    position: int
    session: ActiveSession
    ended: End | None


class SessionPage(msgspec.Struct, frozen=True):
    """Some of the sessions, those that started last first; ``before`` leads to the next page.

    A page with a next one may hold fewer sessions than were asked for.
    """

    moment: Moment
    sessions: list[SessionThen]
    before: int | None


async def moment_of_position(connection: PooledConnection, position: int) -> Moment:
    """The moment at which the event at this position was recorded. Raises InvalidInput, Purged."""
    cut = await read_cut(connection)
    if cut is not None and position <= cut.up_to:
        if position == cut.up_to:
            return Moment(position, cut.recorded_at)
        raise _purged(cut)
    recorded_at = await connection.fetchval(sql.RECORDED_AT, position)
    if recorded_at is None:
        head = (await read_head(connection)).position
        raise InvalidInput(f"There is no event at this position yet; the last one is {head}.")
    return Moment(position, recorded_at)


async def moment_of_time(connection: PooledConnection, at: datetime) -> Moment:
    """The last position that was recorded by this time. Raises Purged."""
    cut = await read_cut(connection)
    if cut is not None and at < cut.recorded_at:
        raise _purged(cut)
    position: int = await connection.fetchval(sql.POSITION_AT, at + _INSTANT)
    return Moment(max(position, cut.up_to if cut else 0), at)


def _purged(cut: Cut) -> Purged:
    return Purged(
        f"The log begins after position {cut.up_to}, at {cut.recorded_at.isoformat()};"
        " of what was before nothing is known any more."
    )


async def sessions_then(
    connection: PooledConnection,
    moment: Moment,
    *,
    before: int | None,
    limit: int,
    now: datetime,
    user: UUID | None = None,
) -> SessionPage:
    """A page of the sessions that were active at a moment, those that started last first.

    ``before``: of those that started before this position.
    """
    mark = await mark_before(connection, moment.position)
    bound = moment.position + 1 if before is None else min(before, moment.position + 1)
    step = max(CANDIDATES, 2 * limit)
    of_user = await _starts_of(connection, mark, bound, user) if user is not None else None
    found: list[SessionThen] = []
    for _ in range(MAX_ROUNDS):
        if of_user is None:
            rows = await connection.fetch(sql.STARTS_THEN, mark, moment.position, bound, step)
            starts = [row["position"] for row in rows]
        else:
            starts = [start for start in of_user if start < bound][:step]
        wanted = limit - len(found)
        rows = await connection.fetch(sql.SESSIONS_THEN, starts, mark, moment.position, wanted + 1)
        active = [then for row in rows if (then := _active(row, moment, now)) is not None]
        found += active[:wanted]
        if len(active) > wanted:
            return SessionPage(moment, found, found[-1].position)
        if len(rows) > wanted:  # there were more, and of these some had expired
            bound = rows[-1]["position"]
        elif len(starts) < step:
            return SessionPage(moment, found, None)
        else:
            bound = starts[-1]
    return SessionPage(moment, found, bound)


async def _starts_of(connection: PooledConnection, mark: int, bound: int, user: UUID) -> list[int]:
    """Where the sessions of a user have started that may have been active, the last ones first."""
    marked: list[int] = await connection.fetchval(sql.MARKED_STARTS, mark) or []
    oldest = min([*marked[:1], mark + 1])
    rows = await connection.fetch(sql.STARTS_OF_USER, user, oldest, bound)
    starts, known = [row["position"] for row in rows], set(marked)
    return sorted((start for start in starts if start > mark or start in known), reverse=True)


def _active(row: asyncpg.Record, moment: Moment, now: datetime) -> SessionThen | None:
    """The session of this row, if its time was not over at the moment."""
    session = started(row["entry"]) if row["entry"] is not None else retained(row)
    end = _end(row, session, now)
    over_at = end.at if end is not None and end.reason in TIMEOUTS else session.absolute_at
    if over_at <= moment.at:
        return None
    return SessionThen(row["position"], session, end)


def _end(row: asyncpg.Record, session: ActiveSession, now: datetime) -> End | None:
    """How the session has ended by now. That of a timeout is at the time when it was over."""
    if row["ended"] is not None:
        event = ev.decode(row["ended"])
        if not isinstance(event, SessionEnded):
            raise LogDamaged(f"position {row['ended_position']} is not what its type says")
        return End(event.occurred_at, event.reason, row["ended_position"])
    over_at = row["now_over_at"] or session.absolute_at
    if over_at <= now:
        return End(over_at, "idle_timeout" if over_at < session.absolute_at else "absolute_timeout")
    return None


def started(entry: bytes) -> ActiveSession:
    """The session that this event has started. Raises LogDamaged."""
    for change in evolve(ev.decode(entry)):
        if isinstance(change, PutSession):
            return change.session
    raise LogDamaged("an event that should have started a session did not")


def retained(row: Any) -> ActiveSession:
    """The session in a row of those whose start was purged. Raises LogDamaged if there is none."""
    if row["session_id"] is None:
        raise LogDamaged(f"the start of a session at position {row['position']} is missing")
    return session_of([row[column.name] for column in TABLE.columns])
