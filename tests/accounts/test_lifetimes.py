"""How long sessions live, on a real database, by clocks that move when they are told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from gatelog.accounts.service.accounts import Accounts
from gatelog.accounts.service.grants import Grant
from gatelog.accounts.service.passwords import PasswordPool
from gatelog.clock import new_event_id, utc_now
from gatelog.config import Config
from gatelog.errors import DatabaseUnavailable, NotAuthenticated, Overloaded, TooManySessions
from gatelog.log.rules.kinds import Command
from gatelog.log.store.appender import Appender
from gatelog.log.store.batch import Recorded
from gatelog.log.store.database import Database, connect
from gatelog.log.store.reading import read_events
from gatelog.log.store.rebuild import check, rebuild
from gatelog.sessions.rules.events import SessionEnded, SessionsRenewed
from gatelog.sessions.rules.lifetimes import MOST_RENEWED
from gatelog.sessions.rules.record import Session, packed
from gatelog.sessions.rules.renewing import RenewSessions
from gatelog.sessions.service.barrier import Barrier
from gatelog.sessions.service.gate import Gate, know_nothing
from gatelog.sessions.service.renewals import Renewals, interval_s
from gatelog.sessions.store.lookup import PrimaryLookup
from gatelog.testing.moving import MovedClock

from tests.builders import CHEAP_CONFIG, start
from tests.conftest import Dsns
from tests.waiting import until

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection

PASSWORD = "correct horse battery staple"
IDLE_S = 900
CONFIG = msgspec.structs.replace(
    CHEAP_CONFIG,
    registration="open",
    session_lifetime_s=7200,
    session_idle_s=IDLE_S,
    max_sessions_per_user=3,
    roles='{"auditor": {"lifetime_s": 3600, "idle_s": 60}}',
)


class World:
    """The use cases, a gate that asks the primary, and who records use; by one moved clock."""

    def __init__(self, accounts: Accounts, lookup: PrimaryLookup, appender: Appender) -> None:
        self.accounts = accounts
        self.used: list[bytes] = []
        self.gate = Gate(lookup, know_nothing, on_use=self.used.append)
        self.appender = appender

    async def log_in(self, login: str = "ada", **more: Any) -> Grant:
        return await self.accounts.logins.log_in(login, PASSWORD, **more)

    async def use(self, *grants: Grant) -> int:
        """Pass the check with each, and record what is due; returns how many events came of it."""
        for grant in grants:
            await self.gate.find(grant.session.token_digest)
        used = tuple(self.used)
        self.used.clear()
        recorded = await self.renew(used)
        return len(recorded.events)

    async def renew(self, digests: tuple[bytes, ...]) -> Recorded:
        command = RenewSessions(event_id=new_event_id(), token_digests=digests)
        return await self.appender.submit(command)

    async def is_active(self, grant: Grant) -> bool:
        return await self.gate.look_up(grant.session.token_digest) is not None


@asynccontextmanager
async def a_world(
    config: Config, database: Dsns, appender: Appender, barrier: Barrier
) -> AsyncIterator[World]:
    pool = Database(database.app, timeout_s=5, pool_size=4)
    passwords = PasswordPool(config)
    accounts = Accounts(
        config, database=pool, appender=appender, passwords=passwords, barrier=barrier
    )
    async with PrimaryLookup(pool.connect, timeout_s=5) as lookup:
        yield World(accounts, lookup, appender)
    passwords.close()
    await pool.close()


@pytest.fixture
async def world(
    database: Dsns, appender: Appender, barrier: Barrier, gatelog_clock: MovedClock
) -> AsyncIterator[World]:
    async with a_world(CONFIG, database, appender, barrier) as world:
        await world.accounts.logins.register("ada", PASSWORD)
        yield world


async def told(connection: Connection) -> list[Any]:
    return [stored.event() for stored in await read_events(connection, 0, 10_000)]


async def reasons(connection: Connection) -> list[str]:
    return [event.reason for event in await told(connection) if isinstance(event, SessionEnded)]


async def agreed(database: Dsns) -> None:
    """The projection is what the log says, and making it anew changes nothing."""
    assert (await check(database.app)).differences == []
    assert (await rebuild(database.owner)).changed == 0


# --- idle and absolute


async def test_a_session_that_is_not_used_is_over(
    world: World, gatelog_clock: MovedClock, connection: Connection, database: Dsns
) -> None:
    grant = await world.log_in()
    assert grant.session.expires_at == grant.session.started_at + timedelta(seconds=IDLE_S)
    gatelog_clock.advance(IDLE_S - 5)
    assert await world.is_active(grant), "looking at it is no use of it"
    gatelog_clock.advance(5)
    assert not await world.is_active(grant)
    assert await world.use(grant) == 0, "and nothing brings it back"
    assert not await world.is_active(grant)
    assert await world.accounts.sessions.end_expired() == 1
    (end,) = [event for event in await told(connection) if isinstance(event, SessionEnded)]
    assert (end.reason, end.occurred_at) == ("idle_timeout", grant.session.expires_at)
    assert await world.accounts.sessions.end_expired() == 0
    await agreed(database)


async def test_use_keeps_it_until_its_absolute_end(
    world: World, gatelog_clock: MovedClock, connection: Connection, database: Dsns
) -> None:
    grant = await world.log_in()
    events = 0
    for _ in range(int(CONFIG.session_lifetime_s) // 300 - 1):
        gatelog_clock.advance(300)
        assert await world.is_active(grant)
        events += await world.use(grant)
    assert events == 23
    gatelog_clock.advance(300)
    assert not await world.is_active(grant)
    assert await world.use(grant) == 0
    assert await world.accounts.sessions.end_expired() == 1
    assert await reasons(connection) == ["absolute_timeout"]
    await agreed(database)


async def test_use_is_recorded_once_in_a_quarter_whoever_asks(
    world: World, gatelog_clock: MovedClock, database: Dsns
) -> None:
    grant = await world.log_in()
    digest = grant.session.token_digest
    gatelog_clock.advance(IDLE_S / 4 - 5)
    assert await world.use(grant) == 0, "it is too soon"
    assert len((await world.renew((digest,))).events) == 0, "whoever says that it is not"
    gatelog_clock.advance(5)
    async with Appender(lambda: connect(database.app), timeout_s=10) as other_process:
        command = [RenewSessions(event_id=new_event_id(), token_digests=(digest,)) for _ in "abcd"]
        recorded = await asyncio.gather(
            *(world.appender.submit(each) for each in command[:2]),
            *(other_process.submit(each) for each in command[2:]),
        )
    assert sum(len(each.events) for each in recorded) == 1
    listed = await world.accounts.sessions.list_sessions(grant.session.subject_id)
    assert [session.expires_at - session.last_seen_at for session in listed] == [
        timedelta(seconds=IDLE_S)
    ]
    await agreed(database)


async def test_a_retry_of_a_renewal_is_no_second_one(
    world: World, gatelog_clock: MovedClock, connection: Connection
) -> None:
    grant = await world.log_in()
    gatelog_clock.advance(IDLE_S / 2)
    command = RenewSessions(event_id=new_event_id(), token_digests=(grant.session.token_digest,))
    first = await world.appender.submit(command)
    again = await world.appender.submit(command)
    assert first == again
    assert sum(isinstance(event, SessionsRenewed) for event in await told(connection)) == 1


async def test_what_has_ended_is_not_renewed(world: World, gatelog_clock: MovedClock) -> None:
    grant = await world.log_in()
    gatelog_clock.advance(IDLE_S / 2)
    logout = world.accounts.sessions.log_out(grant.session.token_digest)
    renewal = world.renew((grant.session.token_digest,))
    await asyncio.gather(logout, renewal)
    assert len((await world.renew((grant.session.token_digest,))).events) == 0
    assert not await world.is_active(grant)


async def test_the_logs_clock_decides_whatever_a_host_believes(
    world: World, connection: Connection
) -> None:
    """A host whose clock is 2 s ahead finds a session over; in the log it is not, and is renewed.
    One that is 2 s behind finds it active; in the log it is over, and stays so."""
    user = await world.accounts.logins.register("bob", PASSWORD)
    now = utc_now()
    ahead = start(user, at=now - timedelta(seconds=59), idle_s=60)
    behind = start(user, at=now - timedelta(seconds=61), idle_s=60)
    for command in (ahead, behind):
        await world.appender.submit(command)
    recorded = await world.renew((ahead.event.token_digest, behind.event.token_digest))
    (event,) = recorded.events
    assert isinstance(event, SessionsRenewed)
    assert event.token_digests == (ahead.event.token_digest,)
    assert now <= event.occurred_at <= utc_now()
    assert await world.accounts.sessions.end_expired() == 1
    assert await reasons(connection) == ["idle_timeout"]


# --- roles, presets


async def test_roles_have_their_own_lifetimes(world: World) -> None:
    await world.accounts.logins.add_user("eve", PASSWORD, ("auditor",))
    session = (await world.log_in("eve")).session
    assert session.idle is not None
    assert session.idle.limit_s == 60
    assert session.absolute_at - session.started_at == timedelta(seconds=3600)


async def test_without_an_idle_time_a_session_need_not_be_used(
    database: Dsns, appender: Appender, barrier: Barrier, gatelog_clock: MovedClock
) -> None:
    config = msgspec.structs.replace(CONFIG, session_idle_s=0)
    async with a_world(config, database, appender, barrier) as world:
        await world.accounts.logins.register("ada", PASSWORD)
        grant = await world.log_in()
        gatelog_clock.advance(7000)
        assert await world.use(grant) == 0
        assert await world.is_active(grant)
        assert len((await world.renew((grant.session.token_digest,))).events) == 0
        gatelog_clock.advance(200)
        assert not await world.is_active(grant)


# --- a new token, a login over a live session, too many


async def test_a_new_token_makes_a_session_neither_longer_nor_unused(
    world: World, gatelog_clock: MovedClock, database: Dsns
) -> None:
    grant = await world.log_in()
    assert (grant.session.authenticated_at, grant.session.amr) == (
        grant.session.started_at,
        ("pwd",),
    )
    for _ in range(3):
        gatelog_clock.advance(IDLE_S - 10)
        await world.use(grant)
    gatelog_clock.advance(IDLE_S - 10)
    session = await world.gate.find(grant.session.token_digest)
    assert session is not None
    before = utc_now()
    fresh = await world.accounts.logins.renew(session)
    assert fresh.session.absolute_at == grant.session.absolute_at
    assert before <= fresh.session.started_at <= utc_now(), "it starts when it does"
    assert fresh.session.authenticated_at == grant.session.authenticated_at, "no login is younger"
    again = await world.accounts.logins.renew(Session(packed(fresh.session)))
    assert again.session.authenticated_at == grant.session.authenticated_at
    assert again.session.absolute_at == grant.session.absolute_at
    assert again.session.amr == ("pwd",)
    fresh = again
    assert await world.is_active(fresh), "that it is old does not make it unused"
    gatelog_clock.advance(IDLE_S)
    assert not await world.is_active(fresh)
    with pytest.raises(NotAuthenticated):
        await world.accounts.logins.renew(Session(packed(fresh.session)))
    await agreed(database)


async def test_a_login_over_a_live_session_supersedes_it(
    world: World, connection: Connection
) -> None:
    await world.accounts.logins.register("bob", PASSWORD)
    before = await world.log_in()
    other = await world.log_in()
    after = await world.log_in("bob", over=before.session.token_digest)
    assert not await world.is_active(before), "whosesoever it was"
    assert await world.is_active(other) and await world.is_active(after)
    assert await reasons(connection) == ["superseded"]
    again = await world.log_in("bob", over=before.session.token_digest)
    assert await world.is_active(after) and await world.is_active(again)
    assert await reasons(connection) == ["superseded"], "what has ended is not ended again"
    log = await told(connection)
    ended = next(n for n, event in enumerate(log) if isinstance(event, SessionEnded))
    assert log[ended - 1].session_id == after.session.session_id, "in the same append"


async def test_too_many_sessions_can_be_refused(
    database: Dsns, appender: Appender, barrier: Barrier, gatelog_clock: MovedClock
) -> None:
    config = msgspec.structs.replace(CONFIG, too_many_sessions="refuse")
    async with a_world(config, database, appender, barrier) as world:
        await world.accounts.logins.register("ada", PASSWORD)
        grants = [await world.log_in() for _ in range(3)]
        with pytest.raises(TooManySessions):
            await world.log_in()
        await world.log_in(over=grants[0].session.token_digest)
        gatelog_clock.advance(IDLE_S)
        await world.log_in()  # those that are over do not count, swept or not


async def test_only_live_sessions_give_way(world: World, gatelog_clock: MovedClock) -> None:
    over = await world.log_in()
    gatelog_clock.advance(IDLE_S - 10)
    live = [await world.log_in(), await world.log_in()]
    gatelog_clock.advance(10)
    live.append(await world.log_in())
    assert [await world.is_active(grant) for grant in [over, *live]] == [False, True, True, True]
    await world.log_in()
    assert [await world.is_active(grant) for grant in live] == [False, True, True]


# --- the sweeper


async def test_one_sweeps_at_a_time_and_leaves_nothing(
    world: World, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gatelog.accounts.service.sessions.MAX_EXPIRED_SESSIONS", 4)
    now = utc_now()
    for number in range(30):
        user = await world.accounts.logins.register(f"user-{number}", PASSWORD)
        for lifetime_s in (60, 7200):
            command = start(
                user,
                at=now - timedelta(seconds=3600),
                lifetime_s=lifetime_s,
                idle_s=(600, 7200)[number % 2],
            )
            await world.appender.submit(command)
    ended = await asyncio.gather(*(world.accounts.sessions.end_expired() for _ in range(4)))
    assert sorted(ended) == [0, 0, 0, 45]
    assert sorted(await reasons(connection)) == ["absolute_timeout"] * 30 + ["idle_timeout"] * 15


async def test_what_was_over_by_time_has_ended_of_that(
    world: World, gatelog_clock: MovedClock, connection: Connection
) -> None:
    grant = await world.log_in()
    gatelog_clock.advance(IDLE_S)
    await world.accounts.sessions.log_out(grant.session.token_digest)
    assert await reasons(connection) == ["idle_timeout"]


# --- behind the requests


class Log:
    """What takes renewals, and fails when it is told to."""

    def __init__(self) -> None:
        self.commands: list[RenewSessions] = []
        self.error: Exception | None = None
        self.open = asyncio.Event()
        self.open.set()

    async def submit(self, command: Command) -> Recorded:
        assert isinstance(command, RenewSessions)
        await self.open.wait()
        if self.error is not None:
            raise self.error
        self.commands.append(command)
        return Recorded(1)


def digests(count: int) -> list[bytes]:
    return [number.to_bytes(32, "big") for number in range(count)]


async def test_use_is_recorded_in_parts_one_after_the_other() -> None:
    log = Log()
    renewals = Renewals(log.submit, interval_s=0)
    wanted = digests(2 * MOST_RENEWED + 10)
    for digest in wanted * 2:
        renewals.note(digest)
    log.open.clear()
    await asyncio.sleep(0)
    assert log.commands == []
    log.open.set()
    await until(lambda: len(log.commands) == 3)
    assert [len(c.token_digests) for c in log.commands] == [MOST_RENEWED, MOST_RENEWED, 10]
    assert [d for c in log.commands for d in c.token_digests] == wanted
    await renewals.close()


async def test_what_was_just_sent_is_not_sent_again() -> None:
    log = Log()
    renewals = Renewals(log.submit, interval_s=0.01)
    (digest,) = digests(1)
    renewals.note(digest)
    await until(lambda: len(log.commands) == 1)
    renewals.note(digest)
    await until(lambda: not renewals.busy)
    assert len(log.commands) == 1
    renewals.note(digest)
    await until(lambda: len(log.commands) == 2)
    await renewals.close()


@pytest.mark.parametrize("error", [Overloaded(), DatabaseUnavailable()])
async def test_overload_drops_it_and_the_next_request_renews(error: Exception) -> None:
    log = Log()
    renewals = Renewals(log.submit, interval_s=0.001, most_waiting=3)
    log.error = error
    for digest in digests(5):
        renewals.note(digest)
    await until(lambda: not renewals.busy)
    assert log.commands == []
    log.error = None
    for digest in digests(5):
        renewals.note(digest)
    await until(lambda: len(log.commands) == 1)
    assert log.commands[0].token_digests == tuple(digests(3)), "bounded"
    await renewals.close()


def test_a_short_idle_time_is_recorded_soon_enough() -> None:
    assert interval_s(None) == interval_s(7 * 86_400) == 1.0
    assert interval_s(2) == pytest.approx(1 / 16)
