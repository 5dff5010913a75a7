"""What was announced, in PostgreSQL: as a kind of state, and for who cannot ask the replica.

Rules: an announcement is in the table with its event, in one transaction, and follows from the log.
A question never takes the answer of a query that was sent before it was asked: that answer may
predate an announcement already waited for.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gatelog.errors import DatabaseUnavailable
from gatelog.log.rules.events import Announcement
from gatelog.log.store.database import Database
from gatelog.log.store.kinds import Column, Kind, Projection, Table, Write
from gatelog.sessions.rules.announced import Announced, Announcements, announced_by
from gatelog.sessions.store import sql

if TYPE_CHECKING:
    from gatelog.log.store.database import PooledConnection

TABLE = Table("announced", (Column("topic", "text"), Column("value", "bytea")))

ANNOUNCEMENTS = Kind(
    state=Announcements,
    writes=(
        Write(
            name="announced_put",
            statement=TABLE.insert(replacing=True),
            arguments=lambda state: TABLE.arrays(
                [(each.topic, each.value) for each in state.put.values()]
            ),
        ),
    ),
    projection=Projection(
        table=TABLE,
        concerns=(Announcement,),
        key=lambda event: event.TOPIC,
        evolve=lambda _, event: announced_by(event),
        row=lambda each: (each.topic, each.value),
        record=lambda row: Announced(*row),
        shown="topic",
        at_cut=sql.ANNOUNCED_AT_CUT,
    ),
)


async def read_announced(connection: PooledConnection) -> dict[str, bytes]:
    """What was announced last, by topic."""
    rows = await connection.fetch(sql.READ_ANNOUNCED)
    return {row[0]: row[1] for row in rows}


class PrimaryAnnouncements:
    """Asks the primary what was announced: one query at a time, for all who wait for it."""

    def __init__(self, database: Database, *, timeout_s: float) -> None:
        self._database = database
        self._timeout_s = timeout_s
        self._one_at_a_time = asyncio.Lock()
        self._next: asyncio.Task[dict[str, bytes]] | None = None
        self._asking: set[asyncio.Task[dict[str, bytes]]] = set()

    async def find(self) -> dict[str, bytes]:
        """What was announced, as of a moment after this call. Raises DatabaseUnavailable."""
        task = self._next
        if task is None:
            task = self._next = asyncio.create_task(self._ask(), name="announced")
            self._asking.add(task)
            task.add_done_callback(self._asked)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await asyncio.shield(task)
        except TimeoutError:
            raise DatabaseUnavailable() from None

    async def close(self) -> None:
        """Nobody waits any more."""
        asking = list(self._asking)
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)

    def _asked(self, task: asyncio.Task[dict[str, bytes]]) -> None:
        self._asking.discard(task)
        if not task.cancelled():
            task.exception()  # who asked may be gone; that is no unhandled error

    async def _ask(self) -> dict[str, bytes]:
        async with self._one_at_a_time:
            self._next = None  # who comes from here on may ask for more than this will tell
            async with self._database.acquire() as connection:
                return await read_announced(connection)
