"""Tokens for machines, on a real database, by clocks that move when they are told to."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec
import pytest
from gatelog.accounts.service.accounts import Accounts
from gatelog.accounts.service.acting import Actor
from gatelog.accounts.service.grants import Grant
from gatelog.accounts.service.passwords import PasswordPool
from gatelog.accounts.service.tokens import CreatedToken
from gatelog.clock import new_event_id, utc_now
from gatelog.errors import (
    Forbidden,
    InvalidInput,
    NotAuthenticated,
    NotFound,
    TokenNotAllowed,
    TooManyTokens,
)
from gatelog.log.store.appender import Appender
from gatelog.log.store.batch import Recorded
from gatelog.log.store.database import Database
from gatelog.log.store.reading import read_events
from gatelog.log.store.rebuild import check, rebuild
from gatelog.privacy.rules import UNKNOWN_CLIENT, Client
from gatelog.sessions.rules.events import SessionEnded, SessionsRenewed, TokenCreated
from gatelog.sessions.rules.record import Session, packed
from gatelog.sessions.rules.renewing import RenewSessions
from gatelog.sessions.rules.state import ActiveSession
from gatelog.sessions.service.barrier import Barrier
from gatelog.sessions.service.gate import Gate, know_nothing
from gatelog.sessions.store.feed import Pair, copy_sessions
from gatelog.sessions.store.lookup import PrimaryLookup
from gatelog.testing.moving import MovedClock

from tests.builders import CHEAP_CONFIG
from tests.conftest import Dsns

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection

PASSWORD = "correct horse battery staple"
NEW_PASSWORD = "battery staple correct horse"
HERE = Client("192.0.2.1", "curl")
DAY_S = 86_400
CONFIG = msgspec.structs.replace(
    CHEAP_CONFIG, registration="open", max_sessions_per_user=2, max_tokens_per_user=3
)


class World:
    """The use cases, and a gate that asks the primary."""

    def __init__(self, accounts: Accounts, lookup: PrimaryLookup, appender: Appender) -> None:
        self.accounts = accounts
        self.used: list[bytes] = []
        self.gate = Gate(lookup, know_nothing, on_use=self.used.append)
        self.appender = appender

    async def log_in(self, login: str = "ada") -> Session:
        return here(await self.accounts.logins.log_in(login, PASSWORD))

    async def create(
        self,
        by: Session,
        *roles: str,
        name: str = "nightly",
        lifetime_s: int = 30 * DAY_S,
    ) -> CreatedToken:
        return await self.accounts.tokens.create(by, name, lifetime_s, roles, HERE)

    async def use(self, token: CreatedToken) -> Recorded:
        """Pass the check, and record what is due."""
        await self.gate.find(token.session.token_digest)
        used = tuple(self.used)
        self.used.clear()
        command = RenewSessions(event_id=new_event_id(), token_digests=used)
        return await self.appender.submit(command)

    async def is_active(self, token: CreatedToken) -> bool:
        return await self.gate.look_up(token.session.token_digest) is not None

    async def active(self, *tokens: CreatedToken) -> list[bool]:
        return [await self.is_active(token) for token in tokens]


def here(grant: Grant) -> Session:
    return Session(packed(grant.session))


@asynccontextmanager
async def a_world(
    database: Dsns, appender: Appender, barrier: Barrier, **settings: Any
) -> AsyncIterator[World]:
    config = msgspec.structs.replace(CONFIG, **settings)
    pool = Database(database.app, timeout_s=5, pool_size=4)
    passwords = PasswordPool(config)
    accounts = Accounts(
        config, database=pool, appender=appender, passwords=passwords, barrier=barrier
    )
    async with PrimaryLookup(pool.connect, timeout_s=5) as lookup:
        await accounts.logins.add_user("ada", PASSWORD, ("admin", "auditor"))
        await accounts.logins.add_user("root", PASSWORD, ("admin",))
        yield World(accounts, lookup, appender)
    passwords.close()
    await pool.close()


@pytest.fixture
async def world(
    database: Dsns, appender: Appender, barrier: Barrier, gatelog_clock: MovedClock
) -> AsyncIterator[World]:
    async with a_world(database, appender, barrier) as world:
        yield world


async def told(connection: Connection) -> list[Any]:
    return [stored.event() for stored in await read_events(connection, 0, 10_000)]


async def agreed(database: Dsns) -> None:
    """The projection is what the log says, and making it anew changes nothing."""
    assert (await check(database.app)).differences == []
    assert (await rebuild(database.owner)).changed == 0


async def test_a_token_acts_for_its_user_until_its_time_is_over(
    world: World, connection: Connection, database: Dsns, gatelog_clock: MovedClock
) -> None:
    by = await world.log_in()
    token = await world.create(by, "auditor", lifetime_s=7 * DAY_S)
    session = await world.gate.look_up(token.session.token_digest)
    assert session is not None
    assert session.is_token and session.subject_id == by.subject_id
    assert session.roles == {"auditor"}
    assert session.expires_at - session.started_at == timedelta(days=7)
    assert session.authenticated_at == by.authenticated_at
    assert session.amr == {"pwd"}
    assert token.name == "nightly"
    (event,) = [event for event in await told(connection) if isinstance(event, TokenCreated)]
    assert event.session_id == token.session.session_id
    assert event.sealed is not None and b"nightly" not in event.sealed
    gatelog_clock.advance(7 * DAY_S - 60)
    assert await world.is_active(token), "it need not be used"
    gatelog_clock.advance(61)
    assert not await world.is_active(token)
    await world.accounts.sessions.end_expired()
    ends = [event for event in await told(connection) if isinstance(event, SessionEnded)]
    assert {event.session_id: event.reason for event in ends}[event.session_id] == (
        "absolute_timeout"
    )
    await agreed(database)


@pytest.mark.parametrize(
    ("name", "lifetime_s", "roles", "error"),
    [
        ("", 60, (), InvalidInput),
        ("a\nb", 60, (), InvalidInput),
        ("a" * 65, 60, (), InvalidInput),
        ("a", 0, (), InvalidInput),
        ("a", 366 * DAY_S + 1, (), InvalidInput),
        ("a", 60, ("operator",), Forbidden),
        ("a", 60, ("auditor",), Forbidden),
        ("a", 60, ("admin", "auditor"), Forbidden),
    ],
)
async def test_what_no_token_can_be(
    world: World, name: str, lifetime_s: int, roles: tuple[str, ...], error: type[Exception]
) -> None:
    by = await world.log_in("root")
    with pytest.raises(error):
        await world.create(by, *roles, name=name, lifetime_s=lifetime_s)
    assert await world.accounts.tokens.of_user(by.subject_id) == []


async def test_only_a_login_that_lasts_creates_one(world: World) -> None:
    by = await world.log_in()
    token = await world.create(by)
    machine = Session(packed(token.session))
    with pytest.raises(TokenNotAllowed):
        await world.create(machine)
    with pytest.raises(TokenNotAllowed):
        await world.accounts.logins.renew(machine)
    await world.accounts.sessions.end_all(by)
    with pytest.raises(NotAuthenticated):
        await world.create(by)
    assert await world.is_active(token)


async def test_use_is_known_by_the_day_and_costs_one_event_a_day(
    world: World, connection: Connection, database: Dsns, gatelog_clock: MovedClock
) -> None:
    by = await world.log_in()
    token, other = await world.create(by, name="used"), await world.create(by, name="not used")

    async def listed() -> dict[str | None, date | None]:
        tokens = await world.accounts.tokens.of_user(by.subject_id)
        return {each.name: each.last_used_on for each in tokens}

    assert await listed() == {"used": None, "not used": None}
    days = []
    for _ in range(3):
        (event,) = (await world.use(token)).events
        assert isinstance(event, SessionsRenewed)
        days.append(utc_now().date())
        assert await listed() == {"used": days[-1], "not used": None}
        for _ in range(3):
            assert (await world.use(token)).events == ()
            assert world.used == [], "nobody is even told"
        pairs: list[Pair] = []
        await copy_sessions(connection, pairs.extend)
        session = await world.gate.look_up(token.session.token_digest)
        assert session is not None
        assert dict(pairs)[token.session.token_digest] == session.record
        gatelog_clock.advance(DAY_S)
    assert len(set(days)) == 3
    assert (await world.use(other)).events != ()
    await agreed(database)


async def test_tokens_and_sessions_are_listed_apart_and_capped_apart(
    world: World, connection: Connection
) -> None:
    by = await world.log_in()
    tokens = [await world.create(by, name=f"token {n}") for n in range(3)]
    with pytest.raises(TooManyTokens):
        await world.create(by)
    other = await world.log_in()
    listed = await world.accounts.sessions.list_sessions(by.subject_id)
    assert {s.session_id for s in listed} == {by.session_id, other.session_id}
    everybody = await world.accounts.sessions.list_all_sessions(UUID(int=0), 100)
    assert not any(session.is_token for session in everybody)
    assert await world.active(*tokens) == [True] * 3
    last = await world.log_in()
    listed = await world.accounts.sessions.list_sessions(by.subject_id)
    assert {s.session_id for s in listed} == {other.session_id, last.session_id}
    assert await world.active(*tokens) == [True] * 3, "no token gives way to a login"
    names = [each.name for each in await world.accounts.tokens.of_user(by.subject_id)]
    assert names == ["token 0", "token 1", "token 2"]
    await world.accounts.tokens.end(last, tokens[0].session.session_id)
    await world.create(last, name="in its place")


async def test_a_name_outlives_the_event_that_sealed_it(
    world: World, connection: Connection
) -> None:
    by = await world.log_in()
    await world.create(by, name="nightly")
    await connection.execute("DELETE FROM session_names")
    assert [t.name for t in await world.accounts.tokens.of_user(by.subject_id)] == ["nightly"]
    await world.create(by, name="weekly")
    sealed = await connection.fetchval("SELECT sealed FROM session_names")
    assert b"weekly" not in sealed


# --- how they end


async def test_each_ends_like_a_session(world: World, connection: Connection) -> None:
    by = await world.log_in()
    token, other = await world.create(by), await world.create(by)
    token_id = token.session.session_id
    with pytest.raises(NotFound):
        await world.accounts.sessions.end_session(by, token_id)
    with pytest.raises(NotFound):
        await world.accounts.sessions.rename(by, token_id, "mine")
    with pytest.raises(NotFound):
        await world.accounts.tokens.end(by, by.session_id)
    with pytest.raises(NotFound):
        await world.accounts.tokens.end(await world.log_in("root"), token_id)
    assert await world.is_active(token)
    ended = await world.accounts.tokens.end(by, token_id, HERE)
    assert ended.ended == 1
    assert await world.active(token, other) == [False, True]
    (event,) = [event for event in await told(connection) if isinstance(event, SessionEnded)]
    assert (event.session_id, event.reason) == (token_id, "revoked")
    assert event.sealed is not None
    with pytest.raises(NotFound):
        await world.accounts.tokens.end(by, token_id)
    assert (await world.accounts.sessions.revoke_session(other.session.session_id)).ended == 1
    assert not await world.is_active(other), "an operator ends it by the same id"


async def test_all_sessions_end_without_them_unless_it_is_said(world: World) -> None:
    by = await world.log_in()
    token = await world.create(by)
    await world.log_in()
    await world.accounts.sessions.end_others(by)
    assert await world.is_active(token)
    assert (await world.accounts.sessions.end_all(by)).ended == 1
    assert await world.is_active(token)
    assert (await world.accounts.sessions.end_all(by, tokens=True)).ended == 1
    assert not await world.is_active(token)
    root = await world.log_in("root")
    token = await world.create(await world.log_in())
    admin = Actor(root.subject_id, UNKNOWN_CLIENT)
    await world.accounts.sessions.revoke_all(by.subject_id, admin)
    assert await world.is_active(token)
    await world.accounts.sessions.revoke_all(by.subject_id, admin, tokens=True)
    assert not await world.is_active(token)
    token = await world.create(root)
    everybody = await world.accounts.sessions.end_everybody()
    assert everybody.ended == 2, "whoever does that means it"
    assert not await world.is_active(token)


async def test_what_takes_a_right_away_ends_them(world: World, database: Dsns) -> None:
    users, logins = world.accounts.users, world.accounts.logins
    by = await world.log_in()
    plain, auditor, admin = [
        await world.create(by, *roles, name=str(roles)) for roles in ((), ("auditor",), ("admin",))
    ]
    await users.revoke_role(by.subject_id, "auditor")
    assert await world.active(plain, auditor, admin) == [True, False, True]
    await users.grant_role(by.subject_id, "auditor")
    assert await world.active(plain, admin) == [True, True], "a right more ends none"
    by = await world.log_in()
    await logins.change_password(by, PASSWORD, NEW_PASSWORD)
    assert await world.active(plain, admin) == [False, False]

    by = here(await logins.log_in("ada", NEW_PASSWORD))
    token = await world.create(by)
    await users.disable(by.subject_id)
    assert not await world.is_active(token)
    await users.enable(by.subject_id)
    assert not await world.is_active(token), "once ended, always ended"
    by = here(await logins.log_in("ada", NEW_PASSWORD))
    token = await world.create(by)
    await users.erase(by.subject_id)
    assert not await world.is_active(token)
    await agreed(database)


async def test_an_erased_person_leaves_no_name(
    world: World, connection: Connection, database: Dsns
) -> None:
    by = await world.log_in()
    await world.create(by, name="for the doctor")
    await world.accounts.users.erase(by.subject_id)
    assert await connection.fetchval("SELECT count(*) FROM session_names") == 0
    (event,) = [event for event in await told(connection) if isinstance(event, TokenCreated)]
    opened = await world.accounts._personal.open_personal([event])
    assert opened == [None]
    await agreed(database)


def test_the_day_of_its_last_use_is_that_of_utc() -> None:
    session = ActiveSession(
        session_id=UUID(int=1),
        subject_id=UUID(int=2),
        token_digest=bytes(32),
        started_at=utc_now(),
        expires_at=utc_now() + timedelta(days=9),
        is_token=True,
    )
    assert session.renews(session.started_at)
    used = session.seen(session.started_at)
    assert not used.renews(used.due_at - timedelta(microseconds=1))
    assert used.renews(used.due_at)
    assert used.due_at.timestamp() % DAY_S == 0
