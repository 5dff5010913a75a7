"""The example application that was moved from a cookie storage: bought from, and left."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from aiohttp import web
from gatelog.config import Config
from gatelog.hosting.app import create_app

from tests.conftest import Dsns
from tests.serving import serving
from tests.session_data.storages import Client

SHOP = Path(__file__).parents[2] / "examples" / "moved" / "shop.py"


def shop() -> web.Application:
    spec = importlib.util.spec_from_file_location("shop", SHOP)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert isinstance(module.app, web.Application)
    return module.app


async def test_a_visitor_fills_a_basket_logs_in_buys_and_leaves(
    config: Config, database: Dsns
) -> None:
    async with serving(create_app(config, database.app, shop()), config) as service:
        await service.register()
        client = Client(service)
        assert (await client.post("/api/put/apple")).status == 303
        await client.post("/api/put/pear")
        assert (await client.post("/api/buy")).status == 401
        await client.log_in()
        assert await client.read("/api/") == {"basket": ["apple", "pear"], "notice": None}
        assert (await client.post("/api/buy")).json == {"bought": ["apple", "pear"]}
        assert await client.read("/api/") == {"basket": [], "notice": "2 on their way"}
        thief = client.copy()
        assert (await client.post("/api/leave")).status == 200
        assert (await client.read("/api/"))["notice"] == "You are logged out."
        assert (await thief.post("/api/buy")).status == 401
