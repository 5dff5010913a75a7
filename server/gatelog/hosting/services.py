"""Opens everything that a process of the service needs, and closes it in order.

Nothing here needs the database to be up: connections are made when they are first used, and
again after every loss.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

import msgspec

from gatelog.accounts.service.accounts import Accounts
from gatelog.accounts.service.acting import Acting
from gatelog.accounts.service.passwords import PasswordPool
from gatelog.audit.service.asof import AsOf
from gatelog.audit.service.audit import Audit
from gatelog.audit.service.export import Exports, LogPages
from gatelog.audit.service.follow import Follower
from gatelog.audit.store.asof import PLANNED_FOR_MARKS
from gatelog.audit.store.statements import PLANNED_FOR_INDEXES
from gatelog.clock import utc_now_ns
from gatelog.composer.service.services import ComposerServices, composing, never_in_memory
from gatelog.config import Config
from gatelog.console.service.console import Console, make_console
from gatelog.errors import GatelogError
from gatelog.hosting.gauges import HostGauges, ProcessGauges
from gatelog.kinds import register_all
from gatelog.log.store.appender import Appender
from gatelog.log.store.database import Database
from gatelog.mail.store.outbox import OutboxStore
from gatelog.privacy.service.keyring import Keyring
from gatelog.privacy.service.personal import PersonalData
from gatelog.privacy.service.tracing import Tracing
from gatelog.privacy.store.keys import KeyStore
from gatelog.proofs.service.history import history_guard
from gatelog.proofs.service.proofs import Proofs
from gatelog.session_data.service.data import SessionData
from gatelog.sessions.rules.lease import lease_terms
from gatelog.sessions.service.barrier import Barrier
from gatelog.sessions.service.gate import Gate, know_nothing
from gatelog.sessions.service.herald import Herald
from gatelog.sessions.service.identity import IdentitySigner
from gatelog.sessions.service.metrics import MemoryChecks, count_wait
from gatelog.sessions.service.renewals import Renewals, interval_s
from gatelog.sessions.store.lookup import PrimaryLookup
from gatelog.sessions.store.replica import ReplicaReader
from gatelog.sessions.store.replica_place import ReplicaPlace

logger = logging.getLogger(__name__)

SWEEP_INTERVAL_S = 60.0
FIRST_SWEEP_AFTER_S = 5.0  # what was over while nobody ran is not left for a minute more
IDLE_LOOK_S = 10.0  # at the leases, where there is no other host


class Services(msgspec.Struct, frozen=True):
    """What handlers and commands work with. ``tells``: they tell the metrics what they know."""

    accounts: Accounts
    gate: Gate
    proofs: Proofs
    audit: Audit
    as_of: AsOf
    exports: Exports
    follower: Follower
    gauges: HostGauges
    session_data: SessionData
    identity_signer: IdentitySigner
    tracing: Tracing
    console: Console
    composing: ComposerServices
    tells: tuple[Callable[[], None], ...] = ()


@asynccontextmanager
async def open_services(
    config: Config, dsn: str, *, guarded: bool = True
) -> AsyncIterator[Services]:
    """The services on this database, until the context ends.

    ``guarded``: refuse a database that lacks what was signed (``gatelog.proofs.service.history``).
    """
    register_all()
    async with AsyncExitStack() as stack:
        database, log, marks = await stack.enter_async_context(_pools(config, dsn, guarded=guarded))
        passwords = PasswordPool(config)
        stack.callback(passwords.close)
        appender = _appender(config, database)
        herald = Herald(database)
        stack.push_async_callback(herald.close)
        signer = IdentitySigner(config, Keyring(config, KeyStore(database)))
        for opened in (appender, signer.looking()):
            await stack.enter_async_context(opened)
        check = await stack.enter_async_context(_check(config, database, appender))
        audit = Audit(config, database=log, appender=appender)
        pages = LogPages(log, audit.personal)
        follower = Follower(config, log, pages)
        stack.push_async_callback(follower.close)
        accounts = Accounts(
            config,
            database=database,
            appender=appender,
            passwords=passwords,
            barrier=check.barrier,
            tell=herald.tell,
        )
        stack.push_async_callback(accounts.close)
        composer = await stack.enter_async_context(_composing(config, database, appender, check))
        yield Services(
            accounts=accounts,
            gate=check.gate,
            proofs=Proofs(log),
            audit=audit,
            as_of=AsOf(marks),
            exports=Exports(config, pages),
            follower=follower,
            gauges=_gauges(config, log, check),
            session_data=SessionData(config, database),
            identity_signer=signer,
            tracing=Tracing(log, audit.personal),
            console=make_console(config, log, audit.personal),
            composing=composer,
            tells=(
                MemoryChecks(lambda: check.replica.answered).tell,
                ProcessGauges(
                    {"accounts": database, "log": log, "marks": marks},
                    lambda: accounts.waiting_to_hash,
                ).tell,
            ),
        )


def _appender(config: Config, database: Database) -> Appender:
    return Appender(
        database.connect,
        timeout_s=config.database_timeout_s,
        max_batch=config.append_batch,
        max_queue=config.append_queue,
    )


def _composing(
    config: Config, database: Database, appender: Appender, check: _Check
) -> AbstractAsyncContextManager[ComposerServices]:
    """The composer, on what accounts have: those who read the log take nothing from it."""
    return composing(
        config,
        database=database,
        acting=Acting(database=database, appender=appender, barrier=check.barrier),
        personal=PersonalData(config, database),
        peek=never_in_memory if config.check == "strict" else check.replica.announced,
    )


def _gauges(config: Config, log: Database, check: _Check) -> HostGauges:
    """How things stand on this host, of what it has."""
    replica = None if config.check == "strict" else check.replica
    return HostGauges(log, replica, OutboxStore(log) if config.mails else None)


class _Check(msgspec.Struct, frozen=True):
    """What tells whether a session is active, and what the end of one waits for."""

    gate: Gate
    barrier: Barrier
    replica: ReplicaReader


@asynccontextmanager
async def _check(config: Config, database: Database, appender: Appender) -> AsyncIterator[_Check]:
    """The check, until the context ends; the use of sessions is recorded by this appender."""
    lookup = PrimaryLookup(
        database.connect, timeout_s=config.database_timeout_s, max_queue=config.lookup_queue
    )
    barrier = Barrier(
        database.connect,
        terms=lease_terms(config.lease_ttl_s),
        idle_look_s=IDLE_LOOK_S if config.embedded else None,
        on_wait=count_wait,
    )
    renewals = Renewals(appender.submit, interval_s=interval_s(config.shortest_idle_s))
    replica = ReplicaReader(ReplicaPlace(config), wall_ns=utc_now_ns, on_use=renewals.note)
    async with AsyncExitStack() as stack:
        stack.callback(replica.close)
        for opened in (lookup, barrier):
            await stack.enter_async_context(opened)
        stack.push_async_callback(renewals.close)
        if config.check == "strict":
            gate = Gate(lookup, know_nothing, on_use=renewals.note)
        else:
            gate = Gate(lookup, replica.peek, look=replica.look, on_use=renewals.note)
        yield _Check(gate, barrier, replica)


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


@asynccontextmanager
async def mailing(config: Config, accounts: Accounts) -> AsyncIterator[None]:
    """Meanwhile, send the mails that are due, if this service sends any."""
    if not config.mails:
        yield
        return
    async with accounts.mailer.working():
        yield


async def _sweep(accounts: Accounts) -> None:
    pause_s = FIRST_SWEEP_AFTER_S
    while True:
        await asyncio.sleep(pause_s)
        pause_s = SWEEP_INTERVAL_S
        try:
            await accounts.sessions.end_expired()
            await accounts.logins.forget_overdue()
        except GatelogError as error:
            logger.warning("sweep: %s", error)
