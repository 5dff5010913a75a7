"""Connections to PostgreSQL, and the one place where its errors become ours.

Rules:

- The application acts as the role ``gatelog_app``, whatever role the URL logs in as.
- Nothing waits for the database without a limit: connecting, a statement, a lock, an idle
  transaction (a stopped process must not keep the log's head locked).
- A connection on which something timed out is closed, not reused: its state is unknown.
- What a guarantee rests on is set on each connection, whatever the database's or the role's
  defaults are: durability, isolation, where tables are looked for, how values are written. It is
  set by a statement and not by startup parameters, which a pooler in between may drop.
- Behind a pooler that gives each transaction another connection, none of this would last:
  ``refuse_shared_sessions`` finds out.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from gatelog.errors import ConfigError, DatabaseUnavailable, OperatorError, SchemaMismatch
from gatelog.log.store import sql

if TYPE_CHECKING:
    Pool = asyncpg.Pool[asyncpg.Record]
    Connection = asyncpg.Connection[asyncpg.Record]
    Proxy = asyncpg.pool.PoolConnectionProxy[asyncpg.Record]
    PooledConnection = Proxy | Connection
    Accept = Callable[[Connection], Awaitable[None]]

logger = logging.getLogger(__name__)

APP_ROLE = "gatelog_app"
# Of a transaction in which this process has much to do between two statements.
PATIENT = {"idle_in_transaction_session_timeout": "60s"}
CONNECT_TIMEOUT_S = 3.0
SHARED_SESSIONS = (
    "a pooler in between (PgBouncer) gives each transaction another session: let it pool sessions,"
    " or name PostgreSQL itself"
)
REST_S = 0.1  # between tries to connect, while the database is away

# What a lost, refused, stopped or restarting server looks like through asyncpg, and one that gave a
# transaction up in favour of another. It passes, and is tried again on a new connection.
LOST = (
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.TooManyConnectionsError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.LockNotAvailableError,
    asyncpg.TransactionRollbackError,  # a deadlock, above all
    asyncpg.InvalidCachedStatementError,  # in a transaction; a migration went by
    asyncpg.InsufficientResourcesError,
    asyncpg.PostgresSystemError,
    asyncpg.InternalClientError,
    asyncpg.ReadOnlySQLTransactionError,
    ConnectionError,
    TimeoutError,
    OSError,
)


@contextmanager
def translated_errors() -> Iterator[None]:
    """Driver errors become ours. One that nobody foresaw is logged: nothing can be known then."""
    try:
        yield
    except asyncpg.InvalidAuthorizationSpecificationError as error:
        raise ConfigError("GATELOG_DATABASE_URL", f"the database refuses it: {error}") from error
    except (asyncpg.InvalidCatalogNameError, asyncpg.ClientConfigurationError) as error:
        raise ConfigError("GATELOG_DATABASE_URL", str(error)) from error
    except (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError) as error:
        raise SchemaMismatch(f"The schema does not fit: {error}") from error
    except (asyncpg.InvalidSQLStatementNameError, asyncpg.DuplicatePreparedStatementError) as error:
        raise ConfigError("GATELOG_DATABASE_URL", SHARED_SESSIONS) from error
    except asyncpg.InvalidSchemaNameError as error:
        detail = "there is no schema 'public', or its role may not use it"
        raise ConfigError("GATELOG_DATABASE_URL", f"{detail}: {error}") from error
    except asyncpg.InsufficientPrivilegeError as error:
        detail = f"the database's role may not do this ({error}); its owner may, see"
        raise OperatorError(f"{detail} GATELOG_OWNER_DATABASE_URL") from error
    except LOST as error:
        raise DatabaseUnavailable(_describe(error)) from error
    except asyncpg.PostgresError as error:
        logger.exception("the database refuses what nobody foresaw")
        raise DatabaseUnavailable(_describe(error)) from error


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _settings(
    role: str | None, timeout_s: float, others: Mapping[str, str] | None
) -> dict[str, str]:
    ms = str(int(timeout_s * 1000))
    settings = {
        "application_name": "gatelog",
        "statement_timeout": ms,
        "lock_timeout": ms,
        "idle_in_transaction_session_timeout": "2000",
        "tcp_keepalives_idle": "5",
        "tcp_keepalives_interval": "2",
        "tcp_keepalives_count": "3",
        "jit": "off",
        # every statement is made for its indexes, whatever the statistics say at the moment
        "plan_cache_mode": "force_generic_plan",
        # whatever the defaults of the database or the role
        "synchronous_commit": "on",
        "default_transaction_isolation": "read committed",
        "default_transaction_read_only": "off",
        "default_transaction_deferrable": "off",
        "search_path": "public",
        "TimeZone": "UTC",
        "DateStyle": "ISO, MDY",
        "IntervalStyle": "postgres",
        "bytea_output": "hex",
        "standard_conforming_strings": "on",
        "row_security": "on",
        "idle_session_timeout": "0",
    }
    settings |= dict(others or {})
    if role is not None:
        settings["role"] = role  # the last one
    return settings


# The server that took a connection last, by URL: of several it is tried first.
_last_primary: dict[str, str] = {}


def _servers(dsn: str) -> list[str]:
    """One URL for each server that the URL names, the last known primary first.

    asyncpg's own way through several hosts stops at one that accepts a connection and then fails,
    as a server does that is going down, and has one limit of time for all of them.
    """
    parts = urlsplit(dsn)
    login, at, hosts = parts.netloc.rpartition("@")
    urls = [parts._replace(netloc=f"{login}{at}{host}").geturl() for host in hosts.split(",")]
    last = _last_primary.get(dsn)
    return sorted(urls, key=lambda url: url != last)


async def connect(
    dsn: str,
    *,
    role: str | None = APP_ROLE,
    timeout_s: float = 600.0,
    settings: Mapping[str, str] | None = None,
) -> Connection:
    """A connection of one's own to the primary, with limits. ``role`` None keeps the login role.

    ``settings`` are of the server's, beside those that every connection has.
    Raises DatabaseUnavailable or, for what waiting will not mend, ConfigError.
    """
    with translated_errors():
        wanted = _settings(role, timeout_s, settings)
        *others, last = _servers(dsn)
        for server in others:
            try:
                connection = await _connect(server, timeout_s, wanted)
            except LOST:
                continue
            break
        else:
            server, connection = last, await _connect(last, timeout_s, wanted)
    _last_primary[dsn] = server
    return connection


async def connect_if(
    accept: Accept | None,
    dsn: str,
    *,
    timeout_s: float,
    settings: Mapping[str, str] | None = None,
) -> Connection:
    """The same, unless ``accept`` refuses the connection by raising an error."""
    connection = await connect(dsn, timeout_s=timeout_s, settings=settings)
    try:
        if accept is not None:
            with translated_errors():
                await accept(connection)
    except BaseException:
        connection.terminate()
        raise
    return connection


async def _connect(server: str, timeout_s: float, settings: Mapping[str, str]) -> Connection:
    async with asyncio.timeout(CONNECT_TIMEOUT_S):
        connection: Connection = await asyncpg.connect(
            server,
            timeout=CONNECT_TIMEOUT_S,
            command_timeout=timeout_s,
            target_session_attrs=SessionAttribute.read_write,
        )
        try:
            _refuse_other_encodings(connection)
            await connection.execute(sql.SET_UP, list(settings), list(settings.values()))
        except asyncpg.InvalidParameterValueError as error:
            raise SchemaMismatch("The database is not migrated. Run 'migrate'.") from error
        except BaseException:
            connection.terminate()
            raise
        return connection


def _refuse_other_encodings(connection: Connection) -> None:
    """Raises ConfigError for a database that cannot hold every name there is."""
    encoding = connection.get_settings().server_encoding
    if encoding != "UTF8":
        raise ConfigError(
            "GATELOG_DATABASE_URL", f"the database is encoded in {encoding}; UTF8 is needed"
        )


async def refuse_shared_sessions(dsn: str) -> None:
    """Raises ConfigError behind a pooler that gives each transaction another connection.

    A connection of PostgreSQL keeps its process. Where that of one session is found behind another
    while both are open, or changes, a session is not one.
    """
    first = await connect(dsn, role=None)
    try:
        with translated_errors():
            own: int = await first.fetchval(sql.BACKEND)
            if own == first.get_server_pid():
                return  # nobody is in between
            second = await connect(dsn, role=None)
            try:
                shared = await second.fetchval(sql.BACKEND) == own
                shared = shared or await first.fetchval(sql.BACKEND) != own
            finally:
                second.terminate()
    finally:
        first.terminate()
    if shared:
        raise ConfigError("GATELOG_DATABASE_URL", SHARED_SESSIONS)


async def _keep_session(connection: Connection) -> None:
    """Nothing here changes a pooled connection's session state: spare the reset's round trip."""


class Database:
    """A bounded pool of connections, opened when first needed and again after every loss.

    ``accept`` looks at each new connection, of the pool and outside of it, before it is used; what
    it raises keeps the connection from being used. ``settings``: see ``connect``.
    ``waiting``: how many wait for a connection now.
    """

    def __init__(
        self,
        dsn: str,
        *,
        timeout_s: float,
        pool_size: int,
        settings: Mapping[str, str] | None = None,
        accept: Accept | None = None,
    ) -> None:
        self.dsn = dsn
        self._accept = accept
        self.timeout_s = timeout_s
        self._settings = settings
        self._pool_size = pool_size
        self._pool: Pool | None = None
        self._opening = asyncio.Lock()
        self._resting_until = 0.0
        self.waiting = 0

    @property
    def connections(self) -> tuple[int, int]:
        """How many connections are in use, and how many idle."""
        if self._pool is None:
            return 0, 0
        idle = self._pool.get_idle_size()
        return self._pool.get_size() - idle, idle

    async def connect(self) -> Connection:
        """A connection of one's own, outside the pool."""
        return await connect_if(
            self._accept, self.dsn, timeout_s=self.timeout_s, settings=self._settings
        )

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[PooledConnection]:
        """A pooled connection. Raises DatabaseUnavailable when there is none within the limit."""
        with translated_errors():
            pool = await self._open()
            connection = await self._take(pool)
            try:
                yield connection
            except (TimeoutError, asyncio.CancelledError):
                connection.terminate()
                raise
            finally:
                await pool.release(connection)

    async def _take(self, pool: Pool) -> Proxy:
        """A connection; after a failure nobody tries for a moment, so that a start is not hurt."""
        now = asyncio.get_running_loop().time
        if now() < self._resting_until:
            raise DatabaseUnavailable()
        self.waiting += 1
        try:
            return await pool.acquire(timeout=self.timeout_s)
        except LOST:
            self._resting_until = now() + REST_S
            raise
        finally:
            self.waiting -= 1

    async def _connect_for_pool(self, *_: Any, **__: Any) -> Connection:
        return await self.connect()

    async def _open(self) -> Pool:
        async with self._opening:
            if self._pool is None:
                self._pool = await asyncpg.create_pool(
                    connect=self._connect_for_pool,
                    min_size=0,
                    max_size=self._pool_size,
                    reset=_keep_session,
                )
            return self._pool

    async def close(self) -> None:
        if self._pool is not None:
            pool, self._pool = self._pool, None
            try:
                async with asyncio.timeout(self.timeout_s):
                    await pool.close()
            except TimeoutError:
                pool.terminate()
