"""The lease rows, with the rights of the application."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from gatelog.host.embedded import EmbeddedPostgres
from gatelog.log.store import sql
from gatelog.log.store.appender import Appender
from gatelog.log.store.database import connect
from gatelog.log.store.migrate import migrate
from gatelog.sessions.rules.lease import NO_EVIDENCE, Evidence, LeaseRow, Sighting
from gatelog.sessions.store.leases import (
    acknowledge,
    leave,
    note_incarnation,
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


# The incarnation


async def test_a_new_log_is_noted_as_one_that_was_empty(postgres: EmbeddedPostgres) -> None:
    postgres.create_database("new_log")
    try:
        await migrate(postgres.owner_dsn("new_log"))
        connection = await connect(postgres.app_dsn("new_log"))
        look = await read_leases(connection)
        await connection.close()
    finally:
        postgres.drop_database("new_log")

    assert look.noted == Evidence(age_ns=0, empty=True)


async def test_a_copy_of_a_database_is_another_incarnation(
    make_database: Callable[[], Dsns],
) -> None:
    looks = []
    for copy in (make_database(), make_database()):
        connection = await connect(copy.app)
        looks.append(await read_leases(connection))
        assert await connection.fetchval("SELECT count(*) FROM incarnation_note") == 1
        await connection.close()

    assert looks[0].epoch == looks[1].epoch
    assert looks[0].incarnation != looks[1].incarnation
    assert [look.noted for look in looks] == [NO_EVIDENCE, NO_EVIDENCE], "the template's note"


@pytest.mark.parametrize(
    "what",
    [
        "TRUNCATE replica_lease",
        "CREATE TABLE loaded (LIKE replica_lease INCLUDING ALL); DROP TABLE replica_lease;"
        " ALTER TABLE loaded RENAME TO replica_lease;"
        " GRANT SELECT, INSERT, UPDATE, DELETE ON replica_lease TO gatelog_app",
        sql.BUMP_EPOCH,
    ],
    ids=["emptied", "loaded from a dump", "another epoch"],
)
async def test_whoever_may_lose_rows_begins_another_incarnation(
    database: Dsns, connection: Connection, what: str
) -> None:
    before = await read_leases(connection)
    owner = await connect(database.owner, role=None)
    await owner.execute(what)
    await owner.close()

    assert (await read_leases(connection)).incarnation != before.incarnation


async def test_what_is_noted_is_of_one_incarnation_and_only_grows(connection: Connection) -> None:
    now = (await read_leases(connection)).incarnation

    async def noted(incarnation: str, known: Evidence) -> Evidence:
        await note_incarnation(connection, incarnation, known)
        return (await read_leases(connection)).noted

    assert await noted(now, Evidence(2 * S)) == Evidence(2 * S)
    assert await noted(now, Evidence(S, empty=True)) == Evidence(2 * S, empty=True)
    assert await noted(now, Evidence(3 * S)) == Evidence(3 * S, empty=True)
    assert await noted("another", Evidence(9 * S)) == NO_EVIDENCE
    assert await noted(now, Evidence(-S, empty=True)) == Evidence(0, empty=True)
