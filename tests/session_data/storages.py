"""The storages of aiohttp-session side by side: ours, in a cookie, and in Redis.

``Client`` is a browser that keeps its cookies. With ours it is logged in by ``log_in``; with the
others that does nothing: their sessions begin by themselves.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import aiohttp_session
from aiohttp import web
from aiohttp.typedefs import Handler
from aiohttp_session import SimpleCookieStorage
from aiohttp_session.cookie_storage import EncryptedCookieStorage
from aiohttp_session.redis_storage import RedisStorage
from cryptography.fernet import Fernet
from gatelog import EventLogStorage, public
from gatelog.config import Config
from gatelog.hosting.app import create_app
from redis.asyncio import Redis

from tests.serving import Answer, Service, serving
from tests.waiting import until

OURS, SIMPLE, COOKIE, REDIS = "ours", "simple", "cookie", "redis"
ALL = (OURS, SIMPLE, COOKIE, REDIS)
Gate = Callable[[], Awaitable[None]]


class Handlers:
    """An application that knows nothing but aiohttp-session. ``before_saving`` holds it up."""

    before_saving: Gate | None = None

    async def read(self, request: web.Request) -> web.Response:
        session = await aiohttp_session.get_session(request)
        told = {"new": session.new, "empty": session.empty, "data": dict(session)}
        return web.json_response(told)

    async def write(self, request: web.Request) -> web.Response:
        session = await aiohttp_session.get_session(request)
        session.update(await request.json())
        if self.before_saving is not None:
            await self.before_saving()
        return web.Response()

    async def append(self, request: web.Request) -> web.Response:
        """Changes a value in place, which the session cannot see, and says so."""
        session = await aiohttp_session.get_session(request)
        session["list"].append(1)
        session.changed()
        return web.Response()

    async def delete(self, request: web.Request) -> web.Response:
        session = await aiohttp_session.get_session(request)
        del session[request.query["name"]]
        return web.Response()

    async def invalidate(self, request: web.Request) -> web.Response:
        (await aiohttp_session.get_session(request)).invalidate()
        return web.Response()

    async def fresh(self, request: web.Request) -> web.Response:
        session = await aiohttp_session.new_session(request)
        session["fresh"] = 1
        return web.Response()

    async def missing(self, request: web.Request) -> web.Response:
        (await aiohttp_session.get_session(request))["missed"] = 1
        raise web.HTTPNotFound()

    async def away(self, request: web.Request) -> web.Response:
        (await aiohttp_session.get_session(request))["away"] = 1
        raise web.HTTPFound("/read")

    def routes(self) -> list[web.RouteDef]:
        """Each of them, and the reading and the writing ones for visitors as well."""
        return [
            web.get("/read", self.read),
            web.post("/write", self.write),
            web.post("/append", self.append),
            web.post("/delete", self.delete),
            web.post("/invalidate", self.invalidate),
            web.post("/fresh", self.fresh),
            web.post("/missing", self.missing),
            web.post("/away", self.away),
            web.get("/visit", visited(self.read)),
            web.post("/leave", visited(self.write)),
            web.post("/quit", visited(self.invalidate)),
        ]


def visited(handler: Handler) -> Handler:
    """The same, for everybody."""

    @public
    async def visit(request: web.Request) -> web.StreamResponse:
        return await handler(request)

    return visit


class Client:
    """A browser, as far as cookies go."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.cookies: dict[str, str] = {}

    async def send(self, method: str, path: str, **options: Any) -> Answer:
        headers = {"Cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items())}
        answer = await self.service.send(method, path, headers=headers, **options)
        for line in answer.headers.getall("Set-Cookie", ()):
            for name, morsel in SimpleCookie(line).items():
                self.cookies[name] = morsel.value
                if not morsel.value or morsel["max-age"] == "0":
                    del self.cookies[name]
        return answer

    async def post(self, path: str, body: Any = None) -> Answer:
        return await self.send("POST", path, json=body)

    async def read(self, path: str = "/read") -> Any:
        answer = await self.send("GET", path)
        assert answer.status == 200, answer
        return json.loads(answer.body)

    async def data(self) -> Any:
        return (await self.read())["data"]

    async def log_in(self) -> None:
        """With ours; the others have no such path."""
        login = {"login": "alice", "password": "a rather long phrase"}
        await self.post("/v1/login_user", login)

    def copy(self) -> Client:
        """Another window, or somebody who got hold of all cookies."""
        other = Client(self.service)
        other.cookies = dict(self.cookies)
        return other


class World:
    """One storage, an application on it, and clients."""

    def __init__(self, name: str, service: Service, handlers: Handlers) -> None:
        self.name, self.service, self.handlers = name, service, handlers

    async def client(self) -> Client:
        client = Client(self.service)
        await client.log_in()
        return client


@asynccontextmanager
async def redis_server(directory: Path) -> AsyncIterator[Redis]:
    """A Redis of one's own, on a socket in this directory. Needs Debian's package redis-server."""
    program = shutil.which("redis-server")
    assert program is not None, "install redis-server (Debian's package of that name)"
    path = directory / "redis.sock"
    process = await asyncio.create_subprocess_exec(
        program,
        *("--port", "0", "--unixsocket", path, "--save", "", "--dir", directory),
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        await until(path.exists)
        async with Redis(unix_socket_path=str(path)) as redis:
            yield redis
    finally:
        process.terminate()
        await process.wait()


@asynccontextmanager
async def world_of(
    name: str, config: Config, dsn: str, tmp_path: Path, *, projector: bool = False
) -> AsyncIterator[World]:
    """The application on this storage. Only the line with the storage differs."""
    handlers = Handlers()
    app = web.Application()
    app.add_routes(handlers.routes())
    async with AsyncExitStack() as stack:
        storage: aiohttp_session.AbstractStorage = EventLogStorage()
        if name == SIMPLE:
            storage = SimpleCookieStorage()
        elif name == COOKIE:
            storage = EncryptedCookieStorage(Fernet(Fernet.generate_key()))
        elif name == REDIS:
            storage = RedisStorage(await stack.enter_async_context(redis_server(tmp_path)))
        aiohttp_session.setup(app, storage)
        if name == OURS:
            outer = create_app(config, dsn, app, projector=projector)
            service = await stack.enter_async_context(serving(outer, config))
            await service.register()
            service = _Mounted(service)
        else:
            service = await stack.enter_async_context(serving(app, config))
        yield World(name, service, handlers)


class _Mounted(Service):
    """Paths of the application are below its mount."""

    def __init__(self, service: Service) -> None:
        vars(self).update(vars(service))

    async def send(self, method: str, path: str, **options: Any) -> Answer:
        return await super().send(method, path if path[:3] == "/v1" else f"/api{path}", **options)
