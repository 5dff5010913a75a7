"""How far events can be found by their origins, and the origins of those that have none.

An appender writes origins with its events, and moves ``traced_to`` on with the head as long as
nothing is missing before. A version that knows of no origins leaves it where it is, for somebody to
catch up with (``gatelog.privacy.service.tracing``).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import date
from typing import TYPE_CHECKING

import msgspec

from gatelog.errors import DatabaseUnavailable
from gatelog.log.store.database import Database, translated_errors
from gatelog.log.store.sql import LOCK_HEAD
from gatelog.privacy.rules import OriginRow
from gatelog.privacy.store import sql
from gatelog.privacy.store.kinds import origin_columns

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection, PooledConnection

_TRACING_LOCK = 0x677074726163  # an arbitrary constant


class Traced(msgspec.Struct, frozen=True):
    """Up to which position origins are complete, the log's last position, and what was purged."""

    to: int
    head: int
    cut: int

    @property
    def reached(self) -> int:
        """Nothing is missing up to here."""
        return max(self.to, self.cut)

    @property
    def missing(self) -> int:
        """How many events may lack their origins."""
        return max(self.head - self.reached, 0)


async def read_traced(connection: PooledConnection) -> Traced:
    """How far it is."""
    row = await connection.fetchrow(sql.TRACED)
    if row is None:
        raise DatabaseUnavailable("The log has no head.")
    return Traced(row["traced_to"], row["head"], row["cut"])


@asynccontextmanager
async def tracing(database: Database) -> AsyncIterator[Connection | None]:
    """A turn at catching up, on a connection of its own; None while somebody else has it."""
    with translated_errors():
        connection = await database.connect()
        try:
            sole = await connection.fetchval(sql.LOCK_TRACING, _TRACING_LOCK)
            yield connection if sole else None
        finally:
            await connection.close()


async def write_origins(
    connection: Connection,
    rows: Sequence[tuple[OriginRow, date]],
    traced: Traced,
    reached: int,
) -> None:
    """Write the origins of some events, up to a position, as far as they may still be found.

    Each with the day whose key opens it, if it is nobody's. Under the lock of the head: who is
    erased has been, or has not been yet.
    """
    async with connection.transaction():
        await connection.execute(LOCK_HEAD)
        columns = origin_columns([row for row, _ in rows])
        await connection.execute(sql.TRACE, *columns, [day for _, day in rows])
        await connection.execute(sql.TRACED_TO, traced.to, reached)
