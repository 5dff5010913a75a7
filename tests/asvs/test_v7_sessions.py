"""OWASP ASVS 5.0, V7: sessions, from their beginning to their end."""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from aiohttp import web
from gatelog import recent_login
from gatelog.config import Config, settings_of
from gatelog.hosting.app import create_app
from gatelog.hosting.services import open_services
from gatelog.pages.routes import page_routes
from gatelog.sessions.rules.tokens import token_digest
from gatelog.sessions.service.tokens import new_token
from gatelog.testing.moving import MovedClock

from tests.asvs.conftest import AddUser
from tests.conftest import Dsns
from tests.serving import NEW_PASSWORD, PASSWORD, Service, serving
from tests.stack.service import Service as Processes
from tests.waiting import until

PAGE = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
CHANGE = {"current_password": PASSWORD, "new_password": NEW_PASSWORD}
MANY = 30  # enough for every worker to be asked


def documented_default(variable: str) -> str:
    """The default that the page on security names for this setting."""
    found = re.search(rf"^\| {variable} \| ([^|]+) \|", PAGE, re.MULTILINE)
    assert found, f"{variable} is not on the page"
    return found[1].strip()


def true_default(variable: str) -> str:
    (found,) = (each for each in settings_of(Config()) if each.variable == variable)
    return str(found.default)


async def statuses(*services: Service, token: str) -> set[int]:
    """What a token is answered, by every service and on every way."""
    found = set()
    for service in services:
        for path in ("/v1/me", "/v1/auth", "/v1/sessions", "/v1/me/events"):
            found.add((await service.get(path, cookie=token)).status)
            found.add((await service.get(path, bearer=token)).status)
    return found


@pytest.mark.parametrize(
    "variable", ["GATELOG_SESSION_LIFETIME_S", "GATELOG_SESSION_IDLE_S", "GATELOG_ASSURANCE"]
)
def test_v7_1_1(variable: str) -> None:
    """[Security](security.md#sessions) has the settings with their defaults, which are those of the
    program, and says where and why they are not NIST's."""
    assert documented_default(variable) == true_default(variable)
    assert "NIST" in PAGE


async def test_v7_1_2(config: Config, database: Dsns) -> None:
    """[Security](security.md#sessions) says how many sessions a user may have; one more ends the
    oldest, which is recorded as ``superseded``."""
    variable = "GATELOG_MAX_SESSIONS_PER_USER"
    assert documented_default(variable) == true_default(variable)
    own = msgspec.structs.replace(config, max_sessions_per_user=2)
    async with serving(create_app(own, database.app), own) as service:
        await service.register()
        first, *others = [await service.token() for _ in range(3)]
        assert await statuses(service, token=first) == {401}
        for token in others:
            assert await statuses(service, token=token) == {200}
        events = (await service.get("/v1/me/events?type=session_ended", cookie=others[0])).json
        assert [event["reason"] for event in events["events"]] == ["superseded"]


async def test_v7_2_1(alice: Service, elsewhere: Service) -> None:
    """A token is looked up by its digest on the server for every request, before any handler; it
    holds nothing that a client could read, and none that was not given out is taken."""
    token = await alice.token()
    assert await statuses(alice, elsewhere, token=token) == {200}
    last = "A" if token[-5] != "A" else "B"
    for forged in (
        "A" * 43,
        token[:-5] + last + token[-4:],
        token[:-1],
        token + "A",
        token.swapcase(),
    ):
        assert await statuses(alice, elsewhere, token=forged) == {401}
    assert token_digest(token).hex() not in (await alice.get("/v1/me", cookie=token)).body.decode()


async def test_v7_2_2(alice: Service) -> None:
    """Each login makes a token of its own; there is no setting for a key or a password that opens
    anything over HTTP."""
    tokens = [await alice.token() for _ in range(5)]
    assert len(set(tokens)) == 5
    secrets = {each.variable for each in settings_of(Config()) if "KEY" in each.variable}
    assert secrets == {"GATELOG_MASTER_KEY", "GATELOG_LOG_SIGNING_KEY"}  # they seal and sign
    for key in ("gatelog", "admin", PASSWORD):
        assert (await alice.get("/v1/me", bearer=key)).status == 401


async def test_v7_2_3(alice: Service) -> None:
    """A token is 256 bits of ``secrets``: none comes twice, and over 64 of them every bit is set as
    often as chance has it."""
    given = [await alice.token() for _ in range(16)]
    made = [new_token() for _ in range(4096)]
    assert len(set(given + made)) == len(given) + len(made)
    assert {len(token) for token in given + made} == {43}  # 32 bytes in base64
    drawn = [int.from_bytes(_decoded(token)) for token in made]
    for bit in range(256):
        ones = sum(number >> bit & 1 for number in drawn)
        # 6 standard deviations of 4,096 fair coins: once in a million runs of this test
        assert abs(ones - 2048) < 6 * 32, bit


def _decoded(token: str) -> bytes:
    return urlsafe_b64decode(token + "=")


async def test_v7_2_4(alice: Service) -> None:
    """Every login gives a fresh token, whatever cookie comes along, and never one that the client
    has chosen, and ends the session of that cookie (``superseded``); a change of the password gives
    one and ends the session that asked."""
    chosen = "A" * 43
    login = await alice.log_in(cookie=chosen)
    assert login.token != chosen
    assert await statuses(alice, token=chosen) == {401}
    again = await alice.log_in(cookie=login.token)
    assert again.token != login.token
    assert await statuses(alice, token=login.token) == {401}
    path = "/v1/me/events?type=session_ended"
    ended = (await alice.get(path, cookie=again.token)).json["events"]
    assert [each["reason"] for each in ended] == ["superseded"]
    change = await alice.post("/v1/change_password", json=CHANGE, cookie=again.token)
    assert change.token not in {login.token, again.token}
    assert await statuses(alice, token=again.token) == {401}
    assert await statuses(alice, token=change.token) == {200}


async def test_v7_3_1(config: Config, database: Dsns, gatelog_clock: MovedClock) -> None:
    """A session that is not used for GATELOG_SESSION_IDLE_S is refused, also by a service that was
    started meanwhile, and its end is recorded as ``idle_timeout``; one that is used goes on."""
    own = msgspec.structs.replace(config, session_idle_s=1000, session_lifetime_s=86_400)
    async with serving(create_app(own, database.app), own) as service:
        await service.register()
        used, unused = await service.token(), await service.token()

        async def is_renewed() -> bool:
            """Whether the use is recorded that the look itself is."""
            sessions = (await service.get("/v1/sessions", cookie=used)).json["sessions"]
            (own,) = (each for each in sessions if each["current"])
            seen = datetime.fromisoformat(own["last_seen_at"])
            return gatelog_clock() - seen < timedelta(seconds=300)

        for _ in range(3):
            gatelog_clock.advance(600)
            assert await statuses(service, token=used) == {200}
            await until(is_renewed)
        assert await statuses(service, token=unused) == {401}
        await service.token()  # decides on what is over by now, and records it
        gatelog_clock.advance(1001)
        assert await statuses(service, token=used) == {401}
    async with serving(create_app(own, database.app), own) as service:
        assert await statuses(service, token=used) == {401}
        async with open_services(own, database.app) as services:
            assert await services.accounts.sessions.end_expired() >= 1
        path = "/v1/me/events?type=session_ended"
        ended = (await service.get(path, cookie=await service.token())).json["events"]
        assert {each["reason"] for each in ended} == {"idle_timeout"}
        assert len(ended) >= 2


async def test_v7_3_2(config: Config, database: Dsns, gatelog_clock: MovedClock) -> None:
    """A session is refused from ``expires_at`` on, however much it is used, and by a service that
    was started meanwhile, too; its end is recorded as ``absolute_timeout``."""
    own = msgspec.structs.replace(config, session_lifetime_s=3600)
    async with serving(create_app(own, database.app), own) as service:
        await service.register()
        login = await service.log_in()
        assert "; Max-Age=3600;" in login.set_cookie
        for _ in range(3):
            gatelog_clock.advance(1190)
            assert await statuses(service, token=login.token) == {200}
        gatelog_clock.advance(31)
        assert await statuses(service, token=login.token) == {401}
    async with open_services(own, database.app) as services:
        assert await services.accounts.sessions.end_expired() == 1
    async with serving(create_app(own, database.app), own) as service:
        assert await statuses(service, token=login.token) == {401}
        path = "/v1/me/events?type=session_ended"
        ended = (await service.get(path, cookie=await service.token())).json["events"]
        assert [each["reason"] for each in ended] == ["absolute_timeout"]


async def test_v7_4_1(alice: Service, elsewhere: Service, processes: Processes) -> None:
    """Once a logout is answered, no worker of any host accepts the token, from memory or from the
    database, as a cookie or as a bearer; a second logout ends nothing."""
    for method in ("GET", "POST"):
        token = await alice.token()
        assert await statuses(alice, elsewhere, token=token) == {200}
        ended = await alice.send(method, "/v1/logout_user", cookie=token)
        assert ended.json["ended"] == 1
        assert ended.set_cookie.partition(";")[0] == "gatelog="
        assert await statuses(elsewhere, alice, token=token) == {401}
        assert (await elsewhere.post("/v1/logout_user", bearer=token)).json["ended"] == 0
    processes.register("leaver")
    for method in ("GET", "POST"):
        cookie = processes.log_in("leaver").cookie
        assert {processes.me(cookie) for _ in range(MANY)} == {200}
        assert processes.request(method, "/v1/logout_user", cookie=cookie).json["ended"] == 1
        assert {processes.me(cookie) for _ in range(MANY)} == {401}


@pytest.mark.parametrize("what", ["disable", "erase"])
async def test_v7_4_2(alice: Service, elsewhere: Service, root: str, what: str) -> None:
    """Disabling and erasing a user end all of the user's sessions before they are answered, and no
    new one begins."""
    login = await alice.log_in()
    token = await elsewhere.token()
    path = f"/v1/users/{login.json['user_id']}/{what}"
    done = await alice.post(path, cookie=root)
    assert (done.status, done.json["ended"]) == (200, 2)
    for dead in (login.token, token):
        assert await statuses(alice, elsewhere, token=dead) == {401}
    assert (await alice.log_in()).code == "invalid_credentials"


async def test_v7_4_3(alice: Service, elsewhere: Service) -> None:
    """A change of the password ends every other session, always, before it is answered."""
    others = [await alice.token(), await elsewhere.token()]
    own = await alice.token()
    change = await alice.post("/v1/change_password", json=CHANGE, cookie=own)
    for token in (*others, own):
        assert await statuses(alice, elsewhere, token=token) == {401}
    assert await statuses(alice, elsewhere, token=change.token) == {200}


async def test_v7_4_4(alice: Service) -> None:
    """Every page for who is signed in has a button to sign out, in its head. Over the API logging
    out is one request, by GET or POST."""
    token = await alice.token()
    shown = 0
    for route in page_routes(Config()):
        if route.method != "GET" or "{" in route.path or route.path == "/account/presence":
            continue
        page = await alice.get(route.path, headers={"Accept": "text/html"}, cookie=token)
        if page.headers.get("Content-Type", "").startswith("text/html") and page.status == 200:
            assert b'action="/logout"' in page.body, route.path
            shown += 1
    assert shown >= len(("sessions", "password", "factors", "tokens", "address", "history"))


async def test_v7_4_5(alice: Service, elsewhere: Service, root: str) -> None:
    """Administrators list the sessions of any user and end them
    (``POST /v1/users/{id}/sessions/end_all``); operators do it by command (``gatelog session
    end``). Nobody else may."""
    login = await alice.log_in()
    path = f"/v1/users/{login.json['user_id']}/sessions"
    for answer in (
        await alice.get(path, cookie=login.token),
        await alice.post(f"{path}/end_all", cookie=login.token),
    ):
        assert answer.status == 403
    listed = (await alice.get(path, cookie=root)).json["sessions"]
    assert [each["session_id"] for each in listed] == [login.json["session_id"]]
    assert (await alice.post(f"{path}/end_all", cookie=root)).json["ended"] == 1
    assert await statuses(alice, elsewhere, token=login.token) == {401}
    assert await statuses(alice, token=root) == {200}


@pytest.mark.parametrize("current", ["", "a wrong phrase, though", None])
async def test_v7_5_1(alice: Service, current: str | None) -> None:
    """What one logs in with is login and password. The password is changed with the current one,
    in the freshest session too; the login cannot be changed."""
    token = await alice.token()
    body = {"new_password": NEW_PASSWORD} | (
        {} if current is None else {"current_password": current}
    )
    refused = await alice.post("/v1/change_password", json=body, cookie=token)
    assert refused.status in {401, 422}
    assert (await alice.log_in(password=NEW_PASSWORD)).status == 401
    assert (await alice.log_in()).status == 200
    assert await statuses(alice, token=token) == {200}


async def test_v7_5_2(alice: Service, gatelog_clock: MovedClock) -> None:
    """``GET /v1/sessions`` lists one's sessions. To end another one, the others or all takes
    a login of the last GATELOG_RECENT_LOGIN_S seconds (401 ``recent_login_required``); who has
    logged in again ends any. The session at hand may always be ended."""
    assert documented_default("GATELOG_RECENT_LOGIN_S") == true_default("GATELOG_RECENT_LOGIN_S")
    old, other = await alice.log_in(), await alice.log_in()
    gatelog_clock.advance(Config().recent_login_s + 1)
    listed = (await alice.get("/v1/sessions", cookie=old.token)).json["sessions"]
    ids = [old.json["session_id"], other.json["session_id"]]
    assert [each["session_id"] for each in listed] == ids
    assert [each["current"] for each in listed] == [True, False]
    one = f"/v1/sessions/{ids[1]}"
    ways = [("DELETE", one), ("POST", "/v1/sessions/end_others"), ("POST", "/v1/sessions/end_all")]
    for method, path in ways:
        refused = await alice.send(method, path, cookie=old.token)
        assert (refused.status, refused.code) == (401, "recent_login_required")
    assert await statuses(alice, token=other.token) == {200}
    for method, path in ways:
        victim, fresh = await alice.log_in(), await alice.token()
        ended = await alice.send(
            method, path.replace(ids[1], victim.json["session_id"]), cookie=fresh
        )
        assert ended.status == 200
        assert ended.json["ended"] >= 1
        assert await statuses(alice, token=victim.token) == {401}
    assert await statuses(alice, token=old.token) == {401}


@recent_login(minutes=5)
async def transfer(request: web.Request) -> web.Response:
    return web.Response(text="transferred")


@pytest.fixture
async def bank(config: Config, database: Dsns) -> AsyncIterator[Service]:
    """An application with something that is highly sensitive."""
    app = create_app(config, database.app, [web.post("/transfer", transfer)])
    async with serving(app, config) as running:
        yield running


async def test_v7_5_3(bank: Service, gatelog_clock: MovedClock) -> None:
    """An application marks what is highly sensitive with ``@recent_login(minutes=5)``: older
    logins are answered 401 ``recent_login_required`` until the user logs in again. The product's
    own is the change of the password, which takes the current one (V7.5.1)."""
    await bank.register()
    token = await bank.token()
    assert (await bank.post("/transfer", cookie=token)).status == 200
    gatelog_clock.advance(301)
    refused = await bank.post("/transfer", cookie=token)
    assert (refused.status, refused.code) == (401, "recent_login_required")
    assert (await bank.post("/transfer", cookie=await bank.token())).status == 200


async def test_v7_6_2(service: Service, add_user: AddUser) -> None:
    """A session begins when login and password are sent for it, by POST, and never by the way:
    registering over the API makes none, nor does any GET, and no form of another site can send it.
    Who makes an account on a page is signed in with it, and sees so."""
    registered = await service.register()
    assert registered.status == 201
    assert "Set-Cookie" not in registered.headers
    assert "token" not in registered.json
    body = {"login": "alice", "password": PASSWORD}
    for path in ("/v1/login_user", "/v1/me", "/v1/auth", "/v1/logout_user"):
        answer = await service.send("GET", f"{path}?login=alice&password={PASSWORD}", json=body)
        assert "Set-Cookie" not in answer.headers
        assert "token" not in answer.body.decode()
    form = await service.post("/v1/login_user", data=body)
    assert (form.status, "Set-Cookie" in form.headers) == (415, False)
    login = await service.log_in()
    sessions = (await service.get("/v1/sessions", cookie=login.token)).json["sessions"]
    assert len(sessions) == 1
