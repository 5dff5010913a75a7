"""The replica: what readers see of what the writer did, and what they see when things go wrong."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest
from gatelog.config import Config
from gatelog.sessions.rules.lease import NO_LEASE
from gatelog.sessions.rules.lifetimes import Idle
from gatelog.sessions.rules.record import Session, packed
from gatelog.sessions.rules.state import ActiveSession, Change, DropSession, PutSession, SeenSession
from gatelog.sessions.store import replica, replica_place
from gatelog.sessions.store.replica import LOOK_AGAIN_NS, ReplicaReader
from gatelog.sessions.store.replica_place import (
    ReplicaFull,
    ReplicaPlace,
    ReplicaState,
    boottime_ns,
)
from gatelog.sessions.store.replica_writer import ReplicaWriter, drop_environment

from tests.builders import NOON

S = 1_000_000_000
NOON_NS = int(NOON.timestamp()) * S
HASH = bytes(32)


class Clocks:
    """The two clocks of a reader, moved by the test."""

    def __init__(self) -> None:
        self.boot_ns = 1000 * S
        self.wall_ns = NOON_NS

    def advance(self, seconds: float) -> None:
        self.boot_ns += int(seconds * S)
        self.wall_ns += int(seconds * S)


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[ReplicaPlace]:
    place = ReplicaPlace(Config(data_dir=str(tmp_path / "var"), replica_max_mib=64))
    yield place
    shutil.rmtree(place.base())


@pytest.fixture
def writer(place: ReplicaPlace) -> Iterator[ReplicaWriter]:
    """An empty environment, current, with a lease of 100 s by the test's clocks."""
    writer = published(place)
    yield writer
    drop_environment(writer)


@pytest.fixture
def reader(place: ReplicaPlace, clocks: Clocks) -> Iterator[ReplicaReader]:
    reader = ReplicaReader(place, clock_ns=lambda: clocks.boot_ns, wall_ns=lambda: clocks.wall_ns)
    yield reader
    reader.close()


def published(place: ReplicaPlace, *sessions: ActiveSession) -> ReplicaWriter:
    writer = ReplicaWriter.create(place)
    writer.load(sorted((s.token_digest, packed(s)) for s in sessions))
    writer.loaded(ReplicaState("epoch", 1, HASH, len(sessions)))
    writer.set_deadline(1100 * S)
    place.make_current(writer.path)
    return writer


def a_session(
    number: int = 1, *, lifetime_s: float = 3600, idle_s: int | None = None
) -> ActiveSession:
    absolute_at = NOON + timedelta(seconds=lifetime_s)
    idle = Idle(idle_s, NOON, absolute_at) if idle_s is not None else None
    return ActiveSession(
        session_id=UUID(int=number >> 128 or number),
        subject_id=UUID(int=7),
        token_digest=number.to_bytes(32, "big"),
        started_at=NOON,
        expires_at=idle.expires_at if idle else absolute_at,
        roles=("admin",),
        idle=idle,
    )


def ended(session: ActiveSession) -> DropSession:
    return DropSession(session.session_id, session.token_digest)


def test_a_session_is_known_from_its_start_to_its_end(
    writer: ReplicaWriter, reader: ReplicaReader
) -> None:
    session = a_session()
    assert reader.peek(session.token_digest) is None

    writer.apply([PutSession(session)], position=2, leaf_hash=HASH)
    assert reader.peek(session.token_digest) == Session(packed(session))

    writer.apply([ended(session)], position=3, leaf_hash=HASH)
    assert reader.peek(session.token_digest) is False


def test_without_a_replica_nothing_is_known(reader: ReplicaReader) -> None:
    assert reader.peek(bytes(32)) is None
    assert reader.status() is None
    assert not reader.leased


@pytest.mark.parametrize("number", [0, 1, 255, 256, 1 << 240, (1 << 256) - 1])
def test_no_digest_meets_the_keys_of_the_lease_and_the_state(
    writer: ReplicaWriter, reader: ReplicaReader, number: int
) -> None:
    session = a_session(number % (1 << 128))
    digest = number.to_bytes(32, "big")
    writer.load([(digest, packed(session))])

    assert reader.peek(digest) == Session(packed(session))
    assert reader.status() is not None


@pytest.mark.usefixtures("writer")
def test_an_entry_counts_only_under_the_lease(
    place: ReplicaPlace, reader: ReplicaReader, clocks: Clocks, writer: ReplicaWriter
) -> None:
    session = a_session()
    writer.apply([PutSession(session)], position=2, leaf_hash=HASH)
    digest = session.token_digest
    assert reader.peek(digest)

    clocks.advance(100)
    assert reader.peek(digest) is None

    writer.set_deadline(clocks.boot_ns + 1)
    assert reader.peek(digest)

    writer.set_deadline(NO_LEASE)
    assert reader.peek(digest) is None


def test_tombstones_count_only_under_the_lease(
    reader: ReplicaReader, clocks: Clocks, writer: ReplicaWriter
) -> None:
    """After a restored backup a session that had ended may be active again."""
    session = a_session()
    writer.apply([PutSession(session), ended(session)], position=3, leaf_hash=HASH)
    assert reader.peek(session.token_digest) is False

    clocks.advance(100)
    assert reader.peek(session.token_digest) is None


@pytest.mark.parametrize("lifetime_s", [50.0, 99.999999, 100.0, 100.000001, 100.5])
def test_a_session_expires_to_the_microsecond(
    writer: ReplicaWriter, reader: ReplicaReader, clocks: Clocks, lifetime_s: float
) -> None:
    """Also when the lease began long before; a worker works out once per lease who is safe."""
    session = a_session(lifetime_s=lifetime_s)
    writer.set_deadline(1000 * S + 200 * S)
    writer.apply([PutSession(session)], position=2, leaf_hash=HASH)
    assert reader.peek(session.token_digest)

    clocks.advance(lifetime_s - 0.000001)
    assert reader.peek(session.token_digest)

    clocks.advance(0.000001)
    assert reader.peek(session.token_digest) is False


@pytest.fixture
def used() -> list[bytes]:
    """Whose use is to be recorded."""
    return []


@pytest.fixture
def using(place: ReplicaPlace, clocks: Clocks, used: list[bytes]) -> Iterator[ReplicaReader]:
    reader = ReplicaReader(
        place,
        clock_ns=lambda: clocks.boot_ns,
        wall_ns=lambda: clocks.wall_ns,
        on_use=used.append,
    )
    yield reader
    reader.close()


def test_use_is_told_when_it_is_due_and_only_then(
    writer: ReplicaWriter, using: ReplicaReader, clocks: Clocks, used: list[bytes]
) -> None:
    session = a_session(idle_s=80)
    digest = session.token_digest
    writer.apply([PutSession(session)], position=2, leaf_hash=HASH)
    clocks.advance(19.999999)
    assert using.peek(digest)
    assert used == [], "it is too soon"
    clocks.advance(0.000001)
    assert using.look(digest)
    assert used == [], "who only looks does not use it"
    assert using.peek(digest)
    assert used == [digest]
    used.clear()

    now = NOON + timedelta(seconds=20)
    writer.apply([SeenSession(digest, now)], position=3, leaf_hash=HASH)
    found = using.peek(digest)
    assert found
    assert found.expires_at == now + timedelta(seconds=80)
    assert used == []
    clocks.advance(60.0)
    assert using.peek(digest), "it would be over without that"
    assert used == [digest]


def test_memory_does_not_say_that_a_session_has_idled_too_long(
    writer: ReplicaWriter, using: ReplicaReader, clocks: Clocks, used: list[bytes]
) -> None:
    """It may have been used by another host just before, and that be on its way."""
    session = a_session(idle_s=50, lifetime_s=70)
    digest = session.token_digest
    writer.set_deadline(1000 * S + 200 * S)
    writer.apply([PutSession(session)], position=2, leaf_hash=HASH)
    clocks.advance(49.999999)
    assert using.peek(digest)
    clocks.advance(0.000001)
    used.clear()
    assert using.peek(digest) is None
    assert used == []
    writer.apply([SeenSession(digest, NOON + timedelta(seconds=45))], position=3, leaf_hash=HASH)
    assert using.peek(digest)
    clocks.advance(20)
    assert using.peek(digest) is False, "but it knows that its last moment has come"


def test_use_of_what_has_ended_or_is_not_known_changes_nothing(
    writer: ReplicaWriter, reader: ReplicaReader
) -> None:
    session, unknown = a_session(idle_s=50), a_session(2)
    changes: list[Change] = [PutSession(session), ended(session)]
    for digest in (session.token_digest, unknown.token_digest):
        changes.append(SeenSession(digest, NOON))
    writer.apply(changes, position=2, leaf_hash=HASH)
    assert reader.peek(session.token_digest) is False
    assert reader.peek(unknown.token_digest) is None
    assert writer.state.active == 0


def test_who_has_idled_is_kept_until_the_end_is_recorded(writer: ReplicaWriter) -> None:
    """A renewal that is on its way finds the record there."""
    session = a_session(idle_s=50)
    writer.apply([PutSession(session)], position=2, leaf_hash=HASH)
    assert writer.purge((NOON_NS + 60 * S) // 1000, 10) == 0
    writer.apply([ended(session)], position=3, leaf_hash=HASH)
    assert writer.purge((NOON_NS + 40 * S) // 1000, 10) == 0
    assert writer.purge((NOON_NS + 60 * S) // 1000, 10) == 1
    writer.apply([PutSession(session)], position=4, leaf_hash=HASH)
    assert writer.purge((NOON_NS + 700 * S) // 1000, 10) == 1, "but not for ever"


def test_lease_and_entry_come_from_one_snapshot(
    place: ReplicaPlace, writer: ReplicaWriter, clocks: Clocks
) -> None:
    """A session ends while a lookup stands between reading the lease and reading the entry."""
    session = a_session()
    writer.apply([PutSession(session)], position=2, leaf_hash=HASH)

    def ends_meanwhile() -> int:
        if writer.state.position != 3:
            writer.apply([ended(session)], position=3, leaf_hash=HASH)
        return clocks.boot_ns

    reader = ReplicaReader(place, clock_ns=lambda: clocks.boot_ns, wall_ns=lambda: clocks.wall_ns)
    assert reader.peek(session.token_digest)
    reader._clock_ns = ends_meanwhile
    assert reader.peek(session.token_digest), "the snapshot was taken before the end"
    assert reader.peek(session.token_digest) is False


def test_a_batch_is_applied_whole_or_not_at_all(
    writer: ReplicaWriter, reader: ReplicaReader
) -> None:
    def failing() -> Iterator[PutSession]:
        yield PutSession(a_session(1))
        raise RuntimeError

    with pytest.raises(RuntimeError):
        writer.apply(failing(), position=2, leaf_hash=HASH)

    assert reader.peek(a_session(1).token_digest) is None
    assert writer.state.position == 1


def test_an_end_of_an_unknown_session_leaves_the_question_to_the_primary(
    writer: ReplicaWriter, reader: ReplicaReader
) -> None:
    writer.apply([ended(a_session())], position=2, leaf_hash=HASH)

    assert reader.peek(a_session().token_digest) is None


def test_active_sessions_are_counted(writer: ReplicaWriter) -> None:
    first, second = a_session(1), a_session(2)
    writer.apply(
        [PutSession(first), PutSession(second), PutSession(first)], position=4, leaf_hash=HASH
    )
    assert writer.state.active == 2

    writer.apply([ended(first), ended(first), ended(a_session(3))], position=7, leaf_hash=HASH)
    assert writer.state.active == 1


def test_purging_removes_what_is_over_in_small_steps(
    writer: ReplicaWriter, reader: ReplicaReader
) -> None:
    sessions = [a_session(n, lifetime_s=10 if n % 2 else 1000) for n in range(1, 101)]
    writer.apply([PutSession(s) for s in sessions], position=101, leaf_hash=HASH)
    writer.apply([ended(s) for s in sessions[:10]], position=111, leaf_hash=HASH)

    steps = [writer.purge((NOON_NS + 500 * S) // 1000, 10) for _ in range(11)]

    assert steps == [5] * 10 + [0]
    assert writer.state.active == 45
    status = reader.status()
    assert status is not None
    assert status.entries == 50
    assert reader.peek(sessions[0].token_digest) is None
    assert reader.peek(sessions[1].token_digest) is False, "ended, and not over yet"
    assert reader.peek(sessions[99].token_digest)


def test_purging_begins_again_at_the_start(writer: ReplicaWriter) -> None:
    writer.apply([PutSession(a_session(n)) for n in range(1, 6)], position=6, leaf_hash=HASH)
    assert writer.purge(0, 3) == 0
    assert writer.purge(0, 3) == 0  # to the end

    later_us = (NOON_NS + 7200 * S) // 1000
    assert writer.purge(later_us, 10) == 5


def test_a_restarted_writer_goes_on_where_the_last_one_stopped(
    place: ReplicaPlace, reader: ReplicaReader
) -> None:
    first = published(place)
    first.apply([PutSession(a_session())], position=2, leaf_hash=b"x" * 32)
    first.close()

    second = ReplicaWriter.open_current(place)

    assert second is not None
    assert (second.replica_id, second.state) == (first.replica_id, first.state)
    assert second.deadline_ns == 1100 * S
    assert reader.peek(a_session().token_digest)
    drop_environment(second)


def test_a_writer_may_come_after_a_reader_of_the_same_process(
    place: ReplicaPlace, reader: ReplicaReader
) -> None:
    first = published(place, a_session())
    first.close()
    assert reader.peek(a_session().token_digest)

    second = ReplicaWriter.open_current(place)

    assert second is not None
    second.apply([ended(a_session())], position=2, leaf_hash=HASH)
    assert reader.peek(a_session().token_digest) is False
    drop_environment(second)


def test_an_unfinished_environment_is_never_used(place: ReplicaPlace) -> None:
    writer = ReplicaWriter.create(place)
    writer.load([(bytes(32), b"record")])
    place.make_current(writer.path)
    writer.close()

    assert ReplicaWriter.open_current(place) is None


@pytest.mark.parametrize("changed", ["boot_id", "SCHEMA"])
def test_an_environment_of_another_boot_or_schema_is_not_even_opened(
    place: ReplicaPlace, reader: ReplicaReader, changed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = published(place, a_session())
    writer.close()
    (writer.path / "data.mdb").write_bytes(b"torn by a crash" * 10_000)
    monkeypatch.setattr(replica_place, changed, (lambda: "other") if changed == "boot_id" else "v2")

    assert ReplicaWriter.open_current(place) is None
    assert reader.peek(a_session().token_digest) is None


def test_a_damaged_environment_is_refused(place: ReplicaPlace, reader: ReplicaReader) -> None:
    writer = published(place, a_session())
    writer.close()
    (writer.path / "data.mdb").write_bytes(b"not LMDB" * 10_000)

    assert reader.peek(a_session().token_digest) is None
    assert ReplicaWriter.open_current(place) is None


def test_a_reader_follows_to_the_next_environment_when_the_lease_is_over(
    place: ReplicaPlace, reader: ReplicaReader, clocks: Clocks
) -> None:
    old, session = published(place, a_session()), a_session()
    assert reader.peek(session.token_digest)
    new = published(place)
    new.apply([PutSession(session), ended(session)], position=3, leaf_hash=HASH)

    assert reader.peek(session.token_digest), "the old lease still stands for the old environment"
    old.set_deadline(NO_LEASE)
    clocks.boot_ns += LOOK_AGAIN_NS
    assert reader.peek(session.token_digest) is False
    drop_environment(old)
    drop_environment(new)


def test_a_deleted_environment_serves_until_its_lease_ends(
    place: ReplicaPlace, clocks: Clocks
) -> None:
    """Its memory lives as long as somebody has it mapped; so does its row until it is reaped."""
    writer = published(place, a_session())
    writer.close()
    reader = ReplicaReader(place, clock_ns=lambda: clocks.boot_ns, wall_ns=lambda: clocks.wall_ns)
    assert reader.peek(a_session().token_digest)
    place.link.unlink()
    place.remove_others(None)

    assert reader.peek(a_session().token_digest)
    clocks.advance(100)
    assert reader.peek(a_session().token_digest) is None
    reader.close()


def test_other_environments_are_removed(place: ReplicaPlace) -> None:
    old, new = published(place), published(place)
    old.close()

    place.remove_others(new.path)

    assert not old.path.exists()
    assert new.path.exists()
    drop_environment(new)


def test_only_one_process_writes(place: ReplicaPlace) -> None:
    with place.writer_lock() as first, place.writer_lock() as second:
        assert (first, second) == (True, False)
    with place.writer_lock() as again:
        assert again


def test_a_directory_that_others_can_enter_is_not_used(tmp_path: Path) -> None:
    open_to_all = tmp_path / "shared"
    open_to_all.mkdir(mode=0o777)
    open_to_all.chmod(0o777)
    config = Config(data_dir=str(tmp_path / "var"), replica_dir=str(open_to_all))

    assert ReplicaPlace(config).base() == tmp_path / "var" / "replica"


def test_a_link_in_place_of_the_directory_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    config = Config(data_dir=str(tmp_path / "var"), replica_dir=str(tmp_path / "link"))

    assert ReplicaPlace(config).base() == tmp_path / "var" / "replica"


def test_a_full_replica_says_so_and_keeps_what_it_has(tmp_path: Path, clocks: Clocks) -> None:
    place = ReplicaPlace(
        Config(data_dir=str(tmp_path / "var"), replica_dir=str(tmp_path / "r"), replica_max_mib=1)
    )
    writer = published(place, a_session())
    reader = ReplicaReader(place, clock_ns=lambda: clocks.boot_ns, wall_ns=lambda: clocks.wall_ns)

    with pytest.raises(ReplicaFull):
        writer.apply(
            [PutSession(a_session(n)) for n in range(2, 20_000)], position=2, leaf_hash=HASH
        )

    assert writer.state.position == 1
    assert reader.peek(a_session().token_digest)
    assert reader.peek(a_session(2).token_digest) is None
    writer.set_deadline(NO_LEASE)
    drop_environment(writer)


def test_a_million_times_the_same_reader_is_one_slot(
    writer: ReplicaWriter, reader: ReplicaReader
) -> None:
    for _ in range(10_000):
        reader.peek(bytes(32))

    assert writer._environment.readers().count("\n") <= 2


KILLED_READER = """
import sys, os
from gatelog.config import Config
from gatelog.sessions.store.replica_place import ReplicaPlace
from gatelog.sessions.store.replica import ReplicaReader
reader = ReplicaReader(ReplicaPlace(Config(data_dir=sys.argv[1])))
reader.peek(bytes(32))
transaction = reader._environment.begin()  # a snapshot that pins old pages
transaction.get(bytes(32))
print("reading", flush=True)
sys.stdin.read()
"""


def test_the_slot_of_a_killed_reader_is_freed(place: ReplicaPlace) -> None:
    writer = published(place)
    with subprocess.Popen(
        [sys.executable, "-c", KILLED_READER, str(place.root.parent)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(replica.__file__).parents[3])},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"reading\n"
        process.kill()
    assert str(process.pid) in writer._environment.readers()

    assert writer.clear_stale_readers() == 1
    assert str(process.pid) not in writer._environment.readers()
    drop_environment(writer)


LASTING_READER = """
import logging, sys
from gatelog.config import Config
from gatelog.sessions.store.replica_place import ReplicaPlace
from gatelog.sessions.store.replica import ReplicaReader
logging.basicConfig()
reader = ReplicaReader(ReplicaPlace(Config(data_dir=sys.argv[1])))
for line in sys.stdin:
    print(reader.peek(bytes.fromhex(line)) is not None, flush=True)
"""


def test_a_replica_may_grow_under_its_readers(place: ReplicaPlace) -> None:
    writer = published(place)
    writer.set_deadline(boottime_ns() + 600 * S)
    with subprocess.Popen(
        [sys.executable, "-c", LASTING_READER, str(place.root.parent)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(replica.__file__).parents[3])},
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for number in range(1, 5):
            sessions = [a_session(number * 100_000 + n) for n in range(50_000)]  # 5 MiB
            writer.load((s.token_digest, packed(s)) for s in sessions)
            process.stdin.write(sessions[-1].token_digest.hex() + "\n")
            process.stdin.flush()
            assert process.stdout.readline() == "True\n"
        _, complaints = process.communicate()
    assert complaints == ""
    drop_environment(writer)


def test_sessions_take_little_memory(place: ReplicaPlace) -> None:
    sessions = [a_session(int.from_bytes(os.urandom(16), "big") << 128) for _ in range(60_000)]
    loaded, added = sessions[:50_000], sessions[50_000:]
    writer = published(place, *loaded)
    for start in range(0, len(added), 50):
        changes = [PutSession(s) for s in added[start : start + 50]]
        writer.apply(changes, position=start + 2, leaf_hash=HASH)

    status = writer.status(boottime_ns())
    assert status is not None
    assert status.entries == len(sessions)
    assert status.bytes_used / len(sessions) <= 200
    drop_environment(writer)


def test_its_owner_may_enter_the_directory_and_nobody_else(place: ReplicaPlace) -> None:
    writer = ReplicaWriter.create(place)

    assert writer.path.stat().st_mode & 0o777 == 0o700  # root would get in anyway

    drop_environment(writer)
