"""Whether the service is alive, and whether it can do its work: for whoever runs it."""

from __future__ import annotations

import os

import msgspec
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from gatelog.accounts.web import ACCOUNTS
from gatelog.config import Config
from gatelog.errors import ConfigError, GatelogError, LogDamaged, SchemaMismatch
from gatelog.http.answers import answer
from gatelog.http.described import describes
from gatelog.http.guard import public
from gatelog.http.problems import problem


class Alive(msgspec.Struct):
    """Which worker answers, and how many there are."""

    worker: int
    workers: int
    status: str = "alive"


class Ready(msgspec.Struct):
    """It can do its work."""

    status: str = "ready"


_says_alive = describes(returns={200: Alive})


def alive(config: Config) -> Handler:
    """The handler that says which worker answers."""

    @public
    @_says_alive
    async def health_alive(_: web.Request) -> web.StreamResponse:
        """Whether the service runs."""
        return _now(Alive(os.getpid(), config.worker_count))

    return health_alive


@public
@describes(returns={200: Ready}, raises=(ConfigError, SchemaMismatch, LogDamaged))
async def ready(request: web.Request) -> web.StreamResponse:
    """Whether the service can do its work, and why not."""
    try:
        await request.app[ACCOUNTS].ready()
    except GatelogError as error:
        return problem(error, tell=True)
    return _now(Ready())


def _now(content: msgspec.Struct) -> web.Response:
    response = answer(content)
    response.headers[hdrs.CACHE_CONTROL] = "no-store"
    return response


def health_routes(config: Config) -> list[web.RouteDef]:
    """The routes of health."""
    return [web.get("/health/alive", alive(config)), web.get("/health/ready", ready)]
