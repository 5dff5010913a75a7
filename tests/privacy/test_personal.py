"""Personal data through its life: sealed, found, opened, put under another key, forgotten."""

from __future__ import annotations

import asyncio
from base64 import urlsafe_b64encode
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec
import pytest
from gatelog.accounts.service.accounts import Accounts
from gatelog.accounts.service.acting import Actor
from gatelog.accounts.service.passwords import PasswordPool
from gatelog.config import Config
from gatelog.errors import (
    DatabaseUnavailable,
    InvalidCredentials,
    KeysUnavailable,
    LastAdmin,
    OperatorError,
)
from gatelog.log.rules import events as ev
from gatelog.log.store.appender import Appender
from gatelog.log.store.database import Database
from gatelog.log.store.rebuild import check, rebuild
from gatelog.privacy.rules import Client, Personal
from gatelog.privacy.service.keyring import check_keys
from gatelog.privacy.service.personal import PersonalData
from gatelog.privacy.service.rotation import rotate
from gatelog.privacy.store import keys as store
from gatelog.sessions.rules.events import SessionEnded
from gatelog.sessions.rules.tokens import token_digest

from tests.conftest import Clock, Dsns
from tests.privacy.people import (
    CONFIG,
    HOME,
    PASSWORD,
    WORK,
    MakeAccounts,
    fail,
    log_of,
    opened,
    session_of,
)

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection

ADDRESSES = "SELECT position, subject_id FROM event_addresses ORDER BY position"


async def from_address(connection: Connection, personal: PersonalData, address: str) -> list[int]:
    """The positions of the events from an address."""
    index = await personal.address_index(address)
    rows = await connection.fetch(
        "SELECT position FROM event_addresses WHERE address_index = $1 ORDER BY position", index
    )
    return [row[0] for row in rows]


# --- sealing, finding, opening


async def test_events_know_who_it_was_and_from_where(
    accounts: Accounts, connection: Connection, personal: PersonalData
) -> None:
    await accounts.logins.register("Ada", PASSWORD, HOME)
    await fail(accounts, "ada", WORK)
    await fail(accounts, "nobody", WORK)
    grants = [await accounts.logins.log_in("ADA", PASSWORD, HOME) for _ in range(4)]
    here = session_of(grants[-1])
    await accounts.sessions.end_session(here, grants[0].session.session_id, WORK)
    await accounts.sessions.end_others(here, HOME)
    fresh = await accounts.logins.change_password(here, PASSWORD, "new " + PASSWORD, WORK)
    await accounts.sessions.log_out(token_digest(fresh.token), HOME)
    ada_home, ada_work = (Personal("ada", c.address, c.agent) for c in (HOME, WORK))
    home, work = (Personal(None, c.address, c.agent) for c in (HOME, WORK))
    assert await opened(connection, personal) == [
        ("user_registered", ada_home),
        ("login_failed", ada_work),
        ("login_failed", Personal("nobody", WORK.address, WORK.agent)),
        *[("session_started", ada_home)] * 4,
        ("session_ended", work),
        ("session_ended", home),
        ("session_ended", None),
        ("credential_changed", ada_work),
        ("session_started", ada_work),
        ("session_ended", None),
        ("session_ended", home),
    ]
    assert await from_address(connection, personal, "192.0.2.1") == [1, 4, 5, 6, 7, 9, 14]
    assert await from_address(connection, personal, "::ffff:198.51.100.2") == [2, 3, 8, 11, 12]
    assert await from_address(connection, personal, "192.0.2.2") == []


async def test_without_a_client_only_the_login_is_sealed(
    accounts: Accounts, connection: Connection, personal: PersonalData
) -> None:
    user = await accounts.logins.add_user("ada", PASSWORD, ("admin",))
    await accounts.users.disable(user)
    await accounts.sessions.log_out(b"\0" * 32)
    assert await opened(connection, personal) == [
        ("user_registered", Personal("ada")),
        ("role_granted", None),
        ("user_disabled", None),
    ]
    assert await connection.fetch(ADDRESSES) == []


async def test_an_address_that_is_none_is_sealed_and_not_indexed(
    accounts: Accounts, connection: Connection, personal: PersonalData
) -> None:
    await accounts.logins.register("ada", PASSWORD, Client("unix:", None))
    assert await opened(connection, personal) == [("user_registered", Personal("ada", "unix:"))]
    assert await connection.fetch(ADDRESSES) == []


async def test_opening_many_takes_two_queries(
    accounts: Accounts, connection: Connection, personal: PersonalData, monkeypatch: Any
) -> None:
    users = [await accounts.logins.register(f"user{n}", PASSWORD, HOME) for n in range(20)]
    await fail(accounts, "nobody", HOME)
    asked: list[int] = []
    subject_keys = store.KeyStore.subject_keys

    async def counted(self: store.KeyStore, ids: Any) -> Any:
        asked.append(len(ids))
        return await subject_keys(self, ids)

    monkeypatch.setattr(store.KeyStore, "subject_keys", counted)
    found = await opened(connection, personal)
    assert asked == [len(users)]
    assert all(each is not None for _, each in found)
    assert await personal.open_personal([]) == []


async def test_a_login_costs_no_query_for_its_key(
    accounts: Accounts, monkeypatch: Any, connection: Connection
) -> None:
    """Known or not: the same number of queries, so the same time."""
    await accounts.logins.register("ada", PASSWORD, HOME)
    await fail(accounts, "nobody", HOME)  # makes the key of the day
    queries: list[str] = []
    for name in ("subject_keys", "day_keys", "ring"):
        monkeypatch.setattr(store.KeyStore, name, lambda *_, name=name: queries.append(name))
    await fail(accounts, "nobody", HOME)
    await fail(accounts, "ada", HOME)
    await accounts.logins.log_in("ada", PASSWORD, HOME)
    assert queries == []


# --- erasing


async def test_after_an_erasure_nothing_of_the_person_is_left(
    accounts: Accounts, database: Dsns, connection: Connection, personal: PersonalData
) -> None:
    ada = await accounts.logins.register("ada", PASSWORD, HOME)
    await accounts.logins.register("bob", PASSWORD, HOME)
    await fail(accounts, "ada", WORK)
    await accounts.logins.log_in("ada", PASSWORD, HOME)
    before = await log_of(connection)
    assert len(await from_address(connection, personal, "192.0.2.1")) == 3
    assert (await accounts.users.erase(ada)).ended == 1
    assert [found for _, found in await opened(connection, personal)] == [
        None,
        Personal("bob", HOME.address, HOME.agent),
        *[None] * 4,
    ]
    assert await from_address(connection, personal, "192.0.2.1") == [2]
    assert await from_address(connection, personal, "198.51.100.2") == []
    for table in (
        *("credentials", "subject_keys", "active_sessions"),
        *("event_addresses", "event_origins"),
    ):
        statement = f"SELECT count(*) FROM {table} WHERE subject_id = $1"
        assert await connection.fetchval(statement, ada) == 0
    after = await log_of(connection)
    assert after[: len(before)] == before  # bytes and hashes are what they were
    assert all(ev.leaf_hash(stored.entry) == stored.leaf_hash for stored in after)
    ended = after[-1].event()
    assert isinstance(ended, SessionEnded)
    assert ended.reason == "user_erased"
    assert (await check(database.app)).differences == []
    assert (await rebuild(database.owner)).changed == 0


async def test_the_login_is_free_again(
    accounts: Accounts, connection: Connection, personal: PersonalData
) -> None:
    first = await accounts.logins.register("ada", PASSWORD, HOME)
    await accounts.users.erase(first)
    await fail(accounts, "ada", WORK)  # nobody's now
    second = await accounts.logins.register("ada", PASSWORD, WORK)
    assert second != first
    await accounts.logins.log_in("ada", PASSWORD, WORK)
    assert (await accounts.users.erase(first)).ended == 0
    found = [each for _, each in await opened(connection, personal)]
    assert found[:2] == [None, None]
    assert all(each == Personal("ada", WORK.address, WORK.agent) for each in found[2:])


async def test_an_administrators_data_is_theirs(
    accounts: Accounts, connection: Connection, personal: PersonalData
) -> None:
    """What is sealed in events about others goes with the administrator, and stays without them."""
    ada = await accounts.logins.register("ada", PASSWORD)
    root = await accounts.logins.add_user("root", PASSWORD, ("admin",))
    ruth = await accounts.logins.add_user("ruth", PASSWORD, ("admin",))
    await accounts.users.disable(ada, Actor(root, HOME))
    await accounts.users.erase(ada, Actor(root, HOME))
    home = Personal(None, HOME.address, HOME.agent)
    assert (await opened(connection, personal))[-2:] == [
        ("user_disabled", home),
        ("user_erased", home),
    ]
    assert len(await from_address(connection, personal, "192.0.2.1")) == 2
    await accounts.users.erase(root, Actor(ruth, WORK))
    assert [found for _, found in (await opened(connection, personal))[-3:]] == [
        None,
        None,
        Personal(None, WORK.address, WORK.agent),
    ]
    assert await from_address(connection, personal, "192.0.2.1") == []
    with pytest.raises(LastAdmin):
        await accounts.users.erase(ruth, Actor(ruth, WORK))
    await accounts.users.erase(ruth)  # an operator may


async def test_a_login_attempt_across_an_erasure_leaves_no_trace(
    accounts: Accounts, connection: Connection, personal: PersonalData, monkeypatch: Any
) -> None:
    """The attempt has read credential and key, and is recorded after the erasure."""
    ada = await accounts.logins.register("ada", PASSWORD)
    verified, erased = asyncio.Semaphore(0), asyncio.Event()
    verify = PasswordPool.verify

    async def slow(self: PasswordPool, *given: Any, **named: Any) -> bool:
        right = await verify(self, *given, **named)
        verified.release()
        await erased.wait()
        return right

    monkeypatch.setattr(PasswordPool, "verify", slow)
    attempts = [
        asyncio.create_task(accounts.logins.log_in("ada", password, HOME))
        for password in (PASSWORD, "wrong " + PASSWORD)
    ]
    for _ in attempts:
        await verified.acquire()
    await accounts.users.erase(ada)
    erased.set()
    results = await asyncio.gather(*attempts, return_exceptions=True)
    assert all(isinstance(result, InvalidCredentials) for result in results)
    events = [stored.event() for stored in await log_of(connection)]
    assert events[-1].type == "login_failed"
    assert events[-1].sealed is None
    assert await connection.fetch(ADDRESSES) == []


@pytest.mark.parametrize(
    ("role", "by", "kept"),
    [
        ("auditor", True, False),
        ("auditor", False, False),
        ("admin", True, True),
        ("admin", False, False),
    ],
)
async def test_many_addresses_are_cleared_outside_of_the_lock(
    accounts: Accounts, connection: Connection, *, monkeypatch: Any, role: str, by: bool, kept: bool
) -> None:
    """But for an administrator's over HTTP, whose erasure may be refused under the lock."""
    monkeypatch.setattr(store, "CLEARED_AT_ONCE", 2)
    ada = await accounts.logins.register("ada", PASSWORD, HOME)
    await accounts.users.grant_role(ada, role)
    root = await accounts.logins.add_user("root", PASSWORD, ("admin",))
    for _ in range(5):
        await fail(accounts, "ada", WORK)
    left: list[int] = []
    submit = Appender.submit

    def watched(self: Appender, *arguments: Any) -> Any:
        async def look_and_submit() -> Any:
            left.append(len(await connection.fetch(ADDRESSES)))
            return await submit(self, *arguments)

        return look_and_submit()

    monkeypatch.setattr(Appender, "submit", watched)
    await accounts.users.erase(ada, Actor(root, HOME) if by else None)
    assert [bool(rows) for rows in left] == [kept]
    addresses = await connection.fetch(ADDRESSES)
    assert ada not in {row["subject_id"] for row in addresses}


# --- failed logins of nobody


async def test_failed_logins_of_nobody_are_forgotten_by_and_by(
    accounts: Accounts, connection: Connection, personal: PersonalData, clock: Clock
) -> None:
    await accounts.logins.register("ada", PASSWORD, HOME)
    for day in range(5):
        await fail(accounts, f"nobody{day}", WORK)
        await fail(accounts, "ada", WORK)
        clock.advance(86_400)
        await accounts.logins.forget_overdue()
    # it is day 5; the keys of the last three days are left
    found = await opened(connection, personal)
    nobodys = [each.login if each else None for _, each in found[1::2]]
    assert nobodys == [None, None, "nobody2", "nobody3", "nobody4"]
    assert all(each is not None for _, each in found[2::2])
    assert await connection.fetchval("SELECT count(*) FROM day_keys") == 3
    indexed = {row["position"] for row in await connection.fetch(ADDRESSES)}
    assert {2, 4}.isdisjoint(indexed)
    assert {6, 8, 10}.issubset(indexed)
    clock.advance(86_400 * 10)
    # somebody was interrupted: the keys are gone, what led to the events is still there
    await connection.execute("DELETE FROM day_keys")
    assert await personal.sweep() == 0
    rows = await connection.fetch(ADDRESSES)
    assert [row for row in rows if row["subject_id"] is None] == []
    assert len(rows) == 6  # ada's stay


async def test_processes_agree_on_the_key_of_the_day(
    make_accounts: MakeAccounts, connection: Connection, personal: PersonalData
) -> None:
    processes = [make_accounts(CONFIG) for _ in range(4)]
    await asyncio.gather(*(fail(each, "nobody", HOME) for each in processes * 3))
    assert await connection.fetchval("SELECT count(*) FROM day_keys") == 1
    found = await opened(connection, personal)
    assert all(each == Personal("nobody", HOME.address, HOME.agent) for _, each in found)


async def test_a_key_of_yesterday_is_not_kept(
    accounts: Accounts, clock: Clock, connection: Connection
) -> None:
    await fail(accounts, "nobody", HOME)
    clock.advance(86_400)
    await accounts.logins.forget_overdue()
    clock.now -= timedelta(days=1)
    await connection.execute("DELETE FROM day_keys")
    await fail(accounts, "nobody", HOME)  # makes another
    assert await connection.fetchval("SELECT count(*) FROM day_keys") == 1


# --- the master key


def in_directory(path: Path) -> Config:
    """A configuration whose master key is made in a data directory."""
    return msgspec.structs.replace(CONFIG, master_key="", data_dir=str(path))


def key_text(number: int) -> str:
    return urlsafe_b64encode(bytes([number]) * 32).rstrip(b"=").decode()


async def test_a_master_key_is_made_once_and_stays_out_of_the_database(
    database: Dsns, tmp_path: Path, connection: Connection
) -> None:
    config = in_directory(tmp_path)
    await asyncio.gather(*(check_keys(config, database.app) for _ in range(5)))
    path = tmp_path / "secrets" / "master_key"
    assert path.stat().st_mode & 0o777 == 0o600
    text = path.read_text()
    await check_keys(config, database.app)
    assert path.read_text() == text
    ring = await connection.fetchrow("SELECT * FROM key_ring")
    assert ring is not None
    assert text.strip().encode() not in b"".join(v for v in ring.values() if v is not True)


@pytest.mark.parametrize("lost", ["gone", "another", "damaged"])
async def test_a_lost_master_key_is_named_and_never_replaced_silently(
    database: Dsns, tmp_path: Path, lost: str
) -> None:
    config = in_directory(tmp_path)
    await check_keys(config, database.app)
    path = tmp_path / "secrets" / "master_key"
    if lost == "gone":
        path.unlink()
    else:
        path.write_text(key_text(1) if lost == "another" else "x")
    with pytest.raises(KeysUnavailable, match="GATELOG_MASTER_KEY: ") as caught:
        await check_keys(config, database.app)
    assert "\n" not in str(caught.value)
    assert path.exists() == (lost != "gone")


async def test_without_the_master_key_sessions_end_and_nobody_comes_in(
    make_accounts: MakeAccounts, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    root = await make_accounts(CONFIG).logins.add_user("root", PASSWORD, ("admin",))
    ada = await make_accounts(CONFIG).logins.register("ada", PASSWORD)
    here = session_of(await make_accounts(CONFIG).logins.log_in("ada", PASSWORD, HOME))
    robbed = make_accounts(msgspec.structs.replace(CONFIG, master_key=key_text(1)))
    for attempt in (
        robbed.logins.log_in("ada", PASSWORD, HOME),
        robbed.logins.log_in("ada", "wrong " + PASSWORD, HOME),
        robbed.logins.log_in("nobody", PASSWORD, HOME),
        robbed.logins.register("eve", PASSWORD, HOME),
        robbed.logins.change_password(here, PASSWORD, "new " + PASSWORD, HOME),
        robbed.ready(),
    ):
        with pytest.raises(KeysUnavailable):
            await attempt
    head = len(await log_of(connection))
    await robbed.sessions.end_all(here, HOME)
    await robbed.users.disable(ada, Actor(root, HOME))
    await robbed.users.erase(ada, Actor(root, HOME))
    assert [s.event().sealed for s in (await log_of(connection))[head:]] == [None] * 3
    assert "GATELOG_MASTER_KEY" in caplog.text


async def test_rotation_in_a_data_directory(
    *,
    database: Dsns,
    tmp_path: Path,
    make_accounts: MakeAccounts,
    connection: Connection,
    clock: Clock,
    pool: Database,
) -> None:
    config = in_directory(tmp_path)
    path = tmp_path / "secrets" / "master_key"
    running = make_accounts(config)
    await running.logins.register("ada", PASSWORD, HOME)
    await fail(running, "nobody", WORK)
    old_text = path.read_text()
    wrapped = await connection.fetch("SELECT wrapped_key FROM subject_keys")
    steps: list[tuple[int, int]] = []
    done = await rotate(config, database.app, progress=lambda *step: steps.append(step))
    assert (done.rewrapped, done.lost, done.resumed, done.in_file) == (2, 0, False, True)
    assert steps == [(1, 1)]
    assert path.read_text() != old_text
    assert len(path.read_text().split()) == 1
    assert await connection.fetch("SELECT wrapped_key FROM subject_keys") != wrapped
    # the process that ran all the time goes on, and a new one finds everything
    await running.logins.register("bob", PASSWORD, HOME)
    await running.logins.log_in("ada", PASSWORD, HOME)
    await fail(running, "nobody", WORK)
    clock.advance(86_400)
    await fail(running, "nobody", WORK)
    reader = PersonalData(config, pool)
    assert all(found is not None for _, found in await opened(connection, reader))
    assert await from_address(connection, reader, "192.0.2.1") == [1, 3, 4]
    again = await rotate(config, database.app)
    assert (again.rewrapped, again.resumed) == (4, False)


@pytest.mark.parametrize("step", ["change_master_key", "rewrap_day_keys", "rewrap_subject_keys"])
@pytest.mark.parametrize("when", ["before", "after"])
async def test_an_interrupted_rotation_is_finished_by_the_next(
    *,
    database: Dsns,
    tmp_path: Path,
    make_accounts: MakeAccounts,
    connection: Connection,
    pool: Database,
    monkeypatch: Any,
    step: str,
    when: str,
) -> None:
    config = in_directory(tmp_path)
    running = make_accounts(config)
    for n in range(3):
        await running.logins.register(f"user{n}", PASSWORD, HOME)
    await fail(running, "nobody", WORK)
    original = getattr(store, step)

    async def killed(*arguments: Any) -> None:
        if when == "after":
            await original(*arguments)
        raise OSError("killed")

    with monkeypatch.context() as patch, pytest.raises(DatabaseUnavailable, match="killed"):
        patch.setattr(store, step, killed)
        await rotate(config, database.app)
    await running.logins.register("meanwhile", PASSWORD, HOME)
    await make_accounts(config).logins.log_in("meanwhile", PASSWORD, HOME)
    done = await rotate(config, database.app)
    assert (done.resumed, done.lost) == (True, 0)
    ids = "SELECT DISTINCT encode(master_key_id, 'hex') FROM {}"
    for table in ("key_ring", "subject_keys", "day_keys"):
        assert [row[0] for row in await connection.fetch(ids.format(table))] == [done.master_key_id]
    reader = PersonalData(config, pool)
    assert all(found is not None for _, found in await opened(connection, reader))


async def test_a_rotation_leaves_the_erased_erased(
    database: Dsns,
    tmp_path: Path,
    make_accounts: MakeAccounts,
    connection: Connection,
    monkeypatch: Any,
) -> None:
    """The user is erased between the reading of the keys and their writing."""
    config = in_directory(tmp_path)
    accounts = make_accounts(config)
    ada = await accounts.logins.register("ada", PASSWORD, HOME)
    original = store.rewrap_subject_keys

    async def late(*arguments: Any) -> None:
        await accounts.users.erase(ada)
        await original(*arguments)

    monkeypatch.setattr(store, "rewrap_subject_keys", late)
    await rotate(config, database.app)
    assert await connection.fetchval("SELECT count(*) FROM subject_keys") == 0


async def test_a_registration_cannot_outrun_a_rotation(
    *,
    database: Dsns,
    tmp_path: Path,
    make_accounts: MakeAccounts,
    connection: Connection,
    monkeypatch: Any,
    pool: Database,
) -> None:
    """The key is wrapped with the old master key and arrives after the rotation is over."""
    config = in_directory(tmp_path)
    accounts = make_accounts(config)
    await accounts.logins.register("ada", PASSWORD, HOME)
    hashing, rotated = asyncio.Event(), asyncio.Event()
    original = PasswordPool.hash

    async def slow(self: PasswordPool, password: str) -> str:
        hashing.set()
        await rotated.wait()
        return await original(self, password)

    monkeypatch.setattr(PasswordPool, "hash", slow)
    registering = asyncio.create_task(accounts.logins.register("bob", PASSWORD, HOME))
    await hashing.wait()
    done = await rotate(config, database.app)
    rotated.set()
    await registering
    ids = "SELECT encode(master_key_id, 'hex') FROM subject_keys"
    assert {row[0] for row in await connection.fetch(ids)} == {done.master_key_id}
    found = await opened(connection, PersonalData(config, pool))
    assert found[-1] == ("user_registered", Personal("bob", HOME.address, HOME.agent))


async def test_rotation_with_a_variable(
    database: Dsns, make_accounts: MakeAccounts, connection: Connection, pool: Database
) -> None:
    first = msgspec.structs.replace(CONFIG, master_key=key_text(1))
    both = msgspec.structs.replace(CONFIG, master_key=f"{key_text(2)} {key_text(1)}")
    second = msgspec.structs.replace(CONFIG, master_key=key_text(2))
    with pytest.raises(OperatorError, match="no keys yet"):
        await rotate(first, database.app)
    await make_accounts(first).logins.register("ada", PASSWORD, HOME)
    with pytest.raises(OperatorError, match="GATELOG_MASTER_KEY: put the new key in front"):
        await rotate(first, database.app)
    with pytest.raises(KeysUnavailable, match="GATELOG_MASTER_KEY"):
        await rotate(second, database.app)
    await make_accounts(both).logins.register("bob", PASSWORD, HOME)
    assert (await rotate(both, database.app)).rewrapped == 2
    found = await opened(connection, PersonalData(second, pool))
    assert all(each is not None for _, each in found)
    with pytest.raises(KeysUnavailable):
        await opened(connection, PersonalData(first, pool))


async def test_what_a_lost_master_key_sealed_is_given_up(
    database: Dsns,
    tmp_path: Path,
    make_accounts: MakeAccounts,
    connection: Connection,
    pool: Database,
) -> None:
    config = in_directory(tmp_path)
    await make_accounts(config).logins.register("ada", PASSWORD, HOME)
    (tmp_path / "secrets" / "master_key").unlink()
    with pytest.raises(KeysUnavailable, match="--lost"):
        await rotate(config, database.app)
    done = await rotate(config, database.app, lost=True)
    assert (done.lost, done.resumed) == (2, False)
    await make_accounts(config).logins.log_in("ada", PASSWORD, WORK)
    assert [found for _, found in await opened(connection, PersonalData(config, pool))] == [
        None,
        Personal("ada", WORK.address, WORK.agent),
    ]
    assert (await check(database.app)).differences == []


async def test_one_rotation_at_a_time(database: Dsns, connection: Connection) -> None:
    await check_keys(CONFIG, database.app)
    assert await store.lock_rotation(connection)
    with pytest.raises(OperatorError, match="another rotation"):
        await rotate(CONFIG, database.app)


async def test_every_user_has_a_key_of_their_own(
    accounts: Accounts, connection: Connection
) -> None:
    users: list[UUID] = [await accounts.logins.register(f"user{n}", PASSWORD) for n in range(3)]
    rows = await connection.fetch("SELECT wrapped_key FROM subject_keys")
    assert len({bytes(row[0]) for row in rows}) == len(users)
