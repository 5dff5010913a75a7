"""Reading the log: what is opened for whom, and that reading about others is recorded, once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec
import pytest
from gatelog.accounts.service.accounts import Accounts
from gatelog.accounts.service.acting import Actor
from gatelog.accounts.service.passwords import PasswordPool
from gatelog.audit.rules.events import AuditedRead, AuditRead
from gatelog.audit.rules.shown import AuditFilter
from gatelog.audit.service.audit import Audit
from gatelog.audit.store.statements import PLANNED_FOR_INDEXES
from gatelog.clock import new_random_id
from gatelog.config import Config
from gatelog.errors import (
    InvalidCredentials,
    KeysUnavailable,
    NotAuthenticated,
    NotFound,
    Unavailable,
)
from gatelog.log.store.appender import Appender
from gatelog.log.store.database import Database, connect
from gatelog.log.store.reading import read_events
from gatelog.privacy.rules import UNKNOWN_CLIENT, Client
from gatelog.sessions.service.barrier import Barrier

from tests.builders import CHEAP_CONFIG
from tests.conftest import HELD_OPEN, Clock, Dsns
from tests.waiting import until

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection

PASSWORD = "a long enough password"
CONFIG = msgspec.structs.replace(CHEAP_CONFIG, registration="open")
OTHER_KEY = msgspec.structs.replace(CONFIG, master_key="B" * 43)
DESK = Client("192.0.2.9", "auditors-browser")
HOME = Client("192.0.2.1", "firefox")

EVENTS_AND_LOG: tuple[AuditedRead, ...] = ("events", "log") * 5


class Host:
    """One process of the service, as far as it reads the log."""

    def __init__(self, audit: Audit, appender: Appender) -> None:
        self.audit, self.appender = audit, appender


@asynccontextmanager
async def a_host(dsn: str, clock: Clock, config: Config = CONFIG) -> AsyncIterator[Host]:
    pool = Database(dsn, timeout_s=5, pool_size=2, settings=PLANNED_FOR_INDEXES)
    async with Appender(pool.connect, timeout_s=5) as appender:
        yield Host(Audit(config, database=pool, appender=appender, now=clock), appender)
    await pool.close()


@pytest.fixture
async def host(database: Dsns, clock: Clock) -> AsyncIterator[Host]:
    async with a_host(database.app, clock) as host:
        yield host


@pytest.fixture
async def accounts(
    database: Dsns, appender: Appender, barrier: Barrier, clock: Clock
) -> AsyncIterator[Accounts]:
    pool = Database(database.app, timeout_s=5, pool_size=2)
    passwords = PasswordPool(CONFIG)
    yield Accounts(
        CONFIG, database=pool, appender=appender, passwords=passwords, barrier=barrier, now=clock
    )
    passwords.close()
    await pool.close()


@pytest.fixture
async def audrey(accounts: Accounts) -> UUID:
    return await accounts.logins.add_user("audrey", PASSWORD, ("auditor",))


async def reads(connection: Connection) -> list[AuditRead]:
    """What the log says of reading."""
    events = [stored.event() for stored in await read_events(connection, 0)]
    return [event for event in events if isinstance(event, AuditRead)]


# --- being seen to read


async def test_one_event_for_a_caller_and_minute_whatever_host_is_asked(
    host: Host, database: Dsns, clock: Clock, connection: Connection, audrey: UUID
) -> None:
    async with a_host(database.app, clock) as other:
        await asyncio.gather(
            *(
                each.audit.recorded_read(audrey, what, DESK)
                for each in (host, other)
                for what in EVENTS_AND_LOG
            )
        )
        assert len(await reads(connection)) == 1
        clock.advance(59)
        await other.audit.recorded_read(audrey, "export", DESK)
        assert len(await reads(connection)) == 1
        clock.advance(1)
        await other.audit.recorded_read(audrey, "export", DESK)
        await host.audit.recorded_read(audrey, "log", DESK)
    found = await reads(connection)
    assert [event.subject_id for event in found] == [audrey, audrey]
    assert found[0].what in {"events", "log"}
    assert found[1].what == "export"


async def test_everybody_who_reads_is_recorded(
    host: Host, connection: Connection, accounts: Accounts, audrey: UUID
) -> None:
    root = await accounts.logins.add_user("root", PASSWORD, ("admin",))
    await host.audit.recorded_read(audrey, "events", DESK)
    await host.audit.recorded_read(root, "user_sessions", DESK)
    assert [(event.subject_id, event.what) for event in await reads(connection)] == [
        (audrey, "events"),
        (root, "user_sessions"),
    ]


async def test_reading_on_costs_nothing(host: Host, audrey: UUID) -> None:
    await host.audit.recorded_read(audrey, "events", DESK)
    commits = host.appender.commits
    await host.audit.database.close()
    await host.appender.__aexit__()
    for _ in range(100):
        await host.audit.recorded_read(audrey, "events", DESK)
    assert host.appender.commits == commits == 1


async def test_it_is_recorded_from_where(host: Host, audrey: UUID) -> None:
    await host.audit.recorded_read(audrey, "events", DESK)
    page = await host.audit.page(AuditFilter(address=DESK.address))
    (event,) = page.events
    assert (event.type, event.user_id, event.what) == ("audit_read", audrey, "events")
    assert (event.address, event.user_agent) == ("192.0.2.9", "auditors-browser")


async def test_who_may_not_read_is_refused_and_not_recorded(
    host: Host, accounts: Accounts, connection: Connection, audrey: UUID
) -> None:
    """Also when the role, or the user, went a moment after the session was checked."""
    nobody = await accounts.logins.add_user("nobody", PASSWORD)
    gone = await accounts.logins.add_user("gone", PASSWORD, ("auditor",))
    disabled = await accounts.logins.add_user("disabled", PASSWORD, ("admin",))
    await accounts.users.erase(gone)
    await accounts.users.disable(disabled)
    await accounts.users.revoke_role(audrey, "auditor")
    for caller in (nobody, gone, disabled, audrey, new_random_id()):
        with pytest.raises(NotAuthenticated):
            await host.audit.recorded_read(caller, "events", DESK)
    assert await reads(connection) == []


async def test_what_cannot_be_recorded_fails_and_is_tried_again(
    host: Host, database: Dsns, clock: Clock, connection: Connection, audrey: UUID
) -> None:
    blocker = await connect(database.app, settings=HELD_OPEN)
    pool = Database(database.app, timeout_s=0.3, pool_size=1)
    async with Appender(pool.connect, timeout_s=0.3) as appender:
        audit = Audit(CONFIG, database=pool, appender=appender, now=clock)

        async def is_recorded() -> bool:
            try:
                await audit.recorded_read(audrey, "events", DESK)
            except Unavailable:
                return False
            assert len(await reads(connection)) == 1, "it is durable before anything is shown"
            return True

        async with blocker.transaction():
            await blocker.execute("SELECT FROM log_head FOR UPDATE")
            with pytest.raises(Unavailable):
                await audit.recorded_read(audrey, "events", DESK)
        await until(is_recorded)  # what was in flight may have arrived, and is the one event then
    assert len(await reads(connection)) == 1
    await pool.close()
    await blocker.close()


async def test_a_caller_who_goes_away_takes_nobody_along(
    host: Host, database: Dsns, connection: Connection, audrey: UUID
) -> None:
    blocker = await connect(database.app, settings=HELD_OPEN)
    async with blocker.transaction():
        await blocker.execute("SELECT FROM log_head FOR UPDATE")
        first = asyncio.create_task(host.audit.recorded_read(audrey, "events", DESK))
        second = asyncio.create_task(host.audit.recorded_read(audrey, "log", DESK))
        await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
    await second
    assert [event.what for event in await reads(connection)] == ["events"]
    await blocker.close()


async def test_without_the_master_key_nothing_is_read(
    database: Dsns, clock: Clock, audrey: UUID, connection: Connection
) -> None:
    async with a_host(database.app, clock, OTHER_KEY) as host:
        with pytest.raises(KeysUnavailable):
            await host.audit.recorded_read(audrey, "events", DESK)
        with pytest.raises(KeysUnavailable):
            await host.audit.page(AuditFilter(address="192.0.2.1"))
        with pytest.raises(KeysUnavailable):
            await host.audit.page(AuditFilter())
    assert await reads(connection) == []


# --- what is opened


async def test_an_auditor_sees_who_and_from_where(
    host: Host, accounts: Accounts, audrey: UUID
) -> None:
    alice = await accounts.logins.register("alice", PASSWORD, HOME)
    await accounts.logins.log_in("alice", PASSWORD, HOME)
    page = await host.audit.page(AuditFilter(user=alice, order="asc"))
    registered, started = page.events
    assert (registered.type, started.type) == ("user_registered", "session_started")
    for event in page.events:
        assert (event.login, event.address, event.user_agent) == ("alice", "192.0.2.1", "firefox")
        assert event.actor_id is None
    await accounts.users.erase(alice)
    page = await host.audit.page(AuditFilter(user=alice, order="asc"))
    assert [event.type for event in page.events][:2] == ["user_registered", "session_started"]
    assert {(event.login, event.address) for event in page.events} == {(None, None)}


async def test_a_user_does_not_see_where_an_administrator_was(
    host: Host, accounts: Accounts
) -> None:
    root = await accounts.logins.add_user("root", PASSWORD, ("admin",))
    alice = await accounts.logins.register("alice", PASSWORD, HOME)
    await accounts.logins.log_in("alice", PASSWORD, HOME)
    await accounts.sessions.revoke_all(alice, by=Actor(root, DESK))
    own = await host.audit.page_of_own(alice, AuditFilter())
    ended, started, registered = own.events
    assert (ended.type, ended.actor_id) == ("session_ended", root)
    assert (ended.login, ended.address, ended.user_agent) == (None, None, None)
    assert (started.address, registered.login) == ("192.0.2.1", "alice")
    seen = (await host.audit.page(AuditFilter(user=alice))).events[0]
    assert (seen.address, seen.user_agent) == ("192.0.2.9", "auditors-browser")


async def test_nobody_asks_for_the_history_of_another(host: Host, accounts: Accounts) -> None:
    alice = await accounts.logins.register("alice", PASSWORD, HOME)
    bob = await accounts.logins.register("bob", PASSWORD, HOME)
    page = await host.audit.page_of_own(bob, AuditFilter(user=alice))
    assert {event.user_id for event in page.events} == {bob}
    mine = page.events[0].position
    await host.audit.check_own(bob, mine)
    for user, position in ((alice, mine), (bob, mine - 1), (bob, mine + 100)):
        with pytest.raises(NotFound):
            await host.audit.check_own(user, position)


async def test_failed_logins_of_a_name_that_nobody_has(
    host: Host, accounts: Accounts, clock: Clock
) -> None:
    with pytest.raises(InvalidCredentials):
        await accounts.logins.log_in("no.such.name", PASSWORD, HOME)
    (event,) = (await host.audit.page(AuditFilter(types=("login_failed",)))).events
    assert (event.user_id, event.login, event.reason) == (None, "no.such.name", "unknown_login")
    clock.now += timedelta(days=CONFIG.failed_login_retention_days + 2)
    assert await accounts.logins.forget_overdue() == 1
    (event,) = (await host.audit.page(AuditFilter(types=("login_failed",)))).events
    assert event.login is None


async def test_a_client_that_is_not_known(host: Host, audrey: UUID) -> None:
    await host.audit.recorded_read(audrey, "events", UNKNOWN_CLIENT)
    (event,) = (await host.audit.page(AuditFilter(types=("audit_read",)))).events
    assert (event.address, event.user_agent) == (None, None)
