"""Keys, the blind index and erasures in one batch with everything else."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec
import pytest
from gatelog.accounts.rules.administration import ChangeUser, EraseUser
from gatelog.accounts.rules.events import UserDisabled
from gatelog.accounts.rules.login import RecordLoginFailure, RegisterUser
from gatelog.audit.store.retention import detach_before, drop_detached
from gatelog.clock import new_event_id
from gatelog.errors import GatelogError, LastAdmin, StaleMasterKey
from gatelog.log.store.appender import PARTITION_RESERVE, Appender
from gatelog.log.store.database import connect
from gatelog.log.store.rebuild import check, rebuild
from gatelog.privacy.rules import Origin, UserErased, WrappedKey
from gatelog.privacy.store.keys import change_master_key, vacuum_erased

from tests.builders import NOON, failure, registration, start
from tests.conftest import Dsns

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection

INDEX = bytes(range(16))
ORIGIN = Origin(INDEX, (1, 2, 3), 4)
RING = WrappedKey(b"r" * 60, b"current!")


def erasure(subject_id: UUID, *, keep_an_admin: bool = False) -> EraseUser:
    event = UserErased(event_id=new_event_id(), occurred_at=NOON, subject_id=subject_id)
    return EraseUser(event=event, keep_an_admin=keep_an_admin)


def known_failure(subject_id: UUID | None) -> RecordLoginFailure:
    event = failure().event
    return RecordLoginFailure(
        event=msgspec.structs.replace(event, subject_id=subject_id, sealed=b"personal")
    )


NOTHING = {
    "credentials": 0,
    "subject_keys": 0,
    "event_addresses": 0,
    "event_origins": 0,
    "active_sessions": 0,
}


async def counts(connection: Connection, subject_id: UUID | None = None) -> dict[str, int]:
    found = {}
    for table in NOTHING:
        statement = f"SELECT count(*) FROM {table} WHERE $1::uuid IS NULL OR subject_id = $1"
        found[table] = await connection.fetchval(statement, subject_id)
    return found


async def together(appender: Appender, *commands: Any) -> list[Any]:
    """Submit the commands for one batch; sealed events can be found by ORIGIN."""
    before = appender.commits
    results = await asyncio.gather(
        *(appender.submit(command, ORIGIN) for command in commands), return_exceptions=True
    )
    assert appender.commits <= before + 1
    return list(results)


async def test_a_key_comes_with_its_user(appender: Appender, connection: Connection) -> None:
    user = registration("ada")
    refused = registration("ada")
    await together(appender, user, refused)
    rows = await connection.fetch("SELECT * FROM subject_keys")
    assert [tuple(row) for row in rows] == [
        (user.event.subject_id, user.key.wrapped, user.key.master_key_id)
    ]


async def test_only_sealed_events_are_indexed(appender: Appender, connection: Connection) -> None:
    user = registration("ada")
    subject_id = user.event.subject_id
    await together(
        appender, user, failure(), known_failure(None), known_failure(subject_id), start(subject_id)
    )
    rows = await connection.fetch("SELECT * FROM event_addresses ORDER BY position")
    assert [tuple(row) for row in rows] == [(INDEX, 3, None), (INDEX, 4, subject_id)]


async def test_a_whole_life_in_one_batch(
    database: Dsns, appender: Appender, connection: Connection
) -> None:
    """Registered, active, erased and registered again under the same login, in one commit."""
    first, second = registration("ada"), registration("ada")
    subject_id = first.event.subject_id
    results = await together(
        appender,
        first,
        start(subject_id),
        known_failure(subject_id),
        erasure(subject_id),
        known_failure(subject_id),
        second,
        erasure(subject_id),
    )
    assert not [result for result in results if isinstance(result, BaseException)]
    assert await counts(connection, subject_id) == NOTHING
    found = await counts(connection, second.event.subject_id)
    assert found == NOTHING | {"credentials": 1, "subject_keys": 1}
    sealed = await connection.fetchval(
        "SELECT convert_from(entry, 'UTF8')::json ->> 'sealed' FROM events WHERE position = 6"
    )
    assert sealed is None
    assert (await check(database.app)).differences == []


async def test_an_erasure_and_a_registration_of_the_same_login_in_one_batch(
    database: Dsns, appender: Appender, connection: Connection
) -> None:
    first, second = registration("ada"), registration("ada")
    subject_id = first.event.subject_id
    await together(appender, first)
    await together(appender, start(subject_id), known_failure(subject_id))
    results = await together(appender, registration("ada"), erasure(subject_id), second)
    assert [type(result).__name__ for result in results] == ["LoginTaken", "Recorded", "Recorded"]
    assert await counts(connection, subject_id) == NOTHING
    assert (await counts(connection))["credentials"] == 1
    assert (await check(database.app)).differences == []
    assert (await rebuild(database.owner)).changed == 0


async def test_an_erasure_is_repeatable(appender: Appender, connection: Connection) -> None:
    user = registration("ada")
    await together(appender, user)
    command = erasure(user.event.subject_id)
    first = await appender.submit(command)
    assert await appender.submit(command) == first
    assert await connection.fetchval("SELECT erased FROM users") is True


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("INSERT INTO subject_keys SELECT subject_id, '{key}', '{id}' FROM users WHERE erased",
         "subject_keys: {erased} is left of an erased user"),
        ("INSERT INTO credentials SELECT subject_id, 'x', 'x', now() FROM users WHERE erased",
         "credentials: {erased} is left of an erased user"),
        ("INSERT INTO event_addresses SELECT '{index}', 1, subject_id FROM users WHERE erased",
         "event_addresses: {erased} is left of an erased user"),
        ("INSERT INTO event_origins SELECT 1, subject_id FROM users WHERE erased",
         "event_origins: {erased} is left of an erased user"),
        ("DELETE FROM subject_keys", "subject_keys: {other} is missing"),
        ("UPDATE users SET erased = NOT erased", "users: {other} differs"),
    ],
)  # fmt: skip
async def test_what_should_not_be_there_is_found(
    database: Dsns, appender: Appender, connection: Connection, damage: str, told: str
) -> None:
    erased, other = registration("ada"), registration("bob")
    await together(appender, erased, other, erasure(erased.event.subject_id))
    assert (await check(database.app)).differences == []
    words = {"key": r"\x" + "00" * 60, "id": r"\x" + "00" * 8, "index": r"\x" + "00" * 16}
    await connection.execute(damage.format(**words))
    ids = {"erased": erased.event.subject_id, "other": other.event.subject_id}
    differences = (await check(database.app)).differences
    assert any(text.startswith(told.format(**ids)) for text in differences), differences


async def test_a_key_under_an_old_master_key_is_refused(
    appender: Appender, connection: Connection
) -> None:
    await connection.execute(
        "INSERT INTO key_ring (master_key_id, address_key) VALUES ($1, $2)",
        RING.master_key_id,
        RING.wrapped,
    )
    stale = registration("ada")
    with pytest.raises(StaleMasterKey):
        await appender.submit(stale)
    fresh = msgspec.structs.replace(stale, key=WrappedKey(b"f" * 60, RING.master_key_id))
    await appender.submit(fresh)
    await change_master_key(connection, RING.master_key_id, WrappedKey(b"n" * 60, b"the next"))
    other = registration("bob")
    with pytest.raises(StaleMasterKey):
        await appender.submit(
            msgspec.structs.replace(other, key=WrappedKey(b"f" * 60, RING.master_key_id))
        )


# --- the last administrator


def disabling(subject_id: UUID, *, keep_an_admin: bool) -> ChangeUser:
    event = UserDisabled(event_id=new_event_id(), occurred_at=NOON, subject_id=subject_id)
    return ChangeUser(event=event, keep_an_admin=keep_an_admin)


async def test_a_batch_does_not_take_the_last_administrator(
    appender: Appender, connection: Connection
) -> None:
    users = [registration(f"user{n}", roles=("admin",) * (n < 20)) for n in range(40)]
    await together(appender, *users)
    results = await together(
        appender, *(disabling(user.event.subject_id, keep_an_admin=True) for user in users)
    )
    assert [n for n, result in enumerate(results) if isinstance(result, LastAdmin)] == [19]
    assert sum(isinstance(result, GatelogError) for result in results) == 1
    enabled = "SELECT count(*) FROM users WHERE NOT disabled AND 'admin' = ANY (roles)"
    assert await connection.fetchval(enabled) == 1


async def test_an_administrator_made_in_the_same_batch_counts(appender: Appender) -> None:
    first, second = (registration(login, roles=("admin",)) for login in ("ada", "bob"))
    await together(appender, first)
    results = await together(
        appender,
        disabling(first.event.subject_id, keep_an_admin=True),
        second,
        disabling(first.event.subject_id, keep_an_admin=True),
        erasure(second.event.subject_id, keep_an_admin=True),
    )
    refused = [isinstance(result, LastAdmin) for result in results]
    assert refused == [True, False, False, True]


async def test_an_operator_may(appender: Appender) -> None:
    user: RegisterUser = registration("ada", roles=("admin",))
    await together(appender, user)
    assert (await appender.submit(disabling(user.event.subject_id, keep_an_admin=False))).position


# --- partitions, statistics, vacuum


async def partitions(connection: Connection, table: str) -> list[str]:
    rows = await connection.fetch(
        "SELECT inhrelid::regclass::text AS name FROM pg_inherits"
        f" WHERE inhparent = '{table}'::regclass ORDER BY inhrelid"
    )
    return [row["name"].partition(f"{table}_")[2] for row in rows]


async def test_the_index_has_the_partitions_of_the_log(
    database: Dsns, appender: Appender, connection: Connection
) -> None:
    for table in ("event_addresses", "event_origins"):
        assert await partitions(connection, table) == await partitions(connection, "events")
    top = await connection.fetchval("SELECT partitioned_to FROM log_head")
    owner = await connect(database.owner, role=None)
    await owner.execute("UPDATE log_head SET position = $1", top - PARTITION_RESERVE - 1)
    await owner.close()
    await together(appender, known_failure(None), known_failure(None))
    names = await partitions(connection, "event_addresses")
    assert names == await partitions(connection, "event_origins")
    assert names == await partitions(connection, "events")
    assert names[-1] == str(top)


async def test_old_partitions_go_beside_appends(
    database: Dsns, appender: Appender, connection: Connection
) -> None:
    await together(appender, known_failure(None))
    size = PARTITION_RESERVE
    owner = await connect(database.owner, role=None)
    await owner.execute("UPDATE log_head SET position = $1", size)
    await together(appender, known_failure(None))
    await detach_before(owner, size - 1)
    assert await drop_detached(owner, size - 1) == []
    await detach_before(owner, size)
    assert await drop_detached(owner, size) == [
        "event_addresses_1",
        "event_origins_1",
        "events_1",
    ]
    positions = await connection.fetch("SELECT position FROM event_addresses")
    assert [row[0] for row in positions] == [size + 1]
    await together(appender, known_failure(None))
    await owner.close()


async def test_no_sample_of_what_is_personal_is_kept(
    database: Dsns, appender: Appender, connection: Connection
) -> None:
    """Statistics hold values of columns, and outlive their rows."""
    await together(appender, *(registration(f"user{n}") for n in range(50)))
    owner = await connect(database.owner, role=None)
    await owner.execute("ANALYZE")
    await owner.close()
    superuser = await connect(database.superuser, role=None)
    rows = await superuser.fetch(
        "SELECT starelid::regclass::text AS name, attname FROM pg_statistic"
        " JOIN pg_attribute ON attrelid = starelid AND attnum = staattnum"
    )
    await superuser.close()
    sampled = {(row["name"], row["attname"]) for row in rows}
    assert ("credentials", "changed_at") in sampled
    assert not sampled & {
        ("credentials", "login"),
        ("credentials", "password_hash"),
        ("subject_keys", "wrapped_key"),
        ("day_keys", "wrapped_key"),
        ("key_ring", "address_key"),
    }


async def test_vacuum_says_what_it_may_not(database: Dsns) -> None:
    owner = await connect(database.owner, role=None)
    assert await vacuum_erased(owner) == []
    await owner.close()
    app = await connect(database.app)
    assert len(await vacuum_erased(app)) >= 3
    await app.close()
