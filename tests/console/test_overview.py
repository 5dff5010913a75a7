"""How things stand, over HTTP and live."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import aiohttp
import msgspec
import pytest
from gatelog.config import Config
from gatelog.console.rules.minutes import KEPT
from gatelog.console.service import overview as looking
from gatelog.console.service.overview import Looking
from gatelog.hosting.app import create_app
from gatelog.hosting.services import open_services
from gatelog.log.store.database import Database

from tests.conftest import Dsns
from tests.serving import PASSWORD, Service, serving

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection


@pytest.fixture
async def house(config: Config, database: Dsns) -> AsyncIterator[Service]:
    """The service with a replica, root and olga the auditor."""
    async with open_services(config, database.app) as services:
        await services.accounts.logins.add_user("root", PASSWORD, ("admin",))
        await services.accounts.logins.add_user("olga", PASSWORD, ("auditor",))
    async with serving(create_app(config, database.app, projector=True), config) as running:
        yield running


@asynccontextmanager
async def watched(house: Service, token: str) -> AsyncIterator[AsyncIterator[tuple[str, Any]]]:
    """The live stream: names of events, and what they carry."""
    url = f"http://{house.host}:{house.port}/v1/overview/stream"
    headers = {"Authorization": f"Bearer {token}"}
    async with (
        aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as client,
        client.get(url, headers=headers) as answer,
    ):
        assert (answer.status, answer.content_type) == (200, "text/event-stream")

        async def frames() -> AsyncIterator[tuple[str, Any]]:
            name = ""
            async for line in answer.content:
                key, _, value = line.decode().rstrip("\n").partition(": ")
                if key == "event":
                    name = value
                elif key == "data":
                    yield name, json.loads(value)

        yield frames()


async def test_how_things_stand(house: Service) -> None:
    token = await house.token("olga")
    for _ in range(3):
        await house.token("root")
    assert (await house.log_in("root", "not the right one")).status == 401
    assert (await house.post("/v1/logout_user", cookie=await house.token("root"))).status == 200
    told = (await house.get("/v1/overview", cookie=token)).json
    rates = told["rates"]
    assert {len(rates[name]) for name in ("logins", "failures", "ends")} == {KEPT}
    lately = slice(-2, None)  # a minute may just have begun
    assert sum(rates["logins"][lately]) == 5
    assert sum(rates["failures"][lately]) == 1
    assert sum(rates["ends"][lately]) == 1
    assert None not in rates["logins"], "all of a log that is not an hour old is known"
    assert told["head"]["position"] > 8
    assert told["checkpoint"] is None
    assert told["unsealed"]["events"] == told["head"]["position"]
    (host,) = told["hosts"]
    assert (host["mode"], host["lag"]) == ("memory", 0) or host["lag"] > 0
    assert {each["code"] for each in told["attention"]} <= {
        "one_admin",
        "lease_over",
        "replica_lag",
    }
    assert "one_admin" in {each["code"] for each in told["attention"]}


async def test_nobody_else_is_told(house: Service) -> None:
    assert (await house.register()).status == 201
    alice = await house.token()
    for path in ("/v1/overview", "/v1/overview/stream"):
        assert (await house.get(path)).status == 401
        assert (await house.get(path, cookie=alice)).status == 403


async def test_it_goes_on_and_ends_with_the_session(house: Service) -> None:
    token = await house.token("olga")
    async with watched(house, token) as frames:
        name, first = await anext(frames)
        assert name == "overview"
        await house.token("root")
        async with asyncio.timeout(5):
            async for _, told in frames:
                if told["head"]["position"] > first["head"]["position"]:
                    break
        assert sum(told["rates"]["logins"][-2:]) > sum(first["rates"]["logins"][-2:])
        assert (await house.post("/v1/logout_user", cookie=token)).status == 200
        async with asyncio.timeout(3):
            assert [frame async for frame in frames][2:] == [], "within a second, or a look more"


async def test_no_more_watch_than_may(config: Config, database: Dsns) -> None:
    config = msgspec.structs.replace(config, streams=1)
    async with open_services(config, database.app) as services:
        await services.accounts.logins.add_user("olga", PASSWORD, ("auditor",))
    async with serving(create_app(config, database.app), config) as house:
        token = await house.token("olga")
        async with watched(house, token) as frames:
            await anext(frames)
            assert (await house.get("/v1/overview/stream", cookie=token)).code == "overloaded"
        async with asyncio.timeout(5):
            while True:  # the place is free again as soon as the service has seen that nobody reads
                try:
                    async with watched(house, token) as frames:
                        await anext(frames)
                        return
                except AssertionError:
                    await asyncio.sleep(0)


# --- counting


class Lookout:
    """Looks, as often as it is asked to, at a log that a test writes."""

    def __init__(self, config: Config, dsn: str, owner: Connection) -> None:
        self._database = Database(dsn, timeout_s=5, pool_size=1)
        self.looking = Looking(config, self._database)
        self._owner = owner
        self.head = 0

    async def write(self, *events: tuple[str, datetime]) -> None:
        rows = []
        for kind, at in events:
            self.head += 1
            rows.append((self.head, kind, at, b"", bytes(32)))
        await self._owner.executemany(
            "INSERT INTO events (position, event_id, type, schema_version, recorded_at, entry,"
            " leaf_hash) VALUES ($1, gen_random_uuid(), $2, 1, $3, $4, $5)",
            rows,
        )
        await self._owner.execute(
            "UPDATE log_head SET position = $1, recorded_at = $2", self.head, events[-1][1]
        )

    async def logins(self) -> list[int | None]:
        self.looking._made = None
        return (await self.looking.now()).rates.logins

    async def close(self) -> None:
        await self._database.close()


@pytest.fixture
async def lookout(config: Config, database: Dsns, owner: Connection) -> AsyncIterator[Lookout]:
    lookout = Lookout(config, database.app, owner)
    yield lookout
    await lookout.close()


@pytest.fixture
async def owner(database: Dsns) -> AsyncIterator[Connection]:
    from gatelog.log.store.database import connect

    connection = await connect(database.owner, role=None)
    yield connection
    await connection.close()


def ago(minutes: float) -> datetime:
    return datetime.now(UTC) - timedelta(minutes=minutes)


async def test_only_what_is_new_is_counted(lookout: Lookout) -> None:
    await lookout.write(*[("session_started", ago(20))] * 7, ("login_failed", ago(19)))
    assert sum(n or 0 for n in await lookout.logins()) == 7
    position = lookout.looking._minutes.position
    await lookout.write(("session_started", ago(0)))
    assert sum(n or 0 for n in await lookout.logins()) == 8
    assert (position, lookout.looking._minutes.position) == (8, 9)


async def test_too_much_is_not_looked_at_and_not_told(
    lookout: Lookout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looking, "LOOKED_BACK", 10)
    monkeypatch.setattr(looking, "READ_AT_ONCE", 3)
    await lookout.write(*[("session_started", ago(20))] * 7, *[("session_started", ago(10))] * 8)
    told = await lookout.logins()
    assert sum(n or 0 for n in told) == 8, "of the minute that was read in part nothing is told"
    assert told.index(0) in {KEPT - 20, KEPT - 21}, "a minute may have begun meanwhile"
    assert None not in told[told.index(0) :]
    await lookout.write(*[("session_started", ago(3))] * 2)
    assert sum(n or 0 for n in await lookout.logins()) == 2 + 8


async def test_after_long_it_begins_anew(lookout: Lookout, monkeypatch: pytest.MonkeyPatch) -> None:
    await lookout.write(("session_started", ago(50)))
    assert sum(n or 0 for n in await lookout.logins()) == 1
    monkeypatch.setattr(looking, "LOOKED_BACK", 5)
    await lookout.write(*[("session_started", ago(5))] * 6, *[("session_started", ago(2))] * 2)
    told = await lookout.logins()
    assert [n for n in told if n] == [2]
    assert told[0] is None


async def test_another_log_is_counted_anew(lookout: Lookout, owner: Connection) -> None:
    await lookout.write(*[("session_started", ago(5))] * 6)
    assert sum(n or 0 for n in await lookout.logins()) == 6
    await owner.execute("UPDATE log_head SET position = 2")
    assert sum(n or 0 for n in await lookout.logins()) == 2


async def test_an_empty_log(lookout: Lookout) -> None:
    assert await lookout.logins() == [0] * KEPT
