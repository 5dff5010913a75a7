"""The event log: positions, idempotency, group commit, rights."""

from __future__ import annotations

import asyncio
import random
from importlib import import_module
from pathlib import Path
from uuid import UUID

import asyncpg
import gatelog
import msgspec
import pytest
from gatelog.accounts.rules.ending import EndSessions
from gatelog.accounts.rules.login import RecordLoginFailure
from gatelog.clock import new_event_id
from gatelog.errors import (
    DatabaseUnavailable,
    EventIdConflict,
    LoginTaken,
    OutcomeUnknown,
    Overloaded,
)
from gatelog.log.rules import events as ev
from gatelog.log.rules.kinds import Need
from gatelog.log.store import sql
from gatelog.log.store.appender import Appender
from gatelog.log.store.database import connect
from gatelog.log.store.kinds import (
    erasing_statement,
    reading_statement,
    registered_kinds,
    writing_statement,
)
from gatelog.log.store.reading import read_events, read_head
from gatelog.sessions.rules.events import SessionEnded

from tests.builders import failure, registration, start
from tests.conftest import HELD_OPEN, Dsns
from tests.waiting import until


async def test_a_new_log_is_empty(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    assert (await read_head(connection)).position == 0
    assert await read_events(connection, 0) == []


async def test_events_are_stored_as_they_were_hashed(
    appender: Appender, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    command = registration("ada", roles=("admin",))
    recorded = await appender.submit(command)
    stored = await read_events(connection, 0)
    assert [item.position for item in stored] == [1, 2]
    assert recorded.position == 2
    assert stored[0].entry == ev.encode(command.event)
    assert all(ev.leaf_hash(item.entry) == item.leaf_hash for item in stored)
    assert stored[0].event() == command.event


async def test_many_commands_share_commits_and_keep_their_order(
    appender: Appender, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    commands = [failure() for _ in range(600)]
    recorded = await asyncio.gather(*(appender.submit(command) for command in commands))
    assert [item.position for item in recorded] == list(range(1, 601))
    assert appender.commits <= 4
    stored = await read_events(connection, 0)
    assert [item.event().event_id for item in stored] == [c.event.event_id for c in commands]
    times = [item.recorded_at for item in stored]
    assert times == sorted(times)


async def test_a_refusal_concerns_only_its_own_command(appender: Appender) -> None:
    results = await asyncio.gather(
        *(appender.submit(registration("same")) for _ in range(5)),
        appender.submit(registration("other")),
        return_exceptions=True,
    )
    assert sum(isinstance(result, LoginTaken) for result in results) == 4
    assert sum(not isinstance(result, BaseException) for result in results) == 2


async def test_a_defective_command_does_not_hurt_its_batch(appender: Appender) -> None:
    defective = registration("nul")
    defective = msgspec.structs.replace(defective, login="nul\x00")
    results = await asyncio.gather(
        appender.submit(registration("before")),
        appender.submit(defective),
        appender.submit(registration("after")),
        return_exceptions=True,
    )
    assert isinstance(results[1], DatabaseUnavailable)
    assert not isinstance(results[0], BaseException)
    assert not isinstance(results[2], BaseException)


async def test_a_retry_answers_the_old_position(
    appender: Appender, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    command = registration("ada", roles=("admin", "auditor"))
    first = await appender.submit(command)
    await appender.submit(failure())
    assert await appender.submit(command) == first
    assert (await read_head(connection)).position == 4


async def test_a_retry_of_many_events_answers_all_of_them(appender: Appender) -> None:
    user = registration("ada")
    await appender.submit(user)
    for _ in range(3):
        await appender.submit(start(user.event.subject_id))
    command = EndSessions(
        event_id=new_event_id(),
        at=user.event.occurred_at,
        subject_id=user.event.subject_id,
        reason="revoked",
    )
    first = await appender.submit(command)
    assert first.count(SessionEnded) == 3
    await appender.submit(start(user.event.subject_id))
    assert await appender.submit(command) == first


async def test_the_same_id_with_other_bytes_is_a_conflict(appender: Appender) -> None:
    command = failure()
    await appender.submit(command)
    other = RecordLoginFailure(
        event=msgspec.structs.replace(command.event, reason="wrong_password")
    )
    with pytest.raises(EventIdConflict):
        await appender.submit(other)


async def test_a_full_queue_refuses(database: Dsns) -> None:
    async with Appender(lambda: connect(database.app), timeout_s=10, max_queue=2) as appender:
        accepted = [appender.submit(failure()) for _ in range(2)]
        with pytest.raises(Overloaded):
            appender.submit(failure())
        await asyncio.gather(*accepted)
        await appender.submit(failure())


async def test_the_projection_is_written_with_the_events(
    appender: Appender, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    user = registration("ada", roles=("admin",))
    await appender.submit(user)
    command = start(user.event.subject_id)
    await appender.submit(command)
    row = await connection.fetchrow("SELECT * FROM active_sessions")
    assert row is not None
    assert row["token_digest"] == command.event.token_digest
    assert row["roles"] == ["admin"]  # taken under the lock, not from the command


async def test_a_session_that_starts_and_ends_in_one_batch_leaves_nothing(
    appender: Appender, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    user = registration("ada")
    await appender.submit(user)
    subject_id = user.event.subject_id
    end = EndSessions(
        event_id=new_event_id(), at=user.event.occurred_at, subject_id=subject_id, reason="revoked"
    )
    _, ended = await asyncio.gather(appender.submit(start(subject_id)), appender.submit(end))
    assert ended.count(SessionEnded) == 1
    assert await connection.fetchval("SELECT count(*) FROM active_sessions") == 0


async def test_new_partitions_come_before_they_are_needed(
    database: Dsns, appender: Appender, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    before = await connection.fetchval("SELECT partitioned_to FROM log_head")
    owner = await connect(database.owner, role=None)
    await owner.execute("UPDATE log_head SET position = $1", before - 2)
    await owner.close()
    recorded = await asyncio.gather(*(appender.submit(failure()) for _ in range(4)))
    assert [item.position for item in recorded] == [before - 1 + n for n in range(4)]
    assert len(await read_events(connection, before - 2)) == 4


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE {} SET position = position",
        "DELETE FROM {}",
        "TRUNCATE {}",
    ],
)
@pytest.mark.parametrize("table", ["events", "event_ids", "events_1"])
@pytest.mark.parametrize("who", ["app", "owner"])
async def test_nobody_changes_history(
    database: Dsns, appender: Appender, statement: str, table: str, who: str
) -> None:
    await appender.submit(failure())
    connection = await connect(getattr(database, who), role="gatelog_app" if who == "app" else None)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await connection.execute(statement.format(table))
    assert await connection.fetchval("SELECT count(*) FROM events") == 1
    await connection.close()


async def test_every_statement_fits_the_schema(
    connection: asyncpg.Connection[asyncpg.Record],
) -> None:
    scripts = {"DETACH", "FINISH_DETACH", "DROP"}  # with names of tables in them
    found = sorted(Path(gatelog.__file__).parent.glob("*/store/sql*.py"))
    assert len(found) >= 10
    for path in found:
        room = import_module(f"gatelog.{path.parts[-3]}.store.{path.stem}")
        names = [name for name in vars(room) if name.isupper() and name not in scripts]
        assert names
        for name in names:
            value = getattr(room, name)
            for statement in value if isinstance(value, tuple) else (value,):
                if is_whole(statement):
                    await connection.prepare(statement)


def is_whole(statement: str) -> bool:
    """Whether it is a statement and no part of one, which the composed ones are tried with."""
    return "{0}" not in statement and statement.lstrip().startswith(
        ("SELECT", "INSERT", "UPDATE", "DELETE", "WITH")
    )


async def test_every_composed_statement_fits_the_schema(
    connection: asyncpg.Connection[asyncpg.Record],
) -> None:
    kinds = registered_kinds()
    needs = [read.need for kind in kinds for read in kind.reads]
    few: list[list[type[Need]]] = [[], *([need] for need in needs), needs]
    for some_needs in few:
        await connection.prepare(reading_statement(tuple(some_needs), 2))
    writes = [write for kind in kinds for write in kind.writes if not write.before]
    for some in ([], *([write] for write in writes), writes):
        await connection.prepare(writing_statement(tuple(some), 10))
    before = [write for kind in kinds for write in kind.writes if write.before]
    for some in (*([write] for write in before), before):
        await connection.prepare(erasing_statement(tuple(some)))
    for kind in kinds:
        if kind.projection is not None:
            table = kind.projection.table
            await connection.execute(table.create_rebuilt())
            analyze, *others = table.swap_in()
            await connection.execute(analyze)
            for statement in (table.select(), table.forget_rebuilt(), *others):
                await connection.prepare(statement)


async def test_a_lost_connection_is_an_unknown_outcome_until_it_is_known(
    database: Dsns,
    appender: Appender,
    connection: asyncpg.Connection[asyncpg.Record],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The head is locked by somebody else for longer than the caller waits."""
    await appender.submit(failure())
    blocker = await connect(database.app, settings=HELD_OPEN)
    await blocker.execute("BEGIN")
    await blocker.execute(sql.LOCK_HEAD)
    with monkeypatch.context() as patch, pytest.raises(OutcomeUnknown):
        patch.setattr(appender, "_timeout_s", 0.3)
        await appender.submit(failure())
    await blocker.execute("ROLLBACK")
    await blocker.close()
    recorded = await appender.submit(failure())
    assert recorded.position == (await read_head(connection)).position


async def test_who_loses_a_deadlock_is_recorded_after_it(
    database: Dsns, connection: asyncpg.Connection[asyncpg.Record], caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody locks the log's current partition first and the log after it."""
    other = await connect(
        database.superuser, role=None, settings=HELD_OPEN | {"deadlock_timeout": "1min"}
    )

    async def append_waits() -> bool:
        waits = "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = $1::regclass AND NOT granted)"
        return bool(await connection.fetchval(waits, "events_1"))

    async with Appender(lambda: connect(database.app), timeout_s=10) as appender:
        await other.execute("BEGIN")
        await other.execute("LOCK TABLE events_1 IN SHARE MODE")
        appended = appender.submit(failure())
        await until(append_waits)
        await other.execute("LOCK TABLE ONLY events IN SHARE MODE")  # until the append gives up
        await other.execute("COMMIT")
        assert (await appended).position == 1
    assert "DeadlockDetectedError" in caplog.text
    await other.close()


async def test_a_migration_under_a_prepared_statement_hurts_nobody(
    database: Dsns, appender: Appender, caplog: pytest.LogCaptureFixture
) -> None:
    await appender.submit(failure())
    owner = await connect(database.owner, role=None)
    await owner.execute("ALTER TABLE log_head ALTER COLUMN position TYPE integer")
    await owner.close()
    assert (await appender.submit(failure())).position == 2
    assert "InvalidCachedStatementError" in caplog.text


PACE_S = 0.08  # the nemesis's


async def test_terminated_backends_lose_and_repeat_nothing(
    database: Dsns, appender: Appender, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    """Backends are terminated again and again in the middle of commits."""
    killer = await connect(database.superuser, role=None)
    kills = 0

    async def kill() -> None:
        nonlocal kills
        longest_s = PACE_S
        while True:
            commits = appender.commits
            kills += await killer.fetchval(
                "SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid NOT IN (pg_backend_pid(), $1)",
                connection.get_server_pid(),
            )
            await asyncio.sleep(random.uniform(0.01, longest_s))
            # a machine that is too slow to commit anything between two of them gets more time
            longest_s = PACE_S if appender.commits > commits else longest_s * 1.5

    nemesis = asyncio.create_task(kill())
    ids: set[UUID] = set()
    while kills < 25:
        commands = [failure() for _ in range(20)]
        await asyncio.gather(*(appender.submit(command) for command in commands))
        ids |= {command.event.event_id for command in commands}
    nemesis.cancel()
    await asyncio.gather(nemesis, return_exceptions=True)
    await killer.close()
    stored = await read_events(connection, 0, limit=100_000)
    assert [item.position for item in stored] == list(range(1, len(ids) + 1))
    assert {item.event().event_id for item in stored} == ids
