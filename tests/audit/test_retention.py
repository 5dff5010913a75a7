"""A purge: what goes, what stays, and that it can be interrupted anywhere."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime, timedelta
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

import asyncpg
import msgspec
import pytest
from gatelog.accounts.service.accounts import Accounts
from gatelog.audit.service.asof import AsOf
from gatelog.audit.service.retention import Purged as Done
from gatelog.audit.service.retention import purge
from gatelog.audit.store import retention
from gatelog.audit.store.asof import PLANNED_FOR_MARKS
from gatelog.audit.store.retention import detach_before, drop_detached, lock_purge, partitions
from gatelog.clock import utc_now
from gatelog.errors import InvalidInput, OperatorError, Purged
from gatelog.hosting.services import open_services
from gatelog.log.rules import events as ev
from gatelog.log.store.appender import Appender
from gatelog.log.store.cuts import read_cut
from gatelog.log.store.database import Database, connect
from gatelog.log.store.reading import read_events
from gatelog.log.store.rebuild import check, rebuild
from gatelog.privacy.rules import Client
from gatelog.proofs.rules.tlog import TilePath
from gatelog.proofs.service.proofs import Proofs
from gatelog.proofs.service.sources import LiveLog, Report
from gatelog.proofs.service.tlog_files import LogDirectory, export_log
from gatelog.proofs.service.verify import verify_log
from gatelog.proofs.service.verify_proof import kept_checkpoint

from tests.audit.history import Told, fill, told
from tests.audit.test_asof_store import everything, same
from tests.builders import CHEAP_CONFIG, failure
from tests.conftest import HELD_OPEN, SHORT_TTL_S, Dsns
from tests.partitions import SIZE, SPACING, small_partitions
from tests.proofs.sealing import SIGNER, seal, tampering
from tests.waiting import until

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection

EVENTS = 300
PASSWORD = "a long enough password"
CONFIG = msgspec.structs.replace(
    CHEAP_CONFIG,
    hashing_threads=1,
    lease_ttl_s=SHORT_TTL_S,
    max_sessions_per_user=1000,
    database_timeout_s=10,
)


class Log:
    """A random log in small partitions, sealed, and what it was like before anything went."""

    def __init__(self, dsns: Dsns, note: Path, before: Told, reader: Database) -> None:
        self.dsns = dsns
        self.note = note
        self.before = before
        self.as_of = AsOf(reader)
        self.proofs = Proofs(reader)

    async def purge(self, before: datetime, *, dry_run: bool = False) -> Done:
        return await purge(
            self.dsns.owner, self.dsns.app, before, now=utc_now, dry_run=dry_run, spacing=SPACING
        )

    def recorded_at(self, position: int) -> datetime:
        return self.before.recorded_at[position]

    def after(self, position: int) -> datetime:
        """Just after this event was recorded, and what was recorded together with it."""
        return self.recorded_at(position) + timedelta(microseconds=1)

    async def seal(self) -> None:
        await seal(self.dsns.app, self.note)

    async def verify(self) -> Report:
        connection = await connect(self.dsns.app)
        kept = [kept_checkpoint(self.note.read_bytes(), "kept")]
        report = await verify_log(LiveLog(connection), SIGNER.verifier, kept=kept)
        await connection.close()
        return report


@pytest.fixture
async def log(
    database: Dsns,
    appender: Appender,
    connection: Connection,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> AsyncIterator[Log]:
    await small_partitions(database, monkeypatch)
    await fill(appender, events=EVENTS, seed=5)
    reader = Database(database.app, timeout_s=10, pool_size=1, settings=PLANNED_FOR_MARKS)
    log = Log(database, tmp_path / "checkpoint", await told(connection), reader)
    await log.seal()
    yield log
    await reader.close()


async def names(connection: Connection) -> set[str]:
    rows = await connection.fetch(
        "SELECT relname FROM pg_class WHERE relkind = 'r'"
        " AND relname ~ '^(events|event_addresses|event_origins)_[0-9]+$'"
    )
    return {row[0] for row in rows}


async def test_whole_sealed_partitions_go_and_all_else_stays(
    log: Log, connection: Connection
) -> None:
    existing = await names(connection)
    # one microsecond too early for the last event of the third partition
    done = await log.purge(log.recorded_at(3 * SIZE))
    assert (done.up_to, done.events) == (2 * SIZE, 2 * SIZE)
    gone = {f"{table}_{first}" for table in retention.TABLES for first in (1, 1 + SIZE)}
    assert set(done.dropped) == gone
    assert await names(connection) == existing - gone
    stored = await read_events(connection, 0, 1000)
    assert [item.position for item in stored][:1] == [2 * SIZE + 1]
    said = stored[-1].event()
    assert isinstance(said, ev.LogPurged)
    assert (said.up_to, said.before) == (2 * SIZE, log.recorded_at(3 * SIZE))


async def test_as_of_check_and_rebuild_go_on_after_the_cut(
    log: Log, connection: Connection
) -> None:
    rng = random.Random(1)
    for cut in (SIZE, 3 * SIZE):  # the second one over what the first one has kept
        await log.purge(log.after(cut))
        assert (await check(log.dsns.app)).differences == []
        assert (await check(log.dsns.app)).purged_to == cut
        assert (await rebuild(log.dsns.owner)).changed == 0
        found = 0
        for position in range(cut, log.before.head + 1):
            limit = rng.choice([1, 3, 1000])
            if position == cut:
                page = await log.as_of.sessions(position=position, limit=1000)
                assert page.moment.at == log.recorded_at(cut)
            all_of_them = await everything(log.as_of, limit, position=position)
            found += same(all_of_them, log.before, position)
            for then in all_of_them[:2]:
                user = then.session.subject_id
                same(
                    await everything(log.as_of, 2, position=position, user=user),
                    log.before,
                    position,
                    user,
                )
        assert found > 50
        for question in (
            {"position": cut - 1},
            {"position": 1},
            {"at": log.recorded_at(cut) - timedelta(microseconds=1)},
        ):
            with pytest.raises(Purged, match=f"after position {cut}"):
                await log.as_of.sessions(**question)
        at = log.recorded_at(cut)
        assert (await log.as_of.sessions(at=at)).moment.position >= cut
    await log.seal()
    damaged = await connect(log.dsns.owner, role=None)
    await damaged.execute("UPDATE users SET disabled = NOT disabled")
    assert (await rebuild(log.dsns.owner)).changed > 0
    assert (await check(log.dsns.app)).differences == []
    await damaged.close()


async def test_what_remains_verifies_and_the_log_itself_says_what_is_gone(
    log: Log, connection: Connection, tmp_path: Path
) -> None:
    cut = 4 * SIZE  # a whole bundle, as every partition of the product's is
    await log.purge(log.after(cut))
    await log.seal()
    report = await log.verify()
    assert report.findings == []
    assert (report.without_entry, report.purged_to) == (cut, cut)
    assert report.purged_at > log.before.head
    await export_log(connection, tmp_path / "export", lambda *_: None)
    export = await verify_log(LogDirectory(tmp_path / "export"), SIGNER.verifier)
    assert (export.findings, export.purged_to) == ([], cut)
    with pytest.raises(Purged):
        await log.proofs.tile(TilePath(None, 0, 256))
    assert await log.proofs.tile(TilePath(0, 0, 256))
    assert (await log.proofs.inclusion(1)).entry is None


@pytest.mark.parametrize(
    ("gone", "first"),
    [
        ("position = 129", "129: the event at position 129 is missing"),
        ("position <= 130", "129: the event at position 129 is missing"),
        ("position BETWEEN 150 AND 160", "150: the event at position 150 is missing"),
        ("type = 'log_purged'", "1: the event at position 1 is missing"),
    ],
)
async def test_what_the_log_does_not_say_is_gone_is_missed(log: Log, gone: str, first: str) -> None:
    await log.purge(log.after(2 * SIZE))
    await log.seal()
    async with tampering(log.dsns) as owner:
        await owner.execute("INSERT INTO purges SELECT 160, now(), now(), gen_random_uuid(), now()")
        await owner.execute(f"DELETE FROM events WHERE {gone}")
    report = await log.verify()
    assert report.first is not None
    assert f"{report.first.position}: {report.first.what}" == first


async def test_tiles_of_what_is_gone_are_still_held_against_what_was_signed(log: Log) -> None:
    await log.purge(log.after(SIZE))
    await log.seal()
    async with tampering(log.dsns) as owner:
        await owner.execute(
            "UPDATE tiles SET hashes = set_byte(hashes, 40, get_byte(hashes, 40) # 1)"
            " WHERE level = 0 AND tile_index = 0"
        )
    assert (await log.verify()).findings != []


async def test_only_what_is_sealed_goes(
    log: Log, appender: Appender, connection: Connection
) -> None:
    for _ in range(3 * SIZE):
        await appender.submit(failure())
    assert (await log.purge(utc_now(), dry_run=True)).up_to == log.before.head // SIZE * SIZE
    async with tampering(log.dsns) as owner:
        await owner.execute("DELETE FROM tiles WHERE level = 0 AND tile_index = 0")
    with pytest.raises(OperatorError, match="tiles"):
        await log.purge(utc_now())


async def test_nothing_is_purged_twice_and_nothing_that_is_young(log: Log) -> None:
    assert (await log.purge(log.recorded_at(1))).events == 0
    dry = await log.purge(log.after(SIZE), dry_run=True)
    assert (dry.up_to, dry.events, dry.dropped) == (SIZE, SIZE, [])
    assert (await check(log.dsns.app)).events == log.before.head
    assert (await log.purge(log.after(SIZE))).events == SIZE
    again = await log.purge(log.after(SIZE))
    assert (again.events, again.up_to, again.dropped) == (0, SIZE, [])
    with pytest.raises(InvalidInput):
        await log.purge(utc_now() + timedelta(hours=1))


async def test_one_purge_at_a_time(log: Log) -> None:
    other = await connect(log.dsns.owner, role=None)
    await lock_purge(other)
    with pytest.raises(OperatorError, match="another purge"):
        await log.purge(utc_now())
    await other.close()
    await until(lambda: _unlocked(log))


async def _unlocked(log: Log) -> bool:
    try:
        await log.purge(log.recorded_at(1))
    except OperatorError:
        return False
    return True


async def test_only_the_owner_purges(log: Log) -> None:
    with pytest.raises(OperatorError, match="owner"):
        await purge(log.dsns.app, log.dsns.app, utc_now(), now=utc_now)


STEPS_OF_A_PURGE: dict[str, str] = {
    "after the first sessions are kept": "begin",
    "after the decision": "_record",
    "after the event": "detach_before",
    "after the log has lost them": "drop_detached",
    "after the partitions": "finish",
}


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("where", STEPS_OF_A_PURGE)
async def test_the_next_purge_finishes_an_interrupted_one(
    log: Log, connection: Connection, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    name = STEPS_OF_A_PURGE[where]
    target = "gatelog.audit.service.retention" + ("._Purge" if name.startswith("_") else "")

    async def interrupted(*_: object, **__: object) -> None:
        raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(f"{target}.{name}", interrupted)
        with pytest.raises(Interrupted):
            await log.purge(log.after(2 * SIZE))
    decided = (await read_cut(connection)) is not None
    assert decided == (name != "begin")
    assert (await check(log.dsns.app)).differences == []
    for position in (2 * SIZE, 2 * SIZE + 1, log.before.head):  # at once what it will be
        same(await everything(log.as_of, 3, position=position), log.before, position)
    if decided:
        with pytest.raises(Purged):
            await log.as_of.sessions(position=2 * SIZE - 1)
    done = await log.purge(log.after(2 * SIZE))
    assert done.finished_earlier == (2 * SIZE if decided else None)
    assert (await read_events(connection, 0, 1))[0].position == 2 * SIZE + 1
    said = [item.event() for item in await read_events(connection, log.before.head, 10)]
    assert [type(event) for event in said] == [ev.LogPurged]
    assert (await check(log.dsns.app)).differences == []
    await log.seal()
    assert (await log.verify()).findings == []


async def test_a_partition_that_is_read_is_waited_for_and_nobody_waits_behind(
    log: Log, appender: Appender, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader in a transaction keeps the detach from ending; appends and new readers go on."""
    monkeypatch.setattr(retention, "GIVE_UP_S", 0.5)
    reader = await connect(log.dsns.app, settings=HELD_OPEN)
    transaction = reader.transaction()
    await transaction.start()
    await reader.fetchval("SELECT count(*) FROM events")
    owner = await connect(log.dsns.owner, role=None)

    async def half_detached() -> bool:
        return any(p.pending for p in await partitions(reader, "events"))

    with monkeypatch.context() as patch:
        patch.setattr(retention, "LOCK_TIMEOUT_MS", 600_000)  # it waits while the others go on
        dropping = asyncio.create_task(detach_before(owner, SIZE))
        await until(half_detached)
        async with asyncio.timeout(60):
            for _ in range(20):
                await appender.submit(failure())
                await connection.fetchval("SELECT count(*) FROM events")
        assert not dropping.done()
        dropping.cancel()
        await asyncio.gather(dropping, return_exceptions=True)
    with pytest.raises(OperatorError, match="still reads"):
        await detach_before(owner, SIZE)
    await transaction.rollback()
    await detach_before(owner, SIZE)
    assert await drop_detached(owner, SIZE) == [f"{table}_1" for table in retention.TABLES]
    await owner.close()
    await reader.close()


async def test_a_table_that_was_detached_and_not_dropped_goes_next_time(log: Log) -> None:
    owner = await connect(log.dsns.owner, role=None)
    await owner.execute("ALTER TABLE events DETACH PARTITION events_1 CONCURRENTLY")
    assert await drop_detached(owner, SIZE) == ["events_1"]
    await detach_before(owner, SIZE)
    assert await drop_detached(owner, SIZE) == ["event_addresses_1", "event_origins_1"]
    await owner.close()


# What a purge does, in order; names in gatelog.audit.service.retention.
WORK_OF_A_PURGE = ("retain", "begin", "_Purge._record", "detach_before", "drop_detached", "finish")
CLIENTS = 4
LOGINS_BETWEEN = 10


class Clients:
    """Users who log in again and again, side by side; every login must be served in time."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts
        self.logins = 0

    async def log_in(self, login: str) -> None:
        while True:
            await self._accounts.logins.log_in(login, PASSWORD, Client("192.0.2.7", "Netscape"))
            self.logins += 1

    async def many_more(self) -> None:
        """Wait until each client has been served since now, and more than once."""
        wanted = self.logins + CLIENTS * LOGINS_BETWEEN
        await until(lambda: self.logins >= wanted, within_s=60)


async def test_logins_go_on_during_a_purge(
    log: Log, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """All the time, and before and after each of its steps: it holds nothing from one to the next.

    A login that waits longer than ``database_timeout_s`` fails, and the test with it.
    """
    config = msgspec.structs.replace(CONFIG, data_dir=str(tmp_path / "var"))
    async with open_services(config, log.dsns.app) as services:
        clients = Clients(services.accounts)
        logins = [f"client{number}" for number in range(CLIENTS)]
        for login in logins:
            await services.accounts.logins.add_user(login, PASSWORD)
        done: list[str] = []

        def accompanied(name: str, work: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
            async def step(*arguments: Any) -> Any:
                await clients.many_more()
                result = await work(*arguments)
                done.append(name)
                await clients.many_more()
                return result

            return step

        for name in WORK_OF_A_PURGE:
            target = f"gatelog.audit.service.retention.{name}"
            monkeypatch.setattr(target, accompanied(name, resolve_name(target)))
        async with asyncio.TaskGroup() as running:
            tasks = [running.create_task(clients.log_in(login)) for login in logins]
            await log.purge(log.after(4 * SIZE))
            for task in tasks:
                task.cancel()
    assert tuple(dict.fromkeys(done)) == WORK_OF_A_PURGE
    assert clients.logins >= len(WORK_OF_A_PURGE) * 2 * CLIENTS * LOGINS_BETWEEN
    assert (await check(log.dsns.app)).differences == []


STATEMENTS = (
    "DELETE FROM events",
    "UPDATE events SET entry = entry",
    "TRUNCATE events",
    "TRUNCATE events_129",
    "DELETE FROM events_129",
    "DELETE FROM event_ids",
)


@pytest.mark.parametrize("statement", STATEMENTS)
async def test_a_purge_is_the_only_way(log: Log, statement: str) -> None:
    await log.purge(log.after(SIZE))
    owner = await connect(log.dsns.owner, role=None)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await owner.execute(statement)
    await owner.close()


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE events DETACH PARTITION events_129",
        "DROP TABLE events_129",
        "INSERT INTO purges VALUES (128, now(), now(), gen_random_uuid(), now())",
        "DELETE FROM purges",
        "DELETE FROM session_marks",
        "UPDATE user_marks SET erased = true",
        "INSERT INTO retained_sessions SELECT 1, sha256('x'), s, s, now(), now(), '{}'"
        " FROM gen_random_uuid() s",
    ],
)
async def test_the_application_may_not(log: Log, connection: Connection, statement: str) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await connection.execute(statement)


async def test_an_id_is_not_used_twice_however_old(log: Log, appender: Appender) -> None:
    command = failure()
    first = await appender.submit(command)
    for _ in range(SIZE):
        await appender.submit(failure())
    await log.seal()
    await log.purge(utc_now())
    with pytest.raises(Purged):
        await appender.submit(command)
    assert (await check(log.dsns.app)).differences == []
    assert first.position <= (await check(log.dsns.app)).purged_to
