"""Giving up the oldest part of the log: whole partitions, by the database's owner.

Rules:

- What is given up has been sealed: its hashes stay in the tiles, and vouch for the rest.
- The row in ``purges`` is the decision. It is committed together with the last of the sessions
  that outlive their starts; from then on everybody takes what lies up to it as gone. Everything
  after it can be done again, so whoever comes next finishes what an interrupted purge has left.
- A partition is detached concurrently and then dropped: the only locks that anybody could wait for
  are on what nobody appends to. Where something else is in the way, it is tried again.
- Event ids stay (24 bytes each, nothing personal): an id is never used twice, however old.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING
from uuid import UUID

import asyncpg
import msgspec

from gatelog.audit.store import sql
from gatelog.errors import OperatorError
from gatelog.log.rules import events as ev
from gatelog.proofs.rules.merkle import TILE_WIDTH
from gatelog.sessions.rules.state import ActiveSession, SeenSession, evolve
from gatelog.sessions.store.kind import TABLE as SESSIONS_TABLE
from gatelog.sessions.store.kind import row_of

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection, PooledConnection

# Partitioned by the same positions. In this order: no index may lead to what is not there.
TABLES = ("event_addresses", "event_origins", "events")
LOCK_TIMEOUT_MS = 500  # of one try
RETRY_S = 0.1
DROPPED_AT_ONCE = 64  # tables, in one transaction: each takes several locks
GIVE_UP_S = 60.0  # on a partition that somebody reads all the time
_PURGE_LOCK = 0x677067757264  # an arbitrary constant


class Partition(msgspec.Struct, frozen=True):
    """A partition; ``last`` is its last position. ``pending``: half detached."""

    name: str
    last: int
    pending: bool


# --- what may go


async def lock_purge(owner: Connection) -> None:
    """From here on nobody else can purge, until this connection closes.

    Raises OperatorError when somebody else does, or when this is not the database's owner.
    """
    if not await owner.fetchval(sql.IS_OWNER):
        raise OperatorError(
            "only the database's owner can purge the log; set GATELOG_OWNER_DATABASE_URL"
        )
    if not await owner.fetchval(sql.LOCK_PURGE, _PURGE_LOCK):
        raise OperatorError("another purge is running")


async def purgeable(owner: Connection, before: datetime) -> int:
    """The last position of the last partition that is sealed and was recorded before a moment.

    0 when there is none. Raises OperatorError when tiles that must vouch for it are missing.
    """
    row = await owner.fetchrow(sql.PURGEABLE, before)
    if row is None:
        return 0
    reach = min(row["position"], row["sealed"], row["head"] - 1)  # something stays
    ends = [p.last for p in await partitions(owner, TABLES[-1]) if p.last <= reach]
    last = max(ends, default=0)
    tiles = -(-last // TILE_WIDTH)
    if await owner.fetchval(sql.COUNT_TILES, tiles) != tiles:
        raise OperatorError("tiles of the log's tree are missing: see 'log verify'")
    return last


async def partitions(owner: PooledConnection, table: str) -> list[Partition]:
    """The partitions of a table, oldest first."""
    rows = await owner.fetch(sql.PARTITIONS_OF, table)
    return [Partition(row["name"], row["top"] - 1, row["pending"]) for row in rows]


# --- the decision


async def starts_at(
    owner: Connection, up_to: int, after: int, limit: int
) -> list[tuple[int, bytes | None]]:
    """The sessions that are active at a cut, by the events that started them; some at a time.

    Of those that an earlier purge retained there is no event any more.
    """
    rows = await owner.fetch(sql.STARTS_AT_CUT, up_to, after, limit)
    return [(row["start"], row["entry"]) for row in rows]


async def retain(owner: Connection, sessions: Sequence[tuple[int, ActiveSession]]) -> None:
    """Keep these sessions beyond the events that started them."""
    positions = [position for position, _ in sessions]
    columns = SESSIONS_TABLE.arrays([row_of(session) for _, session in sessions])
    await owner.execute(sql.RETAIN_SESSIONS, positions, *columns)


async def retain_use(owner: Connection, after: int, up_to: int, limit: int) -> int:
    """Keep when kept sessions were used last, by some events after a position, up to a cut.

    Returns the position of the last of these events; the cut when there are no more.
    """
    rows = await owner.fetch(sql.READ_RENEWALS, after, up_to, limit)
    last_use: dict[bytes, datetime] = {}
    for row in rows:
        for change in evolve(ev.decode(row["entry"])):
            if isinstance(change, SeenSession):
                last_use[change.token_digest] = change.at
    await owner.execute(sql.RETAIN_USE, list(last_use), list(last_use.values()))
    return rows[-1]["position"] if rows else up_to


async def begin(
    owner: Connection, up_to: int, before: datetime, event_id: UUID, now: datetime
) -> None:
    """From the commit on, what lies up to here counts as gone."""
    await owner.execute(sql.BEGIN_PURGE, up_to, before, event_id, now)


# --- what follows from it


async def detach_before(owner: Connection, up_to: int) -> None:
    """Take every partition that lies wholly up to a position out of the log.

    Raises OperatorError when one of them is in use for too long; then call it again, later.
    """
    await owner.execute(f"SET lock_timeout = {LOCK_TIMEOUT_MS}")
    for table in TABLES:
        for partition in await partitions(owner, table):
            if partition.last <= up_to:
                await _try_for_long(partial(_detach, owner, table, partition.name))


async def drop_detached(owner: Connection, up_to: int) -> list[str]:
    """Give back the space of what was taken out of the log up to a position; returns the names."""
    dropped: list[str] = []
    for table in TABLES:
        dropped += [row["name"] for row in await owner.fetch(sql.DETACHED_FROM, table, up_to)]
    for first in range(0, len(dropped), DROPPED_AT_ONCE):
        names = ", ".join(dropped[first : first + DROPPED_AT_ONCE])
        await _try_for_long(partial(owner.execute, sql.DROP.format(names)))
    return dropped


async def _detach(owner: Connection, table: str, name: str) -> None:
    """One try, from wherever the last one has got to."""
    found = {partition.name: partition for partition in await partitions(owner, table)}
    if name in found:
        statement = sql.FINISH_DETACH if found[name].pending else sql.DETACH
        await owner.execute(statement.format(table, name))


async def _try_for_long(work: Callable[[], Awaitable[object]]) -> None:
    give_up = time.monotonic() + GIVE_UP_S
    while True:
        try:
            await work()
        except asyncpg.LockNotAvailableError as error:
            if time.monotonic() > give_up:
                raise OperatorError(
                    "somebody still reads what is to be purged; it counts as gone already, and the"
                    " next 'log purge' drops it"
                ) from error
            await asyncio.sleep(RETRY_S)
        else:
            return


async def finish(owner: Connection, up_to: int, now: datetime) -> None:
    """Forget what is of no use after the cut; the purge is complete."""
    async with owner.transaction():
        await owner.execute(sql.FORGET_MARKS, up_to)
        await owner.execute(sql.FORGET_RETAINED, up_to)
        await owner.execute(sql.FINISH_PURGE, up_to, now)
