"""Appending to the event log, in groups (what a group is, stands in ``gatelog.log.store.batch``).

Rules:

- Positions are dense and in commit order, because every append locks the head's row first and
  keeps it until it has committed.
- One appender per process. What arrives while a commit is in flight goes into the next one: one
  lock and one fsync for up to ``append_batch`` commands.
- A retry is idempotent by event id. When a commit's outcome is unknown (lost connection, timeout,
  cancelled wait for a standby), the batch is run again and finds its own events, or not; nothing
  is reported as done before that. Who cannot wait gets OutcomeUnknown.
- One refused command does not hurt the others of its batch; a defective one is found by running
  the batch's commands one by one.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import asyncpg

from gatelog.errors import (
    ConfigError,
    DatabaseUnavailable,
    OutcomeUnknown,
    Overloaded,
    SchemaMismatch,
)
from gatelog.log.rules.kinds import Command, Trace
from gatelog.log.store import sql
from gatelog.log.store.batch import MAX_BATCH, Batch, Recorded, Submission, load_batch, recall
from gatelog.log.store.database import LOST
from gatelog.log.store.metrics import count_commit

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection

logger = logging.getLogger(__name__)

WATCH_INTERVAL_S = 0.1
FIRST_RETRY_S = 0.02
LAST_RETRY_S = 0.5
PARTITION_RESERVE = 1 << 20  # positions that must have a partition beyond the head
# What passes, or is mended by an operator, while the commands wait for their time.
_RETRIED = (DatabaseUnavailable, ConfigError, SchemaMismatch, *LOST)


class Appender:
    """Group commit: decides and appends what is submitted, one batch at a time."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[Connection]],
        *,
        timeout_s: float,
        max_batch: int = MAX_BATCH,
        max_queue: int = 4096,
    ) -> None:
        self._connect = connect
        self._timeout_s = timeout_s
        self._max_batch = max_batch
        self._max_queue = max_queue
        self._queue: deque[Submission] = deque()
        self._arrived = asyncio.Event()
        self._watched = asyncio.Event()
        self._connection: Connection | None = None
        self._warned = False
        self._waiting: deque[tuple[float, Submission]] = deque()
        self._tasks: list[asyncio.Task[None]] = []
        self.commits = 0

    async def __aenter__(self) -> Appender:
        self._tasks = [
            asyncio.create_task(self._run(), name="appender"),
            asyncio.create_task(self._watch(), name="appender-watch"),
        ]
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Stop. Whoever still waits is told that the outcome is unknown."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for submission in self._queue:
            submission.fail(DatabaseUnavailable("The service stops."))
        await self._discard_connection()

    def submit(self, command: Command, trace: Trace | None = None) -> asyncio.Future[Recorded]:
        """Decide this command and append its events; the future is done when they are durable.

        ``trace`` is what its events can be found by, for the kinds of state that keep such things.
        It raises what ``decide`` raises, DatabaseUnavailable when the command was not tried in
        time, and OutcomeUnknown when it may have happened. Raises Overloaded when too many wait.
        """
        if len(self._queue) >= self._max_queue:
            raise Overloaded()
        loop = asyncio.get_running_loop()
        submission = Submission(command, loop.create_future(), trace)
        self._queue.append(submission)
        self._waiting.append((loop.time() + self._timeout_s, submission))
        self._arrived.set()
        self._watched.set()
        return submission.waiter

    async def _watch(self) -> None:
        """Tell those whose time is over; one task for all of them, in the order of arrival."""
        while True:
            await self._watched.wait()
            self._watched.clear()
            while self._waiting:
                await asyncio.sleep(WATCH_INTERVAL_S)
                self._tell_overdue(asyncio.get_running_loop().time())

    def _tell_overdue(self, now: float) -> None:
        while self._waiting:
            deadline, submission = self._waiting[0]
            if deadline > now and not submission.waiter.done():
                break
            self._waiting.popleft()
            submission.fail(OutcomeUnknown() if submission.in_flight else DatabaseUnavailable())

    async def _run(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while batch := self._take():
                await self._finish(batch)

    def _take(self) -> list[Submission]:
        batch: list[Submission] = []
        while self._queue and len(batch) < self._max_batch:
            submission = self._queue.popleft()
            if not submission.waiter.done():
                batch.append(submission)
        return batch

    async def _finish(self, batch: list[Submission]) -> None:
        """Run the batch until its outcome is known or nobody waits for it any more."""
        delay_s = FIRST_RETRY_S
        try:
            while batch:
                try:
                    await self._attempt(batch)
                    return
                except _RETRIED as error:
                    logger.warning("append: %s: %s; trying again", type(error).__name__, error)
                    await self._discard_connection()
                    await asyncio.sleep(delay_s)
                    delay_s = min(delay_s * 2, LAST_RETRY_S)
                    batch = [s for s in batch if not s.waiter.done()]
        except asyncio.CancelledError:
            for submission in batch:
                submission.fail(OutcomeUnknown("The service stops."))
            raise

    async def _attempt(self, batch: list[Submission]) -> None:
        try:
            await self._commit(batch)
        except _RETRIED:
            raise
        except Exception as error:
            await self._discard_connection()
            if len(batch) == 1:
                logger.exception("append: a defective command")
                batch[0].fail(_told(error))
                return
            for submission in batch:
                await self._attempt([submission])

    async def _commit(self, batch: list[Submission]) -> None:
        connection = await self._connected()
        for submission in batch:
            submission.in_flight = True
        await connection.execute(f"BEGIN; {sql.LOCK_HEAD}")
        writing = await load_batch(connection, batch)
        for submission in batch:
            writing.decide(submission)
        for submission, position in writing.found:
            writing.outcomes.append((submission, await recall(connection, submission, position)))
        if writing.events or writing.beside or writing.found:
            # also without events: what stands beside the log is written, and where events of an
            # earlier try were found, the commit waits for standbys
            await self._write(connection, writing)
        else:
            await connection.execute("ROLLBACK")
        writing.tell()

    async def _write(self, connection: Connection, writing: Batch) -> None:
        if writing.head + len(writing.events) + PARTITION_RESERVE >= writing.partitioned_to:
            await connection.execute(sql.ADD_PARTITION)
        for statement in (writing.erasing(), writing.writing()):
            if statement is not None:
                await connection.execute(statement.statement, *statement.arguments)
        self._warned = False
        await connection.execute("COMMIT")
        if self._warned:  # committed here, but not on the standby that should have it
            raise DatabaseUnavailable("The commit's wait for a standby was cut short.")
        self.commits += 1
        count_commit(writing.events)

    async def _connected(self) -> Connection:
        if self._connection is None or self._connection.is_closed():
            self._connection = await self._connect()
            self._connection.add_log_listener(self._on_notice)
        return self._connection

    def _on_notice(self, connection: object, message: asyncpg.PostgresLogMessage) -> None:
        self._warned = self._warned or message.severity_en in {"WARNING", "FATAL", "PANIC"}

    async def _discard_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()


def _told(error: Exception) -> Exception:
    """What the caller is told of a command that the database refused, or that is a defect."""
    if isinstance(error, asyncpg.PostgresError):
        return DatabaseUnavailable("The database refuses this.")
    return error
