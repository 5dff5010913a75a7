"""``log tail`` as a process."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.stack.service import (
    RUN,
    STOP_TIMEOUT_S,
    Captured,
    Service,
    environment,
)
from tests.waiting import eventually

WITHIN_S = 60.0


class Tail:
    """``log tail``, and what it has printed."""

    def __init__(self, data_dir: Path, *options: str) -> None:
        self.errors = Captured()
        self.process = subprocess.Popen(
            [*RUN, "log", "tail", *options],
            env=environment(data_dir, {}),
            stdout=subprocess.PIPE,
            stderr=self.errors.file,
        )
        self.lines: list[bytes] = []
        self._rest = b""

    def read(self) -> list[bytes]:
        """All lines so far."""
        assert self.process.stdout
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while selector.select(0.01):
                data = os.read(self.process.stdout.fileno(), 65_536)
                if not data:
                    break
                *lines, self._rest = (self._rest + data).split(b"\n")
                self.lines += lines
        return self.lines

    def wait_for(self, text: bytes) -> None:
        eventually(lambda: any(text in line for line in self.read()), WITHIN_S, repr(text))

    def stop(self, number: signal.Signals = signal.SIGINT) -> str:
        """End it; returns what it said on standard error."""
        self.process.send_signal(number)
        output, _ = self.process.communicate(timeout=STOP_TIMEOUT_S)
        *lines, rest = (self._rest + output).split(b"\n")
        self.lines += lines
        assert rest == b"", "the last line is cut"
        return self.errors.text

    def close(self) -> None:
        """End it if it has not ended, and let go of what it said."""
        if self.process.poll() is None:
            self.process.kill()
        if self.process.stdout is not None:
            self.process.stdout.close()
        self.process.wait()
        self.errors.close()


@contextmanager
def tailing(service: Service, *options: str) -> Iterator[Tail]:
    tail = Tail(service.data_dir, *options)
    try:
        yield tail
    finally:
        tail.close()
