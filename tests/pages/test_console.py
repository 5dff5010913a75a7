"""The console in Chromium: what admin and auditor see and do, with and without scripts."""

from __future__ import annotations

import re
from datetime import timedelta
from urllib.parse import parse_qs, urlsplit

import pytest
from gatelog.clock import utc_now
from gatelog.pages.layout import COMPOSE_PATH
from gatelog.privacy.rules import Client
from playwright.sync_api import Page, expect

from tests.browser import Browser
from tests.pages.site import HTML, Site, Visit, another, visiting
from tests.serving import NEW_PASSWORD, PASSWORD

FORM = {"Content-Type": "application/x-www-form-urlencoded"}
PAGES = ("/console/", "/console/users", "/console/sessions")
MARKUP = '<script>alert(1)</script><img src=x onerror="alert(2)">'
SLOWLY_MS = 10_000


def path_of(page: Page) -> str:
    return urlsplit(page.url).path


def find(page: Page, who: str) -> None:
    """Go to somebody's page by the field on the list."""
    page.get_by_role("navigation", name="Main").get_by_role("link", name="Users").click()
    page.get_by_label("Find by login or id").fill(who)
    page.get_by_role("button", name="Find").click()


def said(page: Page) -> str:
    return page.get_by_role("status").filter(has_text=re.compile(r"\w")).first.inner_text()


async def test_whose_the_pages_are(site: Site) -> None:
    paths = (*PAGES, "/console/users/new")
    for path in paths:
        away = await site.get(path, headers=HTML)
        assert (away.status, away.headers["Location"].partition("?")[0]) == (303, "/login")
        assert (await site.get(path, headers=HTML, cookie=await site.token())).status == 403
    for path in PAGES:
        olga = await site.get(path, headers=HTML, cookie=await site.token("olga"))
        assert olga.status == 200
        assert b"danger" not in olga.body, "nothing to do for an auditor"
    moved = await site.get("/console", headers=HTML, cookie=await site.token("olga"))
    assert (moved.status, moved.headers["Location"]) == (308, "/console/")


async def forms(site: Site) -> dict[str, str]:
    """All forms of the console that change something, with what they send."""
    alice = (await site.log_in("alice")).json
    user = f"/console/users/{alice['user_id']}"
    return {
        "/console/users/new": "login=new&password=&address=",
        f"/console/sessions/{alice['session_id']}/end": "",
        "/console/sessions/end_everybody": "confirm=everybody",
        f"{user}/disable": "",
        f"{user}/enable": "",
        f"{user}/unlock": "",
        f"{user}/grant": "role=auditor",
        f"{user}/revoke": "role=auditor",
        f"{user}/remove_factors": "",
        f"{user}/end_sessions": "",
        f"{user}/link": "",
        f"{user}/erase": "confirm=alice",
    }


async def test_forms_are_for_administrators_and_our_own_pages(site: Site) -> None:
    all_forms = await forms(site)
    posted = [route for route in site.runner.app.router.routes() if route.method == "POST"]
    written = [route.resource.canonical for route in posted if route.resource is not None]
    routes = {path for path in written if path.startswith("/console")}
    routes -= {path for path in routes if path.startswith(COMPOSE_PATH)}  # test_composer
    assert len(routes) == len(all_forms)
    olga, ada, alice = [await site.token(who) for who in ("olga", "ada", "alice")]
    for path, body in all_forms.items():
        assert (await site.post(path, data=body, headers=FORM)).status == 401
        for who in (olga, alice):
            assert (await site.post(path, data=body, headers=FORM, cookie=who)).status == 403, path
        foreign = FORM | {"Origin": "https://evil.example"}
        refused = await site.post(path, data=body, headers=foreign, cookie=ada)
        assert refused.code == "cross_site_request", path
        get = await site.get(path, headers=HTML, cookie=ada)
        assert get.status in {200, 405}, (path, "no link does it")
    assert (await site.get("/v1/me", cookie=alice)).status == 200


async def test_forms_take_a_recent_sign_in(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    all_forms, ada = await forms(site), await site.token("ada")
    monkeypatch.setattr("gatelog.http.roles.utc_now", lambda: utc_now() + timedelta(hours=1))
    for path, body in all_forms.items():
        refused = await site.post(path, data=body, headers=FORM, cookie=ada)
        assert refused.code == "recent_login_required", path
        asked = await site.post(path, data=body, headers=FORM | HTML, cookie=ada)
        where = urlsplit(asked.headers["Location"])
        assert (where.path, parse_qs(where.query)["why"]) == ("/login", ["recent_login_required"])


@pytest.mark.parametrize("who", ["ada", "olga"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_every_page_is_as_it_must_be(
    site: Site, browser: Browser, who: str, scheme: str
) -> None:
    client = Client("192.0.2.7", "Mozilla/5.0 (X11; Linux x86_64; rv:130.0) Firefox/130.0")
    grant = await site.accounts.logins.log_in("alice", PASSWORD, client)

    def walk(visit: Visit) -> None:
        page = visit.sign_in(who)
        for path in (*PAGES, f"/console/users/{grant.session.subject_id}"):
            visit.open(path)
        if who == "ada":
            for details in page.locator("details").all():
                details.locator("summary").click()
            visit.look()
            visit.open("/console/users/new")
        visit.open("/console/sessions?user=nobody&address=nowhere&device=firefox")
        expect(page.get_by_role("alert")).to_contain_text("This is no IP address.")
        visit.open("/console/sessions?device=firefox")
        expect(page.get_by_role("row", name=re.compile("alice"))).to_contain_text("192.0.2.7")

    await visiting(site, browser, walk, color_scheme=scheme)


async def test_the_overview_lives(site: Site, browser: Browser) -> None:
    def walk(visit: Visit) -> None:
        page = visit.sign_in("olga")
        visit.open("/console/")
        expect(page.get_by_text("It is kept up to date.")).to_be_visible(timeout=SLOWLY_MS)
        logins = page.locator("[data-chart=logins]")
        head = page.locator("#head")
        before = head.inner_text()
        other = another(visit)
        other.sign_in("alice")
        expect(head).not_to_have_text(before, timeout=SLOWLY_MS)
        expect(logins.locator("[data-now]")).to_have_text(re.compile(r"^[0-9]+$"))
        heights = logins.locator("rect").evaluate_all(
            "bars => bars.map(bar => Number(bar.getAttribute('height')))"
        )
        assert len(heights) == 60
        assert max(heights) == 100
        page.get_by_text("In numbers").click()
        expect(page.locator("#numbers tr")).to_have_count(60)
        expect(page.locator("#attention")).to_contain_text("one administrator only")
        visit.look()
        other.page.context.close()

    await visiting(site, browser, walk)


async def test_the_overview_says_when_its_session_is_over(site: Site, browser: Browser) -> None:
    def walk(visit: Visit) -> None:
        page = visit.sign_in("olga")
        visit.open("/console/")
        expect(page.get_by_text("It is kept up to date.")).to_be_visible(timeout=SLOWLY_MS)
        expect(page.locator("body[data-presence=watched]")).to_be_visible()
        other = another(visit)
        other.sign_in("olga")
        end = "fetch('/v1/sessions/end_others', {method: 'POST'}).then(a => a.status)"
        assert other.page.evaluate(end) == 200
        expect(page.get_by_role("dialog")).to_contain_text("Your session has ended.", timeout=1000)
        expect(page.locator("#live")).to_have_text("Not up to date: the session has ended.")
        other.page.context.close()

    await visiting(site, browser, walk)


async def test_an_open_page_of_who_is_thrown_out(site: Site, browser: Browser) -> None:
    """From the console, by clicks; the page says so within a second; and again they sign in."""

    def walk(visit: Visit) -> None:
        thrown = another(visit)
        page = thrown.sign_in("alice")
        expect(page.locator("body[data-presence=watched]")).to_be_visible()
        desk = visit.sign_in("ada")
        desk.get_by_role("navigation", name="Main").get_by_role("link", name="Sessions").click()
        row = desk.get_by_role("row", name=re.compile("alice"))
        row.get_by_role("button", name=re.compile("End")).click()
        expect(desk.get_by_role("status").first).to_contain_text("nobody accepts it any more")
        expect(page.get_by_role("dialog")).to_contain_text("Your session has ended.", timeout=1000)
        expect(desk.get_by_role("row", name=re.compile("alice"))).to_have_count(0)
        visit.look()
        find(desk, "alice")
        expect(desk.get_by_role("row", name=re.compile("Session ended .revoked."))).to_be_visible()
        thrown.page.context.close()

    await visiting(site, browser, walk)


@pytest.mark.parametrize("scripts", [True, False])
async def test_an_administrators_day(site: Site, browser: Browser, scripts: bool) -> None:
    """Everything that there is to do, by clicks, with scripts and without."""

    def walk(visit: Visit) -> None:
        look = visit.look if scripts else lambda: None
        page = visit.sign_in("ada")

        # somebody new, by a link
        page.get_by_role("navigation", name="Main").get_by_role("link", name="Users").click()
        page.get_by_role("link", name="Add a user").click()
        page.get_by_label("Login").fill("alice")
        page.get_by_role("button", name="Add the user").click()
        expect(page.get_by_role("alert")).to_be_visible()
        expect(page.get_by_label("Login")).to_have_value("alice")
        page.get_by_label("Login").fill("grace")
        page.get_by_label("auditor").check()
        page.get_by_role("button", name="Add the user").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Invited: grace")
        link = page.locator("main code").inner_text()
        assert link.startswith(f"{visit.origin}/welcome#invitation=")
        look()
        page.get_by_role("link", name="To grace").click()
        expect(page.locator("dl")).to_contain_text("auditor")
        invited = another(visit, java_script_enabled=scripts)
        accept(invited.page, link, scripts=scripts)
        invited.sign_in("grace", NEW_PASSWORD)

        # and one with a password
        page.goto(f"{visit.origin}/console/users/new")
        page.get_by_label("Login").fill("bob")
        page.get_by_label("Password").fill("short")
        page.get_by_role("button", name="Add the user").click()
        expect(page.get_by_role("alert")).to_be_visible()
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Add the user").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("bob")
        assert said(page) == "The user is created."

        # what is done to grace
        find(page, "GRACE ")
        expect(page.get_by_role("heading", level=1)).to_have_text("grace")
        row = page.get_by_role("row", name=re.compile("not known|Chrom"))
        expect(row.first).to_be_visible()
        for button, done in (
            ("Take away: auditor", "The role is taken away. All sessions have ended."),
            ("Give: auditor", "The role is given. All sessions have ended."),
            ("Disable", "The user is disabled. All sessions have ended."),
            ("Enable", "The user may sign in again."),
            ("End all sessions", "The sessions have ended: nobody accepts them any more."),
        ):
            page.get_by_role("button", name=button, exact=True).click()
            assert said(page) == done
            look()
        page.get_by_role("button", name="Make a link for a new password").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("A link for grace")
        page.get_by_role("link", name="To grace").click()

        # and erased, once the login has been written
        page.get_by_text("Erase for good").click()
        page.get_by_label("Write “grace”").fill("bob")
        page.get_by_role("button", name="Erase this user").click()
        expect(page.get_by_role("alert")).to_contain_text("Write grace to erase this user.")
        page.get_by_label("Write “grace”").fill("grace")
        page.get_by_role("button", name="Erase this user").click()
        assert said(page) == "The user is erased."
        expect(page.get_by_role("heading", level=1)).to_have_text("A user who is erased")
        look()
        find(page, "grace")
        expect(page.get_by_role("alert")).to_contain_text("Nobody has this login or this id.")

        # the last administrator stays one
        find(page, "ada")
        page.get_by_role("button", name="Take away: admin").click()
        expect(page.get_by_role("alert")).to_contain_text("Nobody would be left")

        # and everybody goes, once the word has been written
        page.get_by_role("navigation", name="Main").get_by_role("link", name="Sessions").click()
        page.get_by_text("End everybody's sessions").first.click()
        page.get_by_label("Write “everybody”").fill("me")
        page.get_by_role("button", name="End everybody's sessions").click()
        expect(page.get_by_role("alert")).to_contain_text("Write everybody to end all sessions.")
        page.get_by_label("Write “everybody”").fill("everybody")
        page.get_by_role("button", name="End everybody's sessions").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")
        invited.page.context.close()

    await visiting(site, browser, walk, java_script_enabled=scripts)


def accept(page: Page, link: str, *, scripts: bool) -> None:
    """Choose a password by the link of an invitation; without scripts the code is typed."""
    page.goto(link)
    form = page.locator("form[action='/welcome/password']")
    if not scripts:
        form.get_by_label("Code").fill(link.partition("=")[2])
    form.get_by_label("New password").fill(NEW_PASSWORD)
    form.get_by_role("button").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("The password is set")


@pytest.mark.parametrize("scripts", [True, False])
async def test_pages_of_users_and_sessions(
    site: Site, browser: Browser, monkeypatch: pytest.MonkeyPatch, scripts: bool
) -> None:
    monkeypatch.setattr("gatelog.pages.users.PAGE_ROWS", 2)
    monkeypatch.setattr("gatelog.pages.active.PAGE_ROWS", 2)
    for _ in range(4):
        await site.token("alice")

    def walk(visit: Visit) -> None:
        page = visit.sign_in("olga")
        for path, newest in (("/console/users", "ada"), ("/console/sessions", "olga")):
            page.goto(f"{visit.origin}{path}")
            expect(page.locator("tbody th").first).to_have_text(newest)
            page.get_by_role("link", name="Older").click()
            expect(page.locator("tbody th").first).to_have_text("alice")
            page.get_by_role("link", name="The newest").click()
            expect(page.locator("tbody th").first).to_have_text(newest)
        page.goto(f"{visit.origin}/console/sessions?user=alice")
        page.get_by_role("link", name="Older").click()
        expect(page.locator("tbody tr")).to_have_count(2)
        expect(page.get_by_label("User")).to_have_value("alice")

    await visiting(site, browser, walk, java_script_enabled=scripts)


async def test_markup_is_text(site: Site, browser: Browser) -> None:
    """Who signs in chooses login and user agent; what comes of it is read by administrators."""
    await site.accounts.logins.add_user("<b>mallory</b>", PASSWORD, ())
    client = Client("192.0.2.7", MARKUP)
    await site.accounts.logins.log_in("<b>mallory</b>", PASSWORD, client)

    def walk(visit: Visit) -> None:
        page = visit.sign_in("ada")
        visit.open("/console/sessions")
        expect(page.get_by_role("table")).to_contain_text("<b>mallory</b>")
        expect(page.get_by_role("table")).to_contain_text(MARKUP)
        visit.open("/console/users")
        page.get_by_role("link", name="<b>mallory</b>").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("<b>mallory</b>")
        expect(page.get_by_role("main")).to_contain_text(MARKUP)
        visit.look()
        page.goto(f"{visit.origin}/console/users?find={MARKUP}")
        expect(page.get_by_label("Find by login or id")).to_have_value(MARKUP)
        page.goto(f"{visit.origin}/console/sessions?device={MARKUP}&user={MARKUP}")
        visit.look()
        assert page.locator("main script, main img, main b").count() == 0

    await visiting(site, browser, walk)


async def test_by_the_keyboard_alone(site: Site, browser: Browser) -> None:
    await site.token("alice")

    def walk(visit: Visit) -> None:
        page = visit.sign_in("ada")
        page.goto(f"{visit.origin}/console/sessions")
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.get_by_role("main")).to_be_focused()
        page.keyboard.press("Tab")
        expect(page.get_by_label("User")).to_be_focused()
        page.keyboard.type("alice")
        page.keyboard.press("Enter")
        expect(page.locator("tbody tr")).to_have_count(1)
        end = page.get_by_role("button", name=re.compile("^End the session of alice"))
        for _ in range(40):
            if end.evaluate("element => element === document.activeElement"):
                break
            page.keyboard.press("Tab")
        expect(end).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.get_by_role("status").first).to_contain_text("The session has ended")
        assert path_of(page) == "/console/sessions"

    await visiting(site, browser, walk)


async def test_a_page_that_came_back_leads_on(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gatelog.pages.users.PAGE_ROWS", 1)
    monkeypatch.setattr("gatelog.pages.active.PAGE_ROWS", 1)
    await site.token("alice")
    ada = await site.token("ada")
    path = "/console/sessions/end_everybody"
    wrong = await site.post(path, data="confirm=me", headers=FORM | HTML, cookie=ada)
    assert wrong.status == 422
    assert b'rel="next" href="/console/sessions?cursor=' in wrong.body
    nobody = await site.get("/console/users?find=nobody", headers=HTML, cookie=ada)
    assert nobody.status == 422
    assert b'rel="next" href="/console/users?cursor=' in nobody.body
