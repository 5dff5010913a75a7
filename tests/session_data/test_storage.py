"""What ours has beyond the contract: the log's sessions, visitors, and what is where."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import msgspec
import pytest
from gatelog.accounts.web import ACCOUNTS
from gatelog.config import Config
from gatelog.errors import KeysUnavailable, NotAuthenticated
from gatelog.log.store.database import Database, connect
from gatelog.session_data.rules.data import Change, change_between
from gatelog.session_data.service.data import CACHED_FOR_S, SessionData
from gatelog.session_data.web import SESSION_DATA

from tests.conftest import Clock, Dsns
from tests.serving import DEVICE
from tests.session_data.storages import OURS, World, world_of
from tests.waiting import until


@pytest.fixture
async def world(config: Config, database: Dsns, tmp_path: Path) -> AsyncIterator[World]:
    async with world_of(OURS, config, database.app, tmp_path) as world:
        yield world


async def count(database: Dsns, table: str) -> int:
    connection = await connect(database.app)
    try:
        return int(await connection.fetchval(f"SELECT count(*) FROM {table}"))
    finally:
        await connection.close()


def data_of(world: World) -> SessionData:
    app = world.service.runner.app
    assert app is not None
    return app[SESSION_DATA]


async def test_a_request_that_only_reads_costs_no_database_read(world: World) -> None:
    client = await world.client()
    await client.post("/write", {"a": 1})
    before = data_of(world).store.reads
    for _ in range(10):
        assert await client.data() == {"a": 1}
    assert data_of(world).store.reads == before


async def test_also_where_nothing_was_ever_written(world: World) -> None:
    client = await world.client()
    assert await client.data() == {}
    before = data_of(world).store.reads
    assert await client.data() == {}
    assert data_of(world).store.reads == before


async def test_writing_adds_no_event_to_the_log(world: World, database: Dsns) -> None:
    client = await world.client()
    before = await count(database, "events")
    for n in range(5):
        await client.post("/write", {"n": n})
    assert await count(database, "events") == before


async def test_invalidate_is_a_logout_and_takes_the_data(world: World, database: Dsns) -> None:
    client = await world.client()
    await client.post("/write", {"a": 1})
    assert await count(database, "session_data") == 1
    before = await count(database, "events")
    await client.post("/invalidate")
    assert await count(database, "events WHERE type = 'session_ended'") == 1
    assert await count(database, "events") == before + 1
    assert await count(database, "session_data") == 0
    assert client.cookies.keys() == {DEVICE}  # which opens nothing


@pytest.mark.parametrize("path", ["/v1/logout_user", "/v1/sessions/end_all"])
async def test_any_end_takes_the_data(world: World, database: Dsns, path: str) -> None:
    client = await world.client()
    await client.post("/write", {"a": 1})
    assert (await client.post(path)).status == 200
    assert await count(database, "session_data") == 0


async def test_an_erasure_takes_the_data(world: World, database: Dsns) -> None:
    client = await world.client()
    await client.post("/write", {"a": 1})
    app = world.service.runner.app
    assert app is not None
    me = (await client.send("GET", "/v1/me")).json
    await app[ACCOUNTS].users.erase(UUID(me["user_id"]))
    assert await count(database, "session_data") == 0


async def test_a_new_session_is_a_new_token_of_the_same_login(world: World) -> None:
    client = await world.client()
    before, token = (await client.send("GET", "/v1/me")).json, client.cookies["gatelog"]
    await client.post("/fresh")
    after = (await client.send("GET", "/v1/me")).json
    assert client.cookies["gatelog"] != token
    assert after["session_id"] != before["session_id"]
    same = ("user_id", "authenticated_at", "amr")
    assert [after[name] for name in same] == [before[name] for name in same]
    assert before["started_at"] == before["authenticated_at"] < after["started_at"]
    assert (before["amr"], before["is_token"]) == (["pwd"], False)
    assert after["expires_at"] > before["expires_at"], "to ask for one is use"


async def test_writing_moves_no_lifetime(world: World) -> None:
    client = await world.client()
    before = (await client.send("GET", "/v1/me")).json
    await client.post("/write", {"a": 1})
    assert (await client.send("GET", "/v1/me")).json == before


async def test_nothing_is_readable_in_the_database(world: World, database: Dsns) -> None:
    client = await world.client()
    await client.post("/write", {"secret-name": "secret-value"})
    connection = await connect(database.app)
    sealed = await connection.fetchval("SELECT sealed FROM session_data")
    await connection.close()
    assert b"secret" not in sealed


async def test_what_is_put_back_or_elsewhere_in_the_table_does_not_open(
    world: World, database: Dsns
) -> None:
    one, other = await world.client(), await world.client()
    await one.post("/write", {"a": 1})
    await other.post("/write", {"b": 1})
    connection = await connect(database.app)
    await connection.execute(
        "UPDATE session_data a SET sealed = b.sealed FROM session_data b"
        " WHERE a.session_id <> b.session_id"
    )
    await connection.close()
    for client in (one, other):
        del client.cookies["gatelog-data"]
        assert (await client.send("GET", "/read")).status == 503


async def test_a_bearer_reads_and_writes_without_any_cookie(world: World) -> None:
    login = {"login": "alice", "password": "a rather long phrase", "token": "bearer"}
    service = world.service
    token = (await service.post("/v1/login_user", json=login)).token
    answer = await service.post("/write", json={"a": 1}, bearer=token)
    assert (answer.status, answer.headers.getall("Set-Cookie", [])) == (200, [])
    assert (await service.get("/read", bearer=token)).json["data"] == {"a": 1}
    await service.post("/fresh", bearer=token)
    assert (await service.get("/read", bearer=token)).json["data"] == {"fresh": 1}
    await service.post("/invalidate", bearer=token)
    assert (await service.get("/read", bearer=token)).status == 401


# --- visitors


async def test_a_visitor_fills_nothing_and_takes_it_along(world: World, database: Dsns) -> None:
    client = await world.client()
    await client.post("/v1/logout_user")
    await client.post("/leave", {"basket": [1]})
    assert (await client.read("/visit"))["data"] == {"basket": [1]}
    assert await count(database, "session_data") == 0
    await client.log_in()
    assert await client.data() == {"basket": [1]}
    assert await count(database, "session_data") == 1
    assert (await client.read("/visit"))["data"] == {"basket": [1]}, "public, and logged in"


async def test_a_visitors_cookie_that_comes_later_changes_nothing(world: World) -> None:
    visitor = await world.client()
    await visitor.post("/v1/logout_user")
    await visitor.post("/leave", {"planted": 1})
    client = await world.client()
    await client.post("/write", {"a": 1})
    client.cookies["gatelog-data"] = visitor.cookies["gatelog-data"]
    assert await client.data() == {"a": 1}


@pytest.mark.parametrize(
    "cookie", ["v.", "v.AAAA", "v.ä", "r.x", "r.x.1", "r..", "x", "v." + "A" * 99]
)
async def test_a_cookie_that_was_not_made_here_says_nothing(world: World, cookie: str) -> None:
    client = await world.client()
    await client.post("/write", {"a": 1})
    client.cookies["gatelog-data"] = cookie
    assert await client.data() == {"a": 1}
    del client.cookies["gatelog"]
    assert (await client.read("/visit"))["data"] == {}


async def test_a_visitor_may_leave(world: World) -> None:
    client = await world.client()
    await client.post("/v1/logout_user")
    await client.post("/leave", {"a": 1})
    await client.post("/quit")
    assert (await client.read("/visit"))["data"] == {}


# --- several hosts


async def test_one_reads_ones_own_writes_on_every_host(
    world: World, config: Config, database: Dsns, tmp_path: Path
) -> None:
    """The other host has the old state in memory, and the cookie says that it is old."""
    client = await world.client()
    await client.post("/write", {"n": 0})
    elsewhere = Database(database.app, timeout_s=5, pool_size=1)
    me = (await client.send("GET", "/v1/me")).json
    ids = UUID(me["session_id"]), UUID(me["user_id"])
    other = SessionData(config, elsewhere)
    for n in range(1, 20):
        assert (await other.read(*ids, 0)).content.values == {"n": str(n - 1)}
        await client.post("/write", {"n": n})
        revision = int(client.cookies["gatelog-data"].rpartition(".")[2])
        assert (await other.read(*ids, revision)).content.values == {"n": str(n)}
    await elsewhere.close()


async def test_writers_on_several_hosts_lose_nothing(
    world: World, config: Config, database: Dsns
) -> None:
    client = await world.client()
    me = (await client.send("GET", "/v1/me")).json
    ids = UUID(me["session_id"]), UUID(me["user_id"])
    databases = [Database(database.app, timeout_s=5, pool_size=2) for _ in range(4)]
    hosts = [SessionData(config, one) for one in databases]

    async def write(host: int, n: int) -> None:
        await hosts[host].write(*ids, Change({f"{host}.{n}": "1"}, frozenset()), 0)

    await asyncio.gather(*(write(host, n) for host in range(4) for n in range(10)))
    found = await hosts[0].read(*ids, None)
    assert found.revision == len(found.content.values) == 40
    for one in databases:
        await one.close()


async def test_nobody_writes_for_a_session_that_is_over(
    world: World, config: Config, database: Dsns
) -> None:
    client = await world.client()
    me = (await client.send("GET", "/v1/me")).json
    ids = UUID(me["session_id"]), UUID(me["user_id"])
    await client.post("/v1/logout_user")
    with pytest.raises(NotAuthenticated):
        await data_of(world).write(*ids, Change({"a": "1"}, frozenset()), 0)
    assert not await data_of(world).store.write(ids[0], 0, b"x")
    assert await count(database, "session_data") == 0


async def test_a_write_that_meets_the_end_of_its_session_does_nothing(
    world: World, database: Dsns
) -> None:
    """It has seen the session already, and waits for who ends it."""
    client = await world.client()
    me = (await client.send("GET", "/v1/me")).json
    ending, watching = await connect(database.app), await connect(database.superuser, role=None)
    async with ending.transaction():
        await ending.execute("DELETE FROM active_sessions")
        writing = asyncio.create_task(
            data_of(world).store.write(UUID(me["session_id"]), 0, b"sealed")
        )
        waits = (
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()"
            " AND wait_event_type = 'Lock')"
        )

        async def waiting() -> bool:
            return bool(await watching.fetchval(waits))

        await until(waiting)
    assert not await writing
    assert await count(database, "session_data") == 0
    await ending.close()
    await watching.close()


async def test_memory_is_forgotten_in_time(
    world: World, config: Config, database: Dsns, clock: Clock
) -> None:
    """What others wrote is seen then, also by who has an old cookie."""
    client = await world.client()
    await client.post("/write", {"a": 1})
    me = (await client.send("GET", "/v1/me")).json
    ids = UUID(me["session_id"]), UUID(me["user_id"])
    elsewhere = Database(database.app, timeout_s=5, pool_size=1)
    other = SessionData(config, elsewhere, lambda: clock().timestamp())
    await other.read(*ids, 1)
    await client.post("/write", {"b": 1})
    assert (await other.read(*ids, 1)).revision == 1
    clock.advance(CACHED_FOR_S)
    assert (await other.read(*ids, 1)).revision == 2
    await elsewhere.close()


async def test_without_the_master_key_nothing_is_guessed(
    world: World, config: Config, database: Dsns
) -> None:
    client = await world.client()
    await client.post("/write", {"a": 1})
    me = (await client.send("GET", "/v1/me")).json
    elsewhere = Database(database.app, timeout_s=5, pool_size=1)
    lost = msgspec.structs.replace(config, master_key=base64.b64encode(bytes(32 * [7])).decode())
    with pytest.raises(KeysUnavailable):
        await SessionData(lost, elsewhere).read(UUID(me["session_id"]), UUID(me["user_id"]), None)
    await elsewhere.close()


def test_a_change_is_what_differs() -> None:
    change = change_between({"a": "1", "b": "1", "c": "1"}, {"a": "1", "b": "2", "d": "1"})
    assert change == Change({"b": "2", "d": "1"}, frozenset({"c"}))
    assert not change_between({"a": "1"}, {"a": "1"})
