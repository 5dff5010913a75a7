"""What was given up of the log (``audit.store.retention`` does it): where it begins now."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec

from gatelog.log.store import sql

if TYPE_CHECKING:
    from gatelog.log.store.database import PooledConnection


class Cut(msgspec.Struct, frozen=True):
    """A purge: the last position that it gave up and when that was recorded, and what says so."""

    up_to: int
    recorded_at: datetime
    before: datetime
    event_id: UUID
    begun_at: datetime
    finished_at: datetime | None


async def read_cut(connection: PooledConnection) -> Cut | None:
    """The newest purge; None when all of the log is there."""
    row = await connection.fetchrow(sql.READ_CUT)
    return Cut(*row) if row is not None else None


async def cut_position(connection: PooledConnection) -> int:
    """The last position that was given up; 0 when all of the log is there."""
    cut = await read_cut(connection)
    return cut.up_to if cut is not None else 0
