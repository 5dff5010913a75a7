"""What is refused leaves a line: who did what, nothing that a client chose, and not too many."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Iterable

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from gatelog import changes_state, public, requires
from gatelog.config import Config
from gatelog.errors import CrossSiteRequest, Forbidden, HashingFull, NotFound, Premature
from gatelog.hosting.app import create_app
from gatelog.http.refusals import LINES, WINDOW_S, Refusals, event_of

from tests.conftest import Dsns
from tests.serving import Service, serving

LOGGER = "gatelog.http.refusals"


def lines_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == LOGGER]


@requires("admin")
async def for_admins(request: web.Request) -> web.Response:
    return web.Response()


@public
@changes_state
async def refuse(request: web.Request) -> web.Response:
    raise web.HTTPForbidden


@pytest.fixture
async def service(config: Config, database: Dsns) -> AsyncIterator[Service]:
    hosted = [web.get("/report/{name}", for_admins), web.get("/refuse", refuse)]
    async with serving(create_app(config, database.app, hosted), config) as running:
        yield running


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines of other tests have taken no room."""
    fresh = Refusals()
    for module in ("gatelog.http.guard", "gatelog.hosting.server"):
        monkeypatch.setattr(f"{module}.refusals_here", fresh)


@pytest.fixture(autouse=True)
def level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, LOGGER)


async def test_who_may_not_is_named(alice: Service, caplog: pytest.LogCaptureFixture) -> None:
    granted = (await alice.log_in()).json
    token = await alice.token()
    for path in ("/v1/audit/events?user=%0Aforged", "/report/%0Aforged", "/v1/auth?role=admin"):
        assert (await alice.get(path, cookie=token)).status == 403
    first, second, third = lines_of(caplog)
    who = f"user={granted['user_id']} session="
    assert first.startswith(f"authz_fail code=forbidden method=GET route=/v1/audit/events {who}")
    assert second.startswith(f"authz_fail code=forbidden method=GET route=/report/{{name}} {who}")
    assert third.startswith(f"authz_fail code=forbidden method=GET route=/v1/auth {who}")
    assert "forged" not in caplog.text
    assert token not in caplog.text


async def test_what_another_site_sends(alice: Service, caplog: pytest.LogCaptureFixture) -> None:
    foreign = {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}
    token = await alice.token()
    assert (await alice.post("/v1/logout_user", cookie=token, headers=foreign)).status == 403
    assert lines_of(caplog) == [
        "malicious_cors code=cross_site_request method=POST route=/v1/logout_user"
    ]


async def test_input_that_is_not_acceptable(
    alice: Service, caplog: pytest.LogCaptureFixture
) -> None:
    for body in (b"{", b"[]", b'{"login": "a", "password": "' + b"x" * 20_000):
        await alice.post("/v1/login_user", data=body, headers={"Content-Type": "application/json"})
    await alice.post("/v1/login_user", data=b"login=a", headers={"Content-Type": "text/plain"})
    await alice.register("bob", "short")
    await alice.get("/v1/me", headers={"Authorization": "Bearer x"})
    await alice.get("/refuse")
    told = [line.split()[:2] for line in lines_of(caplog)]
    codes = ["malformed_json", "invalid_input", "body_too_large", "unsupported_media_type"]
    codes += ["weak_password", "not_authenticated"]
    expected = [["input_validation_fail", f"code={code}"] for code in codes]
    assert told == [*expected, ["authz_fail", "code=http_403"]]


async def test_what_is_no_request(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_connection((service.host, service.port)) as client:
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(client, b"GET /\x1b[2J forged\r\n\r\n")
        assert b" 400 " in await loop.sock_recv(client, 4096)
    assert lines_of(caplog) == ["input_validation_fail code=bad_request"]


async def test_what_happens_every_day_leaves_none(
    alice: Service, caplog: pytest.LogCaptureFixture
) -> None:
    token = await alice.token()
    await alice.get("/v1/me")
    await alice.get("/v1/nothing")
    await alice.post("/v1/me", cookie=token)
    await alice.get("/v1/me", cookie=token)
    await alice.log_in(password="a wrong phrase, though")  # is an event
    await alice.get("/v1/logout_user", cookie=token, headers={"Sec-Purpose": "prefetch"})
    assert lines_of(caplog) == []


def some() -> tuple[web.Request, None]:
    return make_mocked_request("BREW", "/pot"), None


async def test_a_flood_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    refusals = Refusals(lambda: now)
    request, nobody = some()
    for _ in range(LINES + 7):
        refusals.note(request, Forbidden(), nobody)
    refusals.note(request, CrossSiteRequest(), nobody)
    assert len(lines_of(caplog)) == LINES
    now += WINDOW_S
    refusals.note(request, Forbidden(), nobody)
    refusals.tell_left_out()
    told = lines_of(caplog)[LINES:]
    assert told[:2] == ["authz_fail left_out=7", "malicious_cors left_out=1"]
    assert [line.split()[:3] for line in told[2:]] == [
        ["authz_fail", "code=forbidden", "method=other"]
    ]


async def test_the_end_of_a_flood_is_told(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gatelog.http.refusals.WINDOW_S", 0.01)
    refusals = Refusals(lambda: 0.0)
    request, nobody = some()
    for _ in range(LINES + 1):
        refusals.note(request, Forbidden(), nobody)
    asked = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(0.05, asked.set_result, None)
    await asked
    assert lines_of(caplog)[-1] == "authz_fail left_out=1"


@pytest.mark.parametrize(
    ("errors", "event"),
    [
        ([Forbidden(), web.HTTPForbidden()], "authz_fail"),
        ([HashingFull(), web.HTTPTooManyRequests()], "excess_rate_limit_exceeded"),
        ([CrossSiteRequest()], "malicious_cors"),
        ([NotFound(), Premature(), web.HTTPFound("/"), web.HTTPUnauthorized()], None),
    ],
)
def test_names(errors: Iterable[web.HTTPException], event: str | None) -> None:
    assert {event_of(error) for error in errors} == {event}
