"""The nursery: a process that has imported what the others need, and forks them.

Started by the supervisor as ``python -P -m gatelog.host.nursery DATA_DIR FD``; FD is a socket
between the two, one message in each packet. What is imported lies in memory once, however many are
forked, and is imported once, while the database starts.

Rules:

- Nothing is here that a fork would break: no thread, no event loop, no connection, no LMDB
  environment. What is imported only makes such things when it runs.
- Who is forked leads a session of its own, holds nothing of its siblings, and ends (SIGTERM) with
  the nursery, which ends with the supervisor. Its parent is the nursery, so the nursery tells when
  it ends, and with what status.
- What somebody cannot do is told in one line by whoever has asked for it: the supervisor.
"""

from __future__ import annotations

import gc
import os
import selectors
import signal
import socket
import sys
from collections.abc import Callable
from importlib import import_module

import msgspec

from gatelog.config import Config, load_config
from gatelog.errors import GatelogError
from gatelog.host.processes import dies_with_parent, name_process

MESSAGE_BYTES = 64 * 1024
MAX_WORDS = 4096
# Who is forked: the module whose ``run`` it is, and its name among processes, 15 bytes at most. In
# the order in which they are imported: who prepares the start uses what the sealer does.
ROLES = {
    "sealer": ("gatelog.host.sealer", "gate:sealer"),
    "preparation": ("gatelog.host.preparation", "gate:preparing"),
    "projector": ("gatelog.host.projector", "gate:projector"),
    "workers": ("gatelog.host.worker", "gate:workers"),
}


class Order(msgspec.Struct, frozen=True):
    """Fork somebody; descriptors that come with it are for ``run``. ``number`` names the order."""

    number: int
    role: str


class Report(msgspec.Struct, frozen=True):
    """Somebody was forked (``status`` is None), or has ended.

    ``status``: the exit code, or minus the signal that ended it. ``words``: why, where it had to
    end for a GatelogError.
    """

    number: int
    pid: int
    status: int | None = None
    words: str = ""


class Birth(msgspec.Struct, frozen=True):
    """What somebody knows who was forked just now: what to do, and where to leave last words."""

    run: Callable[..., None]
    descriptors: tuple[int, ...]
    words: int


class Nursery:
    """Forks when it is told to, and reports who has ended."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._selector = selectors.DefaultSelector()
        self._selector.register(control, selectors.EVENT_READ)
        self._runs: dict[str, Callable[..., None]] = {}
        self._words: dict[int, int] = {}  # by the descriptor of the process
        self._supervised = True

    def tend(self) -> Birth | None:
        """Work until the supervisor is gone (None); returns in whoever is forked, too.

        Who prepares the start is forked as soon as that is imported, and works meanwhile.
        """
        for role, (module, _) in ROLES.items():
            self._runs[role] = import_module(module).run
            if birth := self._look(wait=False):
                return birth
        gc.collect()
        gc.freeze()
        while self._supervised:
            if birth := self._look(wait=True):
                return birth
        return None

    def _look(self, *, wait: bool) -> Birth | None:
        """See to what has happened; an order that comes too early is left for the next look."""
        for key, _ in self._selector.select(None if wait else 0):
            if key.fileobj is not self._control:
                self._bury(key.fd, *key.data)
                continue
            message = self._control.recv(MESSAGE_BYTES, socket.MSG_PEEK)
            self._supervised = bool(message)
            if message and msgspec.json.decode(message, type=Order).role in self._runs:
                message, descriptors, *_ = socket.recv_fds(self._control, MESSAGE_BYTES, 1)
                order = msgspec.json.decode(message, type=Order)
                if birth := self._fork(order, tuple(descriptors)):
                    return birth
        return None

    def _fork(self, order: Order, descriptors: tuple[int, ...]) -> Birth | None:
        """Returns None in the nursery, and something in whoever is forked."""
        words, own_words = os.pipe()
        nursery = os.getpid()
        pid = os.fork()
        if pid == 0:
            os.close(words)
            self._leave(nursery, order.role)
            return Birth(self._runs[order.role], descriptors, own_words)
        for descriptor in (own_words, *descriptors):
            os.close(descriptor)
        os.set_blocking(words, False)
        process = os.pidfd_open(pid)
        self._words[process] = words
        self._selector.register(process, selectors.EVENT_READ, (order.number, pid))
        self._report(Report(order.number, pid))
        return None

    def _leave(self, nursery: int, role: str) -> None:
        """Become a process of one's own."""
        os.setsid()
        dies_with_parent(signal.SIGTERM, nursery)()
        name_process(ROLES[role][1])
        for process, words in self._words.items():
            os.close(process)
            os.close(words)
        self._selector.close()
        self._control.close()

    def _bury(self, process: int, number: int, pid: int) -> None:
        self._selector.unregister(process)
        os.close(process)
        words = self._words.pop(process)
        _, status = os.waitpid(pid, 0)
        try:
            said = os.read(words, MAX_WORDS)
        except BlockingIOError:  # its own children live on, and hold the other end
            said = b""
        os.close(words)
        code = os.waitstatus_to_exitcode(status)
        self._report(Report(number, pid, code, said.decode(errors="replace")))

    def _report(self, report: Report) -> None:
        self._control.send(msgspec.json.encode(report))


def main() -> None:
    """The entry of the process; whoever is forked goes on here, too."""
    config = load_config(os.environ)
    gc.disable()  # what is freed before a fork would be written to after it, page by page
    birth = Nursery(socket.socket(fileno=int(sys.argv[2]))).tend()
    if birth is not None:
        gc.enable()
        live(config, birth)


def live(config: Config, birth: Birth) -> None:
    """Be who one was forked to be."""
    try:
        birth.run(config, *birth.descriptors)
    except GatelogError as error:
        os.write(birth.words, str(error).encode()[:MAX_WORDS])
        sys.exit(1)


if __name__ == "__main__":
    main()
