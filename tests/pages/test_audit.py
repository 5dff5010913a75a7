"""The audit log in the browser: what is found, followed, linked to, and shown as the text it is."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from gatelog.audit.service.audit import Audit
from gatelog.audit.web.events import AUDIT
from playwright.sync_api import Locator, Page, expect

from tests.browser import Browser
from tests.conftest import Dsns
from tests.pages.site import HTML, Site, Visit, visiting
from tests.proofs.sealing import tampering
from tests.serving import PASSWORD

PATH = "/console/audit"
AGENT = "<script>alert('agent')</script> & \"quotes\""
MARKUP = "<img/src=x/onerror=alert(1)>"


def on_loop() -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """Lets the browser's thread have something done in the test's event loop."""
    loop = asyncio.get_running_loop()
    return lambda work: asyncio.run_coroutine_threadsafe(work, loop).result(60)


def rows(page: Page) -> Locator:
    return page.locator("#events > tbody > tr")


def field(page: Page, name: str) -> Locator:
    return page.locator(f"#f-{name}")


def asked(page: Page) -> dict[str, list[str]]:
    """What the page's address asks for."""
    return parse_qs(urlsplit(page.url).query)


async def test_everything_is_found_by_clicks(site: Site, browser: Browser) -> None:
    """From the log to a login, to all with that name, from that address, in that network."""
    await site.log_in("alice")
    await site.log_in("alice", "not the right phrase")

    def walk(visit: Visit) -> None:
        page = visit.sign_in("olga")
        page.get_by_role("navigation").get_by_role("link", name="Audit").click()
        visit.look()
        expect(rows(page).first).to_contain_text("Audit log read")
        field(page, "login").fill("ALICE")
        page.get_by_role("button", name="Search").click()
        expect(rows(page)).to_have_count(3)
        assert asked(page) == {"login": ["ALICE"]}
        failed = rows(page).filter(has_text="Failed login")
        expect(failed).to_contain_text("wrong password")
        failed.get_by_role("link", name=re.compile("^[0-9]+$")).click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("Failed login")
        visit.look()
        page.get_by_role("link", name="127.0.0.0/8").click()
        assert asked(page) == {"network": ["127.0.0.0/8"]}
        expect(rows(page).filter(has_text="alice")).to_have_count(2)  # not made at the console
        visit.look()
        page.get_by_text("More", exact=True).click()
        page.get_by_label("Failed login", exact=True).check()
        page.get_by_role("button", name="Search").click()
        expect(rows(page)).to_have_count(1)
        assert asked(page) == {"network": ["127.0.0.0/8"], "type": ["login_failed"]}
        expect(page.get_by_label("Failed login", exact=True)).to_be_checked()
        field(page, "from").fill("2020-01-01 10:00")
        field(page, "to").fill("2020-01-02")
        page.get_by_role("button", name="Search").click()
        expect(page.locator("#no-events")).to_have_text("Nothing fits.")
        visit.look()

    await visiting(site, browser, walk)


async def test_what_is_wrong_stands_beside_its_field(site: Site, browser: Browser) -> None:
    def walk(visit: Visit) -> None:
        page = visit.sign_in("olga")
        page.goto(f"{site.origin}{PATH}?network=10.0.0.0/12&user=nobody&from=yesterday")
        for name, said in (
            ("network", "Networks are found by"),
            ("user", "an id"),
            ("from", "RFC"),
        ):
            wrong = field(page, name)
            expect(wrong).to_have_attribute("aria-invalid", "true")
            described = str(wrong.get_attribute("aria-describedby")).split()[0]
            expect(page.locator(f"#{described}")).to_contain_text(said)
        expect(field(page, "network")).to_have_value("10.0.0.0/12")
        expect(page.locator("#events")).to_have_count(0)
        visit.look()
        page.goto(f"{site.origin}{PATH}?network=10.0.0.0/8&address=10.0.0.1")
        expect(page.get_by_role("alert")).to_contain_text("address and network")

    await visiting(site, browser, walk)


@pytest.mark.parametrize(
    "path",
    [
        f"{PATH}?limit=x",
        f"{PATH}?nothing=1",
        f"{PATH}?cursor=1",
        f"{PATH}?after=1&after=2",
        f"{PATH}/1?x=1",
        "/console/as-of?x=1",
        "/console/as-of?position=0",
        "/console/as-of?at=2999-01-01",
    ],
)
async def test_what_is_no_question(site: Site, path: str) -> None:
    token = await site.token("olga")
    assert (await site.get(path, headers=HTML, cookie=token)).status == 422


async def test_events_that_are_not_there(site: Site, database: Dsns) -> None:
    token = await site.token("olga")
    assert (await site.get(f"{PATH}/999", headers=HTML, cookie=token)).status == 404
    assert (await site.get(f"{PATH}/0", headers=HTML, cookie=token)).status == 404
    far = await site.get(f"{PATH}/9999999999999999999", headers=HTML, cookie=token)
    assert far.status == 404
    async with tampering(database) as owner:
        await owner.execute("DELETE FROM events WHERE position <= 2")
    assert (await site.get(f"{PATH}/1", headers=HTML, cookie=token)).status == 410


async def test_pages_are_linked_by_key(site: Site, browser: Browser) -> None:
    """Also without scripts; and a link to what is there now stays right as the log grows."""
    for _ in range(4):
        await site.log_in("alice")
    run = on_loop()

    def walk(visit: Visit) -> None:
        page = visit.sign_in("olga")
        page.goto(f"{site.origin}{PATH}?type=session_started&limit=2")
        first = page.locator("#events a").first.inner_text()
        page.get_by_role("link", name="Older").click()
        assert asked(page)["cursor"][0].startswith("before-")
        second = page.locator("#events a").first.inner_text()
        assert int(second) < int(first)
        page.get_by_role("link", name="Newer").click()
        assert page.locator("#events a").first.inner_text() == first
        page.goto(f"{site.origin}{PATH}?type=session_started&limit=2")
        page.get_by_role("link", name="Link to what is here now").click()
        run(site.log_in("alice"))
        page.reload()
        assert page.locator("#events a").first.inner_text() == first

    await visiting(site, browser, walk, java_script_enabled=False)


async def test_exports_are_of_what_is_asked_for(site: Site, browser: Browser) -> None:
    await site.log_in("alice")

    def walk(visit: Visit) -> None:
        page = visit.sign_in("olga")
        page.goto(f"{site.origin}{PATH}?login=alice&type=session_started&order=asc")
        for name, ending in (("Export as CSV", ".csv"), ("Export as NDJSON", ".ndjson")):
            with page.expect_download() as download:
                page.get_by_role("link", name=name).click()
            assert download.value.suggested_filename.endswith(ending)
            text = download.value.path().read_text()
            assert "alice" in text
            assert "user_registered" not in text
        with page.expect_download() as download:
            page.get_by_role("link", name="Export without names").click()
        assert "alice" not in download.value.path().read_text()

    await visiting(site, browser, walk, accept_downloads=True)


async def test_new_events_come_on_top(site: Site, browser: Browser) -> None:
    run = on_loop()

    def walk(visit: Visit) -> None:
        page = visit.sign_in("olga")
        page.goto(f"{site.origin}{PATH}?type=session_started&type=session_ended")
        before = rows(page).count()
        button = page.get_by_role("button", name="Follow live")
        button.click()
        expect(page.locator("#tail[data-following=yes]")).to_be_visible()
        answer = run(site.log_in("alice"))
        expect(rows(page)).to_have_count(before + 1)
        expect(rows(page).first).to_contain_text("alice")
        run(site.post("/v1/logout_user", cookie=answer.token))
        expect(rows(page)).to_have_count(before + 2)
        expect(rows(page).first).to_contain_text("logout")
        expect(page.locator("#tail [role=status]")).to_have_text("2 new")
        expect(rows(page).first.locator("time")).to_have_attribute("title", re.compile("UTC$"))
        visit.look()
        page.get_by_role("button", name="Stop following").click()
        run(site.log_in("alice"))
        page.wait_for_timeout(600)
        expect(rows(page)).to_have_count(before + 2)

    await visiting(site, browser, walk)


async def test_what_people_write_is_text(site: Site, browser: Browser) -> None:
    """Logins and user agents full of markup; nothing of it runs, and all of it is there."""
    assert (await site.register(MARKUP)).status == 201
    await site.log_in(MARKUP, headers={"User-Agent": AGENT})
    await site.log_in('"><svg/onload=alert(2)>', "no such phrase", headers={"User-Agent": AGENT})

    def walk(visit: Visit) -> None:
        page = visit.sign_in("olga")
        page.goto(f"{site.origin}{PATH}")
        expect(rows(page).filter(has_text=MARKUP).first).to_be_visible()
        expect(rows(page).filter(has_text=AGENT).first).to_be_visible()
        expect(rows(page).filter(has_text="<svg/onload").first).to_be_visible()
        page.get_by_role("link", name=MARKUP).first.click()
        assert asked(page) == {"login": [MARKUP]}
        expect(field(page, "login")).to_have_value(MARKUP)
        rows(page).first.get_by_role("link", name=re.compile("^[0-9]+$")).click()
        expect(page.get_by_text(AGENT)).to_be_visible()
        page.goto(f"{site.origin}/console/as-of")
        expect(page.get_by_role("rowheader", name=MARKUP)).to_be_visible()
        assert page.locator("main img, main svg, main script").count() == 0
        visit.look()

    await visiting(site, browser, walk)


async def test_by_keyboard_alone(site: Site, browser: Browser) -> None:
    """Search, open what was found, and get to the key field of Verify."""
    await site.log_in("alice")

    def focused(page: Page) -> str:
        return str(page.evaluate("document.activeElement.id || document.activeElement.innerText"))

    def tab_to(page: Page, what: str) -> None:
        for _ in range(80):
            page.keyboard.press("Tab")
            if focused(page) == what:
                return
        raise AssertionError(what)

    def walk(visit: Visit) -> None:
        page = visit.sign_in("olga")
        page.goto(f"{site.origin}{PATH}")
        tab_to(page, "Skip to the content")
        page.keyboard.press("Enter")
        tab_to(page, "f-login")
        page.keyboard.type("alice")
        page.keyboard.press("Enter")
        expect(rows(page)).to_have_count(2)
        position = page.locator("#events a").first.inner_text()
        tab_to(page, position)
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", level=1)).to_contain_text(f"Event {position}")
        tab_to(page, "entry")
        tab_to(page, "key")
        page.keyboard.type("no key")
        tab_to(page, "Verify")
        page.keyboard.press("Enter")
        expect(page.locator("#verified")).to_contain_text("This is no public key of a log")

    await visiting(site, browser, walk)


async def test_reading_is_recorded(site: Site) -> None:
    token = await site.token("olga")
    await site.get(PATH, headers=HTML, cookie=token)
    audit: Audit = site.runner.app[AUDIT]
    _, head = await audit.edges()
    event = await site.get(f"{PATH}/{head}", headers=HTML, cookie=token)
    assert "Audit log read" in event.body.decode()


async def test_whose_they_are(site: Site) -> None:
    for path in (PATH, f"{PATH}/1", "/console/as-of"):
        sent = await site.get(path, headers=HTML)
        assert (sent.status, sent.headers["Location"][:17]) == (303, "/login?return_to="), path
        refused = await site.get(path, headers=HTML, cookie=await site.token("alice"))
        assert refused.status == 403, path
        assert "text/html" in refused.headers["Content-Type"]
        for login in ("olga", "ada"):
            assert (
                await site.get(path, headers=HTML, cookie=await site.token(login))
            ).status == 200


async def test_a_name_that_nobody_has(site: Site) -> None:
    """What somebody typed in vain is found by it, and by who has never been here."""
    await site.log_in("mallory", PASSWORD)
    token = await site.token("olga")
    shown = await site.get(f"{PATH}?login=mallory", headers=HTML, cookie=token)
    assert "unknown login" in shown.body.decode()
