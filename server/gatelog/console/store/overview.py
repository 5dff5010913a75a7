"""How the log and the hosts stand, and what has just been recorded."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from gatelog.console.rules.minutes import KEPT, MINUTE, TYPES, Counted
from gatelog.console.store import sql
from gatelog.errors import DatabaseUnavailable
from gatelog.log.store import sql as log_sql
from gatelog.proofs.store.tiles import StoredCheckpoint, read_last_checkpoint
from gatelog.sessions.store.leases import Look, read_leases

if TYPE_CHECKING:
    from gatelog.log.store.database import PooledConnection


class HeadNow(msgspec.Struct, frozen=True):
    """The log's head, ``recorded_at`` then, and the time ``now`` by the database's clock.

    ``window``: when the first minute begins that is told; ``first``: the position from then on.
    """

    position: int
    recorded_at: datetime | None
    now: datetime
    window: datetime
    first: int


class Standing(msgspec.Struct, frozen=True):
    """The hosts, the last checkpoint, and how old the events are that some host, or the checkpoint,
    does not have: by position, of those that were asked for."""

    look: Look
    checkpoint: StoredCheckpoint | None
    ages_s: dict[int, float]
    administrators: int

    @property
    def sealed(self) -> int:
        """The position of the last event under a checkpoint."""
        return self.checkpoint.size if self.checkpoint is not None else 0


async def read_head(connection: PooledConnection) -> HeadNow:
    """The head, and where the minutes begin of which something is told."""
    row = await connection.fetchrow(sql.HEAD_NOW, (KEPT - 1) * MINUTE)
    if row is None:
        raise DatabaseUnavailable("The log has no head.")
    position = row["position"]
    recorded_at = row["recorded_at"] if position else None
    return HeadNow(position, recorded_at, row["now"], row["window"], row["first"])


async def read_minutes(connection: PooledConnection, after: int, up_to: int) -> list[Counted]:
    """What was recorded between these positions, by minute and type, the oldest minute first."""
    rows = await connection.fetch(sql.MINUTES, after, up_to, list(TYPES))
    return sorted((Counted(*row) for row in rows), key=lambda each: each.minute)


async def read_standing(connection: PooledConnection) -> Standing:
    """The checkpoint is older than the leases: a lag is never told too small."""
    checkpoint = await read_last_checkpoint(connection)
    look = await read_leases(connection)
    sealed = checkpoint.size if checkpoint is not None else 0
    first_missing = [sealed + 1, *(row.applied_position + 1 for row in look.rows)]
    ages = await _ages(connection, first_missing)
    administrators: int = await connection.fetchval(sql.FEW_ADMINISTRATORS)
    return Standing(look, checkpoint, ages, administrators)


async def _ages(connection: PooledConnection, positions: Sequence[int]) -> dict[int, float]:
    rows = await connection.fetch(log_sql.AGES, list(positions))
    return {row["position"]: max(0.0, row["age_s"]) for row in rows}
