"""The data directory: who uses it, and what an earlier user has left running.

One process at a time, the service or a command that starts the database for a moment, holds the
directory's lock (flock(2): the kernel lets go of it however the process ends). The lock file says
who that is, so that everybody else can be told, or can find the service.
"""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import psutil

from gatelog.config import variable
from gatelog.errors import ConfigError
from gatelog.host.processes import end_processes
from gatelog.secrets import ensure_directory, unusable

LOCK_FILE = "lock"


class Holder(msgspec.Struct, frozen=True):
    """Who uses the directory: process id, command, and the service's address once it answers."""

    pid: int
    command: str
    url: str | None = None


class DataDirInUse(ConfigError):
    """Another process holds the lock; ``holder`` is None when it has not said who it is."""

    code = "data_dir_in_use"

    def __init__(self, path: Path, holder: Holder | None) -> None:
        who = f"process {holder.pid} ({holder.command})" if holder else "another process"
        super().__init__(variable("data_dir"), f"{path} is in use by {who}")
        self.holder = holder


class Lock:
    """The lock, while it is held."""

    def __init__(self, descriptor: int, holder: Holder) -> None:
        self._descriptor = descriptor
        self._holder = holder
        self._write()

    def announce(self, url: str) -> None:
        """Tell others where the service answers."""
        self._holder = msgspec.structs.replace(self._holder, url=url)
        self._write()

    def _write(self) -> None:
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, msgspec.json.encode(self._holder), 0)


@contextmanager
def locked(path: Path, command: str) -> Iterator[Lock]:
    """Hold the directory for this process; ``command`` is what others are told.

    Raises DataDirInUse when another process holds it, ConfigError when it cannot be used.
    """
    descriptor = _open(path)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataDirInUse(path, _read(descriptor)) from error
        yield Lock(descriptor, Holder(os.getpid(), command))
    finally:
        os.close(descriptor)


def holder_of(path: Path) -> Holder | None:
    """Who holds the directory now; None when nobody does."""
    try:
        descriptor = os.open(path / LOCK_FILE, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read(descriptor)
    finally:
        os.close(descriptor)
    return None


def _open(path: Path) -> int:
    if not path.is_dir():
        ensure_directory(path, 0o700)
    try:
        return os.open(path / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise unusable(path, error) from error


def _read(descriptor: int) -> Holder | None:
    try:
        return msgspec.json.decode(os.pread(descriptor, 4096, 0), type=Holder)
    except msgspec.DecodeError:
        return None


def child_command(python: str, module: str, path: Path, *arguments: str) -> list[str]:
    """The command line of a child that works on this directory; ``end_leftovers`` knows it."""
    # -P: modules of whatever directory this was started in are not found before those of Python
    return [python, "-P", "-m", module, str(path), *arguments]


def end_leftovers(path: Path, grace_s: float) -> None:
    """End children of a service on this directory that was killed. Call it with the lock held."""
    left = [process for process in psutil.process_iter() if _is_child(process, path)]
    end_processes(left, [(signal.SIGTERM, grace_s), (signal.SIGKILL, 5.0)])


def _is_child(process: psutil.Process, path: Path) -> bool:
    try:
        words = process.cmdline()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False
    ours = words[1:3] == ["-P", "-m"] and len(words) > 4 and words[3].startswith("gatelog.")
    return ours and words[4] == str(path)
