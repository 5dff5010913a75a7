"""The projector on a real database, as a task; its leases by the real clock, but short."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from gatelog.accounts.rules.login import StartSession
from gatelog.clock import new_event_id, utc_now
from gatelog.config import Config
from gatelog.log.rules.events import leaf_hash
from gatelog.log.store import sql
from gatelog.log.store.appender import Appender
from gatelog.log.store.database import connect
from gatelog.proofs.service.history import history_guard
from gatelog.sessions.rules.record import Session
from gatelog.sessions.rules.renewing import RenewSessions
from gatelog.sessions.service.projector import Projector
from gatelog.sessions.store.leases import Look, leave, read_leases, wake_projectors
from gatelog.sessions.store.replica import ReplicaReader
from gatelog.sessions.store.replica_place import ReplicaPlace, ReplicaState
from gatelog.sessions.store.replica_writer import ReplicaWriter

from tests.builders import end, failure, registration, start
from tests.conftest import Dsns
from tests.waiting import until

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection

TTL_S = 0.6
# Where something must be so at a moment, and not only come true: longer than any pause of this
# process or of the database.
LONG_TTL_S = 6.0
_numbers = itertools.count()


@pytest.fixture
def config(tmp_path: Path) -> Iterator[Config]:
    config = Config(data_dir=str(tmp_path / "var"), lease_ttl_s=TTL_S, replica_max_mib=64)
    yield config
    shutil.rmtree(ReplicaPlace(config).base(), ignore_errors=True)


@pytest.fixture
def patient(config: Config, monkeypatch: pytest.MonkeyPatch) -> Config:
    """The same with a long lease, which also limits each statement, and with time to leave."""
    monkeypatch.setattr("gatelog.sessions.service.projector.LEAVE_TIMEOUT_S", LONG_TTL_S)
    return msgspec.structs.replace(config, lease_ttl_s=LONG_TTL_S)


@pytest.fixture
def slow(config: Config) -> Config:
    """The same with a lease and polls that are longer than a test."""
    return msgspec.structs.replace(config, lease_ttl_s=60, projector_poll_s=60)


@pytest.fixture
def reader(config: Config) -> Iterator[ReplicaReader]:
    reader = ReplicaReader(ReplicaPlace(config))
    yield reader
    reader.close()


@asynccontextmanager
async def running(config: Config, database: Dsns) -> AsyncIterator[Projector]:
    projector = Projector.configured(config, database.app, history_guard(config))
    task = asyncio.create_task(projector.run())
    try:
        yield projector
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def logged_in(appender: Appender, count: int = 1) -> list[StartSession]:
    user = registration(f"user {next(_numbers)}")
    await appender.submit(user)
    commands = [start(user.event.subject_id) for _ in range(count)]
    await asyncio.gather(*map(appender.submit, commands))
    return commands


def knows(reader: ReplicaReader, command: StartSession) -> Callable[[], bool]:
    return lambda: isinstance(reader.peek(command.event.token_digest), Session)


def knows_the_end_of(reader: ReplicaReader, command: StartSession) -> Callable[[], bool]:
    return lambda: reader.peek(command.event.token_digest) is False


async def acknowledged(connection: Connection) -> bool:
    """Whether every replica has everything."""
    look = await read_leases(connection)
    return bool(look.rows) and all(row.applied_position >= look.head for row in look.rows)


async def test_sessions_come_from_the_load_and_from_the_log(
    config: Config, database: Dsns, appender: Appender, reader: ReplicaReader
) -> None:
    loaded, ending = await logged_in(appender, 2)
    async with running(config, database):
        await until(knows(reader, loaded))
        (followed,) = await logged_in(appender)
        await until(knows(reader, followed))

        for command in (ending, followed):
            await appender.submit(end(command))
            await until(knows_the_end_of(reader, command))


async def test_use_reaches_the_replica(
    config: Config, database: Dsns, appender: Appender, reader: ReplicaReader
) -> None:
    user = registration(f"user {next(_numbers)}")
    await appender.submit(user)
    at = utc_now() - timedelta(seconds=1800)
    command = start(user.event.subject_id, at=at, idle_s=3600)
    await appender.submit(command)
    digest = command.event.token_digest
    async with running(config, database):
        await until(knows(reader, command))
        renewal = RenewSessions(event_id=new_event_id(), token_digests=(digest,))
        recorded = await appender.submit(renewal)
        assert recorded.events
        expires_at = recorded.events[0].occurred_at + timedelta(seconds=3600)

        def is_known() -> bool:
            found = reader.peek(digest)
            return isinstance(found, Session) and found.expires_at == expires_at

        await until(is_known)
    async with running(config, database):  # and with a load, too
        await until(is_known)


async def test_an_empty_log_gets_a_lease_too(
    config: Config, database: Dsns, reader: ReplicaReader, appender: Appender
) -> None:
    async with running(config, database):
        await until(lambda: reader.leased)
        (command,) = await logged_in(appender)
        await until(knows(reader, command))


async def test_everything_is_acknowledged_without_a_wake_up(
    config: Config, database: Dsns, appender: Appender, connection: Connection
) -> None:
    async with running(config, database):
        (command,) = await logged_in(appender)
        await until(lambda: acknowledged(connection))
        await appender.submit(end(command))
        await until(lambda: acknowledged(connection))


async def settled(connection: Connection, projector: Projector) -> None:
    """Return when it has everything and does nothing but wait."""
    await until(lambda: acknowledged(connection))
    await until(lambda: projector.waiting)


async def test_what_is_told_is_applied_without_a_poll(
    slow: Config, database: Dsns, appender: Appender, connection: Connection
) -> None:
    """No poll and no renewal comes as long as this test may last."""
    async with running(slow, database) as projector:
        await settled(connection, projector)
        for _ in range(3):
            (command,) = await logged_in(appender)
            await wake_projectors(connection)
            await until(lambda: acknowledged(connection))
            await appender.submit(end(command))
            await wake_projectors(connection)
            await until(lambda: acknowledged(connection))
        assert not projector.polls_quickly


async def test_after_news_that_nobody_told_polls_are_quick(
    slow: Config, database: Dsns, appender: Appender, connection: Connection
) -> None:
    """As behind a proxy that passes no notification on: one poll is slow, and then no more."""
    polling = msgspec.structs.replace(slow, projector_poll_s=1)
    async with running(polling, database) as projector:
        await settled(connection, projector)
        before = projector.polls_quickly
        (command,) = await logged_in(appender)
        await until(lambda: acknowledged(connection))
        assert (before, projector.polls_quickly) == (False, True)
        await appender.submit(end(command))
        await until(lambda: acknowledged(connection))
        await wake_projectors(connection)
        await until(lambda: not projector.polls_quickly)


async def test_news_of_no_session_need_not_be_told(
    slow: Config, database: Dsns, appender: Appender, connection: Connection
) -> None:
    polling = msgspec.structs.replace(slow, projector_poll_s=0.05)
    async with running(polling, database) as projector:
        await settled(connection, projector)
        await appender.submit(failure())
        await until(lambda: acknowledged(connection))
        assert not projector.polls_quickly


async def test_a_renewal_looks_for_news_as_well(
    config: Config, database: Dsns, appender: Appender, connection: Connection
) -> None:
    rare = msgspec.structs.replace(config, projector_poll_s=60)
    async with running(rare, database) as projector:
        await settled(connection, projector)
        await logged_in(appender)
        await until(lambda: acknowledged(connection))


async def test_the_lease_lasts_as_long_as_it_is_renewed(
    patient: Config, database: Dsns, reader: ReplicaReader, appender: Appender
) -> None:
    (command,) = await logged_in(appender)
    async with running(patient, database):
        await until(knows(reader, command))
        first_is_over = time.monotonic() + LONG_TTL_S
        lasts = True
        while lasts:
            lasts = time.monotonic() < first_is_over
            assert reader.peek(command.event.token_digest), "the lease was not renewed in time"
            await asyncio.sleep(LONG_TTL_S / 60)


async def test_a_stop_ends_the_lease_and_removes_the_row(
    patient: Config,
    database: Dsns,
    reader: ReplicaReader,
    appender: Appender,
    connection: Connection,
) -> None:
    (command,) = await logged_in(appender)
    async with running(patient, database):
        await until(knows(reader, command))

    assert reader.peek(command.event.token_digest) is None
    assert (await read_leases(connection)).rows == ()


async def test_a_restart_goes_on_with_the_same_replica(
    config: Config, database: Dsns, appender: Appender, reader: ReplicaReader
) -> None:
    before, ending = await logged_in(appender, 2)
    async with running(config, database) as first:
        await until(knows(reader, before))
        assert first.rebuilds == 1
    await appender.submit(end(ending))
    (meanwhile,) = await logged_in(appender)

    async with running(config, database) as second:
        await until(knows(reader, meanwhile))
        assert knows(reader, before)()
        assert knows_the_end_of(reader, ending)(), "the log was followed, not loaded"
        assert second.rebuilds == 0


@pytest.mark.parametrize(
    ("before_s", "ttl_s", "kept"),
    [(60, 60, True), (60, 6, False), (33.3, 33.3, True), (20, 60, True)],
)
async def test_a_longer_lease_of_a_killed_projector_ends_before_its_row_says_less(
    *,
    config: Config,
    database: Dsns,
    appender: Appender,
    reader: ReplicaReader,
    monkeypatch: pytest.MonkeyPatch,
    before_s: float,
    ttl_s: float,
    kept: bool,
) -> None:
    (command,) = await logged_in(appender)
    longer = msgspec.structs.replace(config, lease_ttl_s=before_s)
    async with running(longer, database) as first:
        await until(knows(reader, command))
        killed(first, monkeypatch)
    await until(lambda: reader.leased)

    leased: list[bool] = []
    async with running(msgspec.structs.replace(config, lease_ttl_s=ttl_s), database) as second:
        write_row = second._write_row

        async def noting(
            lease: Connection, writer: ReplicaWriter, state: ReplicaState, t0_ns: int
        ) -> None:
            leased.append(reader.leased)
            await write_row(lease, writer, state, t0_ns)

        monkeypatch.setattr(second, "_write_row", noting)
        await until(lambda: bool(leased))
        await until(knows(reader, command))

        assert leased[0] is kept
        assert second.rebuilds == 0, "what the replica holds is as good as before"


def killed(projector: Projector, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let it end as by kill -9, but for what a process cannot do to itself."""

    async def let_go() -> None:
        assert projector._writer is not None
        projector._writer.close()

    monkeypatch.setattr(projector, "_stop", let_go)


async def test_a_removed_row_is_joined_anew(
    config: Config, database: Dsns, reader: ReplicaReader, connection: Connection
) -> None:
    async def rows() -> Look:
        return await read_leases(connection)

    async with running(config, database) as projector:
        await until(lambda: reader.leased)
        replica_id = (await rows()).rows[0].replica_id
        await leave(connection, replica_id)

        async def is_back() -> bool:
            return [row.replica_id for row in (await rows()).rows] == [replica_id]

        await until(is_back)
        assert projector.rebuilds == 1


async def test_rows_of_replicas_that_are_gone_are_removed(
    *,
    config: Config,
    database: Dsns,
    reader: ReplicaReader,
    connection: Connection,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = Config(data_dir=str(tmp_path / "other"), lease_ttl_s=TTL_S, replica_max_mib=64)
    gone = Projector.configured(other, database.app, history_guard(other))
    task = asyncio.create_task(gone.run())
    with contextlib.closing(ReplicaReader(ReplicaPlace(other))) as others_reader:
        await until(lambda: others_reader.leased)
    monkeypatch.setattr(gone, "_stop", until_cancelled)  # as after kill -9
    task.cancel()
    async with running(config, database):
        await until(lambda: reader.leased)

        async def is_alone() -> bool:
            return len((await read_leases(connection)).rows) == 1

        await until(is_alone)
    shutil.rmtree(ReplicaPlace(other).base())


async def until_cancelled() -> None:
    pass


async def another_epoch(database: Dsns) -> None:
    owner = await connect(database.owner, role=None)
    await owner.execute(sql.BUMP_EPOCH)
    await owner.close()


async def shorter_log(database: Dsns) -> None:
    """As after a restored backup that nobody announced: the last login never happened."""
    owner = await connect(database.superuser, role=None)
    await owner.execute(
        """
        SET session_replication_role = replica;
        DELETE FROM active_sessions WHERE session_id = (
            SELECT session_id FROM events ORDER BY position DESC LIMIT 1);
        DELETE FROM event_ids WHERE position = (SELECT position FROM log_head);
        DELETE FROM events WHERE position = (SELECT position FROM log_head);
        UPDATE log_head SET position = position - 1;
        """
    )
    await owner.close()


async def other_log(database: Dsns) -> None:
    """The same, and another event has taken the place meanwhile."""
    owner = await connect(database.superuser, role=None)
    await owner.execute(
        """
        SET session_replication_role = replica;
        UPDATE events SET leaf_hash = sha256('another event')
        WHERE position = (SELECT position FROM log_head);
        """
    )
    await owner.close()


@pytest.mark.parametrize("change", [another_epoch, shorter_log, other_log])
@pytest.mark.parametrize("while_running", [True, False])
async def test_another_log_means_another_replica(
    *,
    patient: Config,
    database: Dsns,
    appender: Appender,
    reader: ReplicaReader,
    connection: Connection,
    change: Callable[[Dsns], contextlib.AbstractAsyncContextManager[None]],
    while_running: bool,
) -> None:
    """Tombstones of sessions whose end is not in the log any more must not refuse anybody."""
    kept, ended = await logged_in(appender, 2)
    async with running(patient, database) as projector:
        await until(knows(reader, kept))
        await appender.submit(end(ended))
        await until(knows_the_end_of(reader, ended))
        before = reader.status()
        if while_running:
            await change(database)  # type: ignore[misc]
            await until(lambda: projector.rebuilds == 2)
    if not while_running:
        await change(database)  # type: ignore[misc]

    async with running(patient, database):
        await until(knows(reader, kept))
        after = reader.status()
        assert before is not None
        assert after is not None
        assert after.replica_id != before.replica_id
        assert reader.peek(ended.event.token_digest) is None, "only the primary knows"
        replicas = [row.replica_id for row in (await read_leases(connection)).rows]
        assert replicas == [after.replica_id]


async def test_a_full_replica_is_given_up_and_loaded_anew(
    config: Config, database: Dsns, appender: Appender, tmp_path: Path
) -> None:
    small = Config(
        data_dir=config.data_dir,
        replica_dir=str(tmp_path / "small"),
        replica_max_mib=1,
        lease_ttl_s=TTL_S,
    )
    with contextlib.closing(ReplicaReader(ReplicaPlace(small))) as reader:
        async with running(small, database) as projector:
            await until(lambda: reader.leased)
            while projector.rebuilds < 2:  # every session that ends leaves its tombstone
                commands = await logged_in(appender, 100)
                await asyncio.gather(*(appender.submit(end(command)) for command in commands))
            (command,) = await logged_in(appender)
            await until(knows(reader, command))


async def test_a_replica_whose_files_were_deleted_is_made_anew(
    config: Config, database: Dsns, reader: ReplicaReader, appender: Appender
) -> None:
    (command,) = await logged_in(appender)
    async with running(config, database) as projector:
        await until(lambda: reader.leased)
        shutil.rmtree(ReplicaPlace(config).base())
        await until(lambda: projector.rebuilds == 2)
        with contextlib.closing(ReplicaReader(ReplicaPlace(config))) as new_reader:
            await until(knows(new_reader, command))


@pytest.fixture
def tiny_memory(tmp_path: Path) -> Iterator[Path]:
    """A file system in memory that is full after half a megabyte."""
    directory = tmp_path / "tiny"
    directory.mkdir()
    options = ["-t", "tmpfs", "-o", "size=512k,mode=0700", "tmpfs", str(directory)]
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if not mount or not umount or subprocess.run([mount, *options], check=False).returncode:
        pytest.skip("may not mount a file system")
    yield directory
    subprocess.run([umount, "--lazy", str(directory)], check=True)


async def test_where_memory_is_short_the_replica_goes_to_the_data_directory(
    config: Config, database: Dsns, appender: Appender, tiny_memory: Path
) -> None:
    """As in a container that gives /dev/shm 64 MB."""
    small = msgspec.structs.replace(config, replica_dir=str(tiny_memory))
    (command,) = await logged_in(appender)
    with contextlib.closing(ReplicaReader(ReplicaPlace(small))) as reader:
        async with running(small, database) as projector:
            await until(knows(reader, command))
            assert projector.place.base() == tiny_memory
            for _ in range(60):
                await logged_in(appender, 100)
            await until(lambda: projector.rebuilds == 2)
            assert projector.place.base() == projector.place.root
            await until(knows(reader, command))
            status = reader.status()
            assert status is not None
            assert (projector.place.root / status.replica_id).exists()
            assert not list(tiny_memory.iterdir())


async def test_without_any_room_there_is_no_lease_and_no_row(
    config: Config,
    database: Dsns,
    appender: Appender,
    connection: Connection,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The load itself does not fit; logouts must not wait for a replica that is not there."""
    small = msgspec.structs.replace(config, replica_max_mib=1)
    for _ in range(130):
        await logged_in(appender, 100)
    with contextlib.closing(ReplicaReader(ReplicaPlace(small))) as reader:
        async with running(small, database) as projector:
            await until(lambda: "no room for the replica" in caplog.text)
            assert not reader.leased
            assert projector.rebuilds == 0
            assert (await read_leases(connection)).rows == ()


async def test_only_one_of_two_projectors_writes(
    config: Config, database: Dsns, reader: ReplicaReader, appender: Appender
) -> None:
    async with running(config, database) as first:
        await until(lambda: reader.leased)
        async with running(config, database) as second:
            (command,) = await logged_in(appender)
            await until(knows(reader, command))
            assert (first.rebuilds, second.rebuilds) == (1, 0)


async def test_the_other_projector_takes_over(
    config: Config, database: Dsns, reader: ReplicaReader, appender: Appender
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        async with running(config, database):
            await until(lambda: reader.leased)
            second = await stack.enter_async_context(running(config, database))
        (command,) = await logged_in(appender)
        await until(knows(reader, command))
        assert second.position > 0


async def test_lost_connections_are_replaced(
    config: Config,
    database: Dsns,
    reader: ReplicaReader,
    appender: Appender,
    connection: Connection,
) -> None:
    async with running(config, database) as projector:
        await until(lambda: reader.leased)
        superuser = await connect(database.superuser, role=None)
        await superuser.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND datname = current_database()"
        )
        await superuser.close()
        (command,) = await logged_in(appender)
        await until(knows(reader, command))
        assert projector.rebuilds == 1, "losing the database is no doubt about the replica"


async def test_expired_sessions_are_purged(
    config: Config, database: Dsns, reader: ReplicaReader, appender: Appender
) -> None:
    user = registration("user")
    await appender.submit(user)
    await appender.submit(start(user.event.subject_id, lifetime_s=1))  # it was over long ago

    def is_empty() -> bool:
        status = reader.status()
        return status is not None and status.state.position == 2 and status.entries == 0

    async with running(config, database):
        await until(is_empty)


async def test_a_replica_that_is_not_caught_up_gets_no_lease(
    config: Config,
    database: Dsns,
    appender: Appender,
    connection: Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The row is there and the head has been read, but an event is not applied yet."""
    (command,) = await logged_in(appender)
    place = ReplicaPlace(config)
    async with running(config, database):
        await until(lambda: acknowledged(connection))
    projector = Projector.configured(config, database.app, history_guard(config))
    stuck = asyncio.Event()

    async def never(*_: object) -> None:
        stuck.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(projector, "_apply", never)
    await appender.submit(end(command))
    task = asyncio.create_task(projector.run())
    await stuck.wait()

    async def has_renewed() -> bool:
        return projector._renewals >= 2

    await until(has_renewed)
    with contextlib.closing(ReplicaReader(place)) as reader:
        assert reader.status() is not None
        assert not reader.leased
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_writer_of_another_boot_is_not_reused(
    config: Config, database: Dsns, reader: ReplicaReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(config, database):
        await until(lambda: reader.leased)
    reader.close()
    monkeypatch.setattr("gatelog.sessions.store.replica_place.boot_id", lambda: "anotherboot1")
    assert ReplicaWriter.open_current(ReplicaPlace(config)) is None

    async with running(config, database) as projector:
        await until(lambda: reader.leased)
        assert projector.rebuilds == 1
        others = [path.name for path in ReplicaPlace(config).base().glob("*-v*-*")]
        assert len(others) == 1


RETRY_S = 1.8  # after an event that is not understood


async def write_unknown_event(database: Dsns) -> None:
    """As a newer version would, which runs beside this one."""
    entry = b'{"type":"something_new","v":1}'
    connection = await connect(database.app)
    async with connection.transaction():
        head = await connection.fetchval("SELECT position + 1 FROM log_head FOR UPDATE")
        await connection.execute(
            "INSERT INTO events (position, event_id, type, schema_version, recorded_at, entry,"
            " leaf_hash) VALUES ($1, gen_random_uuid(), 'something_new', 1, now(), $2, $3)",
            *(head, entry, leaf_hash(entry)),
        )
        await connection.execute("UPDATE log_head SET position = $1", head)
    await connection.close()


async def nobody_has_a_lease(database: Dsns) -> bool:
    connection = await connect(database.app)
    try:
        return (await read_leases(connection)).rows == ()
    finally:
        await connection.close()


def load_when(
    projector: Projector, may_load: asyncio.Event, monkeypatch: pytest.MonkeyPatch
) -> list[float]:
    """Let the projector load anew when it may; returns where the times stand at which it tries."""
    rebuild = projector._rebuild
    tried_at: list[float] = []

    async def later(lease: Connection) -> ReplicaWriter:
        tried_at.append(time.monotonic())
        await may_load.wait()
        return await rebuild(lease)

    monkeypatch.setattr(projector, "_rebuild", later)
    return tried_at


async def test_an_event_of_a_newer_version_ends_the_lease_until_it_is_past(
    patient: Config,
    database: Dsns,
    appender: Appender,
    reader: ReplicaReader,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gatelog.sessions.service.projector.NOT_UNDERSTOOD_RETRY_S", RETRY_S)
    active, ending = await logged_in(appender, 2)
    async with running(patient, database) as projector:
        await until(knows(reader, active))
        may_load = asyncio.Event()
        tried_at = load_when(projector, may_load, monkeypatch)
        written_at = time.monotonic()
        await write_unknown_event(database)

        await until(lambda: reader.peek(active.event.token_digest) is None)
        await until(lambda: nobody_has_a_lease(database))  # or a logout would wait for it
        await appender.submit(end(ending))
        assert projector.rebuilds == 1

        may_load.set()
        await until(knows(reader, active))
        assert projector.rebuilds == 2
        assert [at - written_at >= RETRY_S for at in tried_at] == [True]
        assert reader.peek(ending.event.token_digest) is None, "only the primary may know it"
        (later,) = await logged_in(appender)
        await until(knows(reader, later))
