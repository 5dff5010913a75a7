"""The composer in Chromium: from an empty service to endpoints that answer, click by click."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any, get_args
from urllib.parse import parse_qs, quote, urlencode, urlsplit
from zipfile import ZipFile

import msgspec
import pytest
from gatelog.accounts.web import ACCOUNTS
from gatelog.clock import utc_now
from gatelog.composer.rules.code.project import files
from gatelog.composer.rules.composition import (
    Access,
    Action,
    Call,
    Composition,
    CurrentUser,
    Endpoint,
    Field,
    FieldKind,
    Handler,
    Logout,
    Record,
    Respond,
)
from gatelog.composer.rules.files import read, write
from gatelog.composer.service.composer import Composer
from gatelog.composer.web import COMPOSER
from gatelog.config import Config
from gatelog.hosting.app import create_app
from gatelog.pages.composer.endpoints import ACCESSES, KINDS
from gatelog.pages.layout import COMPOSE_PATH
from playwright.sync_api import Page, expect

from tests.browser import Browser, fetched
from tests.composer.compositions import WALK, both, one
from tests.composer.projects import loaded, served
from tests.conftest import Dsns
from tests.pages.site import FORM, HTML, Site, Visit, another, serving_site, visiting
from tests.pages.test_pictures import DOCS
from tests.pages.test_walks import tab_to
from tests.serving import PASSWORD

MARKUP = "<img src=x onerror=alert(1)>&amp;<script>alert(2)</script>"
PAGES = (
    "/console/compose",
    "/console/compose/endpoint",
    "/console/compose/action",
    "/console/compose/build",
    "/console/compose/builds",
    "/console/compose/run",
    "/console/compose/walk",
    "/console/compose/import",
)
FILES = re.findall(r"```toml\n(.*?)```", (DOCS / "composer.md").read_text(), re.DOTALL)


@pytest.fixture
async def site(config: Config, database: Dsns) -> AsyncIterator[Site]:
    """The service, with the usual people and a role of its own."""
    config = msgspec.structs.replace(config, roles='{"clerk": {}}')
    async with serving_site(config, database, projector=True) as running:
        yield running


@pytest.fixture
async def empty(config: Config, database: Dsns) -> AsyncIterator[Site]:
    """The service, with nobody there."""
    async with serving_site(config, database, users={}, projector=True) as running:
        yield running


def composer_of(site: Site) -> Composer:
    return site.runner.app[COMPOSER]


async def build(site: Site, composition: Composition) -> int:
    await composer_of(site).replace(composition)
    return (await composer_of(site).build()).build


# --- clicks


def heading(page: Page) -> str:
    return page.get_by_role("heading", level=1).inner_text()


def said(page: Page, text: str) -> None:
    expect(page.get_by_role("status").filter(has_text=text)).to_be_visible()


def tab(page: Page, name: str) -> None:
    navigation = page.get_by_role("navigation", name="Composer")
    navigation.get_by_role("link", name=name, exact=True).click()


def go_to(page: Page) -> None:
    navigation = page.get_by_role("navigation", name="Main")
    navigation.get_by_role("link", name="Composer", exact=True).click()


def add_endpoint(page: Page, name: str, path: str, **more: str) -> None:
    """By the form; ``more``: method, access, description."""
    go_to(page)
    page.get_by_role("link", name="+ Add endpoint").click()
    page.get_by_label("Name", exact=True).fill(name)
    page.get_by_label("Path", exact=True).fill(path)
    page.get_by_label("Method").select_option(more.get("method", "GET"))
    page.get_by_label("Description").fill(more.get("description", ""))
    page.get_by_label("Who may ask").select_option(more.get("access", "logged_in"))
    page.get_by_role("button", name="Add the endpoint").click()


def add_action(page: Page, name: str, *events: str) -> None:
    """From the page of an endpoint, which is its trigger."""
    page.get_by_role("link", name="+ Add action").click()
    page.get_by_label("Name", exact=True).fill(name)
    page.get_by_role("button", name="Add the action").click()
    said(page, "The action is in the draft.")
    for event in events:
        page.get_by_role("link", name="+ Add event").click()
        page.get_by_role("button", name=f"Add {event}", exact=True).click()
        said(page, "The event is kept in the draft.")


def build_it(page: Page) -> None:
    tab(page, "Build")
    page.get_by_role("button", name="Build", exact=True).click()
    said(page, "every worker of every host serves it")


def run(page: Page, name: str, **values: str) -> int:
    """Run an endpoint; returns the status that it answers."""
    tab(page, "Run")
    page.get_by_role("link", name=name, exact=True).click()
    for label, value in values.items():
        page.get_by_label(label.replace("_", " "), exact=True).fill(value)
    page.get_by_role("button", name="Run", exact=True).click()
    return int(page.locator("#status").inner_text())


# --- the walk


@pytest.mark.parametrize("scripts", [True, False])
async def test_from_an_empty_service_by_clicks(
    empty: Site, browser: Browser, scripts: bool
) -> None:
    """What issue 15 tells: endpoint, action, trigger, event, build, run; 401, 200, 401."""

    def walk(visit: Visit) -> None:
        page = visit.page
        page.goto(f"{empty.origin}/")
        page.get_by_role("link", name="Make the first account").click()
        page.get_by_label("Login").fill("ada")
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Make the account").click()

        # a path of the product's cannot be taken; this one can be composed as what it is
        about = {"access": "public", "description": "Ends the session."}
        add_endpoint(page, "Logout user", "/v1/me", **about)
        fault = page.locator("#f-path-fault")
        expect(fault).to_contain_text("/v1/me, which the product itself answers")
        if scripts:
            visit.look()
        page.get_by_label("Path", exact=True).fill("/v1/logout_user")
        page.get_by_role("button", name="Add the endpoint").click()
        said(page, "The endpoint is in the draft.")
        if scripts:
            visit.look()
        add_action(page, "Logout user", "logout")
        expect(page.get_by_role("heading", level=3)).to_have_text("Logout")
        if scripts:
            visit.look()
        build_it(page)
        expect(page.get_by_role("heading", level=1)).to_have_text("Build 1")
        go_to(page)
        row = page.get_by_role("table", name="Endpoints of the draft")
        row.get_by_role("link", name="Logout user", exact=True).first.click()
        page.get_by_role("link", name="Run", exact=True).and_(page.locator(".button")).click()
        page.get_by_role("button", name="Run", exact=True).click()
        expect(page.locator("#status")).to_have_text("200")

        add_endpoint(page, "Who am I", "/v2/me")
        add_action(page, "Tell", "current user")
        add_endpoint(page, "Log in", "/v2/login", method="POST", access="public")
        add_action(page, "Log in", "login")
        build_it(page)
        expect(page.get_by_role("heading", level=1)).to_have_text("Build 2")

        credentials = {"Login": "ada", "Password": PASSWORD}
        assert run(page, "Who am I") == 401
        assert run(page, "Log in", **credentials) == 200
        expect(page.locator("#appended")).to_contain_text("session_started")
        assert run(page, "Who am I") == 200
        expect(page.locator("#body")).to_contain_text('"user_id"')
        assert run(page, "Logout user") == 200
        ended = page.locator("#appended")
        expect(ended).to_contain_text("session_ended")
        event = ended.get_by_role("link").last
        position = event.inner_text()
        event.click()
        expect(page.get_by_role("heading", level=1)).to_contain_text(f"Event {position}")
        go_to(page)
        assert run(page, "Who am I") == 401
        if scripts:
            visit.look()

        tab(page, "Run the walk")
        page.get_by_label("Login", exact=True).fill("ada")
        page.get_by_label("Password", exact=True).fill(PASSWORD)
        page.get_by_role("button", name="Run the walk").click()
        expect(page.locator("#went")).to_have_text("Every answer is right")
        answered = page.locator("#ran tbody strong").all_inner_texts()
        assert answered == ["401", "200", "200", "200", "401"]
        if scripts:
            visit.look()

    await visiting(empty, browser, walk, java_script_enabled=scripts)
    for path, status in (("/v2/me", 401), ("/v1/logout_user", 200), ("/v2/nothing", 404)):
        assert (await empty.get(path)).status == status, path
    token = (await empty.post("/v2/login", json={"login": "ada", "password": PASSWORD})).token
    assert (await empty.get("/v2/me", cookie=token)).status == 200
    assert (await empty.get("/v1/logout_user", cookie=token)).status == 200
    assert (await empty.get("/v2/me", cookie=token)).status == 401


def walk_by_scripts(page: Page) -> list[int]:
    """The walk, as a page's own script would go it; returns what was answered."""
    headers = {"Content-Type": "application/json"}
    body = msgspec.json.encode({"login": "alice", "password": PASSWORD}).decode()
    steps: list[tuple[str, dict[str, Any]]] = [
        ("/v2/me", {}),
        ("/v2/login", {"method": "POST", "headers": headers, "body": body}),
        ("/v2/me", {}),
        ("/v1/logout_user", {}),
        ("/v2/me", {}),
    ]
    return [fetched(page, path, **options)[0] for path, options in steps]


async def test_the_same_walk_from_the_file(site: Site, browser: Browser) -> None:
    def walk(visit: Visit) -> None:
        visit.sign_in("ada")
        page = visit.open("/console/compose/import")
        page.get_by_label("The file").fill("format = 2")
        page.get_by_role("button", name="Make it the draft").click()
        expect(page.locator("#f-toml-fault")).to_contain_text("must begin with 'format = 1'")
        visit.look()
        page.get_by_label("The file").fill(FILES[0])
        page.get_by_role("button", name="Make it the draft").click()
        said(page, "The file is the draft.")
        page.get_by_role("button", name="Build", exact=True).click()
        said(page, "every worker of every host serves it")
        other = another(visit)
        other.page.goto(f"{site.origin}/")
        assert walk_by_scripts(other.page) == [401, 200, 200, 200, 401]
        other.page.context.close()

    await visiting(site, browser, walk)
    assert (await composer_of(site).draft()).composition == read(FILES[0])


async def test_the_same_walk_from_the_project(
    config: Config, database: Dsns, browser: Browser
) -> None:
    """The composer is off: what answers is the generated code."""
    config = msgspec.structs.replace(config, composer="off")
    with loaded(read(FILES[0])) as routes:
        app = create_app(config, database.app, routes, projector=True)
        async with served(app, config) as service:
            await app[ACCOUNTS].logins.add_user("alice", PASSWORD)

            def walk(page: Page) -> list[int]:
                page.goto(f"http://localhost:{service.port}/")
                return walk_by_scripts(page)

            assert await browser.run(walk) == [401, 200, 200, 200, 401]


async def test_a_build_as_a_project(site: Site, browser: Browser) -> None:
    await build(site, everything())

    def walk(visit: Visit) -> None:
        visit.sign_in("ada")
        page = visit.page
        page.goto(f"{site.origin}/console/compose/builds/1")
        with page.expect_download() as download:
            page.get_by_role("link", name="As a project").click()
        assert download.value.suggested_filename == "composed-1.zip"
        with ZipFile(download.value.path()) as archive:
            made = {name: archive.read(name).decode() for name in archive.namelist()}
        assert made == {f"composed-1/{name}": text for name, text in files(everything()).items()}

    await visiting(site, browser, walk)


async def test_the_keyboard_is_enough(site: Site, browser: Browser) -> None:
    def walk(visit: Visit) -> None:
        visit.sign_in("ada")
        page = visit.open("/console/compose")

        def press(name: str, role: Any = "button") -> None:
            tab_to(page, page.get_by_role(role, name=name, exact=True).last)
            with page.expect_navigation():
                page.keyboard.press("Enter")

        def write_into(label: str, text: str) -> None:
            tab_to(page, page.get_by_label(label, exact=True))
            page.keyboard.type(text)

        press("+ Add endpoint", "link")
        write_into("Name", "Hello")
        write_into("Path", "hello")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_be_focused()
        page.keyboard.press("Tab")  # from what is wrong to where
        page.keyboard.press("Enter")
        expect(page.get_by_label("Path", exact=True)).to_be_focused()
        page.keyboard.press("Home")
        page.keyboard.type("/v2/")
        page.keyboard.press("Enter")
        said(page, "The endpoint is in the draft.")
        press("+ Add action", "link")
        write_into("Name", "Greet")
        page.keyboard.press("Enter")
        said(page, "The action is in the draft.")
        press("+ Add event", "link")
        press("Add respond…", "link")
        press("Add the event")
        said(page, "The event is kept in the draft.")
        press("Build", "link")
        press("Build")
        said(page, "every worker of every host serves it")
        press("Run", "link")
        press("Hello", "link")
        press("Run")
        expect(page.locator("#ran")).to_be_focused()
        expect(page.locator("#status")).to_have_text("401")

    await visiting(site, browser, walk)


# --- whose they are, and how they look


async def test_whose_the_pages_are(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    ada = await site.token("ada")
    for path in PAGES:
        away = await site.get(path, headers=HTML)
        assert (away.status, away.headers["Location"].partition("?")[0]) == (303, "/login")
        for login in ("alice", "olga"):
            refused = await site.get(path, headers=HTML, cookie=await site.token(login))
            assert refused.status == 403, (path, login)
            assert b">Composer</a>" not in refused.body
        assert (await site.get(path, headers=HTML, cookie=ada)).status == 200
    later = utc_now() + timedelta(hours=1)
    monkeypatch.setattr("gatelog.http.roles.utc_now", lambda: later)
    for path in PAGES:
        away = await site.get(path, headers=HTML, cookie=ada)
        where = urlsplit(away.headers["Location"])
        assert (where.path, parse_qs(where.query)["why"]) == ("/login", ["recent_login_required"])


async def test_whose_the_forms_are(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    routes = [route for route in site.runner.app.router.routes() if route.method == "POST"]
    written = [route.resource.canonical for route in routes if route.resource is not None]
    forms = [path for path in written if path.startswith(COMPOSE_PATH)]
    assert len(forms) > 10
    olga, ada, alice = [await site.token(who) for who in ("olga", "ada", "alice")]
    later = utc_now() + timedelta(hours=1)
    for path in forms:
        assert (await site.post(path, headers=FORM)).status == 401
        for who in (olga, alice):
            assert (await site.post(path, headers=FORM, cookie=who)).status == 403, path
        foreign = FORM | {"Origin": "https://evil.example"}
        refused = await site.post(path, headers=foreign, cookie=ada)
        assert refused.code == "cross_site_request", path
        with monkeypatch.context() as patched:
            patched.setattr("gatelog.http.roles.utc_now", lambda: later)
            old = await site.post(path, headers=FORM, cookie=ada)
            assert old.code == "recent_login_required", path
    assert (await composer_of(site).draft()).composition == Composition()


async def test_without_the_composer_there_are_none(config: Config, database: Dsns) -> None:
    config = msgspec.structs.replace(config, composer="off")
    async with serving_site(config, database) as site:
        ada = await site.token("ada")
        for path in PAGES:
            assert (await site.get(path, headers=HTML, cookie=ada)).status == 404
        console = await site.get("/console/", headers=HTML, cookie=ada)
        assert console.status == 200 and b"Composer" not in console.body


def everything() -> Composition:
    """One endpoint for each thing that pages show, with markup wherever text may be."""
    fields = (Field("note", personal=True), Field("amount", "integer", required=False))
    return both(
        WALK,
        one(
            Record(type="app.noted", fields=("note", "id")),
            Respond(json=f'{{"a": "{MARKUP.replace(chr(34), "")}", "id": "{{{{path.id}}}}"}}'),
            name=f"All {MARKUP}"[:61],
            path="/v2/all/{id}",
            method="POST",
            access="roles",
            roles=("clerk",),
            description=MARKUP,
            fields=(*fields, Field("urgent", "boolean", required=False)),
        ),
    )


def wrong() -> Composition:
    """The same, and more that cannot be built."""
    endpoint = Endpoint("Wrong", "/v1/logout_user", access="logged_in")
    steps = (Logout(), CurrentUser(), Call(upstream="nobody"), Handler(name="none"))
    actions = (Action("Wrong", "Wrong", MARKUP, steps), Action("Idle"), Action("Lost", MARKUP[:9]))
    return both(everything(), Composition((endpoint, Endpoint("Left", "/v2/left")), actions))


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_every_page_is_as_it_must_be(site: Site, browser: Browser, scheme: str) -> None:
    await build(site, WALK)
    await build(site, everything())
    await composer_of(site).replace(wrong())
    named = quote(everything().endpoints[-1].name)
    paths = [
        *PAGES,
        "/console/compose/builds/2",
        "/console/compose/builds/1?to=2",
        "/console/compose/builds/1?to=",
        f"/console/compose/endpoint?name={named}",
        "/console/compose/endpoint?name=Wrong",
        f"/console/compose/field?endpoint={named}",
        f"/console/compose/field?endpoint={named}&number=2",
        "/console/compose/action?name=Wrong",
        "/console/compose/action?name=Idle",
        "/console/compose/event?action=Wrong",
        *(
            f"/console/compose/event?action=Wrong&do={do}"
            for do in ("end_all", "record", "respond", "call", "handler")
        ),
        "/console/compose/event?action=Wrong&number=3",
        f"/console/compose/run?endpoint={named}",
    ]

    def walk(visit: Visit) -> None:
        page = visit.sign_in("ada")
        for path in paths:
            visit.open(path)
            assert "Error" not in page.title()
            assert page.locator("main img, main script").count() == 0, path
        visit.open("/console/compose/nothing")
        assert heading(page) == "There is nothing here"

    await visiting(site, browser, walk, color_scheme=scheme)


async def test_what_there_is_not(site: Site) -> None:
    ada = await site.token("ada")
    for path, status in {
        "/console/compose/endpoint?name=nobody": 404,
        "/console/compose/action?name=nobody": 404,
        "/console/compose/event?action=nobody": 404,
        "/console/compose/field?endpoint=nobody": 404,
        "/console/compose/builds/7": 404,
        "/console/compose/run?endpoint=nobody": 404,
        "/console/compose/builds/1?to=x": 404,
        "/console/compose?name=1": 422,
        "/console/compose/builds?before=x": 422,
    }.items():
        assert (await site.get(path, headers=HTML, cookie=ada)).status == status, path


def test_all_that_there_is_can_be_chosen() -> None:
    assert {kind for kind, _ in KINDS} == set(get_args(FieldKind))
    assert {access for access, _ in ACCESSES} == set(get_args(Access))


# --- editing


async def test_endpoints_fields_actions_and_events_are_changed_and_removed(
    site: Site, browser: Browser
) -> None:
    def walk(visit: Visit) -> None:
        visit.sign_in("ada")
        page = visit.page
        add_endpoint(page, "Order", "/v2/orders/{shop}", method="POST", access="roles")
        expect(page.locator("#f-roles-fault")).to_contain_text("It is for roles, and none is named")
        page.get_by_label("clerk").check()
        page.get_by_role("button", name="Add the endpoint").click()
        said(page, "The endpoint is in the draft.")
        expect(page.locator("#faults")).to_contain_text("It triggers no action")
        page.get_by_role("link", name="+ Add field").click()
        page.get_by_label("Name", exact=True).fill("Not A Name")
        page.get_by_label("Characters, at most").fill("many")
        page.get_by_role("button", name="Add the field").click()
        expect(page.locator("#f-name-fault")).to_contain_text("lower-case")
        expect(page.locator("#f-max_length-fault")).to_contain_text("from 1 to 2000")
        visit.look()
        page.get_by_label("Name", exact=True).fill("item")
        page.get_by_label("Characters, at most").fill("40")
        page.get_by_label("It is personal").check()
        page.get_by_role("button", name="Add the field").click()
        said(page, "The field is kept in the draft.")
        row = page.get_by_role("row", name=re.compile("item"))
        expect(row).to_contain_text("text, at most 40 characters")
        expect(row).to_contain_text("yes: sealed")
        row.get_by_role("link", name="Edit").click()
        page.get_by_label("What it is").select_option("integer")
        page.get_by_role("button", name="Keep it").click()
        expect(page.get_by_role("row", name=re.compile("item"))).to_contain_text("a whole number")

        page.get_by_role("link", name="+ Add action").click()
        expect(page.get_by_label("Trigger")).to_have_value("Order")
        page.get_by_label("Name", exact=True).fill("Place")
        page.get_by_role("button", name="Add the action").click()
        page.get_by_role("link", name="+ Add event").click()
        page.get_by_role("link", name="Add respond…").click()
        page.get_by_label("JSON").fill('{"to": "{{path.nobody}}", ')
        page.get_by_role("button", name="Add the event").click()
        expect(page.locator("#f-json-fault")).to_contain_text("This is no JSON")
        page.get_by_label("JSON").fill('{"to": "{{path.shop}}"}')
        page.get_by_role("button", name="Add the event").click()
        page.get_by_role("link", name="+ Add event").click()
        page.get_by_role("link", name="Add record…").click()
        page.get_by_label("Type").fill("order")
        page.get_by_role("button", name="Add the event").click()
        expect(page.locator("#f-type-fault")).to_contain_text("It is app.")
        page.get_by_label("Type").fill("app.order_placed")
        page.get_by_label("shop").check()
        page.get_by_label("item").check()
        page.get_by_role("button", name="Add the event").click()
        first = page.locator("#event-1")
        expect(first.locator(".fault")).to_contain_text("nothing comes after it: record would")
        visit.look()
        page.get_by_role("button", name="Up Record, event 2").click()
        said(page, "The event is moved.")
        expect(first.get_by_role("heading")).to_have_text("Record")
        expect(page.locator(".fault")).to_have_count(0)
        first.get_by_role("button", name="Down").click()
        expect(first.get_by_role("heading")).to_have_text("Respond")
        first.get_by_role("link", name="Edit").click()
        page.get_by_label("Status").fill("999")
        page.get_by_role("button", name="Keep it").click()
        expect(page.locator("#f-status-fault")).to_contain_text("from 200 to 599")
        page.get_by_label("Status").fill("201")
        page.get_by_role("button", name="Keep it").click()
        expect(first).to_contain_text("201")
        page.get_by_role("button", name="Up Record, event 2").click()
        build_it(page)

        go_to(page)
        page.get_by_role("link", name="Order", exact=True).first.click()
        page.get_by_label("Name", exact=True).fill("Orders")
        page.get_by_role("button", name="Keep it").click()
        said(page, "The endpoint is kept in the draft.")
        expect(page.get_by_text("It triggers the action Place.")).to_be_visible()
        row = page.get_by_role("row", name=re.compile("item"))
        row.get_by_role("button", name="Remove item").click()
        said(page, "The field is removed from the draft.")
        page.get_by_role("link", name="Place", exact=True).click()
        expect(first.locator(".fault")).to_contain_text("There is no field item")
        first.get_by_role("button", name="Remove").click()
        said(page, "The event is removed from the draft.")
        page.get_by_role("button", name="Remove this action").click()
        said(page, "The action is removed from the draft.")
        page.get_by_role("link", name="Orders", exact=True).click()
        page.get_by_role("button", name="Remove this endpoint").click()
        said(page, "The endpoint is removed from the draft.")
        expect(page.get_by_text("There are none yet.")).to_have_count(2)

    await visiting(site, browser, walk)
    _, built = await composer_of(site).stored(1)
    (endpoint,) = built.endpoints
    assert endpoint.fields == (Field("item", "integer", 40, personal=True),)
    assert [step.do for step in built.actions[0].steps] == ["record", "respond"]
    assert (await composer_of(site).draft()).composition == Composition()


async def test_two_at_once_lose_nothing(site: Site, browser: Browser) -> None:
    await composer_of(site).replace(WALK)

    def walk(visit: Visit) -> None:
        visit.sign_in("ada")
        page, other = visit.page, another(visit)
        other.sign_in("ada")
        page.goto(f"{site.origin}/console/compose/endpoint?name=Who+am+I")
        other.page.goto(f"{site.origin}/console/compose/endpoint?name=Log+in")
        other.page.get_by_label("Description").fill("of another endpoint")
        other.page.get_by_role("button", name="Keep it").click()
        page.get_by_label("Description").fill("mine")
        page.get_by_role("button", name="Keep it").click()
        said(page, "The endpoint is kept in the draft.")

        other.page.goto(f"{site.origin}/console/compose/endpoint?name=Who+am+I")
        other.page.get_by_label("Description").fill("theirs")
        other.page.get_by_role("button", name="Keep it").click()
        said(other.page, "The endpoint is kept in the draft.")
        page.get_by_label("Description").fill("mine again")
        page.get_by_role("button", name="Keep it").click()
        expect(page.get_by_role("alert")).to_contain_text("Somebody has changed this endpoint")
        expect(page.get_by_label("Description")).to_have_value("mine again")
        visit.look()

        page.goto(f"{site.origin}/console/compose/action?name=Tell")
        other.page.goto(f"{site.origin}/console/compose/action?name=Tell")
        other.page.get_by_role("button", name="Remove this action").click()
        said(other.page, "The action is removed from the draft.")
        page.get_by_role("button", name="Remove Current user").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("There is nothing here")

        page.goto(f"{site.origin}/console/compose/build")
        other.page.goto(f"{site.origin}/console/compose/endpoint?name=Who+am+I")
        other.page.get_by_role("button", name="Remove this endpoint").click()
        said(other.page, "The endpoint is removed from the draft.")
        expect(page.get_by_role("button", name="Build", exact=True)).to_have_count(0)
        page.goto(f"{site.origin}/console/compose/build")
        other.page.goto(f"{site.origin}/console/compose/endpoint?name=Log+in")
        other.page.get_by_label("Description").fill("changed once more")
        other.page.get_by_role("button", name="Keep it").click()
        said(other.page, "The endpoint is kept in the draft.")
        page.get_by_role("button", name="Build", exact=True).click()
        expect(page.get_by_role("alert")).to_contain_text("Somebody has changed the draft")
        other.page.context.close()

    await visiting(site, browser, walk)
    left = (await composer_of(site).draft()).composition.endpoints
    assert {endpoint.name: endpoint.description for endpoint in left} == {
        "Log in": "changed once more",
        "Logout user": "Ends the session.",
    }


# --- builds


async def test_builds_are_shown_compared_and_brought_back(site: Site, browser: Browser) -> None:
    await build(site, WALK)
    await build(site, everything())

    def walk(visit: Visit) -> None:
        visit.sign_in("ada")
        page = visit.open("/console/compose/builds")
        expect(page.get_by_role("row", name=re.compile("Build 2"))).to_contain_text("live")
        page.get_by_role("link", name="Build 1", exact=True).click()
        page.get_by_label("Compare it with").select_option("2")
        page.get_by_role("button", name="Compare").click()
        expect(page.locator("section", has=page.locator("#compared"))).to_contain_text("added")
        expect(page.locator("#compared")).to_have_text("What is different in build 2")
        with page.expect_download() as download:
            page.get_by_role("link", name="As a file").click()
        assert read(download.value.path().read_text()) == WALK
        page.get_by_role("button", name="Bring it back").click()
        said(page, "The build is live again")
        assert heading(page) == "Build 3"
        expect(page.locator("#content")).to_contain_text("build 1")
        visit.look()
        page.get_by_role("link", name=re.compile("^[0-9]+$")).click()
        expect(page.locator("#content")).to_contain_text("composition_built")
        page.goto(f"{site.origin}/console/compose/builds/1")
        page.get_by_role("button", name="Bring it back").click()
        expect(page.get_by_role("alert")).to_contain_text("This is live already")

    await visiting(site, browser, walk)
    _, composition = await composer_of(site).stored(3)
    assert composition == WALK
    ada = await site.token("ada")
    assert (await site.post("/v2/all/1", json={"note": "x"}, cookie=ada)).status == 404
    assert (await site.get("/v2/me", cookie=ada)).status == 200


async def test_what_cannot_be_built_says_why(site: Site, browser: Browser) -> None:
    await composer_of(site).replace(wrong())

    def walk(visit: Visit) -> None:
        visit.sign_in("ada")
        page = visit.open("/console/compose/build")
        expect(page.get_by_role("button", name="Build", exact=True)).to_have_count(0)
        faults = page.locator("section", has=page.locator("#faults"))
        expect(faults).to_contain_text(
            "Action Wrong, event 2: Current user needs somebody who is logged in, and step 1"
            " (logout) has ended the session."
        )
        faults.get_by_role("link", name="Wrong", exact=True).first.click()
        assert heading(page) == "Endpoint Wrong"
        expect(page.locator("#faults")).to_contain_text("which the product itself answers")

    await visiting(site, browser, walk)
    seen = (await composer_of(site).draft()).digest.hex()
    refused = await site.post(
        "/console/compose/build",
        data=urlencode({"seen": seen}),
        headers=FORM | HTML,
        cookie=await site.token("ada"),
    )
    assert refused.status == 422 and b"What has to be changed first" in refused.body
    assert (await composer_of(site).draft()).live == 0


async def test_nobody_builds_what_they_have_not_looked_at(site: Site) -> None:
    ada = await site.token("ada")
    composer = composer_of(site)
    seen = (await composer.replace(WALK)).draft.digest.hex()
    await composer.replace(everything())
    for digest in (seen, "", "no digest"):
        refused = await site.post(
            "/console/compose/build",
            data=urlencode({"seen": digest}),
            headers=FORM | HTML,
            cookie=ada,
        )
        assert refused.status == 409, digest
        assert b"look at it again" in refused.body
    assert (await composer.draft()).live == 0


async def test_the_draft_as_a_file(site: Site) -> None:
    await composer_of(site).replace(everything())
    ada = await site.token("ada")
    answer = await site.get("/console/compose/file", headers=HTML, cookie=ada)
    assert answer.body.decode() == write(everything())
    assert answer.headers["Content-Disposition"] == 'attachment; filename="composition-draft.toml"'
    assert answer.headers["Cache-Control"] == "no-store"


# --- run


async def test_a_run_sends_what_was_written(site: Site, browser: Browser) -> None:
    await site.accounts.logins.add_user("clara", PASSWORD, ("clerk",))
    await build(site, everything())
    name = everything().endpoints[-1].name

    def walk(visit: Visit) -> None:
        visit.sign_in("ada")
        page = visit.page
        page.goto(f"{site.origin}/console/compose/run")
        assert run(page, "Log in", Login="clara", Password=PASSWORD) == 200
        tab(page, "Run")
        page.get_by_role("link", name=name, exact=True).click()
        page.get_by_role("button", name="Run", exact=True).click()
        expect(page.locator("#f-path-id-fault")).to_contain_text("1 to 200 characters")
        page.get_by_label("id (of the path)").fill("7/8")
        page.get_by_label("note (of the body)").fill("about somebody")
        page.get_by_label("amount (of the body)").fill("many")
        page.get_by_role("button", name="Run", exact=True).click()
        expect(page.locator("#status")).to_have_text("422")
        expect(page.locator("#body")).to_contain_text("amount")
        expect(page.get_by_label("amount (of the body)")).to_have_value("many")
        page.get_by_label("amount (of the body)").fill("3")
        page.get_by_label("urgent (of the body)").select_option("yes")
        page.get_by_role("button", name="Run", exact=True).click()
        expect(page.locator("#status")).to_have_text("200")
        expect(page.locator("#body")).to_contain_text('"id": "7/8"')
        expect(page.locator("#body")).to_contain_text("<script>")
        expect(page.locator("#appended")).to_contain_text("app.noted")
        visit.look()
        page.get_by_label("As a new visitor").check()
        page.get_by_role("button", name="Run", exact=True).click()
        expect(page.locator("#status")).to_have_text("401")
        expect(page.get_by_role("button", name="Sign out")).to_be_visible()

    await visiting(site, browser, walk)


async def test_the_walk_ends_where_it_is_not_right(site: Site, browser: Browser) -> None:
    await build(site, everything())

    def walk(visit: Visit) -> None:
        visit.sign_in("ada")
        page = visit.open("/console/compose/walk")
        page.get_by_label("Login", exact=True).fill("alice")
        page.get_by_label("Password", exact=True).fill("not the password of alice")
        page.get_by_role("button", name="Run the walk").click()
        expect(page.locator("#went")).to_have_text("An answer is not right")
        assert page.locator("#ran tbody strong").all_inner_texts() == ["401", "401"]
        expect(page.locator("#ran")).to_contain_text("invalid_credentials")
        # another protected endpoint takes more
        page.get_by_label("The protected endpoint").select_option(index=1)
        page.get_by_role("button", name="Run the walk").click()
        expect(page.locator("#f-path-id-fault")).to_be_visible()
        visit.look()
        page.get_by_label("id (of the path)").fill("1")
        page.get_by_label("note (of the body)").fill("x")
        page.get_by_label("Password", exact=True).fill(PASSWORD)
        page.get_by_role("button", name="Run the walk").click()
        answered = page.locator("#ran tbody strong").all_inner_texts()
        assert answered == ["401", "200", "403"]  # alice is no clerk

    await visiting(site, browser, walk)
