"""The sealer: what it signs, what it refuses to sign, and that nothing stops it for good."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from gatelog.config import Config
from gatelog.errors import ConfigError, LogDamaged, OperatorError, SealingRefused
from gatelog.host.sealer import HEARTBEAT_FILE, existing_key, last_note, signing_key
from gatelog.log.store.database import connect
from gatelog.proofs.rules.merkle import EMPTY_ROOT, Edge, grow, leaf_hashes, partial_tiles
from gatelog.proofs.rules.tlog import Checkpoint, open_checkpoint, sign_checkpoint
from gatelog.proofs.service import sealer as module
from gatelog.proofs.service.sealer import LastNote, Sealer, keep_sealing
from gatelog.proofs.service.sources import LiveLog
from gatelog.proofs.service.verify import verify_log
from gatelog.proofs.store.tiles import (
    read_checkpoints,
    read_last_checkpoint,
    read_leaves,
    read_tiles,
    take_sealer_lock,
)

from tests.builders import NOON
from tests.conftest import Dsns
from tests.proofs.sealing import OTHER_SIGNER, SIGNER, append, seal, sealing, tampering
from tests.waiting import until

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection


@pytest.fixture
def note(tmp_path: Path) -> Path:
    return tmp_path / "checkpoint"


async def signed(connection: Connection) -> Checkpoint:
    stored = await read_last_checkpoint(connection)
    assert stored is not None
    checkpoint = open_checkpoint(stored.note, SIGNER.verifier)
    assert checkpoint.size == stored.size
    return checkpoint


async def expected(connection: Connection, size: int) -> Checkpoint:
    leaves = await read_leaves(connection, 1, size)
    edge, _ = grow(Edge(), leaf_hashes(leaves.entries))
    assert edge.size == size
    return Checkpoint(SIGNER.name, size, edge.root())


# --- what it signs


async def test_the_log_is_sealed_as_it_grows(
    database: Dsns, connection: Connection, note: Path
) -> None:
    async with sealing(database.app, note) as sealer:
        assert await sealer.seal_next() == 0
        assert await read_last_checkpoint(connection) is None
        assert not note.exists()
        size = 0
        for more in (1, 2, 253, 1, 300):
            await append(database.app, more)
            size += more
            assert await sealer.seal_next() == more
            assert sealer.size == size
            checkpoint = await signed(connection)
            assert checkpoint == await expected(connection, size)
            assert open_checkpoint(note.read_bytes(), SIGNER.verifier) == checkpoint
            widths = {(level, index): width for level, index, width in partial_tiles(size)}
            tiles = await read_tiles(connection, widths)
            assert {key: len(hashes) // 32 for key, hashes in tiles.items()} == widths
    assert [c.size for c in await read_checkpoints(connection, 0, 10)] == [1, 3, 256, 257, 557]


async def test_a_new_sealer_goes_on(database: Dsns, connection: Connection, note: Path) -> None:
    for size in (5, 256, 300, 700):
        have = await read_last_checkpoint(connection)
        await append(database.app, size - (have.size if have else 0))
        await seal(database.app, note)
        assert await signed(connection) == await expected(connection, size)


async def test_a_batch_is_bounded(database: Dsns, connection: Connection, note: Path) -> None:
    await append(database.app, 600)
    async with sealing(database.app, note) as sealer:
        assert await sealer.seal_next(limit=257) == 257
        assert await signed(connection) == await expected(connection, 257)


async def test_another_host_takes_over_without_the_file(
    database: Dsns, connection: Connection, note: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await append(database.app, 10)
    await seal(database.app, note)
    other = note.with_name("other")
    with caplog.at_level(logging.WARNING):
        await seal(database.app, other)
    assert "of size 10, is taken for true" in caplog.text
    assert other.read_bytes() == note.read_bytes()


async def test_what_another_host_signed_is_kept_at_takeover(
    database: Dsns, connection: Connection, note: Path
) -> None:
    """A file that is behind is brought up, when the log extends what it says."""
    other = note.with_name("other")
    await append(database.app, 10)
    await seal(database.app, other)
    await append(database.app, 300)
    await seal(database.app, note)
    async with sealing(database.app, other) as sealer:
        assert sealer.size == 310
        assert other.read_bytes() == note.read_bytes()


# --- killed between any two steps


class Killed(BaseException):
    """Stands for the end of the process at this point."""


async def test_killed_between_the_file_and_the_database(
    database: Dsns, connection: Connection, note: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is ahead: its very note is stored, no second one is signed for that tree."""
    await append(database.app, 300)
    await seal(database.app, note)
    await append(database.app, 300)

    async def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_seal", killed)
        async with sealing(database.app, note) as sealer:
            with pytest.raises(Killed):
                await sealer.seal_next()
    assert (await signed(connection)).size == 300
    ahead = note.read_bytes()
    await append(database.app, 7)
    async with sealing(database.app, note) as sealer:
        assert sealer.size == 600
        stored = await read_last_checkpoint(connection)
        assert stored is not None
        assert stored.note == ahead == note.read_bytes()
        assert await sealer.seal_next() == 7
    assert await signed(connection) == await expected(connection, 607)


async def test_killed_before_the_file(
    database: Dsns, connection: Connection, note: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await append(database.app, 3)

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        async with sealing(database.app, note) as sealer:
            with pytest.raises(Killed):
                await sealer.seal_next()
    assert list(note.parent.iterdir()) == []
    assert await read_last_checkpoint(connection) is None
    await seal(database.app, note)
    assert await signed(connection) == await expected(connection, 3)


async def test_a_batch_behind_the_file_is_caught_up_in_steps(
    database: Dsns, connection: Connection, note: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await append(database.app, 700)
    edge, _ = grow(Edge(), (await read_leaves(connection, 1, 650)).hashes)
    ahead = sign_checkpoint(Checkpoint(SIGNER.name, 650, edge.root()), SIGNER)
    note.write_bytes(ahead)
    monkeypatch.setattr(module, "BATCH", 100)
    async with sealing(database.app, note) as sealer:
        assert sealer.size == 650
    assert [c.note for c in await read_checkpoints(connection, 0, 10)] == [ahead]
    await seal(database.app, note)
    report = await verify_log(LiveLog(connection), SIGNER.verifier)
    assert (report.findings, report.sealed) == ([], 700)


# --- what it refuses


@asynccontextmanager
async def refused(database: Dsns, note: Path, reason: str) -> AsyncIterator[None]:
    """Sealing must be refused for this reason, and nothing be signed."""
    yield
    connection = await connect(database.app)
    before, kept = await read_last_checkpoint(connection), note.read_bytes()
    with pytest.raises(SealingRefused, match=reason):
        async with sealing(database.app, note):
            pytest.fail("taken up")
    assert await read_last_checkpoint(connection) == before
    assert note.read_bytes() == kept
    await connection.close()


@pytest.fixture
async def sealed(database: Dsns, note: Path) -> Dsns:
    """600 events; trees of 100, 300 and 600 are signed."""
    await append(database.app, 600)
    await seal(database.app, note, 100, 300)
    return database


async def test_a_log_that_another_key_signed(sealed: Dsns, note: Path) -> None:
    kept = note.read_bytes()
    with pytest.raises(SealingRefused, match="not ours"):
        async with sealing(sealed.app, note, OTHER_SIGNER):
            pytest.fail("taken up")
    assert note.read_bytes() == kept
    note.unlink()
    with pytest.raises(SealingRefused, match="not ours"):
        async with sealing(sealed.app, note, OTHER_SIGNER):
            pytest.fail("taken up")


async def test_a_file_that_another_key_signed(sealed: Dsns, note: Path) -> None:
    async with refused(sealed, note, "not ours"):
        note.write_bytes(sign_checkpoint(Checkpoint(SIGNER.name, 0, EMPTY_ROOT), OTHER_SIGNER))


async def test_a_file_that_is_no_note(sealed: Dsns, note: Path) -> None:
    async with refused(sealed, note, "not ours"):
        note.write_bytes(b"")


async def test_tiles_that_were_changed(sealed: Dsns, note: Path) -> None:
    async with refused(sealed, note, "do not lead to the signed root"), tampering(sealed) as owner:
        await owner.execute(
            "UPDATE tiles SET hashes = set_byte(hashes, 40, get_byte(hashes, 40) # 1)"
            " WHERE level = 1"
        )


async def test_tiles_that_are_gone(sealed: Dsns, note: Path) -> None:
    async with refused(sealed, note, "missing or too short"), tampering(sealed) as owner:
        await owner.execute("DELETE FROM tiles WHERE level = 1")


async def test_a_checkpoint_filed_elsewhere(sealed: Dsns, note: Path) -> None:
    async with refused(sealed, note, "is filed under 601"), tampering(sealed) as owner:
        await owner.execute("UPDATE checkpoints SET size = 601 WHERE size = 600")


async def roll_back(owner: Connection, size: int) -> None:
    """Take everything in the database back to the checkpoint of this size."""
    await owner.execute("DELETE FROM events WHERE position > $1", size)
    await owner.execute("UPDATE log_head SET position = $1", size)
    await owner.execute("DELETE FROM checkpoints WHERE size > $1", size)
    await owner.execute("DELETE FROM tiles WHERE level > 0")
    await owner.execute("DELETE FROM tiles WHERE level = 0 AND tile_index > $1", size >> 8)
    if size >= 256:
        await owner.execute(
            "INSERT INTO tiles SELECT 1, 0, sha256('') FROM tiles WHERE tile_index = 0"
        )
    await owner.execute(
        "UPDATE tiles SET hashes = substring(hashes FROM 1 FOR $2)"
        " WHERE level = 0 AND tile_index = $1",
        size >> 8,
        32 * (size & 255),
    )


async def test_a_log_that_was_cut_back_to_an_older_checkpoint(sealed: Dsns, note: Path) -> None:
    """Nothing in the database tells; the file does."""
    reason = "log ends at 100, and a tree of size 600"
    async with refused(sealed, note, reason), tampering(sealed) as owner:
        await roll_back(owner, 100)


async def test_a_log_that_was_cut_back_and_has_grown_again(sealed: Dsns, note: Path) -> None:
    async with refused(sealed, note, "history was rewritten"):
        async with tampering(sealed) as owner:
            await roll_back(owner, 100)
        await append(sealed.app, 550)


async def test_history_rewritten_and_signed_elsewhere(
    sealed: Dsns, connection: Connection, note: Path
) -> None:
    """With the stolen key even; the file on this host knows better."""
    async with refused(sealed, note, "history was rewritten"):
        async with tampering(sealed) as owner:
            await roll_back(owner, 100)
        await append(sealed.app, 700)
        await seal(sealed.app, note.with_name("elsewhere"))
    assert (await signed(connection)).size == 800


async def test_a_log_that_becomes_shorter_while_it_is_sealed(
    sealed: Dsns, connection: Connection, note: Path
) -> None:
    async with sealing(sealed.app, note) as sealer:
        async with tampering(sealed) as owner:
            await owner.execute("DELETE FROM events WHERE position > 500")
            await owner.execute("UPDATE log_head SET position = 500")
        with pytest.raises(SealingRefused, match="ends at 500"):
            await sealer.seal_next()
    assert (await signed(connection)).size == 600


async def test_a_gap_is_not_sealed(sealed: Dsns, note: Path) -> None:
    await append(sealed.app, 10)
    async with tampering(sealed) as owner:
        await owner.execute("DELETE FROM events WHERE position = 605")
    async with sealing(sealed.app, note) as sealer:
        with pytest.raises(LogDamaged):
            await sealer.seal_next()


async def test_a_tree_that_differs_from_the_stored_tiles(
    sealed: Dsns, connection: Connection, note: Path
) -> None:
    """Tiles changed under a running sealer: the database refuses what does not extend them."""
    async with sealing(sealed.app, note) as sealer:
        async with tampering(sealed) as owner:
            await owner.execute(
                "UPDATE tiles SET hashes = set_byte(hashes, 3, get_byte(hashes, 3) # 1)"
                " WHERE level = 0 AND tile_index = 2"
            )
        await append(sealed.app, 1)
        with pytest.raises(SealingRefused, match="other tiles"):
            await sealer.seal_next()
    assert (await signed(connection)).size == 600


# --- keeping on


@asynccontextmanager
async def kept_sealed(
    dsn: str, note: Path, connections: list[Connection] | None = None
) -> AsyncIterator[asyncio.Task[None]]:
    async def connected() -> Connection:
        connection = await connect(dsn)
        if connections is not None:
            connections.append(connection)
        return connection

    task = asyncio.create_task(
        keep_sealing(connected, SIGNER, LastNote(note), now=lambda: NOON, interval_s=0.01)
    )
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def is_kept(note: Path, size: int) -> bool:
    """Whether this file holds the checkpoint of this size."""
    return note.exists() and open_checkpoint(note.read_bytes(), SIGNER.verifier).size == size


async def until_sealed(connection: Connection, size: int, within_s: float = 30) -> None:
    async with asyncio.timeout(within_s):
        while True:
            stored = await read_last_checkpoint(connection)
            if stored is not None and stored.size >= size:
                return
            await asyncio.sleep(0.01)


async def test_two_sealers_at_once(
    database: Dsns,
    connection: Connection,
    note: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One seals, the other is its witness and waits for its turn; each with a file of its own."""
    monkeypatch.setattr(module, "STANDBY_POLL_S", 0.01)
    first: list[Connection] = []
    second = note.with_name("second")
    async with kept_sealed(database.app, note, first):
        await append(database.app, 10)
        await until_sealed(connection, 10)
        async with kept_sealed(database.app, second):
            await append(database.app, 300)
            await until_sealed(connection, 310)
            await until(lambda: is_kept(second, 310), within_s=30)
            first[0].terminate()
            await append(database.app, 5)
            await until_sealed(connection, 315)
    assert "NOT WHAT THIS HOST SAW SIGNED" not in caplog.text
    report = await verify_log(LiveLog(connection), SIGNER.verifier)
    assert (report.findings, report.sealed) == ([], 315)


async def rewrite(database: Dsns, size: int, instead: int) -> None:
    """Cut the log back to the checkpoint of this size, and record other events in their place."""
    async with tampering(database) as owner:
        await roll_back(owner, size)
    await append(database.app, instead)


async def told(caplog: pytest.LogCaptureFixture, what: str, reason: str) -> None:
    def is_told() -> bool:
        return any(what in line and reason in line for line in caplog.messages)

    await until(is_told, within_s=30)


@pytest.mark.parametrize("instead", [400, 500, 900])
async def test_history_rewritten_between_two_hosts_is_signed_by_neither(
    database: Dsns,
    connection: Connection,
    note: Path,
    *,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    instead: int,
) -> None:
    """What one host signed last is taken away, fewer, as many or more other events take its place,
    and its sealer is ended. The other host has signed nothing itself, but it has looked."""
    monkeypatch.setattr(module, "STANDBY_POLL_S", 0.01)
    monkeypatch.setattr(module, "REFUSED_RETRY_S", 0.01)
    second = note.with_name("second")
    await append(database.app, 600)
    async with AsyncExitStack() as hosts:
        first = AsyncExitStack()
        sealer = await first.enter_async_context(sealing(database.app, note))
        hosts.push_async_callback(first.aclose)
        await hosts.enter_async_context(kept_sealed(database.app, second))
        await sealer.seal_next(100)
        await until(lambda: is_kept(second, 100), within_s=30)
        await sealer.seal_next()
        await until(lambda: is_kept(second, 600), within_s=30)
        await rewrite(database, 100, instead)
        await told(caplog, "NOT WHAT THIS HOST SAW SIGNED", "size 600")
        await first.aclose()
        await told(caplog, "SEALING HAS STOPPED", "size 600")
        assert not await take_sealer_lock(connection)
        assert (await signed(connection)).size == 100
    for file in (second, note):
        assert is_kept(file, 600)
        with pytest.raises(SealingRefused, match="size 600"):
            async with sealing(database.app, file):
                pytest.fail("taken up")


async def test_a_witness_tells_of_another_history(
    sealed: Dsns,
    connection: Connection,
    note: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The key signs a rewritten log on a host that knows less: every other one says so, keeps what
    it has, and does not go on from there."""
    monkeypatch.setattr(module, "STANDBY_POLL_S", 0.01)
    monkeypatch.setattr(module, "REFUSED_RETRY_S", 0.01)
    right = note.read_bytes()
    await rewrite(sealed, 100, 900)
    async with kept_sealed(sealed.app, note.with_name("elsewhere")):
        await until_sealed(connection, 1000)
        async with kept_sealed(sealed.app, note):
            await told(caplog, "NOT WHAT THIS HOST SAW SIGNED", "history was rewritten")
            assert note.read_bytes() == right
    async with refused(sealed, note, "history was rewritten"):
        await append(sealed.app, 1)


async def test_a_witness_of_tiles_that_fit_only_its_own_checkpoint(
    sealed: Dsns, connection: Connection, note: Path
) -> None:
    """An old tile that leads to the old root is no proof; it must lead to the new one as well."""
    edge, _ = grow(Edge(), (await read_leaves(connection, 1, 300)).hashes)
    note.write_bytes(sign_checkpoint(Checkpoint(SIGNER.name, 300, edge.root()), SIGNER))
    old = (await read_tiles(connection, [(0, 1)]))[0, 1]
    async with tampering(sealed) as owner:
        await owner.execute("DELETE FROM checkpoints; DELETE FROM tiles")
        await owner.execute("UPDATE events SET leaf_hash = sha256('') WHERE position = 280")
    await seal(sealed.app, note.with_name("elsewhere"))
    async with refused(sealed, note, "history was rewritten"), tampering(sealed) as owner:
        await owner.execute("UPDATE tiles SET hashes = $1 WHERE level = 0 AND tile_index = 1", old)


async def test_a_witness_of_a_note_that_is_not_stored_yet(
    sealed: Dsns, connection: Connection, note: Path
) -> None:
    """Killed before it was stored, and now another host's turn: nothing is wrong with that."""
    await append(sealed.app, 50)
    edge, _ = grow(Edge(), (await read_leaves(connection, 1, 620)).hashes)
    ahead = sign_checkpoint(Checkpoint(SIGNER.name, 620, edge.root()), SIGNER)
    note.write_bytes(ahead)
    watching = await connect(sealed.app)
    witness = Sealer(watching, SIGNER, LastNote(note), lambda: NOON)
    await witness.witness()
    assert note.read_bytes() == ahead
    await seal(sealed.app, note.with_name("elsewhere"))
    await witness.witness()
    assert is_kept(note, 650)
    edge, _ = grow(Edge(), bytes(32) * 640)
    note.write_bytes(sign_checkpoint(Checkpoint(SIGNER.name, 640, edge.root()), SIGNER))
    with pytest.raises(SealingRefused, match="history was rewritten"):
        await witness.witness()
    await watching.close()


async def test_lost_connections(
    database: Dsns, connection: Connection, note: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY_S", 0.01)
    killer = await connect(database.superuser, role=None)
    async with kept_sealed(database.app, note):
        for size in range(100, 1100, 100):
            await append(database.app, 100)
            await killer.execute(
                "SELECT pg_terminate_backend(l.pid) FROM pg_locks l WHERE locktype = 'advisory'"
                " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            )
            await until_sealed(connection, size)
    await killer.close()
    report = await verify_log(LiveLog(connection), SIGNER.verifier)
    assert (report.findings, report.sealed) == ([], 1000)


async def test_a_refusal_is_loud_and_keeps_the_lock(
    sealed: Dsns,
    connection: Connection,
    note: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Sealing goes on once the log is what was signed, and not before."""
    monkeypatch.setattr(module, "REFUSED_RETRY_S", 0.01)
    right = note.read_bytes()
    edge, _ = grow(Edge(), bytes(32) * 650)
    note.write_bytes(sign_checkpoint(Checkpoint(SIGNER.name, 650, edge.root()), SIGNER))
    await append(sealed.app, 100)
    async with kept_sealed(sealed.app, note):
        async with asyncio.timeout(30):
            while caplog.text.count("SEALING HAS STOPPED") < 3:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert "history was rewritten" in caplog.text
        assert not await take_sealer_lock(connection)
        assert (await signed(connection)).size == 600
        note.write_bytes(right)
        await until_sealed(connection, 700)


# --- the process: its key, and kill -9


def test_the_key_is_made_once(tmp_path: Path) -> None:
    config = Config(data_dir=str(tmp_path / "var"))
    assert existing_key(config) is None
    signer = signing_key(config)
    assert signer.name.startswith("gatelog.local/")
    assert signing_key(config) == existing_key(config) == signer
    path = tmp_path / "var" / "secrets" / "log_signing_key"
    assert path.stat().st_mode & 0o777 == 0o600
    assert signing_key(Config(data_dir=str(tmp_path / "other"))).name != signer.name


def test_the_origin_is_the_key_s_name(tmp_path: Path) -> None:
    config = Config(data_dir=str(tmp_path), log_origin="example.com/log")
    assert signing_key(config).name == "example.com/log"
    with pytest.raises(ConfigError, match="GATELOG_LOG_ORIGIN"):
        signing_key(Config(data_dir=str(tmp_path), log_origin="example.com/another"))
    with pytest.raises(ConfigError, match="GATELOG_LOG_ORIGIN"):
        signing_key(Config(data_dir=str(tmp_path / "other"), log_origin="white space"))


def test_a_configured_key(tmp_path: Path) -> None:
    config = Config(data_dir=str(tmp_path), log_signing_key=SIGNER.private_text())
    assert signing_key(config) == existing_key(config) == SIGNER
    assert list(tmp_path.iterdir()) == []
    broken = Config(data_dir=str(tmp_path), log_signing_key=SIGNER.private_text()[:-2])
    with pytest.raises(ConfigError, match="GATELOG_LOG_SIGNING_KEY") as caught:
        signing_key(broken)
    assert SIGNER.private_text()[-20:-2] not in str(caught.value)


def test_no_second_key_is_made_for_a_signed_log(tmp_path: Path) -> None:
    config = Config(data_dir=str(tmp_path))
    signing_key(config)
    last_note(config).write(b"note")
    (tmp_path / "secrets" / "log_signing_key").unlink()
    with pytest.raises(ConfigError, match="is gone"):
        signing_key(config)


def test_a_note_that_cannot_be_kept(tmp_path: Path) -> None:
    kept = LastNote(tmp_path / "nowhere" / "checkpoint")
    assert kept.read() is None
    with pytest.raises(OperatorError, match="cannot write"):
        kept.write(b"note")
    with pytest.raises(OperatorError, match="cannot read"):
        LastNote(tmp_path).read()


def start_process(database: Dsns, directory: Path) -> subprocess.Popen[bytes]:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("GATELOG_")},
        "GATELOG_DATABASE_URL": database.app,
        "GATELOG_DATA_DIR": str(directory),
        "GATELOG_SEAL_INTERVAL_S": "0.01",
    }
    return subprocess.Popen([sys.executable, "-m", "gatelog.host.sealer"], env=environment)


@pytest.fixture
def processes() -> Iterator[Callable[[Dsns, Path], subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []

    def start(database: Dsns, directory: Path) -> subprocess.Popen[bytes]:
        started.append(start_process(database, directory))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


async def test_kill_9_again_and_again(
    database: Dsns,
    connection: Connection,
    tmp_path: Path,
    processes: Callable[[Dsns, Path], subprocess.Popen[bytes]],
) -> None:
    """At whatever moment: what was signed is one history, and the next process goes on."""
    config = Config(data_dir=str(tmp_path / "var"), database_url=database.app)
    done = asyncio.Event()

    async def grow_on() -> None:
        while not done.is_set():
            await append(database.app, 40)

    growing = asyncio.create_task(grow_on())
    size = 0
    for _ in range(5):
        process = processes(database, tmp_path / "var")
        await until_sealed(connection, size + 1)
        process.send_signal(signal.SIGKILL)
        process.wait()
        stored = await read_last_checkpoint(connection)
        assert stored is not None
        size = stored.size
    done.set()
    await growing
    await append(database.app, 1)
    heartbeat = tmp_path / "var" / HEARTBEAT_FILE
    heartbeat.unlink(missing_ok=True)
    process = processes(database, tmp_path / "var")
    await until_sealed(connection, size + 1)  # perhaps by what the last one had sent
    await until(heartbeat.exists, within_s=30)  # this one listens to signals
    process.terminate()
    assert await asyncio.to_thread(process.wait, 20) == 0
    key = existing_key(config)
    assert key is not None
    report = await verify_log(LiveLog(connection), key.verifier)
    assert report.findings == []
    assert report.checkpoints >= 6


def test_a_sealer_s_size_is_that_of_its_tree() -> None:
    """Before anything is loaded, there is nothing."""
    sealer = Sealer(None, SIGNER, LastNote(Path("nowhere")), lambda: NOON)  # type: ignore[arg-type]
    assert sealer.size == 0
