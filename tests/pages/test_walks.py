"""What holds from page to page: the keyboard alone, nothing lost, mails, the way back elsewhere."""

from __future__ import annotations

from collections.abc import AsyncIterator
from urllib.parse import urlencode

import msgspec
import pytest
from aiohttp import web
from gatelog.config import Config
from playwright.sync_api import Locator, Page, expect

from tests.browser import Browser
from tests.conftest import Dsns
from tests.mail.server import Inbox, mail_server
from tests.pages.site import FORM, HTML, Site, Visit, another, serving_site, visiting
from tests.serving import NEW_PASSWORD, PASSWORD
from tests.waiting import free_port, until

MOST_TABS = 60
SHOWN_FOCUS = """() => {
    const { outlineStyle, outlineWidth } = getComputedStyle(document.activeElement);
    return outlineStyle !== "none" && parseFloat(outlineWidth) >= 2;
}"""


# --- the keyboard


def tab_to(page: Page, wanted: Locator) -> None:
    """Go there by the tabulator; each stop on the way shows that it has the focus."""
    for _ in range(MOST_TABS):
        page.keyboard.press("Tab")
        assert page.evaluate(SHOWN_FOCUS), page.evaluate("document.activeElement.outerHTML")
        if wanted.evaluate("element => element === document.activeElement"):
            return
    raise AssertionError(f"{wanted} is not reached by the tabulator")


async def test_the_keyboard_is_enough(site: Site, browser: Browser) -> None:
    def walk(visit: Visit) -> None:
        page, other = visit.open("/"), another(visit)
        other.sign_in("alice")
        page.keyboard.press("Tab")
        expect(page.get_by_text("Skip to the content")).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.locator("main")).to_be_focused()
        tab_to(page, page.get_by_role("main").get_by_role("link", name="Sign in"))
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")
        tab_to(page, page.get_by_label("Login"))
        page.keyboard.type("alice")
        tab_to(page, page.get_by_label("Password"))
        page.keyboard.type(PASSWORD)
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", level=1)).to_have_text("My account")

        summary = page.locator("summary").last
        tab_to(page, summary)
        page.keyboard.press("Enter")
        tab_to(page, page.get_by_label("What you call it").last)
        page.keyboard.type("My other laptop")
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="My other laptop")).to_be_visible()

        tab_to(page, page.get_by_role("button", name="End My other laptop"))
        page.keyboard.press("Enter")
        expect(page.get_by_role("status")).to_contain_text("The session has ended")
        other.page.context.close()

        tab_to(page, page.get_by_role("link", name="Password"))
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", level=1)).to_have_text("Change the password")
        tab_to(page, page.get_by_label("The password you have"))
        page.keyboard.type("wrong, but long enough")
        tab_to(page, page.get_by_label("The new password"))
        page.keyboard.type(NEW_PASSWORD)
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_be_focused()
        page.keyboard.press("Tab")  # from what is wrong to where
        page.keyboard.press("Enter")
        expect(page.get_by_label("The password you have")).to_be_focused()

        tab_to_sign_out = page.get_by_role("button", name="Sign out")
        page.goto(f"{site.origin}/account")
        tab_to(page, tab_to_sign_out)
        page.keyboard.press("Enter")
        expect(page.get_by_role("main").get_by_role("link", name="Sign in")).to_be_visible()

    await visiting(site, browser, walk)


# --- nothing is lost


async def test_what_was_written_outlives_a_reload_and_a_session(
    site: Site, browser: Browser
) -> None:
    def walk(visit: Visit) -> None:
        visit.sign_in("ada")
        page = visit.open("/account/tokens")
        name, days = page.get_by_label("What it is for"), page.get_by_label("How many days")
        name.fill("nightly export")
        days.fill("12")
        page.get_by_label("admin").check()
        page.reload()
        expect(name).to_have_value("nightly export")
        other = another(visit)
        other.sign_in("ada")
        other.page.get_by_role("button", name="End all other sessions").click()
        other.page.context.close()
        expect(page.get_by_role("dialog")).to_contain_text("Your session has ended.")
        page.get_by_role("button", name="Look at the page").click()
        expect(name).to_have_value("nightly export")
        page.get_by_role("button", name="Create it").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")
        page.get_by_label("Login").fill("ada")
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Sign in", exact=True).click()
        expect(page).to_have_url(f"{site.origin}/account/tokens")
        expect(name).to_have_value("nightly export")
        expect(days).to_have_value("12")
        expect(page.get_by_label("admin")).to_be_checked()
        page.get_by_role("button", name="Create it").click()
        expect(page.get_by_role("rowheader", name="nightly export")).to_be_visible()
        page.goto(f"{site.origin}/account/tokens")
        expect(name).to_have_value("")

        name.fill("of ada alone")
        page.get_by_role("button", name="Sign out").click()
        visit.sign_in("alice")
        page.goto(f"{site.origin}/account/tokens")
        expect(name).to_have_value("")

    await visiting(site, browser, walk)


# --- mails


@pytest.fixture
async def inbox() -> AsyncIterator[Inbox]:
    async with mail_server() as inbox:
        yield inbox


@pytest.fixture
async def mailing(config: Config, database: Dsns, inbox: Inbox) -> AsyncIterator[Site]:
    async with serving_site(inbox.settings(config), database) as running:
        yield running


@pytest.mark.parametrize("scripts", [True, False])
async def test_an_address_and_a_way_back_in(
    mailing: Site, inbox: Inbox, browser: Browser, scripts: bool
) -> None:
    options = {"java_script_enabled": scripts}

    def propose(visit: Visit) -> None:
        visit.sign_in("alice")
        page = visit.page
        page.goto(f"{mailing.origin}/account/address")
        page.get_by_label("Address").fill("alice@example.com")
        page.get_by_role("button", name="Send a link there").click()
        expect(page.get_by_role("status")).to_contain_text("A link is on its way")

    await visiting(mailing, browser, propose, **options)
    await until(lambda: bool(inbox.mails))
    token = inbox.mails.pop().token

    def use(visit: Visit, token: str, purpose: str, button: str, label: str = "Code") -> Page:
        page = visit.page
        page.goto(f"{mailing.origin}/welcome#{purpose}={token}")
        if scripts:
            expect(page).to_have_url(f"{mailing.origin}/welcome")
            visit.look()
        else:
            form = page.locator("form", has=page.get_by_role("button", name=button))
            form.get_by_label(label).fill(token)
        return page

    def confirm(visit: Visit) -> None:
        page = use(visit, token, "address", "It is mine")
        page.get_by_role("button", name="It is mine").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("The address is yours")

    await visiting(mailing, browser, confirm, **options)

    def ask(visit: Visit) -> None:
        page = visit.page
        page.goto(f"{mailing.origin}/login")
        page.get_by_role("link", name="I do not know my password").click()
        for login in ("nobody-at-all", "alice"):
            page.goto(f"{mailing.origin}/recover")
            page.get_by_label("Login").fill(login)
            page.get_by_role("button", name="Send me a link").click()
            expect(page.get_by_role("status")).to_contain_text("If there is such an account")

    await visiting(mailing, browser, ask, **options)
    await until(lambda: bool(inbox.mails))
    reset = inbox.mails.pop().token

    def set_password(visit: Visit) -> None:
        page = use(visit, reset, "reset", "Set the password")
        page.get_by_label("New password").fill("alicealicealice")
        page.get_by_role("button", name="Set the password").click()
        expect(page.locator("#f-new_password-fault")).to_be_visible()
        if scripts:
            visit.look()
        else:
            page.get_by_label("Code").first.fill(reset)
        page.get_by_label("New password").fill(NEW_PASSWORD)
        page.get_by_role("button", name="Set the password").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("The password is set")

    await visiting(mailing, browser, set_password, **options)
    assert (await mailing.log_in("alice", NEW_PASSWORD)).status == 200
    body = urlencode({"token": reset, "new_password": PASSWORD})
    used = await mailing.post("/welcome/password", data=body, headers=FORM | HTML)
    assert (used.status, reset.encode() in used.body) == (403, False)


# --- the way back elsewhere


async def test_another_origin_is_gone_back_to_by_a_form_alone(
    config: Config, database: Dsns, browser: Browser
) -> None:
    """The policy of the page lets its form lead there, and nowhere else."""
    port = free_port()
    config = msgspec.structs.replace(config, return_hosts=f"app.example:{port}")
    wanted = f"http://app.example:{port}/orders?a=1"

    async def orders(_: web.Request) -> web.Response:
        return web.Response(text="<!doctype html><h1>Orders</h1>", content_type="text/html")

    app = web.Application()
    app.add_routes([web.get("/orders", orders)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()

    async with serving_site(config, database) as site:

        def walk(page: Page) -> None:
            visit = Visit(page, site.origin)
            page.goto(f"{site.origin}/login?{urlencode({'return_to': wanted})}")
            page.get_by_label("Login").fill("alice")
            page.get_by_label("Password").fill("not the right phrase")
            page.get_by_role("button", name="Sign in", exact=True).click()
            page.get_by_role("alert").wait_for()
            page.get_by_label("Password").fill(PASSWORD)
            page.get_by_role("button", name="Sign in", exact=True).click()
            page.wait_for_url(wanted)
            visit.faults.clear()
            page.goto(f"{site.origin}/login?{urlencode({'return_to': wanted})}")
            expect(page.get_by_role("heading", level=1)).to_have_text("You are signed in")
            visit.look()
            page.get_by_role("link", name=f"Go on to app.example:{port}").click()
            page.wait_for_url(wanted)

        await browser.run(walk)
    await runner.cleanup()
