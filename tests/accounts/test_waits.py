"""What ends sessions, or says that they have ended, waits for a replica that is behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec
import pytest
from gatelog.accounts.service.accounts import Accounts
from gatelog.accounts.service.acting import Actor, Ended
from gatelog.accounts.service.grants import Grant
from gatelog.accounts.service.passwords import PasswordPool
from gatelog.errors import DatabaseUnavailable, NotFound, OutcomeUnknown
from gatelog.host.embedded import EmbeddedPostgres
from gatelog.log.store import sql
from gatelog.log.store.appender import Appender
from gatelog.log.store.database import Database, connect
from gatelog.log.store.reading import settle
from gatelog.privacy.rules import UNKNOWN_CLIENT
from gatelog.sessions.rules.lease import LeaseRow, Verdict, lease_terms
from gatelog.sessions.rules.record import Session
from gatelog.sessions.rules.tokens import token_digest
from gatelog.sessions.service.barrier import Barrier, Waited
from gatelog.sessions.store.leases import acknowledge, read_leases, write_lease
from gatelog.sessions.store.replica_place import boottime_ns
from gatelog.testing.moving import MovedClock

from tests.builders import CHEAP_CONFIG, session_record
from tests.conftest import HELD_OPEN, Dsns
from tests.waiting import until

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection

PASSWORD = "a long enough password"
CONFIG = msgspec.structs.replace(
    CHEAP_CONFIG,
    max_sessions_per_user=3,
    registration="open",
)
TERMS = lease_terms(600)  # nothing is over by time in a test
NOBODY = UUID(int=1)


class World:
    """Ada with as many sessions as she may have, an administrator, and how long commands waited."""

    def __init__(self, use: Use, connection: Connection) -> None:
        self.accounts, self.barrier, self.waits = use.accounts, use.barrier, use.waits
        self.connection = connection
        self.ada = self.root = NOBODY
        self.grants: list[Grant] = []

    async def fill(self) -> None:
        self.root = await self.accounts.logins.add_user("root", PASSWORD, ("admin",))
        self.ada = await self.accounts.logins.add_user("ada", PASSWORD)
        for _ in range(CONFIG.max_sessions_per_user):
            self.grants.append(await self.accounts.logins.log_in("ada", PASSWORD))

    @property
    def admin(self) -> Actor:
        return Actor(self.root, UNKNOWN_CLIENT)

    @property
    def session(self) -> Session:
        """Ada's first session."""
        active = self.grants[0].session
        return Session(
            session_record(
                session_id=active.session_id,
                subject_id=active.subject_id,
                started_at=active.started_at,
                expires_at=active.expires_at,
                roles=active.roles,
            )
        )

    @property
    def digest(self) -> bytes:
        return token_digest(self.grants[0].token)

    def session_id(self, number: int) -> UUID:
        return self.grants[number].session.session_id

    async def head(self) -> int:
        return (await read_leases(self.connection)).head

    async def replica(self) -> str:
        """Let a replica join that has everything so far; returns its epoch."""
        look = await read_leases(self.connection)
        row = LeaseRow("behind", boottime_ns(), look.head, look.epoch, TERMS.ttl_ns)
        await write_lease(self.connection, row, host="here")
        return look.epoch

    async def end_first(self) -> None:
        """End the first session; who does it goes away before replicas know of it."""
        ending = asyncio.create_task(self.accounts.sessions.log_out(self.digest))
        await self.waits_for_replicas(ending)
        ending.cancel()
        await asyncio.gather(ending, return_exceptions=True)

    async def waits_for_replicas(self, task: asyncio.Future[Any]) -> None:
        """Return when the rows were read for this command, and it was not answered then."""
        await until(lambda: task.done() or bool(self.barrier._waiters))
        looks = self.barrier.looks
        await until(lambda: task.done() or self.barrier.looks > looks + 1)
        assert not task.done(), f"it did not wait: {task}"


class Use(msgspec.Struct, frozen=True):
    """A process of the service."""

    accounts: Accounts
    barrier: Barrier
    waits: list[Waited]


@asynccontextmanager
async def process(database: Dsns) -> AsyncIterator[Use]:
    """What a worker has, which has known the epoch for long."""
    pool = Database(database.app, timeout_s=60, pool_size=4)
    passwords, waits = PasswordPool(CONFIG), list[Waited]()
    try:
        async with (
            Appender(pool.connect, timeout_s=60) as appender,
            Barrier(pool.connect, terms=TERMS, on_wait=waits.append) as barrier,
        ):
            await until(lambda: barrier._seen is not None)
            assert barrier._seen is not None
            long_ago = barrier._seen.since_ns - TERMS.wait_ns
            barrier._seen = msgspec.structs.replace(barrier._seen, since_ns=long_ago)
            accounts = Accounts(
                CONFIG, database=pool, appender=appender, passwords=passwords, barrier=barrier
            )
            yield Use(accounts, barrier, waits)
    finally:
        passwords.close()
        await pool.close()


@pytest.fixture
async def world(database: Dsns, connection: Connection) -> AsyncIterator[World]:
    async with process(database) as use:
        world = World(use, connection)
        await world.fill()
        yield world


Call = Callable[[World], Awaitable[object]]

# Each ends one session at least, of a world in which Ada has all that she may have.
ENDING: dict[str, Call] = {
    "logout": lambda w: w.accounts.sessions.log_out(w.digest),
    "end one": lambda w: w.accounts.sessions.end_session(w.session, w.session_id(1)),
    "end others": lambda w: w.accounts.sessions.end_others(w.session),
    "end all": lambda w: w.accounts.sessions.end_all(w.session),
    "revoke one": lambda w: w.accounts.sessions.revoke_session(w.session_id(0)),
    "revoke as operator": lambda w: w.accounts.sessions.revoke_all(w.ada),
    "revoke as administrator": lambda w: w.accounts.sessions.revoke_all(w.ada, w.admin),
    "disable": lambda w: w.accounts.users.disable(w.ada, w.admin),
    "grant a role": lambda w: w.accounts.users.grant_role(w.ada, "auditor", w.admin),
    "erase": lambda w: w.accounts.users.erase(w.ada, w.admin),
    "change the password": lambda w: w.accounts.logins.change_password(
        w.session, PASSWORD, "new " + PASSWORD
    ),
    "a login too many": lambda w: w.accounts.logins.log_in("ada", PASSWORD),
    "end everybody": lambda w: w.accounts.sessions.end_everybody(),
}


@pytest.mark.parametrize("what", ENDING)
async def test_what_ends_sessions_waits(world: World, what: str) -> None:
    epoch = await world.replica()
    before = await world.head()
    task = asyncio.ensure_future(ENDING[what](world))
    await world.waits_for_replicas(task)
    head = await world.head()
    assert head > before, "nothing has ended"

    await acknowledge(world.connection, "behind", epoch=epoch, position=head - 1)
    await world.waits_for_replicas(task)
    await acknowledge(world.connection, "behind", epoch=epoch, position=head)
    await task

    assert [(w.position, w.outcome) for w in world.waits] == [(head, Verdict.ACKNOWLEDGED)]
    assert world.waits[0].reason is Verdict.REPLICA_BEHIND


async def test_taking_a_role_waits_too(world: World) -> None:
    await world.accounts.users.grant_role(world.ada, "auditor")
    await world.accounts.logins.log_in("ada", PASSWORD)
    epoch = await world.replica()

    task = asyncio.create_task(world.accounts.users.revoke_role(world.ada, "auditor", world.admin))
    await world.waits_for_replicas(task)
    await acknowledge(world.connection, "behind", epoch=epoch, position=await world.head())

    assert (await task).ended == 1


async def test_a_login_that_ends_nothing_does_not_wait(world: World) -> None:
    await world.accounts.sessions.end_all(world.session)
    await world.replica()

    await world.accounts.logins.log_in("ada", PASSWORD)

    assert len(world.waits) == 1, "that of the command before"


async def test_the_end_by_time_does_not_wait(world: World, gatelog_clock: MovedClock) -> None:
    """Nobody is told of it, and memory knows by itself which sessions are over by time."""
    await world.replica()
    gatelog_clock.advance(2 * CONFIG.session_lifetime_s)

    assert await world.accounts.sessions.end_expired() == CONFIG.max_sessions_per_user

    assert world.waits == []


# Each finds that what was to end has ended already.
OVER: dict[str, Call] = {
    "logout": lambda w: w.accounts.sessions.log_out(w.digest),
    "end one": lambda w: w.accounts.sessions.end_session(w.session, w.session_id(0)),
    "revoke one": lambda w: w.accounts.sessions.revoke_session(w.session_id(0)),
    "end one of somebody else": lambda w: w.accounts.sessions.end_session(w.session, NOBODY),
}
NOT_FOUND = [what for what in OVER if what != "logout"]


@pytest.mark.parametrize("what", OVER)
async def test_what_finds_nothing_to_end_waits(world: World, what: str) -> None:
    """Its end may be a millisecond old, and whoever ended it was told nothing."""
    epoch = await world.replica()
    await world.end_first()

    task = asyncio.ensure_future(OVER[what](world))
    await world.waits_for_replicas(task)
    await acknowledge(world.connection, "behind", epoch=epoch, position=await world.head())

    if what in NOT_FOUND:
        with pytest.raises(NotFound):
            await task
    else:
        await task
    assert world.waits[-1].reason is Verdict.REPLICA_BEHIND


async def test_a_session_of_somebody_else_is_waited_for_like_none(world: World) -> None:
    other = await world.accounts.logins.add_user("bob", PASSWORD)
    theirs = await world.accounts.logins.log_in("bob", PASSWORD)
    assert theirs.session.subject_id == other
    epoch = await world.replica()
    await world.end_first()

    task = asyncio.create_task(
        world.accounts.sessions.end_session(world.session, theirs.session.session_id)
    )
    await world.waits_for_replicas(task)
    await acknowledge(world.connection, "behind", epoch=epoch, position=await world.head())

    with pytest.raises(NotFound):
        await task


# What has ended and may not be on the standby.

WAITING = """
SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND datname = current_database()
"""


@asynccontextmanager
async def unreachable_standby(postgres: EmbeddedPostgres) -> AsyncIterator[Connection]:
    """Meanwhile, every commit waits for a standby that is not there, until ``reached``."""
    superuser = await connect(postgres.superuser_dsn(), role=None)
    committing = await connect(postgres.superuser_dsn(), role=None)
    await superuser.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
    tried: list[asyncio.Task[str]] = []

    async def is_waited_for() -> bool:
        if not tried or tried[-1].done():
            tried.append(asyncio.create_task(committing.execute(sql.SETTLE)))
        return bool(await superuser.fetch(WAITING))

    try:
        await superuser.execute("SELECT pg_reload_conf()")
        await until(is_waited_for, within_s=60)
        yield superuser
    finally:
        await reached(superuser)
        await asyncio.gather(*tried)
        await committing.close()
        await superuser.close()


async def reached(superuser: Connection) -> None:
    """From here on no commit waits any more."""
    await superuser.execute("ALTER SYSTEM RESET synchronous_standby_names")
    await superuser.execute("SELECT pg_reload_conf()")


# Each finds nothing to end, the first one at its look-up and the other one under the lock.
NOTHING: dict[str, Callable[[Accounts, Grant], Awaitable[Ended]]] = {
    "logout": lambda accounts, grant: accounts.sessions.log_out(token_digest(grant.token)),
    "end all": lambda accounts, grant: accounts.sessions.revoke_all(grant.session.subject_id),
}


@pytest.mark.parametrize("what", NOTHING)
async def test_nothing_to_end_is_told_when_the_standby_has_that_end(
    postgres: EmbeddedPostgres, database: Dsns, what: str
) -> None:
    """The commit of a logout waited for a standby, and that wait was cut short."""
    watching = await connect(database.superuser, role=None)
    async with process(database) as use:
        await use.accounts.logins.add_user("ada", PASSWORD)
        grant = await use.accounts.logins.log_in("ada", PASSWORD)

    async def is_waiting() -> bool:
        return bool(await watching.fetch(WAITING))

    async def has_ended() -> bool:
        await watching.execute(f"SELECT pg_terminate_backend(pid) FROM ({WAITING}) AS waiting")
        return not await watching.fetch("SELECT FROM active_sessions") and not await is_waiting()

    async with unreachable_standby(postgres) as superuser:
        async with process(database) as use:
            logout = asyncio.create_task(use.accounts.sessions.log_out(token_digest(grant.token)))
            await until(is_waiting)
        with pytest.raises(OutcomeUnknown):
            await logout
        await until(has_ended)

        async with process(database) as use:
            task = asyncio.ensure_future(NOTHING[what](use.accounts, grant))

            async def is_waiting_or_done() -> bool:
                return task.done() or await is_waiting()

            await until(is_waiting_or_done)
            assert not task.done(), "a failover would bring the session back"
            await reached(superuser)
            assert (await task).ended == 0
    await watching.close()


async def test_a_wait_that_is_cut_short_says_so(
    postgres: EmbeddedPostgres, database: Dsns, connection: Connection
) -> None:
    watching = await connect(database.superuser, role=None)

    async def is_cut_short() -> bool:
        await watching.execute(f"SELECT pg_cancel_backend(pid) FROM ({WAITING}) AS waiting")
        return task.done()

    async with unreachable_standby(postgres):
        task = asyncio.create_task(settle(connection))
        await until(is_cut_short)
    with pytest.raises(DatabaseUnavailable):
        await task
    await watching.close()


async def test_without_standbys_nothing_is_written(database: Dsns) -> None:
    connection = await connect(database.app, settings=HELD_OPEN)
    async with connection.transaction():
        await settle(connection)
        assert await connection.fetchval("SELECT pg_current_xact_id_if_assigned()") is None
    await connection.close()
