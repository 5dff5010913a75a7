"""A browser before each proxy: to the login page and back, and a ``fetch`` that is told 401."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest
from gatelog.accounts.web import ACCOUNTS
from gatelog.config import Config
from gatelog.hosting import app as hosting
from playwright.sync_api import Page

from tests.browser import Browser, fetched
from tests.conftest import Dsns
from tests.forward_auth.proxies import APP_HOST, PROXIES, ROLE, TLS, proxied
from tests.serving import PASSWORD, serving
from tests.waiting import free_port

WANTED = "/orders?page=2&text=a%20b%26c"


@asynccontextmanager
async def site(
    name: str, config: Config, database: Dsns, directory: Path, *wanted: str
) -> AsyncIterator[str]:
    """The origin of an API that this proxy guards, with users ada, and grace who is an admin."""
    port = free_port()
    origin = f"https://{APP_HOST}:{port}"
    config = msgspec.structs.replace(
        config, trusted_proxies="127.0.0.1", login_url=f"{origin}/login"
    )
    app = hosting.create_app(config, database.app)
    async with (
        serving(app, config) as service,
        proxied(name, service, directory, (TLS, *wanted), port),
    ):
        await app[ACCOUNTS].logins.add_user("ada", PASSWORD, ())
        await app[ACCOUNTS].logins.add_user("grace", PASSWORD, ("admin",))
        yield origin


def log_in(page: Page, login: str, password: str = PASSWORD) -> None:
    page.get_by_label("Login").fill(login)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in", exact=True).click()


def headers_seen(page: Page) -> dict[str, str]:
    """Those that the API shows: this is its page."""
    return {name.lower(): value for name, value in json.loads(page.inner_text("body"))}


def documents(page: Page) -> list[str]:
    """The addresses of all pages that this one is going to ask for; redirects count."""
    asked: list[str] = []
    page.on("request", lambda r: asked.append(r.url) if r.is_navigation_request() else None)
    return asked


@pytest.mark.parametrize("name", PROXIES)
async def test_to_the_login_page_and_back(
    name: str, browser: Browser, config: Config, database: Dsns, tmp_path: Path
) -> None:
    async with site(name, config, database, tmp_path) as origin:

        def walk(page: Page) -> None:
            page.goto(origin + WANTED)
            where = urlsplit(page.url)
            assert (where.path, parse_qs(where.query)) == (
                "/login",
                {"return_to": [origin + WANTED]},
            )
            for method in ("GET", "POST"):
                told = fetched(page, "/orders", method=method, headers={"Accept": "text/html"})
                assert told[:2] == (401, False)

            log_in(page, "ada", "not the right phrase")
            page.get_by_role("alert").wait_for()
            assert urlsplit(page.url).path == "/login"

            log_in(page, "ada")
            page.wait_for_url(origin + WANTED)
            me = json.loads(fetched(page, "/v1/me")[2])
            page.goto(origin + WANTED)
            seen = headers_seen(page)
            assert seen["x-gatelog-user"] == me["user_id"]
            assert not {"cookie", "authorization"} & seen.keys()
            assert fetched(page, "/orders", method="DELETE")[:2] == (200, False)

            assert fetched(page, "/v1/logout_user", method="POST")[0] == 200
            assert fetched(page, "/orders")[:2] == (401, False)
            page.goto(origin + "/orders")
            assert urlsplit(page.url).path == "/login"

            page.goto(f"{origin}/login?return_to=https%3A%2F%2Fevil.example%2F")
            log_in(page, "ada")
            page.wait_for_url(origin + "/")

        await browser.run(walk)


@pytest.mark.parametrize("name", PROXIES)
async def test_who_lacks_the_role_is_not_sent_in_circles(
    name: str, browser: Browser, config: Config, database: Dsns, tmp_path: Path
) -> None:
    async with site(name, config, database, tmp_path, ROLE) as origin:

        def walk(page: Page) -> None:
            page.goto(origin + WANTED)
            asked = documents(page)
            log_in(page, "ada")
            page.wait_for_url(origin + WANTED)
            assert fetched(page, "/orders")[:2] == (403, False)
            again = page.goto(origin + WANTED)
            assert again is not None
            assert again.status == 403
            assert asked == [origin + "/login", origin + WANTED, origin + WANTED]

            page.goto(origin + "/login?return_to=" + origin + "/orders")
            page.get_by_role("link", name="Sign in with another account").click()
            log_in(page, "grace")
            page.wait_for_url(origin + "/orders")
            assert headers_seen(page)["x-gatelog-roles"] == "admin"

        await browser.run(walk)
