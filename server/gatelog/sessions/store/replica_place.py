"""Where the replica of a host is, what state it is in, and what goes wrong with it."""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import lmdb
import msgspec

from gatelog.config import Config

SCHEMA = "v4"  # of keys and values; another one makes every replica start anew
MAX_READERS = 1022
LEASE_KEY = b"\x00"  # these sort before every digest
STATE_KEY = b"\x00\x00"
ANNOUNCED_KEY = b"\x00\x00\x00"
OTHER_KEYS = 3  # beside those of sessions
_CURRENT = "current"
DATA_FILE = "data.mdb"
_LOCK = "projector.lock"
_MEMORY_BACKED = Path("/dev/shm")  # noqa: S108
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
boottime_ns: Callable[[], int] = partial(
    # where there is no CLOCK_BOOTTIME (macOS), CLOCK_MONOTONIC runs through suspend
    time.clock_gettime_ns,
    getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC),
)
"""The clock of leases: nanoseconds since the machine was started, suspend included."""


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


# What was announced last, by topic (``log.rules.events.Announcement``), as it stands in a replica.
Announced = dict[str, bytes]
announced_encoder = msgspec.msgpack.Encoder(order="sorted")
announced_decoder = msgspec.msgpack.Decoder(Announced)
state_encoder = msgspec.msgpack.Encoder()
state_decoder = msgspec.msgpack.Decoder(ReplicaState)


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
        return path if path.name.startswith(name_prefix()) else None

    def check(self, path: Path) -> None:
        """Raises ReplicaGone unless this is the current environment and can still be opened."""
        if self.current() != path or not (path / DATA_FILE).exists():
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


def name_prefix() -> str:
    return f"{boot_id()}-{SCHEMA}-"


def boot_id() -> str:
    """Twelve characters that differ after every start of the machine."""
    try:
        return _BOOT_ID.read_text().replace("-", "")[:12]
    except OSError:  # not Linux: the time of the start, to the minute
        return f"{(time.time_ns() - boottime_ns()) // 60_000_000_000:012d}"


# LMDB must not open an environment twice in one process: a reader beside the writer shares its,
# and lets go of one that it has opened before the writer came.
written_here: dict[Path, lmdb.Environment] = {}
