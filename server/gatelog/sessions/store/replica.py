"""The replica: the sessions of the whole service in memory, one copy per host, in LMDB.

One process writes it (the projector), any number of workers read it. It is derived data: what is
lost or doubted is made anew from PostgreSQL. Rules:

- ``peek`` answers only under a valid lease; deadline and session come from one snapshot, taken
  after the call began (see ``sessions.rules.lease``). Whatever is wrong with the replica, the
  answer is None: ask the primary.
- A change and the position that it belongs to are written in one transaction.
- An environment has a name of its own that is never used again: boot id, schema, random. The name
  is the ``replica_id`` of its lease. So a replaced environment, which workers may have open for a
  while, keeps the lease row that stands for it, and needs nobody's trust to be dropped.
- An environment is filled first and then made the current one, by a symbolic link in the data
  directory. A reader looks at the link when its lease is not valid, so a replaced environment
  costs the hot path nothing: nobody renews its lease.
- Nothing is synced to a disk: after a crash of the machine the boot id differs and the files are
  not even opened.

Keys of 32 bytes are token digests; shorter ones are the lease and the state. Values of digests are
the records of ``sessions.rules.record``: sessions that ended stay as tombstones until the time at
which they would have expired, so that a dead cookie is refused from memory.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Literal
from weakref import WeakSet

import lmdb
import msgspec

from gatelog.config import Config
from gatelog.sessions.rules.lease import NO_LEASE, lease_valid
from gatelog.sessions.rules.record import ACTIVE, ENDED, Session, pack_session, tombstone
from gatelog.sessions.rules.state import Change, PutSession

logger = logging.getLogger(__name__)

SCHEMA = "v1"  # of keys and values; another one makes every replica start anew
MAX_READERS = 1022
LOOK_AGAIN_NS = 50_000_000  # how often a reader without a lease looks for another environment

_LEASE = b"\x00"  # both sort before every digest
_STATE = b"\x00\x00"
_DIGEST_BYTES = 32
_ACTIVE, _TOMBSTONE = bytes([ACTIVE]), bytes([ENDED])  # how a record of either begins
_CURRENT = "current"
_DATA = "data.mdb"
_LOCK = "projector.lock"
_MEMORY_BACKED = Path("/dev/shm")  # noqa: S108
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

boottime_ns: Callable[[], int] = partial(
    # where there is no CLOCK_BOOTTIME (macOS), CLOCK_MONOTONIC runs through suspend
    time.clock_gettime_ns,
    getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC),
)
"""The clock of leases: nanoseconds since the machine was started, suspend included."""

Known = Session | Literal[False] | None


class ReplicaError(Exception):
    """Something could not be written to the replica; it is as it was before."""


class ReplicaFull(ReplicaError):
    """The configured limit is reached."""


class ReplicaGone(ReplicaError):
    """Its files are gone: somebody cleaned up, as systemd does in /dev/shm after a logout."""


class ReplicaUnwritable(ReplicaError):
    """What the replica lies on takes no more: most likely, the memory behind it is used up."""


class ReplicaState(msgspec.Struct, frozen=True, array_like=True):
    """What an environment holds: the log up to ``position`` of this epoch.

    ``leaf_hash`` is that of the event at ``position``, to tell whether a log is still the same
    one; empty for position 0.
    """

    epoch: str
    position: int
    leaf_hash: bytes
    active: int


class ReplicaStatus(msgspec.Struct, frozen=True):
    """For operators. ``entries`` counts tombstones too; ``lease_ns`` is negative when over."""

    replica_id: str
    state: ReplicaState
    entries: int
    bytes_used: int
    lease_ns: int


_state_encoder = msgspec.msgpack.Encoder()
_state_decoder = msgspec.msgpack.Decoder(ReplicaState)


class ReplicaPlace:
    """Where the replica of a data directory lies, and which environment is the current one."""

    def __init__(self, config: Config) -> None:
        self.root = config.data_path / "replica"
        self._configured = Path(config.replica_dir).absolute() if config.replica_dir else None
        self.max_bytes = config.replica_max_mib << 20
        self._on_disk = False

    @property
    def link(self) -> Path:
        return self.root / _CURRENT

    def base(self) -> Path:
        """The private directory for environments, on memory where that can be; made if missing."""
        for path in self._bases():
            try:
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
                found = path.lstat()
            except OSError:
                continue
            # in a directory that everybody may write to, somebody else may have been quicker
            if found.st_uid == os.geteuid() and found.st_mode & 0o170077 == 0o040000:
                return path
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self.root

    def fall_back(self) -> bool:
        """Make new environments in the data directory; False if they are there already."""
        before, self._on_disk = self.base(), True
        return self.base() != before

    def _bases(self) -> Iterator[Path]:
        if self._on_disk:
            return
        if self._configured is not None:
            yield self._configured
        elif _MEMORY_BACKED.is_dir():
            digest = hashlib.sha256(os.fsencode(self.root)).hexdigest()[:16]
            yield _MEMORY_BACKED / f"gatelog-{os.geteuid()}-{digest}"

    @contextmanager
    def writer_lock(self) -> Iterator[bool]:
        """Whether this process is the one that may write; held until the context ends."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self.root / _LOCK).open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True

    def current(self) -> Path | None:
        """The current environment, unless there is none or it is of another boot or schema."""
        try:
            path = self.link.readlink()
        except OSError:
            return None
        return path if path.name.startswith(_name_prefix()) else None

    def check(self, path: Path) -> None:
        """Raises ReplicaGone unless this is the current environment and can still be opened."""
        if self.current() != path or not (path / _DATA).exists():
            raise ReplicaGone(f"{path} is not there any more")

    def make_current(self, path: Path) -> None:
        """Point readers to this environment, at once and as a whole."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = self.root / f"{_CURRENT}.{secrets.token_hex(4)}"
        new.symlink_to(path)
        new.replace(self.link)

    def remove_others(self, keep: Path | None) -> None:
        """Delete every environment but this one; who has one open keeps what it has mapped."""
        for base in {self.root, self.base(), *self._bases()}:
            for path in base.glob("*-v*-*"):
                if path.is_dir() and path != keep:
                    shutil.rmtree(path, ignore_errors=True)


def _name_prefix() -> str:
    return f"{boot_id()}-{SCHEMA}-"


def boot_id() -> str:
    """Twelve characters that differ after every start of the machine."""
    try:
        return _BOOT_ID.read_text().replace("-", "")[:12]
    except OSError:  # not Linux: the time of the start, to the minute
        return f"{(time.time_ns() - boottime_ns()) // 60_000_000_000:012d}"


# LMDB must not open an environment twice in one process: a reader beside the writer shares its,
# and lets go of one that it has opened before the writer came.
_written_here: dict[Path, lmdb.Environment] = {}
_readers_here: WeakSet[ReplicaReader] = WeakSet()


class ReplicaReader:
    """A worker's view of the replica. Open it after the fork; it finds environments by itself."""

    def __init__(
        self,
        place: ReplicaPlace,
        *,
        clock_ns: Callable[[], int] = boottime_ns,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._place = place
        self._clock_ns = clock_ns
        self._wall_ns = wall_ns
        self._path: Path | None = None
        self._environment: lmdb.Environment | None = None
        self._begin: Callable[[], lmdb.Transaction] = _no_environment
        self._looked_ns = -LOOK_AGAIN_NS
        self._note_lease(b"")
        _readers_here.add(self)

    def peek(self, digest: bytes) -> Known:
        """The session if memory knows it is active, False if it knows it is not, else None."""
        try:
            transaction = self._begin()
            get = transaction.get
            lease = get(_LEASE)
            if lease != self._lease:
                self._note_lease(bytes(lease or b""))
            if not lease_valid(self._deadline_ns, self._clock_ns()):
                transaction.abort()
                return self.peek(digest) if self._look_for_another() else None
            record: bytes | None = get(digest)  # type: ignore[assignment]  # no buffers asked for
            transaction.abort()
        except lmdb.Error as error:
            return self.peek(digest) if self._recover(error) else None
        if record is None:
            return None
        if self._active_throughout < record < _TOMBSTONE:
            return Session(record)
        return self._near_its_end(bytes(record))

    def _note_lease(self, lease: bytes) -> None:
        """Work out, once per lease, which sessions cannot expire while it lasts."""
        self._lease = lease
        self._deadline_ns = int.from_bytes(lease, "big")
        ends_in_ns = max(0, self._deadline_ns - self._clock_ns())
        until_us = (self._wall_ns() + ends_in_ns) // 1000 + 1
        self._active_throughout = _ACTIVE + until_us.to_bytes(8, "big") + b"\xff"

    def _near_its_end(self, record: bytes) -> Known:
        expires_us = int.from_bytes(record[1:9], "big")
        if record[0] == ACTIVE and expires_us * 1000 > self._wall_ns():
            return Session(record)
        return False

    @property
    def leased(self) -> bool:
        """Whether memory may be trusted now."""
        status = self.status()
        return status is not None and status.lease_ns > 0

    def status(self) -> ReplicaStatus | None:
        """What the current environment holds, or None when there is none to be read."""
        self._look_for_another()
        if self._environment is None:
            return None
        try:
            with self._environment.begin() as transaction:
                return _status(self._environment, transaction, self._clock_ns())
        except lmdb.Error as error:
            self._recover(error)
            return None

    def close(self) -> None:
        """Let go of the environment; the next look finds it again."""
        self._forget()
        self._looked_ns = -LOOK_AGAIN_NS

    def _look_for_another(self) -> bool:
        """Open the current environment if it is not the one in use; looks only now and then."""
        now_ns = self._clock_ns()
        if now_ns - self._looked_ns < LOOK_AGAIN_NS:
            return False
        self._looked_ns = now_ns
        path = self._place.current()
        if path is None or path == self._path:
            return False
        self._forget()
        try:
            self._environment = _open_to_read(path, self._place.max_bytes)
        except (lmdb.Error, OSError) as error:
            logger.info("the replica cannot be opened: %s", error)
            return False
        self._path = path
        self._begin = self._environment.begin
        return True

    def _recover(self, error: lmdb.Error) -> bool:
        """Let go of an environment that cannot be read; True if there is another one now."""
        if self._environment is not None:
            logger.warning("the replica cannot be read: %s", error)
            self._forget()
        return self._look_for_another()

    def _forget(self) -> None:
        environment, self._environment, path, self._path = self._environment, None, self._path, None
        self._begin = _no_environment
        if environment is not None and path is not None and path not in _written_here:
            environment.close()


def _no_environment() -> lmdb.Transaction:
    raise lmdb.Error("there is no environment")


def _open_to_read(path: Path, max_bytes: int) -> lmdb.Environment:
    if path in _written_here:
        return _written_here[path]
    return lmdb.open(
        str(path),
        map_size=max_bytes,  # as the writer: what is smaller would have to be opened as it grows
        readonly=True,
        create=False,
        readahead=False,
        max_readers=MAX_READERS,
    )


def _status(
    environment: lmdb.Environment, transaction: lmdb.Transaction, now_ns: int
) -> ReplicaStatus | None:
    state = transaction.get(_STATE)
    if state is None:
        return None
    deadline_ns = int.from_bytes(transaction.get(_LEASE, b""), "big")
    info, stat = environment.info(), transaction.stat(environment.open_db())
    return ReplicaStatus(
        replica_id=Path(environment.path()).name,
        state=_state_decoder.decode(state),
        entries=stat["entries"] - 2,
        bytes_used=(info["last_pgno"] + 1) * stat["psize"],
        lease_ns=deadline_ns - now_ns,
    )


class ReplicaWriter:
    """The projector's side of one environment. Every write may raise ReplicaError."""

    def __init__(self, path: Path, environment: lmdb.Environment, state: ReplicaState) -> None:
        self.path = path
        self.state = state
        self._environment = environment
        self._purged_to = b""
        _written_here[path] = environment

    @property
    def replica_id(self) -> str:
        return self.path.name

    @classmethod
    def create(cls, place: ReplicaPlace) -> ReplicaWriter:
        """A new, empty environment, which nobody reads before ``place.make_current``.

        It counts as incomplete until ``loaded``.
        """
        path = place.base() / f"{_name_prefix()}{secrets.token_hex(8)}"
        try:
            path.mkdir(mode=0o700)  # LMDB would give it the mode of its files
            environment = _open_to_write(path, place.max_bytes)
        except (lmdb.Error, OSError) as error:
            raise ReplicaUnwritable(str(error)) from error
        writer = cls(path, environment, ReplicaState("", 0, b"", 0))
        writer.set_deadline(NO_LEASE)
        return writer

    @classmethod
    def open_current(cls, place: ReplicaPlace) -> ReplicaWriter | None:
        """The current environment, if it is of this boot and schema and complete."""
        path = place.current()
        if path is None or not (path / _DATA).exists():
            return None
        for reader in _readers_here:
            reader.close()
        try:
            environment = _open_to_write(path, place.max_bytes)
            with environment.begin() as transaction:
                packed = transaction.get(_STATE)
            if packed is None:
                environment.close()
                return None
            return cls(path, environment, _state_decoder.decode(packed))
        except (lmdb.Error, OSError, msgspec.DecodeError) as error:
            logger.warning("the replica is not usable: %s", error)
            return None

    @property
    def entries(self) -> int:
        """Sessions and tombstones."""
        with self._environment.begin() as transaction:
            return int(transaction.stat(self._environment.open_db())["entries"]) - 2

    @property
    def deadline_ns(self) -> int:
        with self._environment.begin() as transaction:
            return int.from_bytes(transaction.get(_LEASE, b""), "big")

    def set_deadline(self, deadline_ns: int) -> None:
        """Grant a lease until then, or end it with NO_LEASE."""
        with self._writing() as transaction:
            transaction.put(_LEASE, deadline_ns.to_bytes(8, "big"))

    def apply(self, changes: Iterable[Change], *, position: int, leaf_hash: bytes) -> None:
        """Take in all changes of the log up to ``position``, in one transaction."""
        with self._writing() as transaction:
            active = self.state.active
            for change in changes:
                active += _apply(transaction, change)
            state = ReplicaState(self.state.epoch, position, leaf_hash, active)
            transaction.put(_STATE, _state_encoder.encode(state))
        self.state = state

    def load(self, rows: Iterable[tuple[bytes, bytes]]) -> int:
        """Append (digest, record) pairs in ascending order, after all that is there."""
        with self._writing() as transaction:
            _consumed, added = transaction.cursor().putmulti(rows, append=True)
        return int(added)

    def loaded(self, state: ReplicaState) -> None:
        """Say what has been loaded."""
        with self._writing() as transaction:
            transaction.put(_STATE, _state_encoder.encode(state))
        self.state = state

    def purge(self, now_us: int, limit: int) -> int:
        """Look at the next ``limit`` entries and remove those whose time is over; returns how many.

        What is removed is unknown from here on, and the primary answers for it.
        """
        removed = 0
        active = self.state.active
        with self._writing() as transaction:
            cursor = transaction.cursor()
            found = cursor.set_range(self._purged_to or bytes(_DIGEST_BYTES))
            for _ in range(limit):
                if not found:
                    break
                record = bytes(cursor.value())
                if int.from_bytes(record[1:9], "big") <= now_us:
                    active -= record[0] == ACTIVE
                    removed += 1
                    cursor.delete()  # and step to the next one, if there is one
                    found = bool(cursor.key())
                else:
                    found = cursor.next()
            self._purged_to = bytes(cursor.key()) if found else b""
            if active != self.state.active:
                state = msgspec.structs.replace(self.state, active=active)
                transaction.put(_STATE, _state_encoder.encode(state))
        self.state = msgspec.structs.replace(self.state, active=active)
        return removed

    def clear_stale_readers(self) -> int:
        """Free the slots of readers that were killed; their snapshots would pin old pages."""
        return self._environment.reader_check()

    def status(self, now_ns: int) -> ReplicaStatus | None:
        with self._environment.begin() as transaction:
            return _status(self._environment, transaction, now_ns)

    def close(self) -> None:
        _written_here.pop(self.path, None)
        self._environment.close()

    @contextmanager
    def _writing(self) -> Iterator[lmdb.Transaction]:
        try:
            with self._environment.begin(write=True) as transaction:
                yield transaction
        except lmdb.MapFullError as error:
            raise ReplicaFull(str(error)) from error
        except lmdb.Error as error:
            raise ReplicaUnwritable(str(error)) from error


def _open_to_write(path: Path, max_bytes: int) -> lmdb.Environment:
    return lmdb.open(
        str(path),
        map_size=max_bytes,
        mode=0o600,
        sync=False,
        metasync=False,
        meminit=False,
        readahead=False,
        max_readers=MAX_READERS,
    )


def _apply(transaction: lmdb.Transaction, change: Change) -> int:
    """Make one change; returns by how much the number of active sessions grew."""
    if isinstance(change, PutSession):
        session = change.session
        record = pack_session(
            session_id=session.session_id,
            subject_id=session.subject_id,
            started_at=session.started_at,
            expires_at=session.expires_at,
            roles=session.roles,
        )
        before = transaction.replace(session.token_digest, record)
        return int(before is None or before[0] != ACTIVE)
    record = bytes(transaction.get(change.token_digest, b""))
    if not record or record[0] != ACTIVE:
        return 0  # it had ended before the replica was loaded: the primary knows
    transaction.put(change.token_digest, tombstone(record))
    return -1


def drop_environment(writer: ReplicaWriter) -> None:
    """Close an environment and delete its files."""
    writer.close()
    with suppress(OSError):
        shutil.rmtree(writer.path)
