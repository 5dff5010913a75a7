"""Tokens for machines over HTTP: who may create them, what they may not, and how they end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
from aiohttp import web
from gatelog import SESSION, no_tokens, public, recent_login
from gatelog.accounts.web import ACCOUNTS
from gatelog.config import Config
from gatelog.hosting.app import create_app
from gatelog.sessions.rules.tokens import MACHINE_PREFIX, checksum, is_machine_token
from gatelog.testing.moving import MovedClock
from prometheus_client import REGISTRY

from tests.conftest import Dsns
from tests.serving import NEW_PASSWORD, PASSWORD, SECURE_HOST, Answer, Service, serving

DAY_S = 86_400
ROUTES = [
    ("POST", "/v1/change_password", {"current_password": PASSWORD, "new_password": NEW_PASSWORD}),
    ("POST", "/v1/tokens", {"name": "another", "lifetime_s": 60}),
    ("DELETE", "/v1/tokens/{own}", None),
    ("DELETE", "/v1/tokens/{other}", None),
    ("DELETE", "/v1/sessions/{session}", None),
    ("PATCH", "/v1/sessions/{session}", {"name": "x"}),
    ("POST", "/v1/sessions/end_others", None),
    ("POST", "/v1/sessions/end_all", None),
    ("POST", "/v1/sessions/end_all", {"tokens": True}),
    ("POST", "/v1/login_user", {"login": "alice", "password": PASSWORD}),
    ("POST", "/v1/users/{user}/sessions/end_all", None),
    ("POST", "/v1/users/{user}/roles/admin", None),
    ("DELETE", "/v1/users/{user}/roles/admin", None),
    ("POST", "/v1/users/{user}/remove_factors", None),
    ("POST", "/v1/users/{user}/reset", None),
    ("POST", "/v1/users/invite", {"login": "eve"}),
    ("POST", "/v1/login_factor", {"challenge": "x", "code": "000000"}),
    ("POST", "/v1/passkeys/login", {"challenge": "x", "passkey": {}}),
    ("POST", "/v1/factors/totp", None),
    ("POST", "/v1/factors/totp/confirm", {"offer": "x", "code": "000000"}),
    ("POST", "/v1/factors/passkeys", None),
    ("POST", "/v1/factors/passkeys/confirm", {"offer": "x", "passkey": {}}),
    ("POST", "/v1/factors/recovery_codes", None),
    ("DELETE", "/v1/factors/{session}", None),
    ("PUT", "/v1/me/address", {"address": "alice@example.com"}),
    ("DELETE", "/v1/me/address", None),
]


@recent_login(minutes=5)
async def fresh(request: web.Request) -> web.Response:
    return web.Response(text=request[SESSION].session_text)


@no_tokens
async def people(request: web.Request) -> web.Response:
    return web.Response(text=request[SESSION].session_text)


@public
@no_tokens
async def not_for_machines(request: web.Request) -> web.Response:
    return web.Response()


@pytest.fixture
async def service(
    config: Config, database: Dsns, gatelog_clock: MovedClock
) -> AsyncIterator[Service]:
    app = web.Application()
    app.add_routes(
        [
            web.get("/fresh", fresh),
            web.get("/people", people),
            web.get("/not-for-machines", not_for_machines),
        ]
    )
    async with serving(create_app(config, database.app, app), config) as service:
        gatelog = service.runner.app
        assert gatelog is not None
        await gatelog[ACCOUNTS].logins.add_user("alice", PASSWORD, ("admin", "auditor"))
        yield service


def looked_up() -> float:
    """How many tokens were looked for on the primary; this service has no replica."""
    return REGISTRY.get_sample_value("gatelog_primary_lookups_total") or 0


async def create(service: Service, session: str, *roles: str, **more: Any) -> Answer:
    body = {"name": "nightly", "lifetime_s": 30 * DAY_S, "roles": roles} | more
    return await service.post("/v1/tokens", json=body, cookie=session)


async def test_a_token_is_told_once_and_is_good_for_what_its_roles_are(service: Service) -> None:
    session = await service.token()
    me = (await service.get("/v1/me", cookie=session)).json
    created = await create(service, session, "auditor")
    assert created.status == 201
    assert created.headers["Cache-Control"] == "no-store"
    assert is_machine_token(created.json["token"])
    token, token_id = created.json["token"], created.json["token_id"]
    assert created.json.keys() == {
        *("token_id", "token", "name", "roles", "created_at", "expires_at", "position", "status"),
    }
    mine = (await service.get("/v1/me", bearer=token)).json
    assert mine == me | {
        "session_id": token_id,
        "started_at": created.json["created_at"],
        "expires_at": created.json["expires_at"],
        "roles": ["auditor"],
        "is_token": True,
    }
    assert (await service.get("/v1/audit/events", bearer=token)).status == 200
    refused = await service.post(f"/v1/users/{me['user_id']}/unlock", bearer=token)
    assert (refused.status, refused.code) == (403, "forbidden")

    for shown in ({"cookie": session}, {"bearer": token}):
        listed = await service.get("/v1/tokens", **shown)
        assert listed.json["tokens"][0]["token_id"] == token_id
        assert token not in listed.body.decode()
    sessions = (await service.get("/v1/sessions", cookie=session)).json["sessions"]
    assert [each["session_id"] for each in sessions] == [me["session_id"]]
    path = f"/v1/users/{me['user_id']}/sessions"
    seen = (await service.get(path, cookie=session)).json
    assert [each["session_id"] for each in seen["sessions"]] == [me["session_id"]]
    (shown_token,) = seen["tokens"]
    assert shown_token.keys() == {"token_id", "created_at", "expires_at", "roles", "last_used_on"}
    own = (await service.get("/v1/me/events?type=token_created", cookie=session)).json["events"]
    assert [event["session_id"] for event in own] == [token_id]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({}, 422, "invalid_input"),
        ({"name": "x"}, 422, "invalid_input"),
        ({"name": "", "lifetime_s": 60}, 422, "invalid_input"),
        ({"name": "x", "lifetime_s": 0}, 422, "invalid_input"),
        ({"name": "x", "lifetime_s": 366 * DAY_S + 1}, 422, "invalid_input"),
        ({"name": "x", "lifetime_s": 1.5}, 422, "invalid_input"),
        ({"name": "x", "lifetime_s": 60, "roles": ["root"]}, 403, "forbidden"),
        ({"name": "x", "lifetime_s": 60, "roles": "admin"}, 422, "invalid_input"),
        ({"name": "x", "lifetime_s": 60, "roles": ["admin"]}, 403, "forbidden"),
        ({"name": "x", "lifetime_s": 60, "more": 1}, 422, "invalid_input"),
    ],
)
async def test_a_bad_token(service: Service, body: dict[str, Any], status: int, code: str) -> None:
    gatelog = service.runner.app
    assert gatelog is not None
    await gatelog[ACCOUNTS].logins.add_user("bob", PASSWORD)
    session = await service.token("bob")
    answer = await service.post("/v1/tokens", json=body, cookie=session)
    assert (answer.status, answer.code) == (status, code)
    assert (await service.get("/v1/tokens", cookie=session)).json == {"tokens": []}


async def test_there_is_a_most(config: Config, database: Dsns, service: Service) -> None:
    few = msgspec.structs.replace(config, max_tokens_per_user=2)
    async with serving(create_app(few, database.app), few) as limited:
        session = await limited.token()
        for _ in range(2):
            assert (await create(limited, session)).status == 201
        refused = await create(limited, session)
        assert (refused.status, refused.code) == (409, "too_many_tokens")


@pytest.mark.parametrize(("method", "path", "body"), ROUTES)
async def test_what_a_token_may_not(
    service: Service, method: str, path: str, body: dict[str, Any] | None
) -> None:
    """Though it has all roles, and was made a moment ago."""
    session = await service.token()
    me = (await service.get("/v1/me", cookie=session)).json
    own, other = [(await create(service, session, "admin", "auditor")).json for _ in range(2)]
    path = path.format(
        own=own["token_id"], other=other["token_id"], session=me["session_id"], user=me["user_id"]
    )
    answer = await service.send(method, path, json=body, bearer=own["token"])
    assert (answer.status, answer.code) == (403, "token_not_allowed")
    for shown in ({"cookie": session}, {"bearer": own["token"]}, {"bearer": other["token"]}):
        assert (await service.get("/v1/me", **shown)).status == 200
    assert (await service.log_in()).status == 200, "the password is what it was"


async def test_hosted_handlers_may_refuse_tokens_as_well(service: Service) -> None:
    session = await service.token()
    token = (await create(service, session)).json["token"]
    for path in ("/api/fresh", "/api/people", "/api/not-for-machines"):
        assert (await service.get(path, cookie=session)).status == 200
        refused = await service.get(path, bearer=token)
        assert (refused.status, refused.code) == (403, "token_not_allowed"), path
    assert (await service.get("/api/not-for-machines", bearer="nonsense")).status == 200


async def test_creating_and_ending_one_takes_a_recent_login(
    service: Service, gatelog_clock: MovedClock
) -> None:
    session = await service.token()
    created = (await create(service, session)).json
    gatelog_clock.advance(901)
    for method, path in (("POST", "/v1/tokens"), ("DELETE", f"/v1/tokens/{created['token_id']}")):
        body = {"name": "x", "lifetime_s": 60} if method == "POST" else None
        refused = await service.send(method, path, json=body, cookie=session)
        assert (refused.status, refused.code) == (401, "recent_login_required")
    assert (await service.get("/v1/me", bearer=created["token"])).status == 200


# --- how they come


async def test_a_token_never_comes_in_a_cookie(service: Service) -> None:
    session = await service.token()
    token = (await create(service, session)).json["token"]
    unclear = [
        await service.get("/v1/me", cookie=token),
        await service.get("/v1/me", cookie=token, bearer=token),
        await service.get("/v1/me", cookie=session, bearer=token),
        await service.get("/v1/me", headers=SECURE_HOST | {"Cookie": f"__Host-gatelog={token}"}),
        await service.get(
            "/v1/me",
            headers=SECURE_HOST
            | {"Cookie": f"__Host-gatelog={token}", "Authorization": f"Bearer {token}"},
        ),
    ]
    assert [answer.status for answer in unclear] == [401] * 5
    assert (await service.get("/v1/me", bearer=token)).status == 200


async def test_a_wrong_checksum_asks_no_store(service: Service) -> None:
    session = await service.token()
    token = (await create(service, session)).json["token"]
    asked = looked_up()
    for wrong in (
        token[:-1] + ("0" if token[-1] != "0" else "1"),
        token[:20] + ("0" if token[20] != "0" else "1") + token[21:],
        token.swapcase(),
        token[:-1],
        token + "0",
        token.removeprefix(MACHINE_PREFIX),
    ):
        answer = await service.get("/v1/me", bearer=wrong)
        assert answer.status == 401
        assert looked_up() == asked, wrong
    made_up = MACHINE_PREFIX + "0" * 43
    answer = await service.get("/v1/me", bearer=made_up + checksum(made_up))
    assert answer.status == 401
    assert looked_up() == asked + 1, "well-formed, and not active"


# --- how they end


async def test_it_ends_like_a_session_with_a_receipt(service: Service) -> None:
    session = await service.token()
    created = (await create(service, session)).json
    path = f"/v1/tokens/{created['token_id']}"
    for unknown in (f"/v1/tokens/{uuid4()}", f"/v1/sessions/{created['token_id']}"):
        assert (await service.send("DELETE", unknown, cookie=session)).status == 404
    ended = await service.send("DELETE", path, cookie=session, headers={"Prefer": "receipt"})
    assert (ended.status, ended.json["status"], ended.json["ended"]) == (200, "ended", 1)
    assert ended.json["receipt"]["position"] == ended.json["position"] > 0
    assert ended.headers["Preference-Applied"] == "receipt"
    assert (await service.get("/v1/me", bearer=created["token"])).status == 401
    assert (await service.send("DELETE", path, cookie=session)).status == 404


async def test_it_can_end_itself_by_a_logout(service: Service) -> None:
    session = await service.token()
    token = (await create(service, session)).json["token"]
    ended = await service.post("/v1/logout_user", bearer=token)
    assert (ended.status, ended.json["ended"]) == (200, 1)
    assert (await service.get("/v1/me", bearer=token)).status == 401
    assert (await service.get("/v1/me", cookie=session)).status == 200


@pytest.mark.parametrize("body", [None, {}, {"tokens": False}, {"tokens": True}])
async def test_all_sessions_end_without_them_unless_it_is_said(
    service: Service, body: dict[str, bool] | None
) -> None:
    session = await service.token()
    token = (await create(service, session)).json["token"]
    both = bool(body and body.get("tokens"))
    ended = await service.post("/v1/sessions/end_all", json=body, cookie=session)
    assert ended.json["ended"] == 1 + both
    assert (await service.get("/v1/me", bearer=token)).status == (401 if both else 200)


async def test_a_body_that_says_which_is_held_to_its_form(service: Service) -> None:
    session = await service.token()
    bodies: list[Any] = [{"tokens": 1}, {"token": True}, []]
    for body in bodies:
        answer = await service.post("/v1/sessions/end_all", json=body, cookie=session)
        assert (answer.status, answer.code) == (422, "invalid_input")
    answer = await service.post("/v1/sessions/end_all", data=b"tokens=true", cookie=session)
    assert answer.status == 415
    assert (await service.get("/v1/me", cookie=session)).status == 200


async def test_administrators_end_them_when_they_say_so(service: Service) -> None:
    gatelog = service.runner.app
    assert gatelog is not None
    bob = await gatelog[ACCOUNTS].logins.add_user("bob", PASSWORD)
    token = (await create(service, await service.token("bob"))).json["token"]
    admin = await service.token()
    path = f"/v1/users/{UUID(str(bob))}/sessions/end_all"
    assert (await service.post(path, cookie=admin)).json["ended"] == 1
    assert (await service.get("/v1/me", bearer=token)).status == 200
    assert (await service.post(path, json={"tokens": True}, cookie=admin)).json["ended"] == 1
    assert (await service.get("/v1/me", bearer=token)).status == 401
