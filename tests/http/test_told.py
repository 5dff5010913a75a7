"""What a process tells of itself: checks, queues, pools, lags; and who counts elsewhere."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import msgspec
import pytest
from aiohttp import web
from gatelog import create_app as program
from gatelog import setup
from gatelog.config import Config
from gatelog.hosting.app import create_app
from gatelog.log.store.database import Database, connect

from tests.conftest import Dsns
from tests.serving import Service, serving
from tests.waiting import until


def value(body: bytes, name: str) -> float:
    """The value of this one metric, with its labels in its name; 0 where there is none."""
    found = re.search(rb"^" + re.escape(name.encode()) + rb" (\S+)$", body, re.MULTILINE)
    return float(found[1]) if found else 0.0


async def metrics(service: Service) -> bytes:
    return (await service.get("/metrics")).body


@pytest.fixture
async def leased(
    config: Config, database: Dsns, tmp_path: Path
) -> AsyncIterator[tuple[Service, str]]:
    """A service whose memory answers, and a token."""
    own = msgspec.structs.replace(config, replica_dir=str(tmp_path / "replica"), lease_ttl_s=2)
    async with serving(create_app(own, database.app, projector=True), own) as service:
        await service.register()
        token = await service.token()

        async def answers_from_memory() -> bool:
            before = value(await metrics(service), "gatelog_replica_checks_total")
            await service.get("/v1/me", cookie=token)
            return value(await metrics(service), "gatelog_replica_checks_total") > before

        await until(answers_from_memory)
        yield service, token


async def test_checks_are_counted_by_who_answered(leased: tuple[Service, str]) -> None:
    service, token = leased
    before = await metrics(service)
    for _ in range(7):
        assert (await service.get("/v1/me", cookie=token)).status == 200
    for _ in range(2):
        assert (await service.get("/v1/me", cookie="x" * 43)).status == 401
    after = await metrics(service)

    def grown(name: str) -> float:
        return value(after, name) - value(before, name)

    assert grown("gatelog_replica_checks_total") == 7
    assert grown("gatelog_primary_lookups_total") == 2
    assert grown("gatelog_primary_lookup_seconds_count") == 2
    assert grown("gatelog_replica_check_seconds_count") == 1, "one since the last time"
    assert 0 < grown("gatelog_replica_check_seconds_sum") < 0.1


async def test_lags_are_told_and_end(leased: tuple[Service, str], database: Dsns) -> None:
    service, _ = leased
    body = await metrics(service)
    assert value(body, "gatelog_seal_lag_events") == value(body, "gatelog_log_position") > 0
    assert 0 < value(body, "gatelog_seal_lag_seconds") < 60
    await until(lambda: _is_zero(service, "gatelog_replica_lag_events"))
    assert value(await metrics(service), "gatelog_replica_lag_seconds") == 0
    owner = await connect(database.owner, role=None)
    try:  # what it has is taken for what it has not, from here on
        await owner.execute("UPDATE log_head SET position = position + 5")
        body = await metrics(service)
    finally:
        await owner.close()
    assert value(body, "gatelog_replica_lag_events") == 5


async def _is_zero(service: Service, name: str) -> bool:
    return f"\n{name} 0.0\n".encode() in await metrics(service)


async def test_pools_and_connections_are_told(config: Config, database: Dsns) -> None:
    app = create_app(config, database.app)
    async with serving(app, config) as service:
        await service.get("/health/ready")
        body = await metrics(service)
        used = value(body, 'gatelog_database_connections{pool="accounts",state="used"}')
        idle = value(body, 'gatelog_database_connections{pool="accounts",state="idle"}')
        assert (used, idle) == (0, 1)
        before = value(body, "gatelog_connections")
        assert before >= 1
        with socket.create_connection((service.host, service.port)):
            await until(lambda: _more(service, "gatelog_connections", before))
        await until(lambda: _same(service, "gatelog_connections", before))


async def _more(service: Service, name: str, than: float) -> bool:
    return value(await metrics(service), name) == than + 1


async def _same(service: Service, name: str, than: float) -> bool:
    return value(await metrics(service), name) == than


async def test_who_waits_for_a_connection_is_counted(database: Dsns) -> None:
    pool = Database(database.app, timeout_s=5, pool_size=1)
    held, let_go = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        async with pool.acquire():
            held.set()
            await let_go.wait()

    try:
        first = asyncio.create_task(hold())
        await held.wait()
        others = [asyncio.create_task(hold()) for _ in range(3)]
        await until(lambda: pool.waiting == 3)
        assert pool.connections == (1, 0)
        let_go.set()
        await asyncio.gather(first, *others)
        assert pool.waiting == 0
        assert pool.connections == (0, 1)
    finally:
        await pool.close()


async def test_passwords_that_wait_are_counted(config: Config, database: Dsns) -> None:
    slow = msgspec.structs.replace(config, argon2_memory_kib=65_536, argon2_time_cost=8)
    async with serving(create_app(slow, database.app), slow) as service:
        logins = [asyncio.create_task(service.log_in(f"nobody{number}")) for number in range(6)]
        await until(lambda: _at_least(service, "gatelog_password_hashing_queue", 2))
        assert {answer.status for answer in await asyncio.gather(*logins)} == {401}
        await until(lambda: _same(service, "gatelog_password_hashing_queue", 0))


async def _at_least(service: Service, name: str, least: float) -> bool:
    return value(await metrics(service), name) >= least


# --- other runners


async def hello(_: web.Request) -> web.Response:
    return web.Response(text="hello")


async def broken(_: web.Request) -> web.Response:
    raise RuntimeError


@pytest.mark.parametrize("ours", [False, True], ids=["aiohttp", "ours"])
async def test_requests_are_counted_once_whoever_serves(
    config: Config, database: Dsns, ours: bool
) -> None:
    own = msgspec.structs.replace(config, database_url=database.app)
    app = web.Application()
    app.router.add_get("/hello-counted", hello)
    app.router.add_get("/broken-counted", broken)
    setup(app, own, projector=False)
    name = "gatelog_http_request_duration_seconds_count"
    hello_401 = f'{name}{{method="GET",route="/hello-counted",status="401"}}'
    missing = f'{name}{{method="GET",route="unmatched",status="401"}}'
    if ours:
        async with serving(app, own) as service:
            before = await metrics(service)
            await service.get("/hello-counted")
            await service.get("/nowhere-counted")
            after = await metrics(service)
    else:
        runner = web.AppRunner(app)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            url = "http://{}:{}".format(*runner.addresses[0])
            async with aiohttp.ClientSession(url) as client:
                before = await (await client.get("/metrics")).read()
                await client.get("/hello-counted")
                await client.get("/nowhere-counted")
                after = await (await client.get("/metrics")).read()
        finally:
            await runner.cleanup()
    assert value(after, hello_401) - value(before, hello_401) == 1
    assert value(after, missing) - value(before, missing) == 1


def test_a_program_counts_once(config: Config) -> None:
    """Its runner counts around everything, so that its application does not."""
    own = msgspec.structs.replace(config, database_url="postgresql:///nowhere")
    assert not program([web.get("/hello", hello)], own).middlewares
