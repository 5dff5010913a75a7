"""``run.py serve``: starts the processes of one host, keeps them running, stops them in order.

The order of the start: the lock of the data directory, the address, the database and beside it the
nursery, then who is forked there: first somebody who looks at the schema and the keys, and goes;
the projector and the sealer; the workers, for whom the socket begins to listen. Whatever fails on
this way ends the start with one line. Afterwards a child that ends is started again, with a growing
pause while it does not come up.

The order of the stop (SIGINT, SIGTERM, SIGHUP) is the reverse: no new connection comes in, the
workers finish the requests in flight and end, then sealer and projector, then the database.
Children do not outlive the supervisor. It stays small: what they need is imported in the nursery.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from gatelog.config import Config
from gatelog.errors import OperatorError
from gatelog.host.children import (
    BackgroundChild,
    Child,
    DatabaseChild,
    NurseryChild,
    WorkersChild,
)
from gatelog.host.database import embedded_postgres
from gatelog.host.datadir import Lock, end_leftovers, locked
from gatelog.host.listening import all_taken, bound, stop_listening, url_of
from gatelog.host.reload import Sources, changes

if TYPE_CHECKING:
    from gatelog.host.embedded import EmbeddedPostgres

logger = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.1
LAST_PAUSE_S = 5.0
LOG_CHECK_INTERVAL_S = 60.0
LAST_CONNECTIONS_S = 0.3  # for those under way to arrive
LAST_TAKEN_S = 2.0  # for workers to take those that have; a busy machine keeps them from it
MAX_TOLD = 3  # of the files that have changed
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def serve(config: Config, announce: Callable[[str], None], *, reload: bool = False) -> None:
    """Run the service until a signal stops it; ``announce`` gets its address once it answers.

    ``reload``: start the workers again whenever the application's source changes, and wait for its
    next change where it cannot be loaded. Raises OperatorError when it cannot start.
    """
    sources = Sources(config) if reload else None
    with locked(config.data_path, "serve") as lock:
        end_leftovers(config.data_path, config.shutdown_timeout_s + 2)
        with bound(config) as listener:
            asyncio.run(Supervisor(config, listener, lock, announce, sources).run())


class Supervisor:
    """The children of one host and their order."""

    def __init__(
        self,
        config: Config,
        listener: socket.socket,
        lock: Lock,
        announce: Callable[[str], None],
        sources: Sources | None = None,
    ) -> None:
        self._config = config
        self._listener = listener
        self._lock = lock
        self._announce = announce
        self._sources = sources
        self._changed = asyncio.Event()
        self._stopping = asyncio.Event()
        self._postgres = embedded_postgres(config) if config.embedded else None
        self._database: list[Child] = [DatabaseChild(self._postgres)] if self._postgres else []
        self._nursery = NurseryChild(config)
        background = ["projector"] if config.sealer == "off" else ["projector", "sealer"]
        self._workers = WorkersChild(config, listener, self._nursery)
        self._forked: list[Child] = [
            *(BackgroundChild(role, self._nursery) for role in background),
            self._workers,
        ]
        self._children = [*self._database, self._nursery, *self._forked]

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
            if self._sources:
                tasks.append(asyncio.create_task(self._reload(self._sources)))
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
        await self._nursery.start()  # it is at its imports while the database starts
        for child in self._database:
            await child.start()
        await self._prepare()
        for child in self._forked:
            if child is self._workers and self._sources:
                await self._started(child)  # what it cannot do, the next change may mend
            else:
                await child.start()
        url = url_of(self._listener)
        self._lock.announce(url)
        self._announce(url)

    async def _prepare(self) -> None:
        """Have the schema brought up to date, and find out now, once, that a key is unusable."""
        preparation = await self._nursery.fork("preparation")
        if status := await preparation.wait():
            reason = preparation.words or f"the preparation ended ({_status_text(status)})"
            raise OperatorError(reason)

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
            await self._pause(pause_s)
            while not await self._started(child):
                pause_s = min(pause_s * 2, LAST_PAUSE_S)
                await self._pause(pause_s)
            logger.info("%s runs again", child.name)

    async def _pause(self, seconds: float) -> None:
        """Wait so long, or until the application's source changes."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        self._changed.clear()

    async def _reload(self, sources: Sources) -> None:
        """End the workers whenever the source changes: they are started again, with the new one."""
        async for names in changes(sources):
            logger.info("changed: %s; starting the workers again", ", ".join(names[:MAX_TOLD]))
            self._changed.set()
            await self._workers.stop()

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
