"""Who was logged in then, in the browser: by time, by position, by the slider, by keyboard."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import expect

from tests.browser import Browser
from tests.pages.site import Site, Visit, visiting

PATH = "/console/as-of"


async def came_and_went(site: Site) -> tuple[int, int]:
    """Alice logs in and out: the positions."""
    came = await site.log_in("alice")
    went = await site.post("/v1/logout_user", cookie=came.token)
    return int(came.json["position"]), int(went.json["position"])


@pytest.mark.parametrize("scripts", [True, False])
async def test_before_and_after(site: Site, browser: Browser, *, scripts: bool) -> None:
    came, went = await came_and_went(site)

    def walk(visit: Visit) -> None:
        page = visit.sign_in("olga")
        page.get_by_role("navigation").get_by_role("link", name="As of").click()
        expect(page.get_by_role("rowheader", name="olga")).to_be_visible()
        expect(page.get_by_role("rowheader", name="alice")).to_have_count(0)
        page.locator("#f-position").fill(str(came))
        page.locator("#by-position").get_by_role("button", name="Show").click()
        row = page.get_by_role("row").filter(has_text="alice")
        expect(row).to_contain_text("logout")
        row.get_by_role("link", name="logout").click()
        assert page.url.endswith(f"/console/audit/{went}")
        page.get_by_role("link", name="Who was logged in then").click()
        expect(page.get_by_role("rowheader", name="alice")).to_have_count(0)
        page.locator("#f-at").fill("2999-01-01 12:00")
        page.get_by_role("button", name="Show").first.click()
        expect(page.get_by_role("alert")).to_contain_text("still to come")
        if scripts:
            visit.look()

    await visiting(site, browser, walk, java_script_enabled=scripts)


async def test_the_slider_by_keyboard(site: Site, browser: Browser) -> None:
    """The answer follows, and so does the address: nothing is lost by a reload."""
    came, went = await came_and_went(site)
    for _ in range(3):
        await site.log_in("ada")

    def walk(visit: Visit) -> None:
        page = visit.sign_in("olga")
        page.goto(f"{site.origin}{PATH}?position={went}")
        alice = page.get_by_role("rowheader", name="alice")
        expect(alice).to_have_count(0)
        slider = page.get_by_role("slider")
        slider.focus()
        for _ in range(went - came):
            page.keyboard.press("ArrowLeft")
        expect(page.locator("#f-position")).to_have_value(str(came))
        expect(alice).to_have_count(1)
        expect(slider).to_be_focused()
        assert parse_qs(urlsplit(page.url).query) == {"position": [str(came)]}
        expect(page.locator("#moment")).to_contain_text(f"After event {came}")
        page.reload()
        expect(alice).to_have_count(1)
        page.get_by_role("slider").focus()
        page.keyboard.press("Home")
        expect(page.locator("#answer")).to_contain_text("Nobody was logged in.")
        visit.look()

    await visiting(site, browser, walk)


async def test_one_user_and_pages(site: Site, browser: Browser) -> None:
    for _ in range(3):
        await site.log_in("alice")
    me = (await site.get("/v1/me", cookie=await site.token("alice"))).json["user_id"]

    def walk(visit: Visit) -> None:
        page = visit.sign_in("olga")
        page.goto(f"{site.origin}{PATH}?user={me}&limit=2")
        expect(page.get_by_role("rowheader")).to_have_count(2)
        page.get_by_role("link", name="Started earlier").click()
        expect(page.get_by_role("rowheader")).to_have_count(2)
        page.get_by_role("link", name="The latest").click()
        expect(page.locator("#f-user")).to_have_value(me)
        visit.look()

    await visiting(site, browser, walk)
