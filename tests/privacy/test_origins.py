"""What events are found by besides their address: networks and login names, also in old events."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from gatelog.accounts.service.accounts import Accounts
from gatelog.accounts.service.acting import Actor
from gatelog.errors import KeysUnavailable
from gatelog.log.store.database import Database, connect
from gatelog.privacy.rules import Client, Origin, origin_row, person_of
from gatelog.privacy.service import tracing as tracing_service
from gatelog.privacy.service.personal import PersonalData
from gatelog.privacy.service.rotation import rotate
from gatelog.privacy.service.tracing import Tracing
from gatelog.privacy.store.tracing import read_traced, tracing, write_origins
from gatelog.sessions.rules.tokens import token_digest

from tests.conftest import Clock, Dsns
from tests.older import appending_without_origins, log_in_with, program_before
from tests.privacy.people import (
    CONFIG,
    HOME,
    PASSWORD,
    WORK,
    MakeAccounts,
    fail,
    log_of,
    session_of,
)
from tests.proofs.sealing import tampering
from tests.waiting import until

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection

ORIGINS = """
SELECT position, subject_id, near, middle, wide, login FROM event_origins ORDER BY position
"""
SIX = Client("2001:db8:1:2::3", None)


@pytest.fixture
async def owner(database: Dsns) -> AsyncIterator[Connection]:
    owner = await connect(database.owner, role=None)
    yield owner
    await owner.close()


@pytest.fixture
def catching_up(pool: Database, personal: PersonalData) -> Tracing:
    return Tracing(pool, personal)


async def found(connection: Connection) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in await connection.fetch(ORIGINS)]


async def expected(connection: Connection, personal: PersonalData) -> list[tuple[Any, ...]]:
    """The origins of all events, from what is sealed in each of them."""
    stored = await log_of(connection)
    events = [row.event() for row in stored]
    rows = []
    opened = await personal.open_personal(events)
    for row, event, known in zip(stored, events, opened, strict=True):
        if known is not None:
            origin = await personal.origin_of(Client(known.address), known.login)
            if origin is not None and origin != Origin(origin.address):
                rows.append(origin_row(row.position, person_of(event), origin))
    return rows


async def live(accounts: Accounts) -> None:
    """People do most of what leaves something personal."""
    ada = await accounts.logins.register("Ada", PASSWORD, HOME)
    bob = await accounts.logins.add_user("bob", PASSWORD, ("admin",))
    await fail(accounts, "ada", WORK)
    await fail(accounts, "nobody", SIX)
    grants = [await accounts.logins.log_in("ADA", PASSWORD, HOME) for _ in range(3)]
    here = session_of(grants[-1])
    await accounts.tokens.create(here, "backup", 3600, client=SIX)
    await accounts.sessions.end_session(here, grants[0].session.session_id, WORK)
    await accounts.sessions.end_others(here, HOME)
    fresh = await accounts.logins.change_password(here, PASSWORD, "new " + PASSWORD, WORK)
    await accounts.sessions.log_out(token_digest(fresh.token), HOME)
    await accounts.users.disable(ada, Actor(bob, SIX))


async def forget(owner: Connection) -> None:
    """All as if nobody had ever written origins."""
    await owner.execute("DELETE FROM event_origins; UPDATE origins_head SET traced_to = 0")


async def test_every_event_has_the_origin_of_what_is_sealed_in_it(
    accounts: Accounts, connection: Connection, personal: PersonalData
) -> None:
    await live(accounts)
    rows = await found(connection)
    assert rows == await expected(connection, personal)
    assert sum(row[5] is None for row in rows) >= 3, "ends do not say a login"
    traced = await read_traced(connection)
    assert (traced.to, traced.missing) == (traced.head, 0)


async def test_what_was_there_before_is_caught_up_with(
    *,
    accounts: Accounts,
    connection: Connection,
    personal: PersonalData,
    owner: Connection,
    catching_up: Tracing,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tracing_service, "AT_ONCE", 4)
    await live(accounts)
    before = await found(connection)
    await forget(owner)
    head = (await read_traced(connection)).head
    assert await catching_up.catch_up() == head
    assert await found(connection) == before
    assert (await read_traced(connection)).missing == 0
    assert await catching_up.catch_up() == 0


async def test_beside_an_older_version(
    *,
    accounts: Accounts,
    connection: Connection,
    personal: PersonalData,
    catching_up: Tracing,
) -> None:
    """What it appends stays behind, newer events too, until somebody has caught up; and no event
    is there twice."""
    with appending_without_origins():
        await accounts.logins.register("ada", PASSWORD, HOME)
    assert await found(connection) == []
    await accounts.logins.log_in("ada", PASSWORD, WORK)
    await fail(accounts, "nobody", WORK)
    assert [row[0] for row in await found(connection)] == [2, 3]
    traced = await read_traced(connection)
    assert (traced.to, traced.missing) == (0, 3)
    assert await catching_up.catch_up() == 3
    assert await found(connection) == await expected(connection, personal)
    await accounts.logins.log_in("ada", PASSWORD, HOME)
    traced = await read_traced(connection)
    assert (traced.to, traced.missing) == (5, 0)  # a login, and that it was from a new place


async def test_beside_the_real_older_program(
    *,
    accounts: Accounts,
    connection: Connection,
    personal: PersonalData,
    catching_up: Tracing,
    database: Dsns,
    tmp_path: Path,
) -> None:
    """The one of before this migration, from history, on the migrated database."""
    await accounts.logins.register("ada", PASSWORD, HOME)
    packages = program_before("0015_origins.py", tmp_path / "older")
    assert await log_in_with(packages, database.app, "ada", PASSWORD) == "session"
    traced = await read_traced(connection)
    assert (traced.to, traced.missing) == (1, 1)
    await accounts.logins.log_in("ada", PASSWORD, WORK)
    assert (await read_traced(connection)).missing == 2
    assert await catching_up.catch_up() == 2
    rows = await found(connection)
    assert rows == await expected(connection, personal)
    assert [row[0] for row in rows] == [1, 2, 3]


async def test_one_at_a_time(
    accounts: Accounts, connection: Connection, owner: Connection, pool: Database,
    catching_up: Tracing,
) -> None:  # fmt: skip
    await live(accounts)
    await forget(owner)
    async with tracing(pool) as own:
        assert own is not None
        assert await catching_up.catch_up() == 0
    assert await catching_up.catch_up() > 0


async def test_who_is_erased_is_not_found(
    *,
    accounts: Accounts,
    connection: Connection,
    personal: PersonalData,
    owner: Connection,
    catching_up: Tracing,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also when the erasure comes between opening an event and writing its origin."""
    ada = await accounts.logins.register("ada", PASSWORD, HOME)
    await accounts.logins.register("bob", PASSWORD, HOME)
    await accounts.logins.log_in("ada", PASSWORD, WORK)
    await forget(owner)
    write = write_origins

    async def overtaken(*arguments: Any) -> None:
        if arguments[2].to == 0:
            assert len(arguments[1]) == 3
            await accounts.users.erase(ada)
        await write(*arguments)

    monkeypatch.setattr(tracing_service, "write_origins", overtaken)
    await catching_up.catch_up()
    assert [row[0] for row in await found(connection)] == [2]
    assert (await read_traced(connection)).missing == 0


async def test_many_are_cleared_before_an_erasure(
    accounts: Accounts, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gatelog.privacy.store.keys.CLEARED_AT_ONCE", 2)
    ada = await accounts.logins.register("ada", PASSWORD, HOME)
    await accounts.logins.register("bob", PASSWORD, HOME)
    for _ in range(5):
        await accounts.logins.log_in("ada", PASSWORD, HOME)
    await accounts.users.erase(ada)
    assert [row[0] for row in await found(connection)] == [2]


async def test_failures_of_nobody_are_forgotten_with_their_day(
    *,
    accounts: Accounts,
    connection: Connection,
    owner: Connection,
    catching_up: Tracing,
    clock: Clock,
) -> None:
    await fail(accounts, "nobody", WORK)
    clock.advance((CONFIG.failed_login_retention_days + 1) * 86_400)
    await fail(accounts, "somebody", WORK)
    assert len(await found(connection)) == 2
    await accounts.logins.forget_overdue()
    assert [row[0] for row in await found(connection)] == [2]
    await forget(owner)
    await catching_up.catch_up()
    assert [row[0] for row in await found(connection)] == [2], "its key has gone"


async def test_a_new_master_key_changes_no_origin(
    *,
    make_accounts: MakeAccounts,
    connection: Connection,
    database: Dsns,
    owner: Connection,
    pool: Database,
    tmp_path: Path,
) -> None:
    config = msgspec.structs.replace(CONFIG, master_key="", data_dir=str(tmp_path))
    accounts = make_accounts(config)
    await live(accounts)
    before = await found(connection)
    await rotate(config, database.app)
    await accounts.logins.log_in("bob", PASSWORD, WORK)
    before.append((await found(connection))[-1])
    await forget(owner)
    await Tracing(pool, PersonalData(config, pool)).catch_up()
    assert await found(connection) == before


async def test_without_the_master_key_nothing_counts_as_traced(
    accounts: Accounts, connection: Connection, owner: Connection, pool: Database
) -> None:
    await live(accounts)
    await forget(owner)
    other = msgspec.structs.replace(CONFIG, master_key="b" * 43)
    with pytest.raises(KeysUnavailable):
        await Tracing(pool, PersonalData(other, pool)).catch_up()
    assert (await read_traced(connection)).to == 0


async def test_a_damaged_event_holds_nothing_up(
    *,
    accounts: Accounts,
    connection: Connection,
    database: Dsns,
    owner: Connection,
    catching_up: Tracing,
) -> None:
    for _ in range(3):
        await fail(accounts, "nobody", HOME)
    async with tampering(database) as hand:
        await hand.execute("UPDATE events SET entry = 'no event' WHERE position = 2")
    await forget(owner)
    assert await catching_up.catch_up() == 3
    assert [row[0] for row in await found(connection)] == [1, 3]


async def test_it_goes_on_beside_the_service(
    accounts: Accounts, connection: Connection, owner: Connection, catching_up: Tracing
) -> None:
    await live(accounts)
    await forget(owner)

    async def complete() -> bool:
        return not (await read_traced(connection)).missing

    async with catching_up.going_on():
        await until(complete)
