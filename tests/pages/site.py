"""The pages as people find them: a service with somebody of each role, a browser, and what must
hold of every page (``Visit``)."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from typing import Any, TypeVar

import aiohttp
import msgspec
from aiohttp import web
from axe_playwright_python.sync_playwright import Axe
from gatelog.accounts.service.accounts import Accounts
from gatelog.accounts.web import ACCOUNTS
from gatelog.config import Config
from gatelog.hosting.app import create_app, make_runner
from playwright.sync_api import Page, expect

from tests.browser import Browser
from tests.conftest import Dsns
from tests.contract import contract
from tests.serving import PASSWORD, Service
from tests.watched import Watched

ResultT = TypeVar("ResultT")
USERS: dict[str, tuple[str, ...]] = {"alice": (), "olga": ("auditor",), "ada": ("admin",)}
HTML = {"Accept": "text/html"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
MARKUP = "<img src=x onerror=alert(1)> <script>alert(2)</script>"
MOST_MOVED = 0.001  # of the window, by the measure of browsers, of which 0.1 counts as good
WIDTHS = (320, 1280, 2560)
# Every rule of WCAG 2.2, levels A and AA, and axe's own best practices.
AXE_OPTIONS = {"resultTypes": ["violations"]}


class Site(Service):
    """A running service as a browser reaches it."""

    @property
    def origin(self) -> str:
        return f"http://localhost:{self.port}"

    @property
    def accounts(self) -> Accounts:
        app = self.runner.app
        return app[ACCOUNTS]


@asynccontextmanager
async def serving_site(
    config: Config,
    database: Dsns,
    *,
    users: dict[str, tuple[str, ...]] | None = None,
    public: bool = False,
    projector: bool = False,
) -> AsyncIterator[Site]:
    """The service on localhost, with alice (nobody special), olga (auditor) and ada (admin).

    ``public``: its public address stays what it is. ``projector``: sessions are checked in memory.
    """
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        port = listening.getsockname()[1]
        if not public:
            config = msgspec.structs.replace(config, public_url=f"http://localhost:{port}")
        runner = make_runner(create_app(config, database.app, projector=projector), config)
        await runner.setup()
        await web.SockSite(runner, listening).start()
        async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as client:
            site = Site(runner, client, contract(config))
            for login, roles in (USERS if users is None else users).items():
                await site.accounts.logins.add_user(login, PASSWORD, roles)
            yield site
        await runner.cleanup()


# How much what is in the page has moved since it came, without a hand of the reader's, and what.
MOVED = """() => new Promise((done) => {
    let moved = 0;
    const what = [];
    const told = (of) => [of.node?.outerHTML?.slice(0, 80) ?? of.node?.textContent,
        of.previousRect.y, of.currentRect.y, of.previousRect.height, of.currentRect.height];
    const add = (list) => {
        for (const e of list.getEntries()) {
            if (e.hadRecentInput) continue;
            moved += e.value;
            what.push(...e.sources.map(told));
        }
    };
    new PerformanceObserver(add).observe({ type: "layout-shift", buffered: true });
    setTimeout(() => done([moved, what]), 50);
})"""


class Visit(Watched):
    """Somebody in the browser: where they go, and whether each page is as it must be.

    Nothing moves in a page that is opened. ``look`` holds the page that is there to all the rest;
    it is called for each page that is opened.
    """

    def __init__(self, page: Page, origin: str) -> None:
        super().__init__(page, origin)
        self.page = page
        self.origin = origin

    def open(self, path: str) -> Page:
        """Go there, and look."""
        self.page.goto(f"{self.origin}{path}")
        moved, what = self.page.evaluate(MOVED)
        assert moved < MOST_MOVED, (path, what)
        self.look()
        return self.page

    def sign_in(self, login: str, password: str = PASSWORD) -> Page:
        """By the form, as a person does; returns the page that comes then."""
        self.page.goto(f"{self.origin}/login")
        self.page.get_by_label("Login").fill(login)
        self.page.get_by_label("Password").fill(password)
        self.page.get_by_role("button", name="Sign in", exact=True).click()
        expect(self.page.get_by_role("button", name="Sign out")).to_be_visible()
        return self.page

    def look(self) -> None:
        """See that nothing is wrong with the page that is there now."""
        assert self.faults == [], (self.page.url, self.faults)
        assert self.page.locator("h1").count() == 1, self.page.url
        for landmark in ("banner", "main", "contentinfo"):
            assert self.page.get_by_role(landmark).count() == 1, (landmark, self.page.url)
        found = Axe().run(self.page, options=AXE_OPTIONS).response["violations"]
        assert not found, [(each["id"], [n["html"] for n in each["nodes"]]) for each in found]
        self._fits()

    def _fits(self) -> None:
        """No page is wider than the window, at any width."""
        size = self.page.viewport_size
        assert size is not None
        for width in WIDTHS:
            self.page.set_viewport_size({"width": width, "height": size["height"]})
            wide = self.page.evaluate("document.documentElement.scrollWidth")
            assert wide <= width, (self.page.url, width, wide)
        self.page.set_viewport_size(size)


async def visiting(
    site: Site, browser: Browser, steps: Callable[[Visit], ResultT], **options: Any
) -> ResultT:
    """Do this in a browser that knows nothing yet; nothing may have been wrong on the way."""

    def run(page: Page) -> ResultT:
        visit = Visit(page, site.origin)
        result = steps(visit)
        assert visit.faults == [], visit.faults
        return result

    return await browser.run(run, **options)


def another(visit: Visit, **options: Any) -> Visit:
    """Somebody else, in a browser of their own, at the same time. Close ``page.context`` after."""
    browser = visit.page.context.browser
    assert browser is not None
    return Visit(browser.new_context(**options).new_page(), visit.origin)
