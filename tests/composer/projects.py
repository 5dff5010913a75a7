"""Generated projects, loaded into this process, and applications that serve them."""

from __future__ import annotations

import importlib
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import aiohttp
from aiohttp import web
from gatelog.composer.rules.code.project import files
from gatelog.composer.rules.composition import Composition
from gatelog.composer.service.projects import put
from gatelog.config import Config
from gatelog.hosting.app import make_runner

from tests.serving import Service


@contextmanager
def loaded(composition: Composition) -> Iterator[list[web.RouteDef]]:
    """The routes of the project."""
    with tempfile.TemporaryDirectory() as directory:
        put(files(composition), Path(directory) / "project")
        sys.path.insert(0, str(Path(directory) / "project"))
        try:
            yield importlib.import_module("composed.app").routes()
        finally:
            sys.path.pop(0)
            for name in [name for name in sys.modules if name.partition(".")[0] == "composed"]:
                del sys.modules[name]
            importlib.invalidate_caches()


@asynccontextmanager
async def served(app: web.Application, config: Config) -> AsyncIterator[Service]:
    """The application, whose answers nothing but the other one is held to."""
    runner = make_runner(app, config)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as client:
            yield Service(runner, client)
    finally:
        await runner.cleanup()
