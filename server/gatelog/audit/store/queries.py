"""Questions to the log: one page of the events that fit a filter, in order of their positions.

Rules:

- Every question is answered by probing indexes, whatever fits how many events; nothing is sorted
  but what the probes found, at most a page for each type that is asked for.
- A time range is a range of positions, because ``recorded_at`` never decreases.
- No index is for an address together with a user or types. Of both sides the next
  ``SCANNED_AT_ONCE`` candidates are looked at, and the side that gets further with them is
  searched through. So a page may be short, or empty, and still have a next one, which goes on
  where the search stopped; what has no next page is complete.
- A page knows the stretch of the log that it covers, so that pages follow each other without a
  gap or an overlap in both directions, whatever is appended meanwhile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal
from uuid import UUID

import asyncpg
import msgspec

from gatelog.audit.rules.shown import MAX_POSITION, AuditFilter, Cursor
from gatelog.log.rules.events import EVENT_TYPES
from gatelog.log.store.reading import StoredEvent

if TYPE_CHECKING:
    from gatelog.log.store.database import PooledConnection

SCANNED_AT_ONCE = 100

# For connections that ask such questions. A plan that was made while a partition was small, or
# unknown to the statistics, must be right when it is large; so what counts is how many entries of
# an index are looked at, far more than how many pages that is at the moment.
PLANNED_FOR_INDEXES = {
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "cpu_tuple_cost": "100",
    "cpu_index_tuple_cost": "100",
    "cpu_operator_cost": "1",
}

Question = Literal["log", "types", "user", "session", "address", "address_types", "address_user"]
Direction = Literal["ASC", "DESC"]

# --- the statements
#
# Parameters of all: $1 after this position, $2 before it, $3 recorded at or after, $4 recorded
# before (NULL: any time), $5 how many.
#
# The plans must not depend on statistics, which know little of a partition that is being filled. So
# each probe is said in a way that makes the right index the obvious one: with one bound, or with a
# range that holds one value. LIMIT and OFFSET 0 keep probes from becoming joins. The partitions
# hold the positions in order, so one after the other is read until a page is full.

_BOUNDS = """
WITH bounds AS MATERIALIZED (
    SELECT GREATEST($1::bigint, first_position_from($3::timestamptz) - 1) AS low,
           LEAST($2::bigint, first_position_from($4::timestamptz)) AS high
)"""
_WITHIN = "position > (SELECT low FROM bounds) AND position < (SELECT high FROM bounds)"
_COLUMNS = "position, recorded_at, entry, leaf_hash"


def _at(position: str) -> str:
    """The event at a position."""
    return f"position BETWEEN {position} AND {position} ORDER BY position LIMIT 1"


def _has_address(position: str, address: str) -> str:
    """True, if the event at a position came from an address."""
    return f"""
        SELECT true FROM event_addresses
        WHERE address_index BETWEEN {address} AND {address} AND position = {position}
        ORDER BY address_index LIMIT 1"""  # noqa: S608


def _log(direction: Direction) -> str:
    """Any event."""
    return f"""{_BOUNDS}
SELECT {_COLUMNS}, NULL::bigint AS stopped
FROM events WHERE {_WITHIN} ORDER BY position {direction} LIMIT $5
"""  # noqa: S608


def _found(direction: Direction, positions: str) -> str:
    """The events at positions that were found."""
    return f"""{_BOUNDS}, found AS ({positions})
SELECT e.*, NULL::bigint AS stopped
FROM found CROSS JOIN LATERAL (
    SELECT {_COLUMNS} FROM events WHERE {_at("found.position")}) AS e
ORDER BY position {direction}
"""  # noqa: S608


def _merged(direction: Direction, limit: str, user: str | None = None) -> str:
    """The first positions of what one probe for each type finds, in order. $6 types

    A probe has one bound, the one that it begins at, and stops after a page: a range between two
    unknown values would make the planner believe that a scan of it is cheap.
    """
    about = "" if user is None else f"subject_id = {user} AND "
    begins, ends = ("< (SELECT high", "> (SELECT low")
    if direction == "ASC":
        begins, ends = ends, begins
    return f"""
    SELECT p.position FROM unnest($6::text[]) AS t (type) CROSS JOIN LATERAL (
        SELECT position FROM events
        WHERE {about}type = t.type AND position {begins} FROM bounds)
        ORDER BY position {direction} LIMIT {limit}) AS p
    WHERE p.position {ends} FROM bounds)
    ORDER BY p.position {direction} LIMIT {limit}"""  # noqa: S608


def _types(direction: Direction) -> str:
    """Events of these types. $6 types"""
    return _found(direction, _merged(direction, "$5"))


def _user(direction: Direction) -> str:
    """Events of these types about a user. $6 types, $7 user"""
    return _found(direction, _merged(direction, "$5", "$7"))


def _session(direction: Direction) -> str:
    """Events of a session, which are few. $6 types, $7 session, $8 user, $9 address, or NULL"""
    return f"""{_BOUNDS}
SELECT {_COLUMNS}, NULL::bigint AS stopped
FROM (SELECT * FROM events WHERE session_id = $7 OFFSET 0) AS own
WHERE type = ANY($6::text[]) AND ($8::uuid IS NULL OR subject_id = $8) AND {_WITHIN}
      AND ($9::bytea IS NULL OR ({_has_address("own.position", "$9")}))
ORDER BY position {direction} LIMIT $5
"""  # noqa: S608


def _from_address(direction: Direction, address: str, limit: str) -> str:
    return f"""
    SELECT position FROM event_addresses WHERE address_index = {address} AND {_WITHIN}
    ORDER BY position {direction} LIMIT {limit}"""  # noqa: S608


def _address(direction: Direction) -> str:
    """Events from an address. $6 address"""
    return _found(direction, _from_address(direction, "$6", "$5"))


def _address_and(direction: Direction, user: str | None = None) -> str:
    """Events from an address that a probe finds, too, out of the next candidates of both sides.

    $6 types, $7 address, $8 how many candidates
    """
    about = "true" if user is None else f"e.subject_id = {user}"
    further, furthest = ("<", "LEAST") if direction == "DESC" else (">", "GREATEST")
    return f"""{_BOUNDS}, of_address AS MATERIALIZED ({_from_address(direction, "$7", "$8")}
), of_kind AS MATERIALIZED ({_merged(direction, "$8", user)}
), ends AS MATERIALIZED (
    SELECT (SELECT position FROM of_address OFFSET $8 - 1) AS address_end,
           (SELECT position FROM of_kind OFFSET $8 - 1) AS kind_end
), search AS MATERIALIZED (
    SELECT address_end IS NOT NULL
           AND (kind_end IS NULL OR kind_end {further} address_end) AS by_kind,
           CASE WHEN address_end IS NOT NULL AND kind_end IS NOT NULL
                THEN {furthest}(address_end, kind_end) END AS stopped
    FROM ends
), candidates AS (
    SELECT position FROM of_address WHERE NOT (SELECT by_kind FROM search)
    UNION ALL
    SELECT of_kind.position
    FROM of_kind CROSS JOIN LATERAL ({_has_address("of_kind.position", "$7")}) AS a
    WHERE (SELECT by_kind FROM search)
)
SELECT e.*, search.stopped
FROM search LEFT JOIN LATERAL (
    SELECT e.position, e.recorded_at, e.entry, e.leaf_hash
    FROM candidates CROSS JOIN LATERAL (
        SELECT {_COLUMNS}, type, subject_id FROM events
        WHERE {_at("candidates.position")}) AS e
    WHERE e.type = ANY($6::text[]) AND {about}
    ORDER BY position {direction} LIMIT $5) AS e ON true
ORDER BY position {direction}
"""  # noqa: S608


def _statements(direction: Direction) -> dict[Question, str]:
    return {
        "log": _log(direction),
        "types": _types(direction),
        "user": _user(direction),
        "session": _session(direction),
        "address": _address(direction),
        "address_types": _address_and(direction),
        "address_user": _address_and(direction, "$9"),
    }


STATEMENTS: dict[Direction, dict[Question, str]] = {
    "ASC": _statements("ASC"),
    "DESC": _statements("DESC"),
}

# Whether the event at a position is about a user. $1 position, $2 user
IS_ABOUT = "SELECT EXISTS (SELECT FROM events WHERE position = $1 AND subject_id = $2)"


# --- pages


class EventPage(msgspec.Struct, frozen=True):
    """Some events in the order that was asked for, and where the pages beside them lie.

    ``next`` is None at the end of what there is now, ``prev`` at its beginning and for a first
    page.
    """

    events: list[StoredEvent]
    next: Cursor | None
    prev: Cursor | None


async def read_page(
    connection: PooledConnection, wanted: AuditFilter, address_index: bytes | None = None
) -> EventPage:
    """The page of events that fit. ``address_index`` stands for ``wanted.address``."""
    direction = _direction(wanted)
    question, arguments = _question(wanted, address_index)
    low, high = _range(wanted)
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


def _question(wanted: AuditFilter, address: bytes | None) -> tuple[Question, tuple[object, ...]]:
    """Which statement it is, and its parameters after the common ones."""
    types = list(wanted.types or EVENT_TYPES)
    if wanted.session is not None:
        return "session", (types, wanted.session, wanted.user, address)
    if address is not None:
        if wanted.user is not None:
            return "address_user", (types, address, SCANNED_AT_ONCE, wanted.user)
        if wanted.types:
            return "address_types", (types, address, SCANNED_AT_ONCE)
        return "address", (address,)
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
