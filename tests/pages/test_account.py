"""My account, by clicks: sessions, password, factors, tokens, history, and my data."""

from __future__ import annotations

import json
import re
from base64 import b32decode
from pathlib import Path
from urllib.parse import quote

import pytest
from gatelog.accounts.rules.totp import code_of, step_at
from gatelog.clock import utc_now
from gatelog.testing.moving import MovedClock
from playwright.sync_api import Page, expect

from tests.browser import Browser
from tests.conftest import Dsns
from tests.pages.site import FORM, HTML, MARKUP, Site, Visit, another, visiting
from tests.passkeys import AUTHENTICATOR
from tests.proofs.sealing import seal
from tests.serving import NEW_PASSWORD, PASSWORD

UNKNOWN_ID = "00000000-0000-4000-8000-000000000000"
WITHOUT_SCRIPTS = {"java_script_enabled": False}


def code(secret: str) -> str:
    """What an authenticator with this secret shows now."""
    return code_of(b32decode(secret), step_at(utc_now()))


# --- sessions


@pytest.mark.parametrize("scripts", [True, False])
async def test_sessions_are_named_and_ended(site: Site, browser: Browser, scripts: bool) -> None:
    def walk(visit: Visit) -> None:
        page, other = visit.sign_in("alice"), another(visit)
        other.sign_in("alice")
        page.goto(f"{site.origin}/account")
        cards = page.locator("main .card")
        expect(cards).to_have_count(2)
        page.locator("summary").last.click()
        page.get_by_label("What you call it").last.fill(MARKUP)
        page.get_by_role("button", name="Keep the name").last.click()
        expect(page.get_by_role("status")).to_contain_text("The name is kept")
        expect(page.get_by_role("heading", name=MARKUP)).to_be_visible()
        if scripts:
            visit.look()
        page.get_by_role("button", name="End", exact=False).first.click()
        expect(page.get_by_role("status")).to_contain_text("nobody accepts it any more")
        expect(page.locator("main")).to_contain_text("You are signed in nowhere else")
        other.page.goto(f"{site.origin}/account")
        expect(other.page.get_by_role("heading", level=1)).to_have_text("Sign in")
        other.page.context.close()

    await visiting(site, browser, walk, java_script_enabled=scripts)


async def test_a_name_that_cannot_be_is_refused_beside_its_field(site: Site) -> None:
    token = await site.token()
    session = (await site.get("/v1/me", cookie=token)).json["session_id"]
    path = f"/account/sessions/{session}/name"
    refused = await site.post(path, data="name=" + "x" * 65, headers=FORM | HTML, cookie=token)
    assert (refused.status, b"A name has 1 to 64 characters" in refused.body) == (422, True)
    taken = await site.post(path, data="name=", headers=FORM | HTML, cookie=token)
    assert taken.status == 303


async def test_all_others_are_ended(site: Site, browser: Browser) -> None:
    others = [await site.token() for _ in range(3)]

    def walk(visit: Visit) -> None:
        page = visit.sign_in("alice")
        page.get_by_role("button", name="End all other sessions").click()
        expect(page.get_by_role("status")).to_contain_text("All other sessions have ended")

    await visiting(site, browser, walk)
    for token in others:
        assert (await site.get("/v1/me", cookie=token)).status == 401


async def test_what_takes_a_recent_sign_in_asks_for_one_and_comes_back(
    site: Site, browser: Browser, gatelog_clock: MovedClock
) -> None:
    def walk(visit: Visit) -> None:
        page, other = visit.sign_in("alice"), another(visit)
        other.sign_in("alice")
        page.goto(f"{site.origin}/account")
        gatelog_clock.advance(901)
        page.get_by_role("button", name="End all other sessions").click()
        expect(page.locator("main")).to_contain_text("you must have signed in within the last")
        visit.look()
        page.get_by_label("Login").fill("alice")
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Sign in", exact=True).click()
        expect(page.get_by_role("heading", level=1)).to_have_text("My account")
        page.get_by_role("button", name="End all other sessions").click()
        expect(page.get_by_role("status")).to_contain_text("All other sessions have ended")
        other.page.context.close()

    await visiting(site, browser, walk)


async def test_nobody_ends_what_is_not_theirs(site: Site) -> None:
    alice, ada = await site.token(), await site.token("ada")
    session = (await site.get("/v1/me", cookie=ada)).json["session_id"]
    for session_id in (session, UNKNOWN_ID):
        path = f"/account/sessions/{session_id}/end"
        assert (await site.post(path, headers=FORM | HTML, cookie=alice)).status == 404
    assert (await site.get("/v1/me", cookie=ada)).status == 200


# --- the password


async def test_the_password_is_changed(site: Site, browser: Browser) -> None:
    old = await site.token()

    def walk(visit: Visit) -> None:
        visit.sign_in("alice")
        page = visit.open("/account/password")
        page.get_by_label("The password you have").fill("not the right phrase")
        page.get_by_label("The new password").fill(NEW_PASSWORD)
        page.get_by_role("button", name="Change it").click()
        expect(page.locator("#f-current_password-fault")).to_contain_text("is wrong")
        visit.look()
        page.get_by_label("The password you have").fill(PASSWORD)
        page.get_by_label("The new password").fill("alicealicealice")
        page.get_by_role("button", name="Change it").click()
        expect(page.locator("#f-new_password-fault")).to_be_visible()
        page.get_by_label("The password you have").fill(PASSWORD)
        page.get_by_label("The new password").fill(NEW_PASSWORD)
        page.get_by_role("button", name="Change it").click()
        expect(page.get_by_role("status")).to_contain_text("The password is changed")

    await visiting(site, browser, walk)
    assert (await site.get("/v1/me", cookie=old)).status == 401
    assert (await site.log_in("alice", NEW_PASSWORD)).status == 200


# --- second factors


def add_authenticator(page: Page) -> str:
    """Add one by clicks; its secret. The page with the recovery codes is there then."""
    page.get_by_role("button", name="Add an authenticator program").click()
    expect(page.get_by_role("img", name="The secret as a QR code")).to_be_visible()
    secret = page.locator("main p code").inner_text()
    page.get_by_label("Code", exact=True).fill("000000")
    page.get_by_role("button", name="Add it").click()
    expect(page.locator("#f-code-fault")).to_be_visible()
    assert page.locator("main p code").inner_text() == secret
    page.get_by_label("Code", exact=True).fill(code(secret))
    page.get_by_role("button", name="Add it").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Your recovery codes")
    return secret


def give_password(page: Page, origin: str) -> None:
    page.goto(f"{origin}/login?return_to=/account/history")
    page.get_by_label("Login").fill("alice")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("One more step")


@pytest.mark.parametrize("scripts", [True, False])
async def test_an_authenticator_and_recovery_codes(
    site: Site, browser: Browser, scripts: bool, gatelog_clock: MovedClock
) -> None:
    def walk(visit: Visit) -> None:
        look = visit.look if scripts else lambda: None
        page = visit.sign_in("alice")
        page.goto(f"{site.origin}/account/factors")
        secret = add_authenticator(page)
        look()
        codes = page.locator("ul.codes li").all_inner_texts()
        assert len(codes) == 10
        page.get_by_role("link", name="I have kept them").click()
        look()
        page.get_by_role("button", name="Sign out").click()

        gatelog_clock.advance(30)  # a code is taken once
        give_password(page, site.origin)
        look()
        page.get_by_label("Code of your authenticator").fill("123")
        page.get_by_role("button", name="Go on").click()
        expect(page.locator("#f-code-fault")).to_contain_text("not right")
        look()
        page.get_by_label("Code of your authenticator").fill(code(secret))
        page.get_by_role("button", name="Go on").click()
        expect(page).to_have_url(f"{site.origin}/account/history")
        expect(page.locator("main")).to_contain_text("A second factor was added")
        page.get_by_role("button", name="Sign out").click()

        give_password(page, site.origin)
        page.get_by_label("recovery code").fill(codes[0].upper())
        page.get_by_role("button", name="Go on").click()
        page.goto(f"{site.origin}/account/factors")
        expect(page.locator("main")).to_contain_text("9 of them are left")
        page.get_by_role("button", name="Remove").click()
        expect(page.get_by_role("status").first).to_contain_text("The factor is removed")

    await visiting(site, browser, walk, java_script_enabled=scripts)


async def test_a_passkey(site: Site, browser: Browser) -> None:
    def walk(visit: Visit) -> None:
        page = visit.page
        cdp = page.context.new_cdp_session(page)
        cdp.send("WebAuthn.enable")
        cdp.send("WebAuthn.addVirtualAuthenticator", {"options": AUTHENTICATOR})
        visit.sign_in("alice")
        page.goto(f"{site.origin}/account/factors")
        page.get_by_role("button", name="Add a passkey").click()
        expect(page.get_by_label("What you call the passkey")).to_be_focused()
        page.get_by_label("What you call the passkey").fill(MARKUP)
        page.get_by_role("button", name="Keep it").click()
        expect(page.locator("#enrol-codes li")).to_have_count(10)
        visit.look()
        page.get_by_role("link", name="I have kept them").click()
        expect(page.get_by_role("rowheader", name=MARKUP)).to_be_visible()
        visit.look()
        page.get_by_role("button", name="Sign out").click()

        page.goto(f"{site.origin}/login?return_to=/account/history")
        page.get_by_role("button", name="Sign in with a passkey").click()
        expect(page).to_have_url(f"{site.origin}/account/history")
        page.get_by_role("button", name="Sign out").click()

        give_password(page, site.origin)
        visit.look()
        page.get_by_role("button", name="Use a passkey").click()
        expect(page).to_have_url(f"{site.origin}/account/history")

    await visiting(site, browser, walk)


# --- tokens


async def test_a_token_is_shown_once_and_ended(site: Site, browser: Browser) -> None:
    def walk(visit: Visit) -> str:
        visit.sign_in("ada")
        page = visit.open("/account/tokens")
        page.get_by_label("What it is for").fill(MARKUP)
        page.get_by_label("How many days it lives").fill("0")
        page.get_by_role("button", name="Create it").click()
        expect(page.locator("#f-days-fault")).to_be_visible()
        expect(page.get_by_label("What it is for")).to_have_value(MARKUP)
        page.get_by_label("How many days it lives").fill("30")
        page.get_by_label("admin").check()
        page.get_by_role("button", name="Create it").click()
        shown = page.locator(".note code")
        token = shown.inner_text()
        visit.look()
        page.goto(f"{site.origin}/account/tokens")
        expect(shown).to_have_count(0)
        expect(page.get_by_role("rowheader", name=MARKUP)).to_be_visible()
        return token

    token = await visiting(site, browser, walk)
    me = await site.get("/v1/me", bearer=token)
    assert (me.status, me.json["roles"]) == (200, ["admin"])
    for path in ("/account", "/account/tokens"):
        assert (await site.get(path, headers=HTML, bearer=token)).status == 403

    def end(visit: Visit) -> None:
        visit.sign_in("ada")
        page = visit.open("/account/tokens")
        page.get_by_role("button", name="End").click()
        expect(page.get_by_role("status")).to_contain_text("The token has ended")

    await visiting(site, browser, end)
    assert (await site.get("/v1/me", bearer=token)).status == 401


# --- history, and my data


async def test_the_history_is_paged_without_scripts_and_proven(
    site: Site, browser: Browser, database: Dsns, tmp_path: Path
) -> None:
    for _ in range(15):
        await site.token()
    await seal(database.owner, tmp_path / "checkpoint", 30)

    def walk(visit: Visit) -> None:
        visit.sign_in("alice")
        page = visit.page
        page.goto(f"{site.origin}/account/history")
        rows = page.get_by_role("row")
        expect(rows).to_have_count(26)
        first = rows.nth(1).inner_text()
        page.get_by_role("link", name="Older").click()
        expect(page.locator("main")).to_contain_text("The account was made")
        with page.expect_download() as download:
            rows.last.get_by_role("link").click()
        assert download.value.path().read_text().startswith("c2sp.org/tlog-proof@v1")
        page.get_by_role("link", name="Newer").click()
        assert rows.nth(1).inner_text() == first

    token = await site.token()
    assert (await site.get("/account/history?limit=no", headers=HTML, cookie=token)).status == 422
    await visiting(site, browser, walk, **WITHOUT_SCRIPTS)


async def test_what_strangers_write_stays_text(site: Site, browser: Browser) -> None:
    agent = {"User-Agent": MARKUP}
    for _ in range(2):
        await site.log_in(headers=agent)
    assert (await site.register(f"eve{MARKUP.replace(' ', '')}")).status == 201

    def walk(visit: Visit) -> None:
        visit.sign_in("alice")
        page = visit.open("/account/history")
        expect(page.locator("main")).to_contain_text(MARKUP)
        visit.open("/account")
        for query in (f"?done={quote(MARKUP)}", f"?return_to={quote(MARKUP)}&why={quote(MARKUP)}"):
            visit.open(f"/account{query}")
            visit.open(f"/login{query}")
        assert page.locator("main img, main script").count() == 0
        page.get_by_role("button", name="Sign out").click()
        visit.sign_in(f"eve{MARKUP.replace(' ', '')}")
        visit.open("/account")

    await visiting(site, browser, walk)


async def test_my_data_is_all_there(site: Site, browser: Browser) -> None:
    for _ in range(3):
        await site.token()

    def walk(visit: Visit) -> str:
        visit.sign_in("alice")
        page = visit.open("/account/data")
        with page.expect_download() as download:
            page.get_by_role("link", name="Download").click()
        assert re.fullmatch(r"gatelog-my-data-\d+\.json", download.value.suggested_filename)
        return download.value.path().read_text()

    data = json.loads(await visiting(site, browser, walk))
    assert data["account"]["login"] == "alice"
    assert len(data["sessions"]) == 4
    types = [event["type"] for event in data["events"]]
    # by clients that keep no cookies, and a browser: each but the first is a new device
    later = ["session_started", "device_added"] * 3
    assert types == ["user_registered", "session_started", *later]
    assert {event["user_id"] for event in data["events"]} == {data["account"]["user_id"]}
    token = await site.token()
    exported = await site.get("/v1/me/export", cookie=token)
    assert len(exported.json["events"]) == len(types) + 2
    assert exported.json["position"] == exported.json["events"][-1]["position"]


async def test_who_erases_themselves_is_forgotten(site: Site, browser: Browser) -> None:
    token = await site.token()

    def walk(visit: Visit) -> None:
        visit.sign_in("alice")
        page = visit.open("/account/data")
        page.get_by_label("Your login").fill("bob")
        page.get_by_role("button", name="Erase me").click()
        expect(page.locator("#f-login-fault")).to_contain_text("not your login")
        visit.look()
        page.get_by_label("Your login").fill("Alice")
        page.get_by_role("button", name="Erase me").click()
        expect(page).to_have_url(f"{site.origin}/")
        expect(page.get_by_role("main").get_by_role("link", name="Sign in")).to_be_visible()

    await visiting(site, browser, walk)
    assert (await site.get("/v1/me", cookie=token)).status == 401
    assert (await site.log_in()).code == "invalid_credentials"


async def test_the_last_administrator_stays(site: Site, gatelog_clock: MovedClock) -> None:
    token = await site.token("ada")
    body = {"login": "ada"}
    assert (await site.post("/v1/me/erase", json=body, cookie=token)).code == "last_admin"
    wrong = await site.post("/v1/me/erase", json={"login": "alice"}, cookie=token)
    assert wrong.code == "invalid_input"
    gatelog_clock.advance(901)
    late = await site.post("/v1/me/erase", json=body, cookie=token)
    assert late.code == "recent_login_required"
    assert (await site.get("/v1/me/export", cookie=token)).code == "recent_login_required"
