"""Opens everything that a process of the service needs, and closes it in order.

Nothing here needs the database to be up: connections are made when they are first used, and
again after every loss.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec

from gatelog.accounts.service.accounts import Accounts
from gatelog.accounts.service.passwords import PasswordPool
from gatelog.audit.service.asof import AsOf
from gatelog.audit.service.audit import Audit
from gatelog.audit.service.export import Exports, LogPages
from gatelog.audit.service.follow import Follower
from gatelog.audit.store.asof import PLANNED_FOR_MARKS
from gatelog.audit.store.queries import PLANNED_FOR_INDEXES
from gatelog.config import Config
from gatelog.errors import GatelogError
from gatelog.hosting.gauges import HostGauges
from gatelog.kinds import register_all
from gatelog.log.store.appender import Appender
from gatelog.log.store.database import Database
from gatelog.proofs.service.history import history_guard
from gatelog.proofs.service.proofs import Proofs
from gatelog.session_data.service.data import SessionData
from gatelog.sessions.rules.lease import lease_terms
from gatelog.sessions.service.barrier import Barrier
from gatelog.sessions.service.gate import Gate, know_nothing
from gatelog.sessions.service.herald import Herald
from gatelog.sessions.service.metrics import count_wait
from gatelog.sessions.store.lookup import PrimaryLookup
from gatelog.sessions.store.replica import ReplicaReader
from gatelog.sessions.store.replica_place import ReplicaPlace

logger = logging.getLogger(__name__)

SWEEP_INTERVAL_S = 60.0
IDLE_LOOK_S = 10.0  # at the leases, where there is no other host


class Services(msgspec.Struct, frozen=True):
    """What handlers and commands work with."""

    accounts: Accounts
    gate: Gate
    proofs: Proofs
    audit: Audit
    as_of: AsOf
    exports: Exports
    follower: Follower
    gauges: HostGauges
    session_data: SessionData


@asynccontextmanager
async def open_services(
    config: Config, dsn: str, *, guarded: bool = True
) -> AsyncIterator[Services]:
    """The services on this database, until the context ends.

    ``guarded``: refuse a database that lacks what was signed (``gatelog.proofs.service.history``).
    """
    register_all()
    timeout_s = config.database_timeout_s
    async with AsyncExitStack() as stack:
        database, log, marks = await stack.enter_async_context(_pools(config, dsn, guarded=guarded))
        passwords, replica = PasswordPool(config), ReplicaReader(ReplicaPlace(config))
        stack.callback(passwords.close)
        stack.callback(replica.close)
        appender = Appender(
            database.connect,
            timeout_s=timeout_s,
            max_batch=config.append_batch,
            max_queue=config.append_queue,
        )
        lookup = PrimaryLookup(database.connect, timeout_s=timeout_s, max_queue=config.lookup_queue)
        barrier = Barrier(
            database.connect,
            terms=lease_terms(config.lease_ttl_s),
            idle_look_s=IDLE_LOOK_S if config.embedded else None,
            on_wait=count_wait,
        )
        herald = Herald(database)
        stack.push_async_callback(herald.close)
        for opened in (appender, lookup, barrier):
            await stack.enter_async_context(opened)
        audit = Audit(config, database=log, appender=appender)
        pages = LogPages(log, audit.personal)
        follower = Follower(config, log, pages)
        stack.push_async_callback(follower.close)
        accounts = Accounts(
            config,
            database=database,
            appender=appender,
            passwords=passwords,
            barrier=barrier,
            tell=herald.tell,
        )
        stack.push_async_callback(accounts.close)
        yield Services(
            accounts=accounts,
            gate=Gate(lookup, know_nothing if config.check == "strict" else replica.peek),
            proofs=Proofs(log),
            audit=audit,
            as_of=AsOf(marks),
            exports=Exports(config, pages),
            follower=follower,
            gauges=HostGauges(log, None if config.check == "strict" else replica),
            session_data=SessionData(config, database),
        )


@asynccontextmanager
async def _pools(
    config: Config, dsn: str, *, guarded: bool
) -> AsyncIterator[tuple[Database, Database, Database]]:
    """Connections for accounts, for who reads the log, and for who reads its marks.

    Three pools, so that no number of auditors takes the connections that logins need.
    """
    accept = history_guard(config) if guarded else None
    timeout_s = config.database_timeout_s
    database, log, marks = (
        Database(dsn, timeout_s=timeout_s, pool_size=size, settings=settings, accept=accept)
        for size, settings in (
            (config.database_pool, None),
            (config.audit_pool, PLANNED_FOR_INDEXES),
            (config.audit_pool, PLANNED_FOR_MARKS),
        )
    )
    try:
        yield database, log, marks
    finally:
        await marks.close()
        await log.close()
        await database.close()


@asynccontextmanager
async def sweeping(accounts: Accounts) -> AsyncIterator[None]:
    """Meanwhile, record now and then which sessions are over by time, and forget what is due."""
    task = asyncio.create_task(_sweep(accounts), name="sweep")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _sweep(accounts: Accounts) -> None:
    while True:
        await asyncio.sleep(SWEEP_INTERVAL_S)
        try:
            await accounts.sessions.end_expired()
            await accounts.logins.forget_overdue()
        except GatelogError as error:
            logger.warning("sweep: %s", error)
