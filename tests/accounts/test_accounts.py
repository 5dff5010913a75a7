"""The use cases, on a real database with a clock that moves when told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec
import pytest
from gatelog.accounts.service.accounts import Accounts
from gatelog.accounts.service.passwords import PasswordPool
from gatelog.errors import (
    ConfigError,
    DatabaseUnavailable,
    InvalidCredentials,
    InvalidInput,
    LoginTaken,
    NoSuchRole,
    NotAuthenticated,
    NotFound,
    RegistrationClosed,
)
from gatelog.log.store.appender import Appender
from gatelog.log.store.database import Database, connect
from gatelog.log.store.reading import read_events
from gatelog.sessions.rules.events import SessionEnded
from gatelog.sessions.rules.lease import lease_terms
from gatelog.sessions.rules.record import Session
from gatelog.sessions.rules.state import ActiveSession
from gatelog.sessions.service.barrier import Barrier
from gatelog.testing.moving import MovedClock

from tests.builders import CHEAP_CONFIG, session_record
from tests.conftest import SHORT_TTL_S, Dsns

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection

PASSWORD = "a long enough password"
CONFIG = msgspec.structs.replace(
    CHEAP_CONFIG,
    session_lifetime_s=3600,
    max_sessions_per_user=3,
    registration="open",
)


@pytest.fixture
async def accounts(
    database: Dsns, appender: Appender, barrier: Barrier, gatelog_clock: MovedClock
) -> AsyncIterator[Accounts]:
    pool = Database(database.app, timeout_s=5, pool_size=4)
    passwords = PasswordPool(CONFIG)
    yield Accounts(
        CONFIG,
        database=pool,
        appender=appender,
        passwords=passwords,
        barrier=barrier,
        now=gatelog_clock,
    )
    passwords.close()
    await pool.close()


def as_session(session: ActiveSession) -> Session:
    return Session(
        session_record(
            session_id=session.session_id,
            subject_id=session.subject_id,
            started_at=session.started_at,
            expires_at=session.expires_at,
            roles=session.roles,
        )
    )


async def reasons(database: Dsns) -> list[str]:
    """Why sessions ended, in the order of the log."""
    connection = await connect(database.app)
    stored = await read_events(connection, 0)
    await connection.close()
    events = [item.event() for item in stored]
    return [event.reason for event in events if isinstance(event, SessionEnded)]


async def test_expired_sessions_are_swept_into_the_log_once(
    database: Dsns, accounts: Accounts, gatelog_clock: MovedClock
) -> None:
    await accounts.logins.register("ada", PASSWORD)
    await accounts.logins.log_in("ada", PASSWORD)
    gatelog_clock.advance(1800)
    await accounts.logins.log_in("ada", PASSWORD)
    assert await accounts.sessions.end_expired() == 0
    gatelog_clock.advance(1800)
    assert sum(await asyncio.gather(*(accounts.sessions.end_expired() for _ in range(3)))) == 1
    assert await reasons(database) == ["absolute_timeout"]
    gatelog_clock.advance(1800)
    assert await accounts.sessions.end_expired() == 1


async def test_expired_sessions_are_not_listed(
    accounts: Accounts, gatelog_clock: MovedClock
) -> None:
    user = await accounts.logins.register("ada", PASSWORD)
    await accounts.logins.log_in("ada", PASSWORD)
    assert len(await accounts.sessions.list_sessions(user)) == 1
    gatelog_clock.advance(3600)
    assert await accounts.sessions.list_sessions(user) == []


async def test_the_oldest_session_gives_way(
    database: Dsns, accounts: Accounts, gatelog_clock: MovedClock
) -> None:
    user = await accounts.logins.register("ada", PASSWORD)
    grants = []
    for _ in range(5):
        grants.append(await accounts.logins.log_in("ada", PASSWORD))
        gatelog_clock.advance(1)
    listed = [session.session_id for session in await accounts.sessions.list_sessions(user)]
    assert listed == [grant.session.session_id for grant in grants[-3:]]
    assert await reasons(database) == ["superseded", "superseded"]


async def test_logins_at_once_respect_the_limit(accounts: Accounts) -> None:
    user = await accounts.logins.register("ada", PASSWORD)
    await accounts.logins.log_in("ada", PASSWORD)
    await asyncio.gather(*(accounts.logins.log_in("ada", PASSWORD) for _ in range(6)))
    assert len(await accounts.sessions.list_sessions(user)) == 3


async def test_a_disabled_user_is_out_at_once_and_in_again_when_enabled(
    database: Dsns, accounts: Accounts
) -> None:
    user = await accounts.logins.register("ada", PASSWORD)
    await accounts.logins.log_in("ada", PASSWORD)
    await accounts.logins.log_in("ada", PASSWORD)
    assert (await accounts.users.disable(user)).ended == 2
    assert (await accounts.users.disable(user)).ended == 0
    with pytest.raises(InvalidCredentials):
        await accounts.logins.log_in("ada", PASSWORD)
    await accounts.users.enable(user)
    await accounts.logins.log_in("ada", PASSWORD)
    assert await reasons(database) == ["user_disabled", "user_disabled"]


async def test_changing_the_password_ends_every_session_and_starts_one(
    database: Dsns, accounts: Accounts
) -> None:
    user = await accounts.logins.register("ada", PASSWORD)
    await accounts.logins.log_in("ada", PASSWORD)
    grant = await accounts.logins.log_in("ada", PASSWORD)
    session = as_session(grant.session)
    with pytest.raises(InvalidCredentials):
        await accounts.logins.change_password(session, "not " + PASSWORD, "new " + PASSWORD)
    with pytest.raises(InvalidInput):
        await accounts.logins.change_password(session, PASSWORD, PASSWORD)
    fresh = await accounts.logins.change_password(session, PASSWORD, "new " + PASSWORD)
    listed = await accounts.sessions.list_sessions(user)
    assert [session.session_id for session in listed] == [fresh.session.session_id]
    assert fresh.token != grant.token
    assert await reasons(database) == ["credential_changed", "credential_changed"]
    with pytest.raises(NotAuthenticated):
        await accounts.logins.change_password(session, "new " + PASSWORD, PASSWORD)
    with pytest.raises(InvalidCredentials):
        await accounts.logins.log_in("ada", PASSWORD)
    await accounts.logins.log_in("ada", "new " + PASSWORD)


async def test_roles_come_with_the_session(accounts: Accounts) -> None:
    await accounts.logins.add_user("root", PASSWORD, ("admin",))
    assert (await accounts.logins.log_in("root", PASSWORD)).session.roles == ("admin",)
    with pytest.raises(NoSuchRole):
        await accounts.logins.add_user("other", PASSWORD, ("king",))


async def test_a_password_is_hashed_anew_when_the_parameters_changed(
    database: Dsns,
    appender: Appender,
    barrier: Barrier,
    accounts: Accounts,
    gatelog_clock: MovedClock,
) -> None:
    await accounts.logins.register("ada", PASSWORD)
    config = msgspec.structs.replace(CONFIG, argon2_memory_kib=16)
    pool = Database(database.app, timeout_s=5, pool_size=1)
    passwords = PasswordPool(config)
    later = Accounts(
        config,
        database=pool,
        appender=appender,
        passwords=passwords,
        barrier=barrier,
        now=gatelog_clock,
    )
    old = (await later.users.find_user("ada")).password_hash
    await later.logins.log_in("ada", PASSWORD)
    new = (await later.users.find_user("ada")).password_hash
    assert "m=8," in old
    assert "m=16," in new
    await accounts.logins.log_in("ada", PASSWORD)
    passwords.close()
    await pool.close()


async def test_only_the_first_registers(
    database: Dsns, appender: Appender, barrier: Barrier, gatelog_clock: MovedClock
) -> None:
    config = msgspec.structs.replace(CONFIG, registration="first")
    pool = Database(database.app, timeout_s=5, pool_size=4)
    passwords = PasswordPool(config)
    accounts = Accounts(
        config,
        database=pool,
        appender=appender,
        passwords=passwords,
        barrier=barrier,
        now=gatelog_clock,
    )
    results = await asyncio.gather(
        *(accounts.logins.register(f"user{n}", PASSWORD) for n in range(5)), return_exceptions=True
    )
    assert sum(isinstance(result, UUID) for result in results) == 1
    assert sum(isinstance(result, RegistrationClosed) for result in results) == 4
    await accounts.logins.add_user("more", PASSWORD)
    with pytest.raises(LoginTaken):
        await accounts.logins.add_user("MORE", PASSWORD)
    passwords.close()
    await pool.close()


async def test_what_is_not_there_is_not_found(accounts: Accounts) -> None:
    nobody = UUID(int=1)
    for call in (
        accounts.users.disable,
        accounts.users.enable,
        accounts.users.erase,
        accounts.sessions.revoke_all,
        accounts.sessions.revoke_session,
        accounts.sessions.sessions_of,
    ):
        with pytest.raises(NotFound):
            await call(nobody)
    with pytest.raises(NotFound):
        await accounts.users.find_user("nobody")
    assert (await accounts.sessions.log_out(b"\0" * 32)).ended == 0


async def test_without_a_database_nothing_is_claimed(gatelog_clock: MovedClock) -> None:
    async def nowhere() -> Connection:
        return await connect("postgresql://nobody@127.0.0.1:1/nothing")

    pool = Database("postgresql://nobody@127.0.0.1:1/nothing", timeout_s=0.5, pool_size=1)
    passwords = PasswordPool(CONFIG)
    async with (
        Appender(nowhere, timeout_s=0.3) as appender,
        Barrier(nowhere, terms=lease_terms(SHORT_TTL_S)) as barrier,
    ):
        accounts = Accounts(
            CONFIG,
            database=pool,
            appender=appender,
            passwords=passwords,
            barrier=barrier,
            now=gatelog_clock,
        )
        for attempt in (
            accounts.ready(),
            accounts.logins.log_in("ada", PASSWORD),
            accounts.sessions.end_expired(),
        ):
            with pytest.raises((DatabaseUnavailable, ConfigError)):
                await attempt
        with pytest.raises(DatabaseUnavailable):
            await accounts.sessions.revoke_all(UUID(int=1))
    passwords.close()
    await pool.close()
