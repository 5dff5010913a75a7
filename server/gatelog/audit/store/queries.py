"""Questions to the log: one page of the events that fit a filter, in order of their positions.

Rules:

- Every question is answered by probing indexes, whatever fits how many events; nothing is sorted
  but what the probes found, at most a page for each type that is asked for.
- A time range is a range of positions, because ``recorded_at`` never decreases.
- No index is for an address, a network or a login name together with each other, a user or types.
  Of both sides the next ``SCANNED_AT_ONCE`` candidates are looked at, and the side that gets
  further with them is searched through. So a page may be short, or empty, and still have a next
  one, which goes on where the search stopped; what has no next page is complete.
- A page knows the stretch of the log that it covers, so that pages follow each other without a
  gap or an overlap in both directions, whatever is appended meanwhile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

import asyncpg
import msgspec

from gatelog.audit.rules.shown import MAX_POSITION, AuditFilter, Cursor
from gatelog.audit.store.statements import IS_ABOUT, STATEMENTS, Direction, Place
from gatelog.errors import SearchIncomplete
from gatelog.log.rules.events import EVENT_TYPES
from gatelog.log.store.reading import StoredEvent
from gatelog.privacy.store.tracing import read_traced

if TYPE_CHECKING:
    from gatelog.log.store.database import PooledConnection

SCANNED_AT_ONCE = 100
CATCHING_UP_S = 5


class Sought(msgspec.Struct, frozen=True):
    """What stands for the address or network, and for the login name, of a question.

    ``place_index`` is a value of the blind index over ``place``, ``login`` of that over logins.
    """

    place: Place | None = None
    place_index: bytes | int | None = None
    login: int | None = None

    @property
    def by_origin(self) -> bool:
        """Whether it takes what versions before did not write."""
        return self.login is not None or self.place not in (None, "address")


NOTHING_SOUGHT = Sought()


class EventPage(msgspec.Struct, frozen=True):
    """Some events in the order that was asked for, and where the pages beside them lie.

    ``next`` is None at the end of what there is now, ``prev`` at its beginning and for a first
    page.
    """

    events: list[StoredEvent]
    next: Cursor | None
    prev: Cursor | None


async def read_page(
    connection: PooledConnection, wanted: AuditFilter, sought: Sought = NOTHING_SOUGHT
) -> EventPage:
    """The page of events that fit. ``sought`` stands for what is personal in ``wanted``.

    Raises SearchIncomplete where events may be missing that an older version has appended.
    """
    direction = _direction(wanted)
    question, arguments = _question(wanted, sought)
    low, high = _range(wanted)
    if sought.by_origin:
        await _see_complete(connection, high)
    rows = await connection.fetch(
        STATEMENTS[direction][question],
        low,
        high,
        wanted.since,
        wanted.until,
        wanted.limit + 1,
        *arguments,
    )
    return _page(wanted, direction, rows)


async def _see_complete(connection: PooledConnection, high: int) -> None:
    """Raises SearchIncomplete unless all that is there before a position can be found.

    Asked first: what is appended from now on, is newer than the question.
    """
    traced = await read_traced(connection)
    if traced.missing and high > traced.reached + 1:
        raise SearchIncomplete(
            f"The events after {traced.reached} are still to be made findable.",
            retry_after_s=CATCHING_UP_S,
        )


async def is_about(connection: PooledConnection, position: int, user: UUID) -> bool:
    """Whether there is an event at this position, and is about this user."""
    return bool(await connection.fetchval(IS_ABOUT, position, user))


def _direction(wanted: AuditFilter) -> Direction:
    """Which way the log is read: away from the cursor, else from the beginning of the order."""
    if wanted.cursor is not None:
        return "DESC" if wanted.cursor.side == "before" else "ASC"
    return "DESC" if wanted.order == "desc" else "ASC"


def _range(wanted: AuditFilter) -> tuple[int, int]:
    """The positions that the page lies between, as far as they are known already."""
    low = wanted.after if wanted.after is not None else 0
    high = wanted.before if wanted.before is not None else MAX_POSITION
    match wanted.cursor:
        case Cursor("before", position):
            high = min(high, position)
        case Cursor("after", position):
            low = max(low, position)
    return low, high


def _question(wanted: AuditFilter, sought: Sought) -> tuple[str, tuple[object, ...]]:
    """Which statement it is, and its parameters after the common ones."""
    types = list(wanted.types or EVENT_TYPES)
    indexes: list[tuple[str, object]] = []
    if sought.place is not None:
        indexes.append((sought.place, sought.place_index))
    if sought.login is not None:
        indexes.append(("login", sought.login))
    names, values = [name for name, _ in indexes], [value for _, value in indexes]
    if wanted.session is not None:
        question = " ".join(["session", *names])
        return question, (types, wanted.session, wanted.user, *values)
    if len(indexes) > 1:
        return " ".join(names), (types, values[0], SCANNED_AT_ONCE, wanted.user, values[1])
    if indexes:
        if wanted.user is not None:
            return f"{names[0]} user", (types, values[0], SCANNED_AT_ONCE, wanted.user)
        if wanted.types:
            return f"{names[0]} types", (types, values[0], SCANNED_AT_ONCE)
        return names[0], (values[0],)
    if wanted.user is not None:
        return "user", (types, wanted.user)
    return ("types", (types,)) if wanted.types else ("log", ())


def _page(wanted: AuditFilter, direction: Direction, rows: list[asyncpg.Record]) -> EventPage:
    """The page from rows as they were read: one more than it holds, or where the search stopped.

    A LEFT JOIN answers with a row without an event, when there is only the latter.
    """
    stopped: int | None = rows[0]["stopped"] if rows else None
    events = [StoredEvent(*row[:4]) for row in rows if row["position"] is not None]
    if len(events) > wanted.limit:
        del events[wanted.limit :]
        stopped = events[-1].position
    onward = None
    if stopped is not None:
        onward = Cursor("before" if direction == "DESC" else "after", stopped)
    back = _back(wanted.cursor)
    if (direction == "DESC") == (wanted.order == "desc"):
        return EventPage(events, onward, back)
    events.reverse()
    return EventPage(events, back, onward)


def _back(cursor: Cursor | None) -> Cursor | None:
    """What lies on the other side of a cursor."""
    match cursor:
        case Cursor("before", position):
            return Cursor("after", max(position - 1, 0))
        case Cursor("after", position):
            return Cursor("before", min(position + 1, MAX_POSITION))
    return None
