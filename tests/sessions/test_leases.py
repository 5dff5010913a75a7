"""The lease rows, with the rights of the application."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from gatelog.log.store import sql
from gatelog.log.store.appender import Appender
from gatelog.log.store.database import connect
from gatelog.sessions.rules.lease import LeaseRow, Sighting
from gatelog.sessions.store.leases import (
    acknowledge,
    leave,
    read_epoch_head,
    read_leases,
    reap,
    write_lease,
)

from tests.builders import registration
from tests.conftest import Dsns

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection

S = 1_000_000_000


def a_row(name: str = "a", *, seq: int = 1, applied: int = 5, epoch: str = "e") -> LeaseRow:
    return LeaseRow(name, seq, applied, epoch, 3 * S)


async def written(connection: Connection, *rows: LeaseRow) -> None:
    for row in rows:
        await write_lease(connection, row, host="here")


async def test_without_replicas_there_are_the_head_and_the_epoch(connection: Connection) -> None:
    look = await read_leases(connection)

    assert (look.head, look.rows) == (0, ())
    assert look.epoch == (await read_epoch_head(connection, 0)).epoch
    system_identifier, timeline, number = look.epoch.split(".")
    assert (timeline, number) == ("00000001", "1")
    assert int(system_identifier) > 0


async def test_a_row_is_written_as_it_is_read(connection: Connection) -> None:
    rows = (a_row("a"), a_row("b", applied=7))
    await written(connection, *rows)

    look = await read_leases(connection)

    assert set(look.rows) == set(rows)
    assert {lease.host for lease in look.leases} == {"here"}


async def test_the_age_of_a_row_is_by_the_clock_of_the_database(
    database: Dsns, connection: Connection
) -> None:
    await written(connection, a_row())
    owner = await connect(database.owner, role=None)
    await owner.execute("UPDATE replica_lease SET renewed_at = renewed_at - interval '1 hour'")
    await owner.close()

    (lease,) = (await read_leases(connection)).leases
    assert timedelta(hours=1) <= lease.age < timedelta(hours=1, minutes=5)

    await written(connection, a_row(seq=2))
    (lease,) = (await read_leases(connection)).leases
    assert timedelta(0) <= lease.age < timedelta(minutes=5)


async def test_the_first_row_joins_and_the_next_renews(connection: Connection) -> None:
    assert await write_lease(connection, a_row(), host="here")
    assert not await write_lease(connection, a_row(seq=2), host="here")

    assert (await read_leases(connection)).rows == (a_row(seq=2),)


async def test_a_removed_row_is_joined_anew(connection: Connection) -> None:
    await written(connection, a_row())
    await leave(connection, "a")

    assert await write_lease(connection, a_row(seq=2), host="here")


async def test_acknowledgements_only_grow_and_only_in_their_epoch(connection: Connection) -> None:
    await written(connection, a_row(applied=5))

    for epoch, position in (("e", 9), ("e", 8), ("f", 12)):
        await acknowledge(connection, "a", epoch=epoch, position=position)
    assert (await read_leases(connection)).rows == (a_row(applied=9),)

    await written(connection, a_row(seq=2, applied=5))
    assert (await read_leases(connection)).rows == (a_row(seq=2, applied=9),)


async def test_a_row_is_removed_only_if_it_has_not_moved(connection: Connection) -> None:
    await written(connection, a_row("a", seq=1), a_row("b", seq=2), a_row("c", seq=3))
    seen = [("a", Sighting(1, 0, S)), ("b", Sighting(1, 0, S)), ("gone", Sighting(1, 0, S))]

    assert await reap(connection, seen) == ["a"]
    assert sorted(row.replica_id for row in (await read_leases(connection)).rows) == ["b", "c"]


async def test_the_head_comes_with_the_hash_of_the_event_asked_about(
    appender: Appender, connection: Connection
) -> None:
    for name in ("a", "b"):
        await appender.submit(registration(name))
    hashes = [row["leaf_hash"] for row in await connection.fetch(sql.READ_EVENTS, 0, 10)]

    assert (await read_epoch_head(connection, 1)).leaf_hash == hashes[0]
    head = await read_epoch_head(connection, 2)
    assert (head.position, head.leaf_hash) == (2, hashes[1])
    assert (await read_epoch_head(connection, 3)).leaf_hash == b""


async def test_a_restored_backup_can_be_given_another_epoch(
    database: Dsns, connection: Connection
) -> None:
    before = (await read_leases(connection)).epoch
    owner = await connect(database.owner, role=None)
    await owner.execute(sql.BUMP_EPOCH)
    await owner.close()

    assert (await read_leases(connection)).epoch == before[:-1] + "2"


@pytest.mark.parametrize("ttl_ns", [1, 999_999, 1_000_001])
async def test_a_lease_is_never_written_as_shorter_than_it_is(
    connection: Connection, ttl_ns: int
) -> None:
    await written(connection, LeaseRow("a", 1, 1, "e", ttl_ns))

    assert (await read_leases(connection)).rows[0].ttl_ns >= ttl_ns
