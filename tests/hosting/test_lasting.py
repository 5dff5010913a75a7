"""WebSockets and streams end with their sessions, on every host, whatever their handlers do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import msgspec
import pytest
from aiohttp import WSMsgType, web
from gatelog import public, setup
from gatelog.config import Config
from gatelog.hosting import app as hosting
from gatelog.http.recheck import LASTING

from tests.conftest import Dsns
from tests.hosting.test_mount import echo
from tests.serving import Service, serving
from tests.waiting import until

WITHIN_S = 1.0
ROUNDS = 10


async def stubborn(request: web.Request) -> web.WebSocketResponse:
    """Does not read, and does not let itself be cancelled once."""
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    with suppress(asyncio.CancelledError):
        await asyncio.Event().wait()
    await asyncio.Event().wait()
    return socket


async def moments() -> AsyncIterator[None]:
    while True:
        yield
        await asyncio.sleep(0.05)


async def ticks(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    async for _ in moments():
        await response.write(b"data: tick\n\n")
    return response


async def silence(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    await response.write(b"data: once\n\n")
    await asyncio.Event().wait()
    return response


async def generated(_: web.Request) -> web.Response:
    """A body that is prepared after the handler has returned."""

    async def pieces() -> AsyncIterator[bytes]:
        async for _ in moments():
            yield b"piece"

    return web.Response(body=pieces())


@public
async def open_ticks(request: web.Request) -> web.StreamResponse:
    return await ticks(request)


async def short(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b"short")
    return response


ROUTES = [
    web.get("/echo", echo),
    web.get("/stubborn", stubborn),
    web.get("/ticks", ticks),
    web.get("/silence", silence),
    web.get("/generated", generated),
    web.get("/open", open_ticks),
    web.get("/short", short),
]
SOCKETS, STREAMS = ("/echo", "/stubborn"), ("/ticks", "/silence", "/generated")


def inside(config: Config, dsn: str) -> web.Application:
    app = web.Application()
    app.add_routes(ROUTES)
    setup(app, msgspec.structs.replace(config, database_url=dsn))
    return app


def mounted(config: Config, dsn: str) -> web.Application:
    app = web.Application()
    app.add_routes(ROUTES)
    return hosting.create_app(config, dsn, app, projector=True)


def handed_over(config: Config, dsn: str) -> web.Application:
    return hosting.create_app(config, dsn, ROUTES, projector=True)


Build = Callable[[Config, str], web.Application]


@asynccontextmanager
async def host(
    build: Build, config: Config, database: Dsns, directory: Path
) -> AsyncIterator[Service]:
    own = msgspec.structs.replace(
        config,
        data_dir=str(directory),
        replica_dir=str(directory / "replica"),
        mount="/own" if build is mounted else "/api",
    )
    directory.mkdir()
    app = build(own, database.app)
    async with serving(app, own) as service:
        yield service


@pytest.fixture(params=[inside, mounted, handed_over])
async def hosts(
    request: pytest.FixtureRequest, config: Config, database: Dsns, tmp_path: Path
) -> AsyncIterator[tuple[Service, Service, str]]:
    """Two hosts on one database, and where their handlers answer."""
    build = request.param
    async with AsyncExitStack() as stack:
        one, two = [
            await stack.enter_async_context(host(build, config, database, tmp_path / name))
            for name in ("one", "two")
        ]
        await one.register()
        yield one, two, "/own" if build is mounted else ""


def watched(service: Service) -> int:
    assert service.runner.app is not None
    return len(service.runner.app[LASTING])


async def ends_of(service: Service, path: str, token: str, started: asyncio.Event) -> object:
    """How the response on this path ends: a WebSocket's code, or the exception of a stream."""
    url = f"http://{service.host}:{service.port}{path}"
    headers = {"Cookie": f"gatelog={token}"}
    if path.endswith(SOCKETS):
        async with service._client.ws_connect(url, headers=headers) as socket:
            started.set()
            while True:
                message = await socket.receive()
                if message.type in {WSMsgType.CLOSE, WSMsgType.CLOSED, WSMsgType.ERROR}:
                    return socket.close_code
    async with service._client.get(url, headers=headers) as response:
        assert response.status == 200
        try:
            async for _ in response.content.iter_any():
                started.set()
        except aiohttp.ClientError as error:
            return type(error)
    return None


async def begun(service: Service, path: str, token: str) -> asyncio.Task[object]:
    started = asyncio.Event()
    task = asyncio.create_task(ends_of(service, path, token, started))
    waiting = asyncio.create_task(started.wait())
    await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED, timeout=10)
    assert not task.done(), task.result()
    return task


async def test_they_end_within_a_second_of_a_logout_on_another_host(
    hosts: tuple[Service, Service, str],
) -> None:
    one, two, prefix = hosts
    for _ in range(ROUNDS):
        token, other = await one.token(), await one.token()
        tasks = {
            path: await begun(two, prefix + path, token) for path in (*SOCKETS, *STREAMS, "/open")
        }
        stays = await begun(two, prefix + "/echo", other)
        assert (await one.post("/v1/logout_user", cookie=token)).status == 200
        since = time.monotonic()
        ending = [tasks[path] for path in (*SOCKETS, *STREAMS)]
        await asyncio.wait(ending, timeout=5)
        assert time.monotonic() - since < WITHIN_S
        assert tasks["/echo"].result() == tasks["/stubborn"].result() == 4401
        for path in STREAMS:
            assert tasks[path].result() is aiohttp.ClientPayloadError, path
        assert not tasks["/open"].done()
        assert not stays.done()
        tasks["/open"].cancel()
        stays.cancel()
    counted = (await two.get("/metrics")).body.decode().splitlines()
    for path in ("/ticks", "/silence"):
        (line,) = (
            line
            for line in counted
            if f'duration_seconds_count{{method="GET",route="{prefix}{path}"' in line
        )
        assert 'status="499"' in line, "broken off, and no error"


async def test_what_is_over_is_not_watched(hosts: tuple[Service, Service, str]) -> None:
    """And the end of its session does not cut who uses the connection now."""
    one, two, prefix = hosts
    token, other = await one.token(), await one.token()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as client:
        for each in (token, other):
            url = f"http://{two.host}:{two.port}{prefix}/short"
            async with client.get(url, headers={"Cookie": f"gatelog={each}"}) as response:
                assert await response.read() == b"short"
        await one.post("/v1/logout_user", cookie=token)
        await until(lambda: watched(two) == 0, within_s=2)
        async with client.get(url, headers={"Cookie": f"gatelog={other}"}) as response:
            assert response.status == 200


async def test_a_stop_waits_for_none_of_them(
    config: Config, database: Dsns, tmp_path: Path
) -> None:
    patient = msgspec.structs.replace(config, shutdown_timeout_s=30)
    tasks = {}
    async with host(inside, patient, database, tmp_path / "own") as service:
        await service.register()
        token = await service.token()
        for path in ("/echo", "/ticks", "/silence"):
            tasks[path] = await begun(service, path, token)
        since = time.monotonic()
        await service.runner.cleanup()
        assert time.monotonic() - since < 5
        assert await tasks["/echo"] == 1001


async def test_where_nobody_can_tell_they_end(
    config: Config, database: Dsns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gatelog.errors import DatabaseUnavailable
    from gatelog.http.recheck import GATE

    async def nobody(_: bytes) -> None:
        raise DatabaseUnavailable()

    async with host(inside, config, database, tmp_path / "own") as service:
        await service.register()
        task = await begun(service, "/echo", await service.token())
        assert service.runner.app is not None
        gate = service.runner.app[GATE]
        monkeypatch.setattr(gate, "look", lambda _: None)
        monkeypatch.setattr(type(gate), "look_up", lambda _, digest: nobody(digest))
        assert await asyncio.wait_for(task, 2) == 1013


async def test_more_of_them_than_may_wait_for_the_primary(
    config: Config, database: Dsns, tmp_path: Path
) -> None:
    """Memory knows none, and few may wait: all of them stay, and nobody else is refused."""
    strict = msgspec.structs.replace(
        config, check="strict", lookup_queue=20, max_sessions_per_user=40
    )
    async with host(handed_over, strict, database, tmp_path / "own") as service:
        await service.register()
        tokens = [await service.token() for _ in range(40)]
        tasks = [await begun(service, "/echo", token) for token in tokens]
        until_s = time.monotonic() + 2
        while time.monotonic() < until_s:
            assert (await service.get("/v1/me", cookie=tokens[0])).status == 200
        assert not any(task.done() for task in tasks)
        assert (await service.post("/v1/logout_user", cookie=tokens[20])).status == 200
        assert await asyncio.wait_for(tasks[20], WITHIN_S) == 4401
        assert [task.done() for task in tasks].count(True) == 1
        for task in tasks:
            task.cancel()
