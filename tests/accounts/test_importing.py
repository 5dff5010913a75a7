"""Users from elsewhere: how they become users, and how they log in."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from gatelog.accounts.rules.events import RoleGranted, UserDisabled, UserRegistered
from gatelog.accounts.rules.importing import MOST_AT_ONCE, Foreigner, ImportUsers, Newcomer
from gatelog.accounts.service.accounts import Accounts
from gatelog.accounts.service.decoys import Decoys
from gatelog.accounts.service.importing import TAKEN, Refusal
from gatelog.accounts.service.passwords import PasswordPool
from gatelog.accounts.store.users import Users
from gatelog.clock import new_event_id, new_random_id
from gatelog.config import Config
from gatelog.errors import InvalidCredentials
from gatelog.log.rules.events import Event
from gatelog.log.store.appender import Appender
from gatelog.log.store.database import Database
from gatelog.log.store.reading import read_events
from gatelog.privacy.service.personal import PersonalData
from gatelog.sessions.service.barrier import Barrier

from tests.builders import MASTER_KEY, NO_KEY, NOON
from tests.conftest import Dsns

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection

MADE = json.loads((Path(__file__).parent / "foreign_hashes.json").read_text())
PASSWORD = MADE["password"]
HASHES = {
    f"{who}-{scheme}": text for who in ("django", "passlib") for scheme, text in MADE[who].items()
}
SOME = HASHES["django-pbkdf2_sha256"]


@asynccontextmanager
async def opened(
    config: Config, url: str, appender: Appender, barrier: Barrier
) -> AsyncIterator[Accounts]:
    pool, passwords = Database(url, timeout_s=5, pool_size=4), PasswordPool(config)
    accounts = Accounts(
        config, database=pool, appender=appender, passwords=passwords, barrier=barrier
    )
    yield accounts
    await accounts.close()
    passwords.close()
    await pool.close()


@pytest.fixture
async def accounts(
    config: Config, database: Dsns, appender: Appender, barrier: Barrier
) -> AsyncIterator[Accounts]:
    config = msgspec.structs.replace(config, master_key=MASTER_KEY)
    async with opened(config, database.app, appender, barrier) as accounts:
        yield accounts


async def events(connection: Connection) -> list[Event]:
    return [item.event() for item in await read_events(connection, 0, limit=10_000)]


async def names_in(found: list[Event], database: Dsns) -> list[str | None]:
    """The logins that are sealed in these events and can still be opened."""
    pool = Database(database.app, timeout_s=5, pool_size=1)
    personal = PersonalData(Config(master_key=MASTER_KEY), pool)
    opened = await personal.open_personal(found)
    await pool.close()
    return [each.login for each in opened if each is not None]


async def kept(connection: Connection, login: str) -> tuple[str, str | None]:
    row = await connection.fetchrow(
        "SELECT password_hash, imported_cost FROM credentials WHERE login = $1", login
    )
    assert row is not None
    return row[0], row[1]


async def test_who_is_imported_logs_in_and_has_argon2id_from_then_on(
    accounts: Accounts, connection: Connection
) -> None:
    foreigners = [Foreigner(name, text) for name, text in HASHES.items()]
    assert await accounts.importing.import_users(foreigners) == []
    for name in HASHES:
        with pytest.raises(InvalidCredentials):
            await accounts.logins.log_in(name, f"{PASSWORD}?")
        assert (await kept(connection, name))[1] is not None
        grant = await accounts.logins.log_in(name, PASSWORD)
        hashed, cost = await kept(connection, name)
        assert hashed.startswith("$argon2id$v=19$m=8,t=1,p=1$")
        assert cost is None
        again = await accounts.logins.log_in(name, PASSWORD)
        assert again.session.subject_id == grant.session.subject_id


async def test_each_is_registered_like_anybody_else(
    accounts: Accounts, database: Dsns, connection: Connection
) -> None:
    foreigners = [
        Foreigner("Ada", SOME, roles=("admin", "auditor", "admin")),
        Foreigner("grace", SOME, disabled=True),
        Foreigner("alan", SOME),
    ]
    assert await accounts.importing.import_users(foreigners) == []
    found = await events(connection)
    kinds = [UserRegistered, RoleGranted, RoleGranted, UserRegistered, UserDisabled, UserRegistered]
    assert [type(event) for event in found] == kinds
    assert await names_in(found, database) == ["ada", "grace", "alan"]
    ada, grace = await accounts.users.find_user("ada"), await accounts.users.find_user("grace")
    assert (set(ada.roles), grace.disabled) == ({"admin", "auditor"}, True)
    with pytest.raises(InvalidCredentials):
        await accounts.logins.log_in("grace", PASSWORD)
    await accounts.users.erase(ada.subject_id)
    assert await names_in(found, database) == ["grace", "alan"]
    faults = await connection.fetch("SELECT login FROM credentials ORDER BY login")
    assert [row[0] for row in faults] == ["alan", "grace"]


async def test_who_cannot_become_a_user_keeps_nobody_else_from_it(accounts: Accounts) -> None:
    await accounts.logins.register("ada", "a long enough password")
    foreigners = [
        Foreigner("ADA", SOME),
        Foreigner("grace", "md5$salt$aaaa"),
        Foreigner("alan", SOME),
        Foreigner("a b", SOME),
        Foreigner("Alan", SOME),
        Foreigner("kurt", SOME, roles=("king",)),
        Foreigner("kurt", SOME),
    ]
    refusals = await accounts.importing.import_users(foreigners)
    assert [refusal.index for refusal in refusals] == [0, 1, 3, 4, 5]
    assert [refusal.index for refusal in refusals if refusal.reason == TAKEN] == [0, 4]
    await accounts.logins.log_in("ada", "a long enough password")
    for login in ("alan", "kurt"):
        await accounts.logins.log_in(login, PASSWORD)
    again = await accounts.importing.import_users([foreigners[2], foreigners[6]])
    assert again == [Refusal(0, TAKEN), Refusal(1, TAKEN)]


async def test_a_thousand_are_found_again_where_nobody_saw_that_they_became_users(
    appender: Appender, connection: Connection
) -> None:
    """What an append does when the commit's answer was lost: the same command once more."""
    newcomers = [
        Newcomer(
            subject_id=new_random_id(),
            login=f"user-{number}",
            password_hash=SOME,
            cost="pbkdf2",
            roles=("auditor",),
            disabled=False,
            key=bytes(32),
            nonce=bytes(12),
            wrapped=NO_KEY,
        )
        for number in range(MOST_AT_ONCE)
    ]
    command = ImportUsers(first_id=new_event_id(), at=NOON, newcomers=tuple(newcomers))
    first = await appender.submit(command)
    again = await appender.submit(command)
    assert first.position == 2 * MOST_AT_ONCE
    assert again == first
    later = msgspec.structs.replace(command, first_id=new_event_id())
    assert (await appender.submit(later)).events == ()
    assert await connection.fetchval("SELECT count(*) FROM users") == MOST_AT_ONCE


async def test_two_imports_at_once_make_each_user_once(
    accounts: Accounts, connection: Connection
) -> None:
    foreigners = [Foreigner(f"user-{number}", SOME) for number in range(50)]
    refusals = await asyncio.gather(
        *(accounts.importing.import_users(foreigners) for _ in range(3))
    )
    assert sum(map(len, refusals)) == 100
    assert await connection.fetchval("SELECT count(*) FROM users") == 50


# --- what the password of nobody costs


async def test_names_of_nobody_are_dealt_the_schemes_as_users_have_them(
    accounts: Accounts, database: Dsns, connection: Connection
) -> None:
    pool, now_s = Database(database.app, timeout_s=5, pool_size=1), [0.0]
    decoys = Decoys(Users(pool), clock=lambda: now_s[0])
    names = [number * (1 << 128) // 1000 for number in range(1000)]

    async def dealt() -> dict[str | None, int]:
        now_s[0] += 61
        await decoys.refresh()
        await decoys.counted()
        costs = [decoys.cost(None, number.to_bytes(16, "big")) for number in names]
        return {cost: costs.count(cost) for cost in set(costs)}

    assert await dealt() == {None: 1000}
    await accounts.logins.register("own", "a long enough password")
    some, other = HASHES["passlib-2a"], HASHES["django-scrypt"]
    foreigners = [Foreigner(f"b{n}", some) for n in range(2)] + [Foreigner("s", other)]
    await accounts.importing.import_users(foreigners)
    found = await dealt()
    assert found == {None: 250, "bcrypt 4": 500, "scrypt 32 8 5": 250}
    before = [decoys.cost(None, number.to_bytes(16, "big")) for number in names]
    await accounts.logins.log_in("b0", PASSWORD)
    await accounts.logins.log_in("s", PASSWORD)
    assert await dealt() == {None: 750, "bcrypt 4": 250}
    after = [decoys.cost(None, number.to_bytes(16, "big")) for number in names]
    assert all(old == new for old, new in zip(before, after, strict=True) if old is None)
    await decoys.close()
    await pool.close()


async def test_a_locked_password_costs_what_it_costs(accounts: Accounts, database: Dsns) -> None:
    pool = Database(database.app, timeout_s=5, pool_size=1)
    await accounts.importing.import_users([Foreigner("ada", HASHES["passlib-2a"])])
    credential = await Users(pool).by_login("ada")
    assert Decoys(Users(pool)).cost(credential, b"") == "bcrypt 4"
    await accounts.logins.log_in("ada", PASSWORD)
    credential = await Users(pool).by_login("ada")
    assert Decoys(Users(pool)).cost(credential, b"") is None
    await pool.close()
