"""By clicks, from an empty service to what the log says of it: first run, console, audit, as-of."""

from __future__ import annotations

import re

from gatelog.config import Config
from playwright.sync_api import Page, expect

from tests.browser import Browser
from tests.conftest import Dsns
from tests.pages.site import Site, Visit, another, serving_site, visiting
from tests.serving import PASSWORD


def go(page: Page, section: str) -> None:
    page.get_by_role("navigation", name="Main").get_by_role("link", name=section).click()
    expect(page.locator("nav [aria-current=page]").first).to_have_text(section)


def make_first_account(visit: Visit) -> Page:
    page = visit.open("/")
    page.get_by_role("link", name="Make the first account").click()
    page.get_by_label("Login").fill("ada")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Make the account").click()
    expect(page.locator("main")).to_contain_text("admin")
    return page


def add_user(page: Page, login: str) -> None:
    go(page, "Users")
    page.get_by_role("link", name="Add a user").click()
    page.get_by_label("Login").fill(login)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Add the user").click()
    expect(page.get_by_role("status").first).to_contain_text("The user is created.")


def end_session_of(page: Page, login: str) -> None:
    go(page, "Sessions")
    row = page.get_by_role("row", name=re.compile(login))
    row.get_by_role("button", name=re.compile("End")).click()
    expect(page.get_by_role("status").first).to_contain_text("nobody accepts it any more")


def open_event(page: Page, login: str, words: str) -> int:
    """Find it in the audit log by the login name, and open it; returns its position."""
    go(page, "Audit")
    page.locator("#f-login").fill(login)
    page.get_by_role("button", name="Search").click()
    row = page.locator("#events > tbody > tr").filter(has_text=words)
    expect(row).to_have_count(1)
    row.get_by_role("link", name=re.compile("^[0-9]+$")).click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(words)
    return int(page.url.rsplit("/", 1)[1])


async def test_from_nothing_to_what_the_log_says(
    config: Config, database: Dsns, browser: Browser
) -> None:
    async with serving_site(config, database, users={}, projector=True) as site:
        await visiting(site, browser, walk)
        await ended_for_everybody(site)


def walk(visit: Visit) -> None:
    page = make_first_account(visit)
    add_user(page, "bob")
    his = another(visit)
    his.sign_in("bob")
    expect(his.page.locator("body[data-presence=watched]")).to_be_visible()

    end_session_of(page, "bob")
    told = his.page.get_by_role("dialog")
    expect(told).to_contain_text("Your session has ended.", timeout=1000)
    his.page.goto(f"{visit.origin}/account")
    expect(his.page.get_by_role("heading", level=1)).to_have_text("Sign in")
    his.page.context.close()

    # the log: he came, and was put out by her; between the two he was in
    came = open_event(page, "bob", "Login")
    page.get_by_role("link", name="all about them").click()
    rows = page.locator("#events > tbody > tr")
    for number, words in enumerate(("Session ended", "Login", "User registered")):
        expect(rows.nth(number)).to_contain_text(words)
    expect(rows).to_have_count(3)
    page.go_back()
    page.get_by_role("link", name="Who was logged in then").click()
    during = page.get_by_role("row").filter(has_text="bob")
    expect(during).to_contain_text("revoked")
    during.get_by_role("link", name="revoked").click()
    went = int(page.url.rsplit("/", 1)[1])
    assert came < went
    expect(page.get_by_role("heading", level=1)).to_contain_text("Session ended (revoked)")
    page.get_by_role("link", name="Who was logged in then").click()
    expect(page.get_by_role("rowheader", name="ada")).to_be_visible()
    expect(page.get_by_role("rowheader", name="bob")).to_have_count(0)
    page.locator("#f-position").fill(str(came - 1))
    page.locator("#by-position").get_by_role("button", name="Show").click()
    expect(page.get_by_role("rowheader", name="bob")).to_have_count(0)

    # and who did it: the event leads to her
    page.goto(f"{visit.origin}/console/audit/{went}")
    actor = page.locator("dt", has_text="Done by").locator("xpath=following-sibling::dd[1]")
    actor.get_by_role("link").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("ada")
    visit.look()


async def ended_for_everybody(site: Site) -> None:
    """What was clicked is what the API says, too."""
    ada = await site.token("ada")
    found = (await site.get("/v1/audit/events?login=bob", cookie=ada)).json["events"]
    types = {event["type"] for event in found}
    assert types == {"session_started"}
    now = (await site.get("/v1/active_sessions", cookie=ada)).json["sessions"]
    assert {each["login"] for each in now} == {"ada"}
