"""Makes aiohttp-session's own tests run with our storage in place of its simple one.

The ``conftest`` of a folder into which the tests were unpacked (``test_upstream``). Their handlers
are for everybody, as they would be without Gatelog; ``UPSTREAM_LOGGED_IN`` sends them somebody who
is logged in.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp_session
import gatelog
import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient
from gatelog.config import Config

from tests.conftest import Dsns, config, database, make_database, postgres

__all__ = ["client_of_ours", "config", "database", "make_database", "postgres"]

LOGIN = {"login": "alice", "password": "a rather long phrase"}
vars(aiohttp_session)["SimpleCookieStorage"] = gatelog.EventLogStorage

Start = Callable[..., Awaitable[TestClient[Any, Any]]]


@pytest.fixture(name="aiohttp_client")
def client_of_ours(aiohttp_client: Start, config: Config, database: Dsns) -> Start:
    async def start(app: web.Application) -> TestClient[Any, Any]:
        for route in app.router.routes():
            gatelog.public(route.handler)
        gatelog.setup(
            app, msgspec.structs.replace(config, database_url=database.app), projector=False
        )
        client = await aiohttp_client(app)
        if os.environ.get("UPSTREAM_LOGGED_IN"):
            assert (await client.post("/v1/register_user", json=LOGIN)).status == 201
            assert (await client.post("/v1/login_user", json=LOGIN)).status == 200
        return client

    return start
