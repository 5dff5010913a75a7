"""The tiles of the log's Merkle tree and its checkpoints, as they are stored.

Rules:

- Tiles and the checkpoint of the tree that they belong to are written together, or not at all.
- A tile that is there may only grow at its end, and a checkpoint never changes: the database's
  triggers refuse the rest, and a refusal means that the tree is not the one that was sealed.
- Everything up to a checkpoint's size never changes, so readers need no snapshot.
- Entries may be gone (a purge); tiles and checkpoints stay.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import asyncpg
import msgspec

from gatelog.errors import LogDamaged, SealingRefused
from gatelog.proofs.rules.merkle import HASH_BYTES, Tile
from gatelog.proofs.store import sql

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection, PooledConnection

SEALER_LOCK = 0x6761746C7365  # an arbitrary constant: "gatlse"


class StoredCheckpoint(msgspec.Struct, frozen=True):
    """A signed note, and the size that it is filed under."""

    size: int
    note: bytes
    signed_at: datetime


class NextLeaves(msgspec.Struct, frozen=True):
    """Leaf hashes, packed, and the position of the log's head."""

    head: int
    hashes: bytes


class Leaves(msgspec.Struct, frozen=True):
    """Events as verification sees them: their bytes, and what is stored as their hashes, packed."""

    positions: list[int]
    entries: list[bytes]
    hashes: bytes


async def take_sealer_lock(connection: Connection) -> bool:
    """Whether this connection is the sealer's from now on, until it ends."""
    return bool(await connection.fetchval(sql.TAKE_SEALER_LOCK, SEALER_LOCK))


async def read_next_leaves(connection: Connection, after: int, limit: int) -> NextLeaves:
    """The leaf hashes after this position, at most so many. Raises LogDamaged for a gap."""
    row = await connection.fetchrow(sql.NEXT_LEAVES, after, limit)
    if row is None:
        raise LogDamaged("the log has no head")
    hashes = row["hashes"] or b""
    if hashes and (row["first"], row["last"]) != (after + 1, after + len(hashes) // HASH_BYTES):
        raise LogDamaged(f"position {after + 1} is missing, or one of those that follow it")
    return NextLeaves(row["head"], hashes)


async def write_seal(
    connection: Connection, tiles: Sequence[Tile], checkpoint: StoredCheckpoint | None
) -> None:
    """Write these tiles and the checkpoint, in one transaction.

    Raises SealingRefused when other tiles, or another checkpoint, are there already.
    """
    try:
        await connection.execute(
            sql.WRITE_SEAL,
            [tile.level for tile in tiles],
            [tile.index for tile in tiles],
            [tile.hashes for tile in tiles],
            checkpoint.size if checkpoint else None,
            checkpoint.note if checkpoint else None,
            checkpoint.signed_at if checkpoint else None,
        )
    except (asyncpg.InsufficientPrivilegeError, asyncpg.UniqueViolationError) as error:
        raise SealingRefused(f"the database holds other tiles or checkpoints: {error}") from error


async def read_tiles(
    connection: PooledConnection, wanted: Iterable[tuple[int, int]]
) -> dict[tuple[int, int], bytes]:
    """The hashes of these tiles by (level, index); what is not there is missing."""
    keys = list(wanted)
    rows = await connection.fetch(
        sql.READ_TILES, [level for level, _ in keys], [index for _, index in keys]
    )
    return {(row["level"], row["tile_index"]): row["hashes"] for row in rows}


async def read_level(
    connection: PooledConnection, level: int, first: int, limit: int
) -> list[Tile]:
    """A page of a level's tiles, from this index on."""
    rows = await connection.fetch(sql.READ_LEVEL, level, first, limit)
    return [Tile(level, row["tile_index"], row["hashes"]) for row in rows]


async def read_last_tiles(connection: PooledConnection) -> list[tuple[int, int, int]]:
    """Level, index and width of the last tile of each level."""
    rows = await connection.fetch(sql.LAST_TILES)
    return [(row["level"], row["tile_index"], row["width"]) for row in rows]


def _checkpoint(row: asyncpg.Record) -> StoredCheckpoint:
    return StoredCheckpoint(row["size"], row["note"], row["signed_at"])


async def read_last_checkpoint(connection: PooledConnection) -> StoredCheckpoint | None:
    """The newest checkpoint; None before the first."""
    row = await connection.fetchrow(sql.LAST_CHECKPOINT)
    return _checkpoint(row) if row else None


async def read_head_and_checkpoint(
    connection: PooledConnection, size: int
) -> tuple[int, bytes | None]:
    """How far the log reaches, and the note of this size, if it was stored."""
    row = await connection.fetchrow(sql.HEAD_AND_CHECKPOINT, size)
    if row is None:
        raise LogDamaged("the log has no head")
    return row["position"], row["note"]


async def read_checkpoints(
    connection: PooledConnection, after: int, limit: int
) -> list[StoredCheckpoint]:
    """A page of the checkpoints, by size."""
    rows = await connection.fetch(sql.READ_CHECKPOINTS, after, limit)
    return [_checkpoint(row) for row in rows]


async def read_entries(
    connection: PooledConnection, first: int, last: int
) -> list[tuple[int, bytes]]:
    """Position and entry of the events between these positions that are still there."""
    rows = await connection.fetch(sql.READ_ENTRIES, first, last)
    return [(row["position"], row["entry"]) for row in rows]


async def read_leaves(connection: PooledConnection, first: int, last: int) -> Leaves:
    """The events between these positions that are still there, in order."""
    rows = await connection.fetch(sql.READ_LEAVES, first, last)
    return Leaves(
        [row[0] for row in rows], [row[1] for row in rows], b"".join([row[2] for row in rows])
    )


async def read_last_position(connection: PooledConnection) -> int:
    """The position of the newest event that is there; 0 when there is none."""
    return await connection.fetchval(sql.LAST_EVENT) or 0
