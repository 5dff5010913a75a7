"""What the benchmarks need of the machine: cores, processes, their CPU time; and how to compare.

Rules:

- The server that is measured has one core to itself; the client and all else that answers it
  (PostgreSQL, Redis) run on the other cores. On a machine with one core nothing is pinned.
- Contestants run in turn, in short rounds, and are compared with their neighbour in time: what
  else the machine does then meets both.
- CPU time is the kernel's count for the whole process, all threads, user and system.
"""

from __future__ import annotations

import ctypes
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import msgspec
import psutil
from gatelog.host.processes import dies_with_parent, end_processes
from rich.table import Table

_libc = ctypes.CDLL(None)
_STOP = ((signal.SIGTERM, 10.0), (signal.SIGKILL, 10.0))


# --- cores


class Cores(msgspec.Struct, frozen=True):
    """Which core is the server's and which are everybody else's; the same if there is only one."""

    server: frozenset[int]
    others: frozenset[int]

    @property
    def all(self) -> frozenset[int]:
        return self.server | self.others


def split_cores() -> Cores:
    """The first usable core for the server, the rest for the others."""
    usable = sorted(os.sched_getaffinity(0))
    return Cores(frozenset(usable[:1]), frozenset(usable[1:] or usable))


# --- processes


class ServerProcess(msgspec.Struct, frozen=True):
    """A running contestant."""

    pid: int
    port: int

    def cpu_s(self) -> float:
        """Seconds of CPU time that the process has used, by clock_getcpuclockid(3)."""
        clock = ctypes.c_int()
        error = _libc.clock_getcpuclockid(self.pid, ctypes.byref(clock))
        if error:
            raise OSError(error, os.strerror(error))
        return time.clock_gettime(clock.value)


@contextmanager
def server_process(
    module: str, arguments: Sequence[str], cores: frozenset[int]
) -> Iterator[ServerProcess]:
    """A Python module as a server, which prints its port when it serves; gone afterwards."""

    def before_exec() -> None:
        dies_with_parent(signal.SIGKILL, parent)()
        os.sched_setaffinity(0, cores)

    parent = os.getpid()
    command = [sys.executable, "-m", module, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, preexec_fn=before_exec) as process:  # noqa: PLW1509
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise RuntimeError(f"{module} ended before it served")
            yield ServerProcess(process.pid, int(line))
        finally:
            with suppress(psutil.NoSuchProcess):
                end_processes([psutil.Process(process.pid)], _STOP)


# --- numbers


def quantile(values: Sequence[float], q: float) -> float:
    """The q-quantile (0 to 1) of these values, by the nearest rank."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * q), len(ordered) - 1)]


def spread(values: Sequence[float], form: str) -> str:
    """Median and, in brackets, the quartiles."""
    numbers = (statistics.median(values), quantile(values, 0.25), quantile(values, 0.75))
    middle, low, high = (format(number, form) for number in numbers)
    return f"{middle} ({low}–{high})"  # noqa: RUF001


def make_table(title: str, first: str, *columns: str) -> Table:
    """An empty table: names on the left, numbers on the right."""
    table = Table(title=title, title_justify="left")
    table.add_column(first)
    for column in columns:
        table.add_column(column, justify="right")
    return table
