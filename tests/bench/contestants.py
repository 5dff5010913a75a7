"""The servers that are compared: the same handler on aiohttp and uvloop behind different checks.

Each runs as ``python -m tests.bench.contestants`` with a Setting in JSON and prints its port when
it serves. The others are written as their documentation shows them, but for what would slow them
down: they return a 401 instead of raising it and have no access log.
"""

from __future__ import annotations

import asyncio
import hashlib
import signal
import sys
from collections.abc import AsyncIterator, Callable

import aiohttp_session
import asyncpg
import jwt
import msgspec
import redis.asyncio
import uvloop
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from aiohttp_session.redis_storage import RedisStorage
from gatelog.config import Config
from gatelog.hosting.app import create_app, make_runner

from tests.bench.population import JWT_ALGORITHM, JWT_KEY

PATH = "/hello"
HOSTED_PATH = f"/api{PATH}"
DATABASE_CONNECTIONS = 8
REDIS_CONNECTIONS = 32

_FIND = "SELECT subject_id, expires_at, roles FROM active_sessions WHERE token_digest = $1"


class Setting(msgspec.Struct, frozen=True):
    """What a contestant is and needs."""

    name: str
    dsn: str
    config: Config
    redis_socket: str = ""


async def hello(_: web.Request) -> web.Response:
    """An ordinary handler."""
    return web.Response(text="Hello, world")


def _refusal() -> web.Response:
    return web.Response(status=401, text="401: Unauthorized")


# --- the contestants


def bare(setting: Setting) -> web.AppRunner:
    """No check at all."""
    return _runner()


def gatelog(setting: Setting) -> web.AppRunner:
    """The handler handed over as a route, and the product's own."""
    app = create_app(setting.config, setting.dsn, hosted=[web.get(PATH, hello)])
    return make_runner(app, setting.config)


def hosted(setting: Setting) -> web.AppRunner:
    """The handler in an application that the product hosts."""
    app = web.Application()
    app.router.add_get(PATH, hello)
    return make_runner(create_app(setting.config, setting.dsn, hosted=app), setting.config)


def session_on_redis(setting: Setting) -> web.AppRunner:
    """aiohttp-session with its Redis storage."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        session = await aiohttp_session.get_session(request)
        return await handler(request) if "user" in session else _refusal()

    pool = redis.asyncio.BlockingConnectionPool.from_url(
        f"unix://{setting.redis_socket}", max_connections=REDIS_CONNECTIONS
    )
    client = redis.asyncio.Redis(connection_pool=pool)
    storage = aiohttp_session.session_middleware(RedisStorage(client))
    return _runner(storage, check)


def select_per_request(setting: Setting) -> web.AppRunner:
    """One SELECT per request, on a pool of asyncpg that resets nothing."""
    pools: list[asyncpg.Pool[asyncpg.Record]] = []

    async def connected(_: web.Application) -> AsyncIterator[None]:
        async with asyncpg.create_pool(
            setting.dsn, min_size=DATABASE_CONNECTIONS, max_size=DATABASE_CONNECTIONS, reset=_keep
        ) as pool:
            pools.append(pool)
            yield

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        digest = hashlib.sha256(request.cookies.get("sid", "").encode()).digest()
        row = await pools[0].fetchrow(_FIND, digest)
        if row is None:
            return _refusal()
        request["user"] = row["subject_id"]
        return await handler(request)

    runner = _runner(check)
    runner.app.cleanup_ctx.append(connected)
    return runner


async def _keep(_: object) -> None:
    """No statement but the SELECT."""


def signed_token(setting: Setting) -> web.AppRunner:
    """PyJWT, HS256: no look-up, and no logout either."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        scheme, _, text = request.headers.get("Authorization", "").partition(" ")
        if scheme != "Bearer":
            return _refusal()
        try:
            claims = jwt.decode(text, JWT_KEY, algorithms=[JWT_ALGORITHM])
        except jwt.InvalidTokenError:
            return _refusal()
        request["user"] = claims["sub"]
        return await handler(request)

    return _runner(check)


CONTESTANTS: dict[str, Callable[[Setting], web.AppRunner]] = {
    "bare": bare,
    "gatelog": gatelog,
    "hosted": hosted,
    "redis": session_on_redis,
    "select": select_per_request,
    "jwt": signed_token,
}


# --- serving


def _runner(*middlewares: Middleware) -> web.AppRunner:
    app = web.Application(middlewares=middlewares)
    app.router.add_get(PATH, hello)
    return web.AppRunner(app, access_log=None)


async def serve(runner: web.AppRunner) -> None:
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        stopped = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
        print(runner.addresses[0][1], flush=True)
        await stopped.wait()
    finally:
        await runner.cleanup()


def main() -> None:
    setting = msgspec.json.decode(sys.argv[1], type=Setting)

    async def run() -> None:
        await serve(CONTESTANTS[setting.name](setting))

    uvloop.run(run())


if __name__ == "__main__":
    main()
