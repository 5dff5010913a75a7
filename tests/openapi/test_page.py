"""The page at ``/docs`` in a real browser: read it, try it, and nothing from anywhere else."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from gatelog import describes, public
from gatelog.config import Config
from gatelog.hosting.app import create_app
from gatelog.hosting.docs import PAGE, PAGE_PATH
from playwright.sync_api import Page, expect

from tests.browser import Browser
from tests.conftest import Dsns
from tests.serving import PASSWORD, Service, serving
from tests.watched import Watched

MARKUP = "<img src=x onerror=alert(1)> `<b>` </script><script>alert(2)</script>"
FORBIDDEN = (
    """() => {
        const script = document.createElement("script");
        try { script.textContent = "window.ran = 1"; } catch { }
        document.body.append(script);
    }""",
    """() => document.body.setAttribute("style", "color: red")""",
    """() => { new Image().src = "http://elsewhere.example/pixel.png"; }""",
    """() => fetch("http://elsewhere.example/").catch(() => null)""",
)


@public
@describes(returns={200: str})
async def hostile(_: web.Request) -> web.Response:
    return web.json_response(MARKUP, headers={"X-Markup": MARKUP})


hostile.__doc__ = f"{MARKUP}. {MARKUP}"


@pytest.fixture
async def hosting(config: Config, database: Dsns) -> AsyncIterator[Service]:
    app = create_app(config, database.app, [web.get("/hostile/{name}", hostile)])
    async with serving(app, config) as service:
        await service.register()
        yield service


def send(page: Page, operation: str) -> str:
    """Try an operation; returns the status."""
    entry = page.locator(f"details[id='{operation}']")
    if entry.get_attribute("open") is None:
        entry.locator("> summary").click()
    entry.get_by_role("button", name="Send").click()
    status = entry.locator("[data-status]")
    expect(status).to_be_visible()
    expect(entry.get_by_role("button", name="Send")).to_be_enabled()
    return str(status.get_attribute("data-status"))


async def test_it_is_read_and_tried(hosting: Service, browser: Browser) -> None:
    origin = f"http://{hosting.host}:{hosting.port}"

    def walk(page: Page) -> None:
        watched = Watched(page, origin)
        page.goto(f"{origin}{PAGE_PATH}")
        expect(page.get_by_role("heading", level=1)).to_have_text("Gatelog")
        assert sorted(watched.asked) == sorted(
            ["/openapi.json", *(path for path, _ in PAGE.values())]
        )

        assert send(page, "get_v1_me") == "401"
        assert "not_authenticated" in page.locator("#get_v1_me pre[aria-label=Body]").inner_text()
        page.get_by_role("textbox", name="Login").fill("alice")
        page.get_by_label("Password", exact=True).fill(PASSWORD)
        page.get_by_role("button", name="Log in").click()
        expect(page.locator("#who")).to_contain_text("no role")
        assert send(page, "get_v1_me") == "200"
        assert "user_id" in page.locator("#get_v1_me pre[aria-label=Body]").inner_text()

        page.get_by_role("button", name="Log out").click()
        expect(page.locator("#who")).to_have_text("Nobody is logged in.")
        assert send(page, "get_v1_me") == "401"
        assert watched.faults == []

    await browser.run(walk)


async def test_text_stays_text(hosting: Service, browser: Browser) -> None:
    origin = f"http://{hosting.host}:{hosting.port}"

    def walk(page: Page) -> None:
        watched = Watched(page, origin)
        page.goto(f"{origin}{PAGE_PATH}#get_hostile_name")
        entry = page.locator("#get_hostile_name")
        expect(entry).to_contain_text("<img src=x onerror=alert(1)>")  # it is opened by its address
        entry.locator("input[name=name]").fill("../../<b>?#%")
        assert send(page, "get_hostile_name") == "200"
        assert watched.asked[-1] == "/hostile/..%2F..%2F%3Cb%3E%3F%23%25"
        expect(entry.locator("pre[aria-label=Body]")).to_contain_text("<script>alert(2)</script>")
        assert page.locator("main img, main script, main b").count() == 0
        assert watched.faults == []

    await browser.run(walk)


async def test_it_is_used_with_the_keyboard(hosting: Service, browser: Browser) -> None:
    origin = f"http://{hosting.host}:{hosting.port}"

    def walk(page: Page) -> None:
        page.goto(f"{origin}{PAGE_PATH}")
        expect(page.locator("#get_v1_me")).to_be_visible()
        page.keyboard.press("Tab")
        expect(page.get_by_text("To the operations")).to_be_focused()
        page.get_by_label("Find").focus()
        page.keyboard.type("alive")
        expect(page.locator("#get_v1_me")).to_be_hidden()
        page.keyboard.press("Tab")
        expect(page.locator("#get_health_alive > summary")).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.locator("#get_health_alive select[name=method]")).to_be_visible()
        page.keyboard.press("Tab")
        expect(page.locator("#get_health_alive select[name=method]")).to_be_focused()
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        expect(page.locator("#get_health_alive [data-status='200']")).to_be_visible()

    await browser.run(walk)


async def test_what_its_policy_forbids_is_found(hosting: Service, browser: Browser) -> None:
    """The page has no fault because it does nothing that is forbidden, not because all is allowed
    or nothing would be seen."""
    origin = f"http://{hosting.host}:{hosting.port}"

    def walk(page: Page) -> None:
        watched = Watched(page, origin)
        page.goto(f"{origin}{PAGE_PATH}")
        for attempt in FORBIDDEN:
            watched.faults.clear()
            page.evaluate(attempt)
            page.wait_for_function("() => true")
            assert watched.faults, attempt
        assert page.evaluate("window.ran") is None

    await browser.run(walk)
