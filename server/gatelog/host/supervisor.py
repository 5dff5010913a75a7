"""``run.py serve``: starts the processes of one host, keeps them running, stops them in order.

The order of the start: the lock of the data directory, the address, the database, the schema, the
master key, the projector and the sealer, the listening socket, the workers. Whatever fails on this
way ends the start with one line. Afterwards a child that ends is started again, with a growing
pause while it does not come up.

The order of the stop (SIGINT, SIGTERM, SIGHUP) is the reverse: no new connection comes in, the
workers finish the requests in flight and end, then sealer and projector, then the database.
Children do not outlive the supervisor.
The supervisor holds the listening socket throughout, so that a connection that arrives while
workers are replaced waits for the next one. Before it is ready, and when it stops, connections are
refused, and none is taken that is then dropped: a proxy can give every request to somebody else.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import shutil
import signal
import socket
import sys
from abc import ABC, abstractmethod
from asyncio.subprocess import Process
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from gatelog.config import Config, variable
from gatelog.errors import ConfigError, OperatorError
from gatelog.host.database import dsns, embedded_postgres, named_errors, prepare_schema
from gatelog.host.datadir import Lock, child_command, end_leftovers, locked
from gatelog.host.processes import child_environment, child_options
from gatelog.host.sealer import signing_key
from gatelog.privacy.service.keyring import check_keys

if TYPE_CHECKING:
    from gatelog.host.embedded import EmbeddedPostgres

logger = logging.getLogger(__name__)

BACKLOG = 2048
METRICS_DIRECTORY = "metrics"
START_TIMEOUT_S = 60.0
FIRST_PAUSE_S = 0.1
LAST_PAUSE_S = 5.0
DATABASE_STOP_S = 30.0
BACKGROUND_STOP_S = 5.0
LOG_CHECK_INTERVAL_S = 60.0
LAST_CONNECTIONS_S = 0.3  # for those under way to arrive
LAST_TAKEN_S = 2.0  # for workers to take those that have; a busy machine keeps them from it
_POLL_S = 0.02
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_ACCEPT_QUEUE = slice(24, 28)  # tcpi_unacked of a listening socket's tcp_info, linux/tcp.h
_SO_BINDTOIFINDEX = 62  # asm-generic/socket.h
_NO_INTERFACE = 0x7FFFFFFF  # a number that none has


def serve(config: Config, announce: Callable[[str], None]) -> None:
    """Run the service until a signal stops it; ``announce`` gets its address once it answers.

    Raises OperatorError when it cannot start.
    """
    with locked(config.data_path, "serve") as lock:
        end_leftovers(config.data_path, config.shutdown_timeout_s + 2)
        with bound(config) as listener:
            asyncio.run(Supervisor(config, listener, lock, announce).run())


def bound(config: Config) -> socket.socket:
    """The socket, not listening yet. Raises ConfigError that names the setting at fault."""
    try:
        found = socket.getaddrinfo(
            config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (socket.gaierror, UnicodeError) as error:
        raise ConfigError(variable("host"), f"{config.host!r} is no address: {error}") from error
    family, kind, protocol, _, address = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise _listen_error(config, error) from error
    return listener


def listen(config: Config, listener: socket.socket) -> None:
    """Let connections in. Raises ConfigError when another program was quicker."""
    try:
        listener.listen(BACKLOG)
    except OSError as error:
        raise _listen_error(config, error) from error


def stop_listening(listener: socket.socket) -> None:
    """Refuse new connections; those that are under way, or wait, still get to a worker.

    Closing the socket would reset connections whose clients have sent their requests already.
    Bound to an interface that there is not, it is not found any more by what opens a connection
    (SO_BINDTODEVICE in socket(7); for everybody since Linux 5.7).
    """
    if sys.platform != "linux":
        return
    try:
        listener.setsockopt(socket.SOL_SOCKET, _SO_BINDTOIFINDEX, _NO_INTERFACE)
    except OSError as error:
        logger.warning("connections that arrive during this stop may be reset: %s", error)


async def all_taken(listener: socket.socket, within_s: float) -> None:
    """Return when no connection waits for a worker any more, or after so many seconds.

    What still waits when the socket is closed is reset (Linux, tcp(7), TCP_INFO).
    """
    with suppress(OSError, AttributeError):  # elsewhere there is no TCP_INFO
        for _ in range(round(within_s / _POLL_S)):
            info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACCEPT_QUEUE.stop)
            if not any(info[_ACCEPT_QUEUE]):
                return
            await asyncio.sleep(_POLL_S)


def _listen_error(config: Config, error: OSError) -> ConfigError:
    if error.errno == errno.EADDRINUSE:
        return ConfigError(
            variable("port"), f"port {config.port} on {config.host} is taken by another program"
        )
    if error.errno == errno.EACCES:
        return ConfigError(variable("port"), f"this user may not listen on port {config.port}")
    return ConfigError(variable("host"), f"cannot listen on {config.host}: {error.strerror}")


def address_of(listener: socket.socket) -> tuple[str, int]:
    """Host and port where a client on this host reaches the listener."""
    host, port = listener.getsockname()[:2]
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port  # noqa: S104


def url_of(listener: socket.socket) -> str:
    host, port = address_of(listener)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


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


class BackgroundChild(Child):
    """The projector or the sealer: the workers do without it until it is there."""

    steady_s = 5.0

    def __init__(self, name: str, module: str, config: Config) -> None:
        self.name = name
        self._command = child_command(sys.executable, module, config.data_path)

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            *self._command, env=child_environment(), **child_options(signal.SIGTERM)
        )

    async def stop(self) -> None:
        await self.end((signal.SIGTERM, BACKGROUND_STOP_S), (signal.SIGKILL, 5.0))


class WorkersChild(Child):
    """gunicorn and its workers."""

    name = "the workers"

    def __init__(self, config: Config, listener: socket.socket) -> None:
        self._config = config
        self._listener = listener

    async def start(self) -> None:
        listen(self._config, self._listener)
        descriptor = self._listener.fileno()
        metrics = self._config.data_path / METRICS_DIRECTORY
        shutil.rmtree(metrics, ignore_errors=True)  # what the workers before have counted
        metrics.mkdir()
        self.process = await asyncio.create_subprocess_exec(
            *child_command(
                sys.executable, "gatelog.host.worker", self._config.data_path, str(descriptor)
            ),
            env=child_environment() | {"PROMETHEUS_MULTIPROC_DIR": str(metrics)},
            pass_fds=(descriptor,),
            **child_options(signal.SIGTERM),
        )
        if not await self.until(self._answers()):
            raise OperatorError(
                f"the workers do not start (exit code {self.process.returncode});"
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


class Supervisor:
    """The children of one host and their order."""

    def __init__(
        self,
        config: Config,
        listener: socket.socket,
        lock: Lock,
        announce: Callable[[str], None],
    ) -> None:
        self._config = config
        self._listener = listener
        self._lock = lock
        self._announce = announce
        self._stopping = asyncio.Event()
        self._postgres = embedded_postgres(config) if config.embedded else None
        self._database: list[Child] = [DatabaseChild(self._postgres)] if self._postgres else []
        self._children: list[Child] = [
            *self._database,
            BackgroundChild("the projector", "gatelog.host.projector", config),
            *self._sealer(),
            WorkersChild(config, listener),
        ]

    def _sealer(self) -> list[Child]:
        if self._config.sealer == "off":
            return []
        return [BackgroundChild("the sealer", "gatelog.host.sealer", self._config)]

    async def run(self) -> None:
        """Start everything, keep it running, and stop it when a signal says so."""
        loop = asyncio.get_running_loop()
        for number in _STOP_SIGNALS:
            loop.add_signal_handler(number, self._stopping.set)
        tasks: list[asyncio.Task[None]] = []
        try:
            if not await self._unless_stopped(self._start()):
                return
            tasks += [asyncio.create_task(self._keep(child)) for child in self._children]
            if self._postgres:
                tasks.append(asyncio.create_task(_trim_log(self._postgres)))
            stopping = asyncio.create_task(self._stopping.wait())
            done, _ = await asyncio.wait({stopping, *tasks}, return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            logger.info("stopping")
        finally:
            await self._stop(tasks)
        for task in done:
            task.result()  # none of them ends but by a defect

    async def _unless_stopped(self, work: Coroutine[Any, Any, None]) -> bool:
        """Do the work; leave it, and answer False, when a signal says stop."""
        task = asyncio.create_task(work)
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait((task, stopping), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait((task,))
            return False
        task.result()
        return True

    async def _start(self) -> None:
        for child in self._database:
            await child.start()
        await prepare_schema(self._config)
        await self._check_secrets()
        for child in self._children[len(self._database) :]:
            await child.start()
        url = url_of(self._listener)
        self._lock.announce(url)
        self._announce(url)

    async def _check_secrets(self) -> None:
        """Find out now, and not in each child, that a key cannot be used."""
        if self._config.sealer == "on":
            signing_key(self._config)
        with named_errors(self._config):
            await check_keys(self._config, dsns(self._config).app)

    async def _keep(self, child: Child) -> None:
        """Start the child again whenever it ends; the pause grows while it does not come up."""
        pause_s = FIRST_PAUSE_S
        clock = asyncio.get_running_loop().time
        while True:
            started_s = clock()
            status = await child.wait()
            steady = clock() - started_s >= child.steady_s
            pause_s = FIRST_PAUSE_S if steady else min(pause_s * 2, LAST_PAUSE_S)
            logger.error("%s ended (%s); starting again", child.name, _status_text(status))
            await asyncio.sleep(pause_s)
            while not await self._started(child):
                pause_s = min(pause_s * 2, LAST_PAUSE_S)
                await asyncio.sleep(pause_s)
            logger.info("%s runs again", child.name)

    async def _started(self, child: Child) -> bool:
        try:
            await child.start()
        except (OperatorError, OSError) as error:
            logger.error("%s does not start: %s", child.name, error)
            await child.stop()
            return False
        return True

    async def _stop(self, tasks: list[asyncio.Task[None]]) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if tasks:
            stop_listening(self._listener)
            await asyncio.sleep(LAST_CONNECTIONS_S)
            await all_taken(self._listener, LAST_TAKEN_S)
        self._listener.close()  # from here on the workers' copies are the last ones
        for child in reversed(self._children):
            await child.stop()


async def _trim_log(postgres: EmbeddedPostgres) -> None:
    while True:
        await asyncio.sleep(LOG_CHECK_INTERVAL_S)
        await asyncio.to_thread(postgres.trim_log)


def _status_text(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"exit code {status}"
