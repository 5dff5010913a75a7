"""The first account administers: made from this machine or with the setup code, by nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from urllib.parse import urlencode

import msgspec
import pytest
from aiohttp import HttpVersion10
from gatelog.config import Config
from gatelog.hosting.services import open_services
from playwright.sync_api import expect

from tests.browser import Browser
from tests.conftest import Dsns
from tests.pages.site import FORM, HTML, Site, Visit, serving_site, visiting
from tests.serving import PASSWORD, Answer

ELSEWHERE: dict[str, Mapping[str, str]] = {
    "a proxy that says so": {"X-Forwarded-For": "192.0.2.1"},
    "another name": {"Host": "gate.example"},
    "a proxy that changes the name and says nothing": {"Origin": "https://gate.example"},
    "the same, and a link": {"Referer": "https://gate.example/first"},
    "a browser that hides where it is": {"Origin": "null"},
}


@pytest.fixture
async def empty(config: Config, database: Dsns) -> AsyncIterator[Site]:
    """The service, with nobody there."""
    async with serving_site(config, database, users={}) as running:
        yield running


async def make(
    site: Site, login: str = "ada", code: str = "", headers: Mapping[str, str] | None = None
) -> Answer:
    body = urlencode({"login": login, "password": PASSWORD, "code": code})
    return await site.post("/first", data=body, headers=FORM | HTML | dict(headers or {}))


async def test_from_an_empty_service_to_an_administrator(empty: Site, browser: Browser) -> None:
    def walk(visit: Visit) -> None:
        page = visit.open("/")
        page.get_by_role("link", name="Make the first account").click()
        visit.look()
        page.get_by_label("Login").fill("Ada")
        page.get_by_label("Password").fill("too short")
        page.locator("form[action='/first']").evaluate("form => { form.noValidate = true }")
        page.get_by_role("button", name="Make the account").click()
        expect(page.locator("#f-password-fault")).to_contain_text("at least 15 characters")
        expect(page.get_by_label("Login")).to_have_value("Ada")
        visit.look()
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Make the account").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("My account")
        expect(page.locator("main")).to_contain_text("admin")
        visit.look()
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_text("Make the first account")).to_have_count(0)

    await visiting(empty, browser, walk)
    assert (await make(empty, "eve")).headers["Location"] == "/"
    assert (await empty.log_in("eve")).status == 401


@pytest.mark.parametrize("where", ELSEWHERE)
async def test_from_elsewhere_it_takes_the_code(empty: Site, where: str) -> None:
    headers = dict(ELSEWHERE[where])
    shown = await empty.get("/first", headers=HTML | headers)
    assert b"Setup code" in shown.body
    for wrong in ("", "wrong", "é" * 50, "aaaaaa-aaaaaa-aaaaaa-aaaaaa"):
        refused = await make(empty, code=wrong, headers=headers)
        assert refused.status == 403, refused
    assert not await empty.accounts.first_run.is_over()


async def test_the_code_makes_an_administrator_from_anywhere(empty: Site) -> None:
    code = await empty.accounts.first_run.code()
    headers = {"X-Forwarded-For": "192.0.2.1"}
    made = await make(empty, code=code.upper().replace("-", " "), headers=headers)
    assert made.status == 303
    assert (await empty.get("/v1/me", cookie=await empty.token("ada"))).json["roles"] == ["admin"]
    again = await make(empty, "eve", code=code, headers=headers)
    assert (again.status, again.headers["Location"]) == (303, "/")
    assert (await empty.log_in("eve")).status == 401


@pytest.mark.parametrize(
    "settings", [{"trusted_proxies": "127.0.0.0/8"}, {"public_url": "https://gate.example"}]
)
async def test_behind_a_proxy_nobody_is_on_this_machine(
    config: Config, database: Dsns, settings: dict[str, str]
) -> None:
    config = msgspec.structs.replace(config, **settings)
    async with serving_site(config, database, users={}, public="public_url" in settings) as site:
        assert (await make(site)).status == 403


async def test_an_old_protocol_is_a_proxys(empty: Site) -> None:
    """nginx asks by HTTP/1.0 and names no client, unless it is told to."""
    body = urlencode({"login": "eve", "password": PASSWORD, "code": ""}).encode()
    reader, writer = await asyncio.open_connection(empty.host, empty.port)
    head = (
        f"POST /first HTTP/{HttpVersion10.major}.{HttpVersion10.minor}\r\nHost: 127.0.0.1\r\n"
        f"Content-Type: {FORM['Content-Type']}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    assert b" 403 " in await reader.readline()
    writer.close()


async def test_of_two_at_once_one_administers(empty: Site) -> None:
    answers = await asyncio.gather(*(make(empty, login) for login in ("ada", "eve", "bob")))
    assert {answer.status for answer in answers} == {303}
    assert sorted(answer.headers["Location"] for answer in answers) == ["/", "/", "/account"]


async def test_registering_first_makes_nobody_an_administrator(empty: Site) -> None:
    assert (await empty.register("eve")).status == 201
    me = await empty.get("/v1/me", cookie=await empty.token("eve"))
    assert me.json["roles"] == []
    assert (await make(empty)).headers["Location"] == "/"


async def test_all_hosts_know_the_same_code(config: Config, database: Dsns, empty: Site) -> None:
    async with open_services(config, database.app) as other:
        assert await other.accounts.first_run.code() == await empty.accounts.first_run.code()


async def test_whoever_may_registers(site: Site, browser: Browser) -> None:
    def walk(visit: Visit) -> None:
        page = visit.open("/register")
        page.get_by_label("Login").fill("alice")
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Make the account").click()
        expect(page.locator("#f-login-fault")).to_contain_text("This login is taken")
        page.get_by_label("Login").fill("a b")
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Make the account").click()
        expect(page.locator("#f-login-fault")).to_contain_text("white space")
        visit.look()
        page.get_by_label("Login").fill("bob")
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Make the account").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("My account")

    await visiting(site, browser, walk)


@pytest.mark.parametrize("registration", ["closed", "first"])
async def test_where_registration_is_closed_there_is_no_form(
    config: Config, database: Dsns, registration: str
) -> None:
    config = msgspec.structs.replace(config, registration=registration)
    async with serving_site(config, database) as site:
        assert (await site.get("/register", headers=HTML)).status == 403
        body = urlencode({"login": "bob", "password": PASSWORD})
        assert (await site.post("/register", data=body, headers=FORM | HTML)).status == 403
        assert b"Make an account" not in (await site.get("/", headers=HTML)).body
