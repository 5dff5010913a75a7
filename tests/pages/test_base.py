"""What holds for every page: headers, files, the way to sign in, forms, and open pages."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import suppress

import aiohttp
import msgspec
import pytest
from aiohttp import web
from gatelog.config import Config
from gatelog.hosting.app import create_app
from gatelog.http.guard import public
from gatelog.pages.assets import assets
from gatelog.pages.door import login_path, own_path
from gatelog.pages.presence import PATH
from gatelog.pages.sign_in import way_back
from playwright.sync_api import Error, Page, expect

from tests.browser import Browser
from tests.conftest import Dsns
from tests.pages.site import (
    FORM,
    HTML,
    MOST_MOVED,
    MOVED,
    Site,
    Visit,
    another,
    serving_site,
    visiting,
)
from tests.serving import PASSWORD, Service, serving

OTHER_SITE = {"Origin": "https://evil.example"}
LOGIN = f"login=alice&password={PASSWORD.replace(' ', '+')}&return_to="


async def test_what_is_nowhere_is_a_page_for_people_alone(site: Site) -> None:
    assert (await site.get("/nothing-here")).code == "not_found"
    assert (await site.get("/v1/nothing", headers={"Accept": "application/json"})).status == 404
    shown = await site.get("/nothing-here", headers=HTML)
    assert (shown.status, shown.headers["Content-Type"]) == (404, "text/html; charset=utf-8")
    wrong = await site.post("/v1/me", headers=HTML)
    assert (wrong.status, wrong.headers["Allow"]) == (405, "GET,HEAD")


async def test_programs_still_get_a_problem_at_the_root(site: Site) -> None:
    assert (await site.get("/")).code == "not_found"
    assert (await site.get("/", headers={"Accept": "application/json"})).code == "not_found"
    shown = await site.get("/", headers=HTML)
    assert (shown.status, shown.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert {"Accept", "Sec-Fetch-Mode"} <= set(
        re.split(", ", ", ".join(shown.headers.getall("Vary")))
    )


async def test_every_page_says_what_may_run_in_it(site: Site) -> None:
    token = await site.token()
    for path in ("/", "/login?why=another", "/account", "/nothing-here"):
        shown = await site.get(path, headers=HTML, cookie=token)
        policy = shown.headers.get("Content-Security-Policy", "")
        assert shown.status == (404 if path == "/nothing-here" else 200)
        assert "default-src 'none'" in policy
        assert "script-src 'self';" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert shown.headers["X-Frame-Options"] == "DENY"
        assert shown.headers["Cache-Control"] == "no-store"
        text = shown.body.decode()
        assert not re.search(r"<script(?![^>]* src=)|<style|\son\w+=|\sstyle=", text), path


async def test_files_are_kept_for_ever_at_addresses_of_their_content(site: Site) -> None:
    page = (await site.get("/login", headers=HTML)).body.decode()
    for url in set(re.findall(r'(?:src|href)="(/pages/[^"]+)"', page)):
        got = await site.get(url)
        assert got.status == 200
        assert "immutable" in got.headers["Cache-Control"]
    name = "gatelog.css"
    other = await site.get(f"/pages/another-version/{name}")
    assert (other.status, other.headers["Cache-Control"]) == (200, "no-store")
    assert other.body == assets().files[name]
    for wrong in ("/pages/v/../__init__.py", "/pages/v/nothing.css", "/pages/v/%2e%2e/x.css"):
        assert (await site.get(wrong)).status == 404


async def test_who_is_not_in_is_sent_to_sign_in_and_back(site: Site) -> None:
    sent = await site.get("/account?x=1", headers=HTML)
    assert (sent.status, sent.headers["Location"]) == (303, "/login?return_to=%2Faccount%3Fx%3D1")
    assert (await site.get("/account")).code == "not_authenticated"
    came = await site.post("/login", data=LOGIN + "%2Faccount%3Fx%3D1", headers=FORM | HTML)
    assert (came.status, came.headers["Location"]) == (303, "/account?x=1")
    assert (await site.get("/account", headers=HTML, cookie=came.token)).status == 200


@pytest.mark.parametrize(
    "text",
    [
        "//evil.example",
        "/\\evil.example",
        "/\t/evil.example",
        "https://evil.example/",
        "https://app.example.evil.example/",
        "https://app.example@evil.example/",
        "https://evil.example/?https://app.example/",
        "javascript:alert(1)",
        "https:/app.example/",
        "https://app.example",
        "https://app.example/\n",
        "",
        "account",
    ],
)
def test_nobody_is_sent_anywhere_else(text: str) -> None:
    config = Config(login_url="https://app.example/login")
    assert way_back(config, text) == "/"
    assert way_back(Config(), text) == "/account"


def test_where_one_may_come_back_to() -> None:
    config = Config(login_url="https://app.example/login", return_hosts="shop.example:8443")
    for allowed in (
        "/console/",
        "/account?a=b",
        "https://app.example/x",
        "https://shop.example:8443/",
    ):
        assert way_back(config, allowed) == allowed
    assert own_path("/a" + "b" * 3000) is None
    assert login_path("/account") == "/login"


async def test_a_form_is_for_our_own_pages(site: Site) -> None:
    """With a session or without: else somebody could be signed in as somebody else."""
    foreign = await site.post("/login", data=LOGIN, headers=FORM | OTHER_SITE)
    assert foreign.code == "cross_site_request"
    sibling = {"Sec-Fetch-Site": "same-site"}
    assert (await site.post("/login", data=LOGIN, headers=FORM | sibling)).status == 403
    token = await site.token()
    out = await site.post("/logout", headers=FORM | OTHER_SITE, cookie=token)
    assert out.code == "cross_site_request"
    assert (await site.get("/v1/me", cookie=token)).status == 200
    own = {"Origin": site.origin, "Host": site.origin.removeprefix("http://")}
    assert (await site.post("/login", data=LOGIN, headers=FORM | own)).status == 303


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("login=a&login=b&password=c", 422),
        ("login=a&other=b", 422),
        ("login=%00&password=x", 422),
        ("login=%FF&password=x", 400),
        ("login=" + "a" * 20_000, 413),
        ("&".join(f"x{n}=" for n in range(200)), 400),
    ],
)
async def test_what_is_no_form_of_ours(site: Site, body: str, status: int) -> None:
    assert (await site.post("/login", data=body, headers=FORM)).status == status
    assert (await site.post("/login", data=body, headers=FORM | HTML)).status == status


async def test_json_is_no_form(site: Site) -> None:
    assert (await site.post("/login", json={"login": "alice"})).status == 415


async def test_an_error_stands_beside_its_field(site: Site, browser: Browser) -> None:
    def walk(visit: Visit) -> None:
        page = visit.open("/login")
        page.get_by_label("Login").fill("alice")
        page.get_by_label("Password").fill("not the password at all")
        page.get_by_role("button", name="Sign in", exact=True).click()
        expect(page.get_by_role("alert")).to_contain_text("Login or password is wrong")
        expect(page.get_by_role("alert")).to_be_focused()
        expect(page.get_by_label("Login")).to_have_value("alice")
        expect(page.get_by_label("Password")).to_have_value("")
        expect(page).to_have_title(re.compile("^Error: "))
        visit.look()

    await visiting(site, browser, walk)


@pytest.mark.parametrize("scripts", [True, False])
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_in_and_out(site: Site, browser: Browser, scripts: bool, scheme: str) -> None:
    def walk(visit: Visit) -> None:
        look = visit.look if scripts else lambda: None
        page = visit.page
        page.goto(f"{site.origin}/account")
        look()
        page.get_by_label("Login").fill("alice")
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Sign in", exact=True).click()
        expect(page.get_by_role("heading", level=1)).to_have_text("My account")
        look()
        page.get_by_role("link", name="Gatelog").click()
        look()
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_role("main").get_by_role("link", name="Sign in")).to_be_visible()
        page.goto(f"{site.origin}/account")
        expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")

    await visiting(site, browser, walk, java_script_enabled=scripts, color_scheme=scheme)


FAULTS = (
    "document.querySelector('h1').remove()",
    "document.querySelector('main').append(document.createElement('input'))",
    "document.querySelector('main').append(Object.assign(document.createElement('canvas'),"
    " { width: 3000 }))",
    "document.querySelector('label').remove()",
    "console.error('no')",
    "fetch('http://elsewhere.example/').catch(() => null)",
    "document.body.setAttribute('style', 'color: red')",
    "document.querySelector('main').innerHTML = '<b>no</b>'",
)


@pytest.mark.parametrize("fault", FAULTS)
async def test_what_is_wrong_with_a_page_is_found(site: Site, browser: Browser, fault: str) -> None:
    def walk(page: Page) -> None:
        visit = Visit(page, site.origin)
        visit.open("/login")
        with suppress(Error):  # Trusted Types: it throws
            page.evaluate(fault)
        with pytest.raises(AssertionError):
            visit.look()

    await browser.run(walk)


async def test_what_moves_is_found(site: Site, browser: Browser) -> None:
    def walk(page: Page) -> None:
        page.goto(f"{site.origin}/login")
        page.evaluate("document.querySelector('main').prepend(document.createElement('hr'))")
        page.evaluate("document.querySelector('main hr').className = 'card'")
        moved, what = page.evaluate(MOVED)
        assert moved > MOST_MOVED
        assert what

    await browser.run(walk)


async def test_times_are_in_the_readers_zone(site: Site, browser: Browser) -> None:
    def walk(visit: Visit) -> None:
        page = visit.sign_in("alice")
        shown = page.locator("main time").first
        expect(shown).to_have_attribute("title", re.compile(r" UTC$"))
        said, utc = shown.inner_text(), str(shown.get_attribute("title"))
        assert (
            said[11:13] == f"{(int(utc[11:13]) + 5) % 24:02}"
        )  # Karachi is 5 hours ahead, all year
        assert page.evaluate("document.querySelector('footer').innerText").count("Asia/Karachi")

    offset = {"timezone_id": "Asia/Karachi"}
    await visiting(site, browser, walk, **offset)


async def test_an_open_page_says_that_its_session_has_ended(site: Site, browser: Browser) -> None:
    def walk(visit: Visit) -> None:
        page = visit.sign_in("alice")
        expect(page.locator("body[data-presence=watched]")).to_be_visible()
        other = another(visit)
        other.sign_in("alice")
        end_others = "fetch('/v1/sessions/end_others', {method: 'POST'}).then(a => a.status)"
        assert other.page.evaluate(end_others) == 200
        dialog = page.get_by_role("dialog")
        expect(dialog).to_contain_text("Your session has ended.", timeout=1000)
        visit.look()
        dialog.get_by_role("link", name="Sign in").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")
        other.page.context.close()

    await visiting(site, browser, walk)


async def test_a_worker_holds_so_many_open_pages(config: Config, database: Dsns) -> None:
    config = msgspec.structs.replace(config, streams=1)
    async with (
        serving_site(config, database) as site,
        aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as client,
    ):
        token = await site.token()
        url, cookie = f"http://{site.host}:{site.port}{PATH}", {"Cookie": f"gatelog={token}"}
        async with client.get(url, headers=cookie) as first:
            assert first.status == 200
            assert first.content_type == "text/event-stream"
            assert (await site.get(PATH, cookie=token)).code == "overloaded"
            assert (await site.post("/v1/logout_user", cookie=token)).status == 200
            assert b"event: look" in await first.content.read()
        assert (await site.get(PATH, cookie=token)).status == 401
        fresh = {"Cookie": f"gatelog={await site.token()}"}
        async with client.get(url, headers=fresh) as second:  # there is room again
            assert second.status == 200


@pytest.fixture
async def without(config: Config, database: Dsns) -> AsyncIterator[Service]:
    config = msgspec.structs.replace(config, pages="off")
    async with serving(create_app(config, database.app), config) as service:
        yield service


async def test_they_can_be_off(without: Service) -> None:
    for path in ("/", "/login", "/account", "/pages/x/gatelog.css"):
        assert (await without.get(path, headers=HTML)).code == "not_found"


@public
async def own_front(_: web.Request) -> web.Response:
    return web.Response(text="mine")


async def test_what_is_hosted_comes_first(config: Config, database: Dsns) -> None:
    app = create_app(config, database.app, [web.get("/", own_front)])
    async with serving(app, config) as service:
        assert (await service.get("/", headers=HTML)).body == b"mine"
        assert (await service.get("/login", headers=HTML)).status == 200
