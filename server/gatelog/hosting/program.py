"""Hosting in a program of one's own: its handlers, and everything of the product beside them."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Iterable

from aiohttp import web

from gatelog.config import Config, load_config, variable
from gatelog.errors import ConfigError
from gatelog.hosting import app as hosting
from gatelog.hosting.server import raise_file_limit

logger = logging.getLogger(__name__)


def create_app(
    routes: web.Application | Iterable[web.RouteDef],
    config: Config | None = None,
    *,
    projector: bool = True,
) -> web.Application:
    """The application that answers these routes and the product's own.

    Each of the routes is protected, unless its handler is marked ``public``. An application in
    place of routes is mounted at ``GATELOG_MOUNT``, with all that is in it. ``config`` is read
    from the environment when it is left out; it must name a database that ``gatelog migrate`` has
    prepared.

    ``projector``: follow the log in this process, so that sessions are checked in memory; for a
    program that is a single process. With several on a host, leave it to one ``gatelog projector``
    beside them. With neither, every check asks the database.

    Raises ConfigError for a setting that is not usable. Raises RuntimeError, as it starts, when a
    handler could be reached past the check.
    """
    config = _usable(config)
    return hosting.create_app(config, config.database_url, routes, projector=projector)


def setup(app: web.Application, config: Config | None = None, *, projector: bool = True) -> None:
    """Add the check, the product's own paths and what they need to an application.

    From then on each of its handlers is protected, unless it is marked ``public``: those that are
    there, those that are added later, and those of sub-applications; a path without a handler is
    answered 401 to strangers, too. Middlewares that are added later see the session. Call it once,
    on the outermost application, before it is served. ``config`` and ``projector`` are as for
    ``create_app``.

    Raises ConfigError for a setting that is not usable, and RuntimeError where the application
    answers one of the product's paths itself or is frozen.
    """
    config = _usable(config)
    hosting.add_to(app, config, config.database_url, projector=projector)


def _usable(config: Config | None) -> Config:
    config = config if config is not None else load_config(os.environ)
    if config.embedded:
        raise ConfigError(variable("database_url"), "name a database: a program brings none along")
    return config


def run(routes: web.Application | Iterable[web.RouteDef], config: Config | None = None) -> None:
    """Answer these routes and the product's own, in this process, until SIGINT or SIGTERM.

    Requests in flight are answered before it returns, for ``GATELOG_SHUTDOWN_TIMEOUT_S`` seconds
    at most.

    Raises ConfigError for a setting that is not usable, RuntimeError when a handler could be
    reached past the check, and OSError when the address is taken.
    """
    config = config if config is not None else load_config(os.environ)
    raise_file_limit(config)
    asyncio.run(_run(create_app(routes, config), config))


async def _run(app: web.Application, config: Config) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    runner = hosting.make_runner(app, config)
    await runner.setup()
    try:
        await web.TCPSite(runner, config.host, config.port).start()
        logger.info("listening on %s:%d", config.host, config.port)
        await stopped.wait()
    finally:
        await runner.cleanup()
