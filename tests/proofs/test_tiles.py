"""Tiles and checkpoints in PostgreSQL: they grow, and nothing else happens to them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import asyncpg
import pytest
from gatelog.errors import LogDamaged, SealingRefused
from gatelog.log.store.appender import Appender
from gatelog.log.store.database import connect
from gatelog.proofs.rules.merkle import HASH_BYTES, TILE_BYTES, Tile, leaf_hashes
from gatelog.proofs.store.tiles import (
    StoredCheckpoint,
    read_checkpoints,
    read_entries,
    read_last_checkpoint,
    read_last_position,
    read_last_tiles,
    read_leaves,
    read_level,
    read_next_leaves,
    read_tiles,
    take_sealer_lock,
    write_seal,
)

from tests.builders import NOON, failure
from tests.conftest import Dsns

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection

HASHES = bytes(range(256)) * 32  # 256 different enough hashes


def tile(index: int, width: int, level: int = 0) -> Tile:
    return Tile(level, index, HASHES[: width * HASH_BYTES])


def checkpoint(size: int) -> StoredCheckpoint:
    return StoredCheckpoint(size, f"note {size}".encode(), NOON)


async def test_what_is_written_is_read(connection: Connection) -> None:
    assert await read_last_checkpoint(connection) is None
    assert await read_last_tiles(connection) == []
    await write_seal(connection, [tile(0, 256), tile(1, 3), tile(0, 1, level=1)], checkpoint(259))
    assert await read_last_checkpoint(connection) == checkpoint(259)
    assert await read_tiles(connection, [(0, 1), (1, 0), (7, 7)]) == {
        (0, 1): HASHES[: 3 * HASH_BYTES],
        (1, 0): HASHES[:HASH_BYTES],
    }
    assert await read_level(connection, 0, 1, 10) == [tile(1, 3)]
    assert await read_level(connection, 0, 0, 1) == [tile(0, 256)]
    assert await read_last_tiles(connection) == [(0, 1, 3), (1, 0, 1)]


async def test_a_tile_grows_until_it_is_full(connection: Connection) -> None:
    for size in (1, 2, 200, 256):
        await write_seal(connection, [tile(0, size)], checkpoint(size))
        assert (await read_tiles(connection, [(0, 0)]))[0, 0] == tile(0, size).hashes
    await write_seal(connection, [tile(0, 256)], checkpoint(257))  # the same again: nothing
    stored = await read_checkpoints(connection, 1, 3)
    assert [item.size for item in stored] == [2, 200, 256]


@pytest.mark.parametrize(
    "hashes",
    [
        HASHES[: 4 * HASH_BYTES],  # shorter
        b"\xff" + HASHES[1 : 5 * HASH_BYTES],  # other hashes of the same number
        b"\xff" + HASHES[1 : 6 * HASH_BYTES],  # longer, from another start
    ],
)
async def test_a_tile_with_other_hashes_is_refused(connection: Connection, hashes: bytes) -> None:
    await write_seal(connection, [tile(0, 5)], checkpoint(5))
    with pytest.raises(SealingRefused):
        await write_seal(connection, [Tile(0, 0, hashes)], checkpoint(6))
    assert (await read_tiles(connection, [(0, 0)]))[0, 0] == tile(0, 5).hashes
    assert await read_last_checkpoint(connection) == checkpoint(5)


async def test_a_second_checkpoint_of_a_size_is_refused(connection: Connection) -> None:
    await write_seal(connection, [tile(0, 5)], checkpoint(5))
    with pytest.raises(SealingRefused):
        await write_seal(connection, [tile(0, 6)], checkpoint(5))
    assert (await read_tiles(connection, [(0, 0)]))[0, 0] == tile(0, 5).hashes


async def test_tiles_may_come_before_their_checkpoint(connection: Connection) -> None:
    await write_seal(connection, [tile(0, 5)], None)
    assert await read_last_checkpoint(connection) is None
    assert await read_last_tiles(connection) == [(0, 0, 5)]


@pytest.mark.parametrize("hashes", [b"", HASHES[:31], HASHES[:33], HASHES + HASHES[:32]])
async def test_what_is_no_tile(connection: Connection, hashes: bytes) -> None:
    assert len(HASHES) == TILE_BYTES
    with pytest.raises(asyncpg.CheckViolationError):
        await write_seal(connection, [Tile(0, 0, hashes)], None)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE tiles SET tile_index = 1",
        "UPDATE tiles SET hashes = substring(hashes FROM 1 FOR 32)",
        "UPDATE tiles SET hashes = hashes",
        "DELETE FROM tiles",
        "TRUNCATE tiles",
        "UPDATE checkpoints SET size = size + 1",
        "UPDATE checkpoints SET note = note || note",
        "DELETE FROM checkpoints",
        "TRUNCATE checkpoints",
    ],
)
@pytest.mark.parametrize("who", ["app", "owner"])
async def test_nobody_changes_what_was_sealed(
    database: Dsns, connection: Connection, statement: str, who: str
) -> None:
    await write_seal(connection, [tile(0, 5)], checkpoint(5))
    other = await connect(getattr(database, who), role="gatelog_app" if who == "app" else None)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await other.execute(statement)
    await other.close()
    assert await read_last_tiles(connection) == [(0, 0, 5)]
    assert await read_last_checkpoint(connection) == checkpoint(5)


async def test_leaves_come_packed_and_in_order(appender: Appender, connection: Connection) -> None:
    assert await read_last_position(connection) == 0
    assert (await read_next_leaves(connection, 0, 10)).hashes == b""
    await asyncio.gather(*(appender.submit(failure()) for _ in range(7)))
    leaves = await read_leaves(connection, 1, 100)
    assert leaves.positions == list(range(1, 8))
    assert leaves.hashes == leaf_hashes(leaves.entries)
    page = await read_next_leaves(connection, 2, 3)
    assert page.head == 7
    assert page.hashes == leaf_hashes(leaves.entries[2:5])
    assert (await read_next_leaves(connection, 7, 3)).hashes == b""
    assert await read_entries(connection, 2, 3) == [(2, leaves.entries[1]), (3, leaves.entries[2])]
    assert await read_last_position(connection) == 7


@pytest.mark.parametrize(("gone", "after"), [(1, 0), (4, 0), (4, 3), (6, 4)])
async def test_a_gap_is_no_page(
    database: Dsns, appender: Appender, connection: Connection, gone: int, after: int
) -> None:
    await asyncio.gather(*(appender.submit(failure()) for _ in range(7)))
    await forget(database, gone)
    with pytest.raises(LogDamaged):
        await read_next_leaves(connection, after, 10)


async def forget(database: Dsns, position: int) -> None:
    """Remove an event, as only somebody with all rights over the database can."""
    superuser = await connect(database.superuser, role=None)
    await superuser.execute("SET session_replication_role = replica")
    await superuser.execute("DELETE FROM events WHERE position = $1", position)
    await superuser.close()


async def test_one_connection_is_the_sealer_s(database: Dsns, connection: Connection) -> None:
    other = await connect(database.app)
    assert await take_sealer_lock(other)
    assert not await take_sealer_lock(connection)
    await other.close()
    async with asyncio.timeout(10):
        while not await take_sealer_lock(connection):  # noqa: ASYNC110
            await asyncio.sleep(0)  # the other backend is about to end
