"""What every child process of Gatelog has in common.

Rules: a child leads a session of its own, so that Ctrl-C in a terminal reaches only the
supervisor, which stops everything in order; and a child does not outlive the process that started
it, not even when that one is killed.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import psutil

import gatelog
from gatelog.config import Config, load_config
from gatelog.errors import GatelogError

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_FOREIGN_VARIABLES = ("GUNICORN_", "LISTEN_")  # they would lead gunicorn elsewhere
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def dies_with_parent(death_signal: signal.Signals, parent: int | None = None) -> Callable[[], None]:
    """What a child calls so that it gets this signal when its parent ends (a ``preexec_fn``).

    The kernel looks at the thread that started the child, so start children from the main thread,
    which lives as long as the process. ``parent`` is the calling process unless told otherwise.
    Linux only (prctl(2)); elsewhere it does nothing.
    """
    parent = parent or os.getpid()

    def before_exec() -> None:
        if _libc is None:
            return
        _libc.prctl(_PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
        if os.getppid() != parent:  # it died before the kernel knew
            os._exit(1)

    return before_exec


def name_process(name: str) -> None:
    """What ps and top show of this process: 15 bytes at most. Linux only (prctl(2))."""
    if _libc is not None:
        _libc.prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)


def child_environment() -> dict[str, str]:
    """The environment of a child: it finds this very package, whatever is installed beside it."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(_FOREIGN_VARIABLES)}
    root = str(Path(gatelog.__file__).parent.parent)
    kept["PYTHONPATH"] = os.pathsep.join(filter(None, [root, kept.get("PYTHONPATH")]))
    return kept


def child_options(death_signal: signal.Signals) -> dict[str, Any]:
    """How every child is started, for subprocess and asyncio alike."""
    return {
        "stdin": subprocess.DEVNULL,
        "start_new_session": True,
        "preexec_fn": dies_with_parent(death_signal),
    }


def child_main(run: Callable[[Config], None]) -> None:
    """The entry of a child process: what it cannot do is told in one line."""
    try:
        run(load_config(os.environ))
    except GatelogError as error:
        print(f"gatelog: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(1)


def running(pid: int) -> psutil.Process | None:
    """The process with this id, unless there is none or it has ended and waits to be reaped."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process
    except psutil.NoSuchProcess:
        return None


def end_processes(
    processes: Iterable[psutil.Process], steps: Iterable[tuple[signal.Signals, float]]
) -> None:
    """Send the signals in turn, each with its time in seconds, until no process is left."""
    left = list(processes)
    for number, grace_s in steps:
        for process in left:
            try:
                process.send_signal(number)
                process.resume()  # a stopped one would never take it
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        _, left = psutil.wait_procs(left, timeout=grace_s)
        if not left:
            return
