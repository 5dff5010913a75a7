"""Lifetimes as clients see them, with a clock that moves when it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta

import msgspec
import pytest
from aiohttp import web
from gatelog.config import Config
from gatelog.hosting.app import create_app
from gatelog.http import recheck
from gatelog.http.recheck import GATE
from gatelog.testing.moving import MovedClock

from tests.conftest import Dsns
from tests.serving import PASSWORD, Service, serving
from tests.waiting import until

IDLE_S = 900
LIFETIME_S = 7200


@pytest.fixture
def config(config: Config) -> Config:
    return msgspec.structs.replace(
        config, session_idle_s=IDLE_S, session_lifetime_s=LIFETIME_S, max_sessions_per_user=3
    )


async def wait_for(request: web.Request) -> web.WebSocketResponse:
    """A page that is left open."""
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for _ in socket:
        pass
    return socket


@pytest.fixture(params=[False, True], ids=["primary", "memory"])
async def alice(
    config: Config, database: Dsns, gatelog_clock: MovedClock, request: pytest.FixtureRequest
) -> AsyncIterator[Service]:
    """A service in which alice has registered; checks ask the primary, or memory."""
    app = create_app(
        config, database.app, [web.get("/left_open", wait_for)], projector=request.param
    )
    async with serving(app, config) as service:
        await service.register()
        yield service


async def test_a_session_lives_while_it_is_used(alice: Service, gatelog_clock: MovedClock) -> None:
    login = await alice.log_in()
    assert f"Max-Age={LIFETIME_S}" in login.set_cookie, "use need not send the token again"
    started = datetime.fromisoformat(
        (await alice.get("/v1/me", cookie=login.token)).json["started_at"]
    )
    assert datetime.fromisoformat(login.json["expires_at"]) == started + timedelta(seconds=IDLE_S)
    absolute_at = datetime.fromisoformat(login.json["absolute_at"])
    assert absolute_at == started + timedelta(seconds=LIFETIME_S)
    for _ in range(8):
        gatelog_clock.advance(600)
        before = (await alice.get("/v1/me", cookie=login.token)).json["expires_at"]

        async def is_renewed(before: str = before) -> bool:
            answer = await alice.get("/v1/me", cookie=login.token)
            assert answer.status == 200
            return bool(answer.json["expires_at"] > before)

        await until(is_renewed)
    gatelog_clock.advance(IDLE_S + 1)

    async def is_over() -> bool:
        return (await alice.get("/v1/me", cookie=login.token)).status == 401

    await until(is_over)
    gatelog_clock.advance(1)
    assert await is_over()


async def test_a_page_that_is_left_open_keeps_nobody_logged_in(
    alice: Service, gatelog_clock: MovedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recheck, "ASK_S", 10)  # nobody is in a hurry here
    token = await alice.token()
    url = f"http://{alice.host}:{alice.port}/left_open"
    headers = {"Cookie": f"gatelog={token}"}
    async with alice._client.ws_connect(url, headers=headers) as socket:
        for _ in range(4):
            gatelog_clock.advance(IDLE_S / 4 + 1)
            await asyncio.sleep(0.5)  # some looks at it
        message = await asyncio.wait_for(socket.receive(), 5)
    assert message.data == 4401
    assert (await alice.get("/v1/me", cookie=token)).status == 401
    assert alice.runner.app is not None
    assert GATE in alice.runner.app


async def test_a_login_over_a_live_cookie_ends_that_session(alice: Service) -> None:
    first = await alice.token()
    second = (await alice.log_in(cookie=first)).token
    assert (await alice.get("/v1/me", cookie=first)).status == 401
    assert (await alice.get("/v1/me", cookie=second)).status == 200
    bearer = (
        await alice.post(
            "/v1/login_user",
            json={"login": "alice", "password": PASSWORD, "token": "bearer"},
            bearer=second,
        )
    ).token
    assert (await alice.get("/v1/me", bearer=second)).status == 200, "no cookie, no browser"
    assert (await alice.get("/v1/me", bearer=bearer)).status == 200


async def test_too_many_sessions_are_refused_where_that_is_configured(
    config: Config, database: Dsns
) -> None:
    config = msgspec.structs.replace(config, too_many_sessions="refuse")
    async with serving(create_app(config, database.app), config) as service:
        await service.register()
        tokens = [await service.token() for _ in range(3)]
        refused = await service.log_in()
        assert (refused.status, refused.code) == (409, "too_many_sessions")
        assert "Set-Cookie" not in refused.headers
        await service.post("/v1/logout_user", cookie=tokens[0])
        assert (await service.log_in()).status == 200
