"""The log, followed: what is new after a position, and whether it is still the same log.

Rules: what is visible never has a gap, so a page that does not go on where the last one ended is
another log, or one of which the beginning was purged; the two are told apart by the head. What a
purge has decided to give up counts as gone, although it may still be there for a moment. The event
that was read last is read again with every page, without its entry, and its hash compared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from gatelog.errors import DatabaseUnavailable, EventsLost, LogDamaged
from gatelog.log.store import sql
from gatelog.log.store.reading import StoredEvent, read_head

if TYPE_CHECKING:
    from gatelog.log.store.database import PooledConnection


class Mark(msgspec.Struct, frozen=True):
    """How far somebody has read. ``leaf_hash``: of the event there; None when it is not known."""

    position: int
    leaf_hash: bytes | None = None


class Beyond(msgspec.Struct, frozen=True):
    """The log goes on with this position: the events before it were purged."""

    first: int


async def read_on(
    connection: PooledConnection, mark: Mark, limit: int
) -> list[StoredEvent] | Beyond:
    """The events after the mark, in order; none when there are none yet.

    Beyond when those right after the mark are not in the log any more. Raises EventsLost for a
    log that is shorter than the mark or has another event there, LogDamaged for a gap.
    """
    rows = await connection.fetch(sql.FOLLOW_LOG, mark.position, limit + (mark.position > 0))
    if rows and rows[0][0] == mark.position:
        if mark.leaf_hash not in (None, rows[0][2]):
            raise EventsLost(f"The event at {mark.position} is another one.")
        del rows[0]
    elif mark.position > 0 and (await read_head(connection)).position < mark.position:
        raise EventsLost(f"The log ends before {mark.position}.")
    elif rows and rows[0][0] != mark.position + 1:
        return Beyond(max(rows[0][0], (await read_edges(connection))[0]))
    if rows and (rows[0][0] != mark.position + 1 or rows[-1][0] != mark.position + len(rows)):
        raise LogDamaged(f"there is a gap after {mark.position}")
    return [StoredEvent(row[0], row[1], row[3], row[2]) for row in rows[:limit]]


async def read_edges(connection: PooledConnection) -> tuple[int, int]:
    """The positions of the first event that was not purged and of the last one.

    Where nothing is left, the first is the one that comes next.
    """
    row = await connection.fetchrow(sql.LOG_EDGES)
    if row is None:
        raise DatabaseUnavailable("The log has no head.")
    head: int = row["head"]
    first: int = head + 1 if row["first"] is None else row["first"]
    return max(first, row["cut"] + 1), head
