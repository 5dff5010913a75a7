"""The children of a host's supervisor: how each is started, waited for and stopped.

The database is a process of its own program. The nursery is one of ours, and forks the others,
which are therefore its children and not the supervisor's: it tells when one of them ends.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import sys
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from gatelog.config import Config
from gatelog.errors import OperatorError
from gatelog.host.datadir import child_command
from gatelog.host.listening import address_of, listen
from gatelog.host.nursery import MESSAGE_BYTES, Order, Report
from gatelog.host.processes import child_environment, child_options

if TYPE_CHECKING:
    from gatelog.host.embedded import EmbeddedPostgres

METRICS_DIRECTORY = "metrics"
START_TIMEOUT_S = 60.0
DATABASE_STOP_S = 30.0
BACKGROUND_STOP_S = 5.0
_POLL_S = 0.02
# the arenas of threads that hash passwords would each keep what one hash takes
HABITS = {"MALLOC_ARENA_MAX": "2"}


class Process(Protocol):
    """What the supervisor needs of a process, whoever's child it is."""

    @property
    def pid(self) -> int: ...

    @property
    def returncode(self) -> int | None: ...

    async def wait(self) -> int:
        """Wait for the end; returns the exit code, or minus the signal."""

    def send_signal(self, signal: int) -> None:
        """Raises ProcessLookupError when it has ended."""


class Child(ABC):
    """A process that is kept running; one that lived for less than ``steady_s`` had not come up."""

    name: str
    steady_s: float = 0.0
    process: Process | None = None

    @abstractmethod
    async def start(self) -> None:
        """Start it and return when it does its work. Raises OperatorError with the reason."""

    @abstractmethod
    async def stop(self) -> None:
        """End it in good order, and what it has started with it."""

    async def wait(self) -> int:
        """Wait until the process has ended; returns its status, 0 when there is none."""
        return await self.process.wait() if self.process else 0

    async def until(self, ready: Coroutine[Any, Any, None]) -> bool:
        """Wait until it is ready; False when it ends before."""
        waiting = asyncio.create_task(ready)
        ended = asyncio.create_task(self.wait())
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await asyncio.wait((waiting, ended), return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError as error:
            raise OperatorError(f"{self.name} not ready in {START_TIMEOUT_S:.0f} s") from error
        finally:
            waiting.cancel()
            ended.cancel()
            await asyncio.wait((waiting, ended))
        return not waiting.cancelled()

    async def end(self, *steps: tuple[signal.Signals, float]) -> None:
        """Send the signals in turn, each with its time in seconds, until the process has ended."""
        if self.process is None:
            return
        for number, grace_s in steps:
            with suppress(ProcessLookupError):
                self.process.send_signal(number)
            with suppress(TimeoutError):
                async with asyncio.timeout(grace_s):
                    await self.process.wait()
                    return


class DatabaseChild(Child):
    """The embedded PostgreSQL."""

    name = "PostgreSQL"

    def __init__(self, postgres: EmbeddedPostgres) -> None:
        self._postgres = postgres

    async def start(self) -> None:
        # prepare and set_up wait for programs; the server itself must be this thread's child
        await asyncio.to_thread(self._postgres.prepare)
        with self._postgres.spawn_options() as options:
            self.process = await asyncio.create_subprocess_exec(
                *self._postgres.command(), **options
            )
        if not await self.until(self._ready(self.process.pid)):
            raise self._postgres.start_error()
        await asyncio.to_thread(self._postgres.set_up)

    async def _ready(self, pid: int) -> None:
        while not self._postgres.is_ready(pid):  # noqa: ASYNC110 - a file says so, no signal
            await asyncio.sleep(_POLL_S)

    async def stop(self) -> None:
        await self.end(
            (signal.SIGINT, DATABASE_STOP_S), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0)
        )


class Forked:
    """A process that the nursery has forked."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.words = ""
        self._ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    @property
    def returncode(self) -> int | None:
        return self._ended.result() if self._ended.done() else None

    async def wait(self) -> int:
        return await asyncio.shield(self._ended)

    def send_signal(self, signal: int) -> None:
        if self._ended.done():
            raise ProcessLookupError(self.pid)
        os.kill(self.pid, signal)

    def end(self, status: int, words: str = "") -> None:
        """Note that it has ended."""
        if not self._ended.done():
            self.words = words
            self._ended.set_result(status)


class NurseryChild(Child):
    """The process that forks the others; they end with it."""

    name = "the nursery"
    steady_s = 5.0

    def __init__(self, config: Config) -> None:
        self._config = config
        self._control: socket.socket | None = None
        self._asked: dict[int, asyncio.Future[Forked]] = {}
        self._forked: dict[int, Forked] = {}
        self._orders = 0
        self._up = asyncio.Event()

    async def start(self) -> None:
        metrics = empty_metrics(self._config)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            ours.setblocking(False)
            command = child_command(
                sys.executable,
                "gatelog.host.nursery",
                self._config.data_path,
                str(theirs.fileno()),
            )
            self.process = await asyncio.create_subprocess_exec(
                *command,
                env={**HABITS, **child_environment(), "PROMETHEUS_MULTIPROC_DIR": str(metrics)},
                pass_fds=(theirs.fileno(),),
                **child_options(signal.SIGTERM),
            )
        self._control = ours
        asyncio.get_running_loop().add_reader(ours, self._hear, ours)
        self._up.set()

    async def fork(self, role: str, descriptor: int | None = None) -> Forked:
        """Have somebody forked, with this descriptor. Raises OperatorError if it takes too long."""
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await self._up.wait()
                return await self._ask(role, [] if descriptor is None else [descriptor])
        except (TimeoutError, OSError) as error:
            raise OperatorError(f"the nursery does not answer ({type(error).__name__})") from error

    async def _ask(self, role: str, descriptors: list[int]) -> Forked:
        if self._control is None:
            raise ConnectionResetError
        self._orders += 1
        order = Order(self._orders, role)
        asked: asyncio.Future[Forked] = asyncio.get_running_loop().create_future()
        self._asked[order.number] = asked
        try:
            socket.send_fds(self._control, [msgspec.json.encode(order)], descriptors)
            return await asked
        finally:
            del self._asked[order.number]

    def _hear(self, control: socket.socket) -> None:
        try:
            message = control.recv(MESSAGE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        if not message:
            self._hang_up()
            return
        report = msgspec.json.decode(message, type=Report)
        if report.status is None:
            forked = self._forked[report.number] = Forked(report.pid)
            if (asked := self._asked.get(report.number)) and not asked.done():
                asked.set_result(forked)
        elif report.number in self._forked:
            self._forked.pop(report.number).end(report.status, report.words)

    def _hang_up(self) -> None:
        """The nursery has ended, and with it everybody whom it forked."""
        self._up.clear()
        if self._control is not None:
            asyncio.get_running_loop().remove_reader(self._control)
            self._control.close()
            self._control = None
        for asked in self._asked.values():
            if not asked.done():
                asked.set_exception(ConnectionResetError())
        while self._forked:
            self._forked.popitem()[1].end(-signal.SIGTERM)

    async def stop(self) -> None:
        await self.end((signal.SIGTERM, BACKGROUND_STOP_S), (signal.SIGKILL, 5.0))
        self._hang_up()


class BackgroundChild(Child):
    """The projector or the sealer: the workers do without it until it is there."""

    steady_s = 5.0

    def __init__(self, role: str, nursery: NurseryChild) -> None:
        self.name = f"the {role}"
        self._role = role
        self._nursery = nursery

    async def start(self) -> None:
        self.process = await self._nursery.fork(self._role)

    async def stop(self) -> None:
        await self.end((signal.SIGTERM, BACKGROUND_STOP_S), (signal.SIGKILL, 5.0))


class WorkersChild(Child):
    """gunicorn and its workers."""

    name = "the workers"

    def __init__(self, config: Config, listener: socket.socket, nursery: NurseryChild) -> None:
        self._config = config
        self._listener = listener
        self._nursery = nursery

    async def start(self) -> None:
        listen(self._config, self._listener)
        empty_metrics(self._config)  # what the workers before have counted
        self.process = await self._nursery.fork("workers", self._listener.fileno())
        if not await self.until(self._answers()):
            raise OperatorError(
                self.process.words
                or f"the workers do not start (exit code {self.process.returncode});"
                " the reason is in the lines above"
            )

    async def _answers(self) -> None:
        """Return when a worker answers; a connection waits in the backlog until one does."""
        host, port = address_of(self._listener)
        while True:
            with suppress(OSError, asyncio.IncompleteReadError):
                reader, writer = await asyncio.open_connection(host, port)
                try:
                    writer.write(b"GET /health/alive HTTP/1.1\r\nHost: localhost\r\n\r\n")
                    await reader.readexactly(len(b"HTTP/1.1 200"))
                    return
                finally:
                    writer.close()
            await asyncio.sleep(_POLL_S)

    async def stop(self) -> None:
        if self.process is None:
            return
        grace_s = self._config.shutdown_timeout_s + 8  # gunicorn waits a little less
        await self.end((signal.SIGTERM, grace_s), (signal.SIGKILL, 5.0))
        with suppress(ProcessLookupError):  # workers whose master was killed
            os.killpg(self.process.pid, signal.SIGKILL)


def empty_metrics(config: Config) -> Path:
    """The directory in which the workers count, with nothing in it."""
    metrics = config.data_path / METRICS_DIRECTORY
    shutil.rmtree(metrics, ignore_errors=True)
    metrics.mkdir()
    return metrics
