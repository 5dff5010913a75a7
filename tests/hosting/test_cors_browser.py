"""Pages of other origins, in a browser: what it lets them do is what the answers allow."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest
from aiohttp import web
from gatelog.config import Config
from gatelog.hosting import app as hosting
from playwright.sync_api import Error, Page

from tests.browser import Browser, fetched
from tests.conftest import Dsns
from tests.hosting.test_mount import whoami
from tests.serving import PASSWORD, Service, serving
from tests.waiting import free_port

LOGIN = {
    "method": "POST",
    "headers": {"Content-Type": "application/json"},
    "body": json.dumps({"login": "alice", "password": PASSWORD}),
}
BEARER = LOGIN | {"body": json.dumps({"login": "alice", "password": PASSWORD, "token": "bearer"})}
PUT = {"method": "PUT", "headers": {"Content-Type": "application/json", "X-Of-Mine": "1"}}


async def page_of_another_origin(_: web.Request) -> web.Response:
    return web.Response(text="<!doctype html><title>App</title>", content_type="text/html")


@asynccontextmanager
async def pages(port: int) -> AsyncIterator[None]:
    """What serves pages on this port, for 127.0.0.1 and localhost: two origins, and two sites."""
    app = web.Application()
    app.add_routes([web.get("/", page_of_another_origin)])
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        yield
    finally:
        await runner.cleanup()


class Place:
    """The origins of the service, and of the pages: of the same site as it, and of another."""

    def __init__(self, service: Service, port: int) -> None:
        self.service = f"http://localhost:{service.port}"
        self.same_site = f"http://localhost:{port}"
        self.other_site = f"http://127.0.0.1:{port}"


@asynccontextmanager
async def place(config: Config, database: Dsns, *, allowed: str) -> AsyncIterator[Place]:
    """``allowed``: the origins that may read; PORT is that of the pages."""
    port = free_port()
    allowed = allowed.replace("PORT", str(port))
    app = hosting.create_app(
        msgspec.structs.replace(config, cors_origins=allowed),
        database.app,
        [web.get("/whoami", whoami), web.put("/whoami", whoami)],
    )
    async with serving(app, config) as service, pages(port):
        await service.register()
        yield Place(service, port)


def refused(page: Page, url: str, **options: object) -> bool:
    """Whether the browser tells the page's script nothing but that it failed."""
    with pytest.raises(Error, match="Failed to fetch"):
        fetched(page, url, **options)
    return True


async def test_a_page_of_an_allowed_origin_logs_in_calls_and_logs_out(
    browser: Browser, config: Config, database: Dsns
) -> None:
    async with place(config, database, allowed="http://localhost:PORT") as at:

        def walk(page: Page) -> None:
            page.goto(at.same_site)
            assert fetched(page, at.service + "/v1/me")[0] == 401
            assert fetched(page, at.service + "/v1/login_user", **LOGIN)[0] == 200
            assert page.evaluate("document.cookie") == "", "no script reads the token"
            status, _, me = fetched(page, at.service + "/v1/me")
            assert (status, json.loads(me)["roles"]) == (200, [])
            assert fetched(page, at.service + "/whoami")[0] == 200
            assert fetched(page, at.service + "/whoami", **PUT)[0] == 200
            left_out = fetched(page, at.service + "/v1/me", credentials="omit")
            assert left_out[0] == 401
            assert fetched(page, at.service + "/v1/logout_user", method="POST")[0] == 200
            assert fetched(page, at.service + "/v1/me")[0] == 401
            assert fetched(page, at.service + "/whoami")[0] == 401

        await browser.run(walk)


@pytest.mark.parametrize("allowed", ["", "http://127.0.0.1:PORT", "http://localhost:1"])
async def test_a_page_of_any_other_origin_can_do_nothing(
    browser: Browser, config: Config, database: Dsns, allowed: str
) -> None:
    """It is of the same site, so the cookie goes along: only the origin tells it from ours."""
    async with place(config, database, allowed=allowed) as at:

        def walk(page: Page) -> None:
            page.goto(at.service + "/health/alive")
            assert fetched(page, "/v1/login_user", **LOGIN)[0] == 200

            page.goto(at.same_site)
            for path in ("/v1/me", "/whoami", "/health/alive", "/v1/logout_user"):
                assert refused(page, at.service + path)
            assert refused(page, at.service + "/v1/login_user", **LOGIN)
            assert refused(page, at.service + "/whoami", **PUT)
            for method in ("GET", "POST"):  # sent, but nobody listens: the browser hides the answer
                unseen = fetched(
                    page, at.service + "/v1/logout_user", method=method, mode="no-cors"
                )
                assert unseen == (0, False, "")

            page.goto(at.service + "/health/alive")
            assert fetched(page, "/v1/me")[0] == 200, "still logged in"

        await browser.run(walk)


async def test_a_page_of_another_site_takes_the_token_itself(
    browser: Browser, config: Config, database: Dsns
) -> None:
    """To another site no cookie goes (SameSite=Lax), allowed origin or not."""
    async with place(config, database, allowed="http://127.0.0.1:PORT") as at:

        def walk(page: Page) -> None:
            page.goto(at.other_site)
            assert fetched(page, at.service + "/v1/login_user", **LOGIN)[0] == 200
            assert fetched(page, at.service + "/v1/me")[0] == 401
            token = json.loads(fetched(page, at.service + "/v1/login_user", **BEARER)[2])["token"]
            bearer = {"Authorization": f"Bearer {token}"}
            assert fetched(page, at.service + "/v1/me", headers=bearer)[0] == 200
            out = fetched(page, at.service + "/v1/logout_user", method="POST", headers=bearer)
            assert out[0] == 200
            assert fetched(page, at.service + "/v1/me", headers=bearer)[0] == 401

        await browser.run(walk)
