"""Users and their sessions over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import msgspec
import pytest
from gatelog.accounts.service.passwords import PasswordPool
from gatelog.config import Config
from gatelog.hosting.app import create_app
from gatelog.testing.moving import MovedClock

from tests.conftest import Dsns
from tests.serving import NEW_PASSWORD, PASSWORD, Answer, Service, serving

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection

NOBODY = "postgresql://nobody@127.0.0.1:1/nothing"


async def events(connection: Connection) -> list[str]:
    rows = await connection.fetch("SELECT type FROM events ORDER BY position")
    return [row["type"] for row in rows]


async def test_registration(service: Service) -> None:
    answer = await service.register("Alice ")
    assert answer.status == 201
    assert answer.json["status"] == "registered"
    assert (await service.log_in("ALICE")).json["user_id"] == answer.json["user_id"]
    taken = await service.register("ａlice")  # noqa: RUF001
    assert (taken.status, taken.code) == (409, "login_taken")


@pytest.mark.parametrize("password", ["too short", "1234567890qwertyuiop", "alicealicealice"])
async def test_a_weak_password(service: Service, password: str) -> None:
    answer = await service.register("alice", password)
    assert (answer.status, answer.code) == (422, "weak_password")
    assert password not in answer.body.decode()


async def test_registration_is_for_the_first_only(config: Config, database: Dsns) -> None:
    only = msgspec.structs.replace(config, registration="first")
    async with serving(create_app(only, database.app), only) as service:
        first, second = await service.register("alice"), await service.register("bob")
    assert first.status == 201
    assert (second.status, second.code) == (403, "registration_closed")


async def test_me(alice: Service) -> None:
    login = await alice.log_in()
    me = await alice.get("/v1/me", cookie=login.token)
    assert me.headers["Content-Type"] == "application/json"
    assert me.json.keys() == {
        *("user_id", "session_id", "started_at", "expires_at", "roles"),
        *("authenticated_at", "amr", "is_token"),
    }
    assert me.json["authenticated_at"] == me.json["started_at"]
    assert (me.json["amr"], me.json["is_token"]) == (["pwd"], False)
    for name in ("user_id", "session_id", "expires_at"):
        assert me.json[name] == login.json[name]
    assert me.json["roles"] == []


async def test_what_a_session_is_answered_is_not_for_caches(alice: Service) -> None:
    token = await alice.token()
    for answer in [
        await alice.get("/v1/me", cookie=token),
        await alice.get("/v1/me"),
        await alice.get("/v1/me", bearer="x" * 43),
        await alice.get("/v1/sessions", cookie=token),
        await alice.log_in(),
        await alice.log_in(password="wrong"),
        await alice.post("/v1/logout_user", cookie=token),
    ]:
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["Vary"] == "Cookie, Authorization"


async def test_a_401_says_what_helps(alice: Service) -> None:
    for answer, challenge in [
        (await alice.get("/v1/me"), 'Bearer realm="gatelog"'),
        (await alice.log_in(password="wrong"), 'Bearer realm="gatelog"'),
        (
            await alice.get("/v1/me", bearer="x" * 43),
            'Bearer realm="gatelog", error="invalid_token"',
        ),
        (await alice.get("/v1/me", bearer="x"), 'Bearer realm="gatelog", error="invalid_token"'),
    ]:
        assert answer.status == 401
        assert answer.headers["WWW-Authenticate"] == challenge


async def test_an_unknown_login_is_answered_like_a_wrong_password(
    alice: Service, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    verified: list[bool] = []
    verify = PasswordPool.verify

    async def counted(
        pool: PasswordPool, password_hash: str | None, password: str, **how: Any
    ) -> bool:
        verified.append(password_hash is None)
        return await verify(pool, password_hash, password, **how)

    monkeypatch.setattr(PasswordPool, "verify", counted)
    wrong, unknown = await alice.log_in(password="wrong"), await alice.log_in("bob")
    assert wrong.status == unknown.status == 401
    assert wrong.code == "invalid_credentials"
    assert wrong.body == unknown.body
    assert wrong.headers.keys() == unknown.headers.keys()
    assert {**wrong.headers, "Date": ""} == {**unknown.headers, "Date": ""}
    assert verified == [False, True]
    assert await events(connection) == ["user_registered", "login_failed", "login_failed"]


async def test_a_token_that_somebody_else_chose_is_never_used(alice: Service) -> None:
    chosen, stolen = "c" * 43, await alice.token()
    for planted in (chosen, stolen):
        login = await alice.log_in(headers={"Cookie": f"gatelog={planted}"})
        assert login.token not in (chosen, stolen)
        assert (await alice.get("/v1/me", cookie=login.token)).status == 200
    assert (await alice.get("/v1/me", cookie=chosen)).status == 401


async def test_login_works_whatever_cookies_come_along(alice: Service) -> None:
    login = await alice.log_in(headers={"Cookie": "gatelog=broken; gatelog=twice"})
    assert login.status == 200


async def test_a_login_cannot_outrun_a_password_change(
    alice: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = await alice.token()
    verified, changed = asyncio.Event(), asyncio.Event()
    verify = PasswordPool.verify

    async def slow_once(
        pool: PasswordPool, password_hash: str | None, password: str, **how: Any
    ) -> bool:
        right = await verify(pool, password_hash, password, **how)
        if not verified.is_set():
            verified.set()
            await changed.wait()
        return right

    monkeypatch.setattr(PasswordPool, "verify", slow_once)
    login = asyncio.create_task(alice.log_in())
    await verified.wait()
    body = {"current_password": PASSWORD, "new_password": NEW_PASSWORD}
    change = await alice.post("/v1/change_password", json=body, cookie=token)
    assert change.status == 200
    changed.set()
    assert (await login).code == "invalid_credentials"
    assert (await alice.get("/v1/me", cookie=change.token)).status == 200


async def test_a_password_change_ends_every_session(alice: Service) -> None:
    here, there = await alice.token(), await alice.token()
    wrong = {"current_password": "wrong", "new_password": NEW_PASSWORD}
    refused = await alice.post("/v1/change_password", json=wrong, cookie=here)
    assert (refused.status, refused.code) == (401, "invalid_credentials")
    weak = {"current_password": PASSWORD, "new_password": "short"}
    refused = await alice.post("/v1/change_password", json=weak, cookie=here)
    assert (refused.status, refused.code) == (422, "weak_password")
    body = {"current_password": PASSWORD, "new_password": NEW_PASSWORD}
    assert (await alice.post("/v1/change_password", json=body)).status == 401
    change = await alice.post("/v1/change_password", json=body, cookie=here)
    assert await statuses(alice, here, there, change.token) == [401, 401, 200]
    assert (await alice.log_in()).status == 401
    assert (await alice.log_in(password=NEW_PASSWORD)).status == 200


async def statuses(service: Service, *tokens: str) -> list[int]:
    return [(await service.get("/v1/me", cookie=token)).status for token in tokens]


def ending(answer: Answer) -> Any:
    assert answer.json["status"] == "ended"
    assert answer.json["position"] > 0
    return answer.json["ended"]


async def test_the_sessions_of_a_user(alice: Service) -> None:
    assert (await alice.register("bob")).status == 201
    await alice.token("bob")
    one, two = await alice.log_in(), await alice.log_in()
    listed = (await alice.get("/v1/sessions", cookie=two.token)).json["sessions"]
    assert [(s["session_id"], s["current"]) for s in listed] == [
        (one.json["session_id"], False),
        (two.json["session_id"], True),
    ]
    assert listed[0].keys() == {
        *("session_id", "started_at", "expires_at", "current", "last_seen_at", "absolute_at"),
        *("name", "device", "address", "authenticated_at", "amr"),
    }
    assert [(s["authenticated_at"], s["amr"]) for s in listed] == [
        (s["started_at"], ["pwd"]) for s in listed
    ]


FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"
IPHONE = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like"
    " Gecko) Version/17.1 Mobile/15E148 Safari/604.1"
)


async def test_a_person_can_tell_sessions_apart(alice: Service, connection: Connection) -> None:
    agents = [FIREFOX, IPHONE, "x" * 2000, ""]
    tokens = [(await alice.log_in(headers={"User-Agent": agent})).token for agent in agents]
    listed = (await alice.get("/v1/sessions", cookie=tokens[0])).json["sessions"]
    assert [session["device"] for session in listed] == [
        "Firefox on Linux",
        "Mobile Safari on iOS",
        None,
        None,
    ]
    assert {session["address"] for session in listed} == {"127.0.0.1"}
    assert [session["name"] for session in listed] == [None] * 4
    path = f"/v1/sessions/{listed[1]['session_id']}"
    named = await alice.send("PATCH", path, json={"name": " the phone of Ada "}, cookie=tokens[0])
    assert named.json == {
        "status": "named",
        "session_id": listed[1]["session_id"],
        "name": "the phone of Ada",
    }
    listed = (await alice.get("/v1/sessions", cookie=tokens[1])).json["sessions"]
    assert [session["name"] for session in listed] == [None, "the phone of Ada", None, None]
    (sealed,) = await connection.fetch("SELECT sealed FROM session_names")
    assert b"phone" not in sealed["sealed"]
    await alice.send("PATCH", path, json={"name": None}, cookie=tokens[0])
    assert await connection.fetchval("SELECT count(*) FROM session_names") == 0


@pytest.mark.parametrize("name", ["", "  ", "x" * 65, "a\nb", "a\u2028b", "\u202ea", "\x00", 5])
async def test_what_is_no_name_of_a_session(alice: Service, name: object) -> None:
    login = await alice.log_in()
    path = f"/v1/sessions/{login.json['session_id']}"
    refused = await alice.send("PATCH", path, json={"name": name}, cookie=login.token)
    assert (refused.status, refused.code) == (422, "invalid_input")


async def test_only_ones_own_sessions_get_names_and_they_go_with_them(
    alice: Service, connection: Connection
) -> None:
    await alice.register("bob")
    mine, theirs = await alice.log_in(), await alice.log_in("bob")
    for session_id in (theirs.json["session_id"], uuid4()):
        path = f"/v1/sessions/{session_id}"
        refused = await alice.send("PATCH", path, json={"name": "mine"}, cookie=mine.token)
        assert (refused.status, refused.code) == (404, "not_found")
    path = f"/v1/sessions/{mine.json['session_id']}"
    for name in ("mine", "x" * 64, "ö" * 64, "\U0001d4bb" * 64):
        named = await alice.send("PATCH", path, json={"name": name}, cookie=mine.token)
        assert (named.status, named.json["name"]) == (200, name)
    assert await connection.fetchval("SELECT count(*) FROM session_names") == 1
    await alice.post("/v1/logout_user", cookie=mine.token)
    assert await connection.fetchval("SELECT count(*) FROM session_names") == 0
    assert (await alice.send("PATCH", path, json={"name": "a"}, cookie=mine.token)).status == 401


async def test_ending_the_others(alice: Service) -> None:
    one, two, three = [await alice.token() for _ in range(3)]
    assert ending(await alice.post("/v1/sessions/end_others", cookie=two)) == 2
    assert await statuses(alice, one, two, three) == [401, 200, 401]
    assert ending(await alice.post("/v1/sessions/end_others", cookie=two)) == 0


async def test_ending_all(alice: Service) -> None:
    assert (await alice.register("bob")).status == 201
    one, two, bob = await alice.token(), await alice.token(), await alice.token("bob")
    answer = await alice.post("/v1/sessions/end_all", cookie=one)
    assert ending(answer) == 2
    assert answer.set_cookie.startswith("gatelog=; Max-Age=0; ")
    assert await statuses(alice, one, two, bob) == [401, 401, 200]


async def test_an_old_login_ends_itself_and_no_other(
    alice: Service, gatelog_clock: MovedClock
) -> None:
    one, two = await alice.log_in(), await alice.log_in()
    gatelog_clock.advance(901)
    for method, path in (
        ("POST", "/v1/sessions/end_others"),
        ("POST", "/v1/sessions/end_all"),
        ("DELETE", f"/v1/sessions/{one.json['session_id']}"),
        ("DELETE", f"/v1/sessions/{uuid4()}"),
    ):
        refused = await alice.send(method, path, cookie=two.token)
        assert (refused.status, refused.code) == (401, "recent_login_required")
        assert "Set-Cookie" not in refused.headers
    assert await statuses(alice, one.token, two.token) == [200, 200]
    fresh = await alice.token()
    assert ending(await alice.post("/v1/sessions/end_others", cookie=fresh)) == 2
    own = (await alice.get("/v1/sessions", cookie=fresh)).json["sessions"][0]["session_id"]
    gatelog_clock.advance(901)
    assert ending(await alice.send("DELETE", f"/v1/sessions/{own}", cookie=fresh)) == 1


async def test_how_old_a_login_may_be_is_configured(
    config: Config, database: Dsns, gatelog_clock: MovedClock
) -> None:
    for limit_s, status in ((0, 200), (7200, 200), (60, 401)):
        own = msgspec.structs.replace(config, recent_login_s=limit_s)
        async with serving(create_app(own, database.app), own) as service:
            await service.register()
            token = await service.token()
            gatelog_clock.advance(3600)
            answer = await service.post("/v1/sessions/end_others", cookie=token)
            assert answer.status == status, limit_s


async def test_ending_one(alice: Service) -> None:
    one, two = await alice.log_in(), await alice.log_in()
    path = f"/v1/sessions/{two.json['session_id']}"
    other = await alice.send("DELETE", path, cookie=one.token)
    assert ending(other) == 1
    assert "Set-Cookie" not in other.headers
    assert await statuses(alice, one.token, two.token) == [200, 401]
    own = await alice.send("DELETE", f"/v1/sessions/{one.json['session_id']}", cookie=one.token)
    assert ending(own) == 1
    assert own.set_cookie.startswith("gatelog=; Max-Age=0; ")


async def test_the_session_of_somebody_else_is_not_there(alice: Service) -> None:
    assert (await alice.register("bob")).status == 201
    token, bob = await alice.token(), await alice.log_in("bob")
    theirs = await alice.send("DELETE", f"/v1/sessions/{bob.json['session_id']}", cookie=token)
    nobodys = await alice.send("DELETE", f"/v1/sessions/{uuid4()}", cookie=token)
    assert theirs.status == nobodys.status == 404
    assert theirs.body == nobodys.body
    assert await statuses(alice, token, bob.token) == [200, 200]


async def test_a_logout_ends_one_session(alice: Service) -> None:
    one, two = await alice.token(), await alice.token()
    await alice.post("/v1/logout_user", cookie=one)
    assert await statuses(alice, one, two) == [401, 200]


async def test_a_session_ends_by_itself(config: Config, database: Dsns) -> None:
    brief = msgspec.structs.replace(config, session_lifetime_s=0.000_001)
    async with serving(create_app(brief, database.app), brief) as service:
        await service.register()
        token = await service.token()
        assert (await service.get("/v1/me", cookie=token)).status == 401


async def test_health(service: Service, config: Config) -> None:
    alive = await service.get("/health/alive")
    assert alive.status == 200
    assert alive.json["status"] == "alive"
    assert alive.json["workers"] == config.worker_count
    assert isinstance(alive.json["worker"], int)
    ready = await service.get("/health/ready")
    assert (ready.status, ready.json) == (200, {"status": "ready"})


async def test_without_a_database_and_without_the_composer(config: Config) -> None:
    config = msgspec.structs.replace(config, composer="off")
    async with serving(create_app(config, NOBODY), config) as service:
        assert (await service.get("/v1/nothing", cookie="x" * 43)).status == 404


async def test_without_a_database(config: Config) -> None:
    async with serving(create_app(config, NOBODY), config) as service:
        assert (await service.get("/health/alive")).status == 200
        assert (await service.get("/v1/me")).status == 401
        assert (await service.get("/v1/nothing", cookie="x" * 43)).status == 503  # or composed
        ready = await service.get("/health/ready")
        assert (ready.status, ready.code) == (503, "database_unavailable")
        assert "ConnectionRefusedError" in ready.json["detail"]
        waiting: list[Awaitable[Answer]] = [
            service.get("/v1/me", cookie="x" * 43),
            service.log_in(),
            service.post("/v1/logout_user", cookie="x" * 43),
        ]
        for answer in [await each for each in waiting]:
            assert (answer.status, answer.code) == (503, "database_unavailable")
            assert int(answer.headers["Retry-After"]) >= 1
            assert "detail" not in answer.json
