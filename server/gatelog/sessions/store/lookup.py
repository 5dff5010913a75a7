"""The active sessions in PostgreSQL: asking for many of them in one query.

Rules:

- One query is in flight at a time; the next one takes all who wait then. A check therefore never
  takes the answer of a query that was sent before the check arrived: that answer may predate a
  logout which has been reported already.
- A session that has idled too long by the clock of this host may be in use elsewhere, and an append
  that says so under way. Nobody is told that it is over before that append is done, and then by the
  clock of the log, which decides on use: what was told to be over stays so, and is remembered. So a
  token of such a session, shown again and again, costs appends the lock of the head once.
- The primary is asked, by a connection of its own. No answer within the limit is
  DatabaseUnavailable, never "no such session".
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg
import msgspec

from gatelog.clock import moved_ahead, utc_now_us
from gatelog.errors import DatabaseUnavailable, GatelogError, Overloaded
from gatelog.log.store.database import Database, translated_errors
from gatelog.log.store.sql import LOCK_HEAD
from gatelog.privacy.rules import WrappedKey
from gatelog.sessions.rules.record import Session, over_by_idling, packed
from gatelog.sessions.rules.state import ActiveSession
from gatelog.sessions.store import sql
from gatelog.sessions.store.kind import session_of

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection

logger = logging.getLogger(__name__)

MAX_DIGESTS = 1000  # in one query
MAX_REMEMBERED = 16_384  # a megabyte or two
_SWEEP_LOCK = 0x677073776570  # an arbitrary constant


class PrimaryLookup:
    """Finds sessions by token digest on the primary, batched."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[Connection]],
        *,
        timeout_s: float,
        max_queue: int = 10_000,
    ) -> None:
        self._connect = connect
        self._timeout_s = timeout_s
        self._max_queue = max_queue
        self._waiting: dict[bytes, asyncio.Future[Session | None]] = {}
        self._arrived = asyncio.Event()
        self._connection: Connection | None = None
        self._task: asyncio.Task[None] | None = None
        self._over: dict[bytes, None] = {}  # have idled too long, for good; the oldest first
        self.queries = 0

    async def __aenter__(self) -> PrimaryLookup:
        self._task = asyncio.create_task(self._run(), name="primary-lookup")
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        _fail(self._waiting, DatabaseUnavailable("The service stops."))
        self._discard_connection()

    async def find(self, digest: bytes) -> Session | None:
        """The active session behind this digest, as of a moment after this call, or None.

        One that is over at the latest is returned as it is, one that has idled too long is not.
        Raises DatabaseUnavailable or Overloaded.
        """
        waiter = self._waiting.get(digest)
        if waiter is None:
            if len(self._waiting) >= self._max_queue:
                raise Overloaded()
            waiter = asyncio.get_running_loop().create_future()
            self._waiting[digest] = waiter
            self._arrived.set()
        try:
            async with asyncio.timeout(self._timeout_s):
                return await asyncio.shield(waiter)
        except TimeoutError:
            raise DatabaseUnavailable() from None

    async def _run(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._waiting:
                await self._answer(self._take())

    def _take(self) -> dict[bytes, asyncio.Future[Session | None]]:
        if len(self._waiting) <= MAX_DIGESTS:
            batch, self._waiting = self._waiting, {}
            return batch
        return {key: self._waiting.pop(key) for key in list(self._waiting)[:MAX_DIGESTS]}

    async def _answer(self, batch: dict[bytes, asyncio.Future[Session | None]]) -> None:
        try:
            found = await self._query(list(batch))
        except GatelogError as error:
            logger.warning("lookup: %s", error)
            _fail(batch, error)
            return
        except asyncio.CancelledError:
            _fail(batch, DatabaseUnavailable("The service stops."))
            raise
        except Exception as error:
            logger.exception("lookup: a defect")
            self._discard_connection()
            _fail(batch, error)
            return
        for digest, waiter in batch.items():
            if not waiter.done():
                waiter.set_result(found.get(digest))

    async def _query(self, digests: list[bytes]) -> dict[bytes, Session]:
        """Ask once; once more by a new connection if the old one turns out to be lost."""
        fresh = self._connection is None or self._connection.is_closed()
        try:
            return await self._ask(digests)
        except DatabaseUnavailable:
            self._discard_connection()
            if fresh:
                raise
        try:
            return await self._ask(digests)
        except DatabaseUnavailable:
            self._discard_connection()
            raise

    async def _ask(self, digests: list[bytes]) -> dict[bytes, Session]:
        with translated_errors():
            async with asyncio.timeout(self._timeout_s):
                if self._connection is None or self._connection.is_closed():
                    self._connection = await self._connect()
                self.queries += 1
                rows = await self._connection.fetch(sql.FIND_SESSIONS, digests)
                found = _sessions(rows)
                return await self._without_idled(self._connection, found)

    async def _without_idled(
        self, connection: Connection, found: dict[bytes, Session]
    ) -> dict[bytes, Session]:
        """Those of these sessions that have not idled too long."""
        now_us = utc_now_us()
        idled = {digest for digest, session in found.items() if _has_idled(session, now_us)}
        if not idled:
            return found
        doubtful = idled - self._over.keys()
        live: dict[bytes, Session] = {}
        if doubtful:
            async with connection.transaction():
                await connection.fetchval(LOCK_HEAD)
                rows = await connection.fetch(sql.FIND_LIVE_SESSIONS, list(doubtful), moved_ahead())
            live = _sessions(rows)
            self._remember(doubtful - live.keys())
        return {d: session for d, session in found.items() if d not in idled} | live

    def _remember(self, over: Collection[bytes]) -> None:
        self._over |= dict.fromkeys(over)
        while len(self._over) > MAX_REMEMBERED:
            del self._over[next(iter(self._over))]

    def _discard_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()


def _sessions(rows: Sequence[asyncpg.Record]) -> dict[bytes, Session]:
    return {row[0]: Session(packed(session_of(row))) for row in rows}


def _has_idled(session: Session, now_us: int) -> bool:
    return session.expires_us <= now_us and over_by_idling(session.record)


def _fail(waiting: dict[bytes, asyncio.Future[Session | None]], error: BaseException) -> None:
    for waiter in waiting.values():
        if not waiter.done():
            waiter.set_exception(error)
            waiter.exception()  # who asked may be gone; that is no unhandled error


class FoundSession(msgspec.Struct, frozen=True):
    """A session, and the key to what is personal of its user."""

    session: ActiveSession
    key: WrappedKey | None


def _found(row: asyncpg.Record | Sequence[Any]) -> FoundSession:
    *session, wrapped, master_key_id = row
    key = WrappedKey(wrapped, master_key_id) if wrapped is not None else None
    return FoundSession(session_of(session), key)


def _found_at(rows: Sequence[asyncpg.Record]) -> tuple[FoundSession | None, int]:
    if not rows:
        raise DatabaseUnavailable("The log has no head.")
    position, *found = rows[0]
    return (_found(found) if found[0] is not None else None), position


class SessionList:
    """The active sessions in their table, to list them and to find one by its public id."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def of_user(
        self, subject_id: UUID, now: datetime, *, tokens: bool = False
    ) -> list[ActiveSession]:
        """The user's sessions, or the tokens, that have not expired, oldest first."""
        async with self._database.acquire() as connection:
            return [
                session_of(row)
                for row in await connection.fetch(sql.LIST_SESSIONS_OF, subject_id, now, tokens)
            ]

    async def page(self, after: UUID, limit: int, now: datetime) -> list[ActiveSession]:
        """Sessions of everybody, by id. Start with the nil UUID."""
        async with self._database.acquire() as connection:
            rows = await connection.fetch(sql.LIST_SESSIONS, after, limit, now)
        return [session_of(row) for row in rows]

    async def by_digest(self, digest: bytes) -> tuple[FoundSession | None, int]:
        """The session behind a digest, if it is active, and the log's position at that moment."""
        async with self._database.acquire() as connection:
            rows = await connection.fetch(sql.FIND_SESSIONS_AT_HEAD, [digest])
        return _found_at(rows)

    async def by_id(self, session_id: UUID) -> tuple[FoundSession | None, int]:
        """The same for a session's public id."""
        async with self._database.acquire() as connection:
            rows = await connection.fetch(sql.FIND_SESSION, session_id)
        return _found_at(rows)

    async def subjects(self, after: UUID, limit: int) -> list[UUID]:
        """A page of the users who have sessions, by id. Start with the nil UUID."""
        async with self._database.acquire() as connection:
            rows = await connection.fetch(sql.SUBJECTS_WITH_SESSIONS, after, limit)
        return [row[0] for row in rows]

    @asynccontextmanager
    async def sweeping(self) -> AsyncIterator[Sweep | None]:
        """A turn at recording what is over by time; None while somebody else has it.

        It has a connection of its own: with it goes the lock.
        """
        with translated_errors():
            connection = await self._database.connect()
            try:
                sole = await connection.fetchval(sql.LOCK_SWEEP, _SWEEP_LOCK)
                yield Sweep(connection) if sole else None
            finally:
                await connection.close()


class Sweep:
    """Somebody's turn, while nobody else has one."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def expired_users(self, now: datetime, limit: int) -> list[UUID]:
        """Users some of whose sessions are over by time but not yet ended in the log."""
        rows = await self._connection.fetch(sql.EXPIRED_SUBJECTS, now, limit)
        return [row[0] for row in rows]
