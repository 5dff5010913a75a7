"""Composed endpoints as clients see them: every step, behind the same check as everything."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from aiohttp import web
from gatelog import SESSION, composable
from gatelog.composer.rules.composition import (
    ChangePassword,
    CurrentUser,
    EndAll,
    EndOthers,
    Field,
    Handler,
    ListSessions,
    Login,
    Record,
    Register,
    Respond,
)
from gatelog.config import Config
from gatelog.hosting.app import create_app
from gatelog.log.store.reading import read_events
from prometheus_client import REGISTRY

from tests.composer.compositions import WALK, both, one
from tests.composer.house import ADMIN, USER, House, housing
from tests.conftest import Dsns
from tests.serving import NEW_PASSWORD, PASSWORD, SECURE_HOST, serving

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection


@composable("greet")
async def greet(request: web.Request) -> web.StreamResponse:
    who = request[SESSION].subject_text if SESSION in request else "nobody"
    return web.json_response({"hello": who, "at": request.match_info.get("place")})


@composable("breaks")
async def breaks(request: web.Request) -> web.StreamResponse:
    raise RuntimeError("secret words")


# --- logins and sessions


async def test_register_log_in_and_who_it_is_in_one_action(house: House) -> None:
    await house.build(
        one(Register(), Login(), CurrentUser(), method="POST", access="public", path="/v2/join")
    )
    joined = await house.service.post("/v2/join", json={"login": "new", "password": PASSWORD})
    assert joined.status == 200
    assert joined.headers["Cache-Control"] == "no-store"
    me = await house.service.get("/v1/me", cookie=joined.token)
    assert me.json == joined.json
    taken = await house.service.post("/v2/join", json={"login": "new", "password": PASSWORD})
    assert taken.code == "login_taken" and "Set-Cookie" not in taken.headers


async def test_a_login_carries_a_bearer_where_it_is_asked_for(house: House) -> None:
    await house.build(WALK)
    body = {"login": USER, "password": PASSWORD, "token": "bearer"}
    answer = await house.service.post("/v2/login", json=body)
    assert answer.json["token_type"] == "Bearer" and "Set-Cookie" not in answer.headers
    assert (await house.service.get("/v2/me", bearer=answer.json["token"])).status == 200
    wrong = await house.service.post("/v2/login", json=body | {"password": "not the right one"})
    assert wrong.code == "invalid_credentials"
    unknown = await house.service.post("/v2/login", json=body | {"more": 1})
    assert unknown.code == "invalid_input"


async def test_a_composed_login_is_throttled_with_all_others(
    config: Config, database: Dsns
) -> None:
    config = msgspec.structs.replace(config, login_tries=2)
    async with housing(config, database) as house:
        await house.build(WALK)
        body = {"login": USER, "password": "not the right one"}
        answers = [await house.service.post("/v2/login", json=body) for _ in range(4)]
        assert [answer.status for answer in answers[:2]] == [401, 401]
        assert answers[-1].code == "too_many_attempts"
        assert (await house.service.log_in(USER)).code == "too_many_attempts"


async def test_a_logout_ends_the_session_of_the_request_and_no_other(house: House) -> None:
    await house.build(WALK)
    one_token, other = await house.service.token(USER), await house.service.token(USER)
    for _ in range(2):
        answer = await house.service.get("/v2/logout_user", cookie=one_token)
        assert answer.status == 200
    assert answer.json["ended"] == 0
    assert (await house.service.get("/v2/me", cookie=other)).status == 200
    assert (await house.service.get("/v2/logout_user")).json["ended"] == 0
    malformed = await house.service.get("/v2/logout_user", cookie="x")
    assert malformed.status == 401


async def test_a_logout_by_get_is_not_for_other_sites(house: House) -> None:
    await house.build(WALK)
    token = await house.service.token(USER)
    for headers in (
        {"Sec-Fetch-Site": "cross-site"},
        {"Origin": "https://evil.example"},
        {"Sec-Purpose": "prefetch"},
    ):
        answer = await house.service.get("/v2/logout_user", cookie=token, headers=headers)
        assert answer.status == 403, headers
    assert (await house.service.get("/v2/me", cookie=token)).status == 200
    head = await house.service.send("HEAD", "/v2/logout_user", cookie=token)
    assert head.status == 405
    assert (await house.service.get("/v2/me", cookie=token)).status == 200
    assert (await house.service.send("HEAD", "/v2/me", cookie=token)).status == 200


async def test_ends_of_sessions_and_passwords(house: House) -> None:
    await house.build(
        both(
            one(EndOthers(), ListSessions(), name="A", path="/v2/others", method="POST"),
            one(EndAll(), name="B", path="/v2/all", method="POST"),
            one(ChangePassword(), CurrentUser(), name="C", path="/v2/password", method="POST"),
            one(ListSessions(), name="D", path="/v2/sessions"),
        )
    )
    service = house.service
    first, second = await service.token(USER), await service.token(USER)
    left = await service.post("/v2/others", cookie=first)
    assert [each["current"] for each in left.json["sessions"]] == [True]
    assert (await service.get("/v1/me", cookie=second)).status == 401
    assert len((await service.get("/v2/sessions", cookie=first)).json["sessions"]) == 1
    change = {"current_password": PASSWORD, "new_password": NEW_PASSWORD}
    changed = await service.post("/v2/password", json=change, cookie=first)
    assert changed.status == 200
    assert (await service.get("/v1/me", cookie=first)).status == 401
    me = await service.get("/v1/me", cookie=changed.token)
    assert me.json["session_id"] == changed.json["session_id"]  # the fresh one
    ended = await service.post("/v2/all", cookie=changed.token)
    assert (ended.status, ended.json["ended"]) == (200, 1)
    assert (await service.get("/v1/me", cookie=changed.token)).status == 401


async def test_ends_ask_for_a_recent_login(config: Config, database: Dsns) -> None:
    async with housing(config, database) as house:
        await house.build(
            both(
                one(EndAll(), method="POST"),
                one(
                    Login(), EndOthers(), name="Two", path="/v2/two", method="POST", access="public"
                ),
            )
        )
        token = await house.service.token(USER)
    config = msgspec.structs.replace(config, recent_login_s=1e-6)
    async with serving(create_app(config, database.app), config) as service:
        assert (await service.post("/v2/one", cookie=token)).code == "recent_login_required"
        just_now = await service.post("/v2/two", json={"login": USER, "password": PASSWORD})
        assert just_now.json["ended"] == 1


async def test_who_may(house: House) -> None:
    await house.build(
        both(
            one(Respond(json='"all"'), name="A", path="/v2/a", access="public"),
            one(Respond(json='"in"'), name="B", path="/v2/b"),
            one(Respond(json='"clerks"'), name="C", path="/v2/c", access="roles", roles=("clerk",)),
        )
    )
    service = house.service
    user = await service.token(USER)
    by_path = {
        path: [(await service.get(path, cookie=who)).status for who in (None, user, house.token)]
        for path in ("/v2/a", "/v2/b", "/v2/c")
    }
    assert by_path == {
        "/v2/a": [200, 200, 200],
        "/v2/b": [401, 200, 200],
        "/v2/c": [401, 403, 403],
    }
    me = (await service.get("/v1/me", cookie=user)).json["user_id"]
    granted = await service.post(f"/v1/users/{me}/roles/clerk", cookie=house.token)
    assert granted.status == 200, granted
    assert (await service.get("/v2/c", cookie=await service.token(USER))).json == "clerks"


async def test_methods_and_paths_that_are_not_there(house: House) -> None:
    await house.build(
        both(
            one(Respond(json='"{{path.id}}"'), name="A", path="/v2/x/{id}"),
            one(Respond(), name="B", path="/v2/x/{id}", method="PUT"),
        )
    )
    service, token = house.service, await house.service.token(USER)
    refused = await service.post("/v2/x/1", cookie=token)
    assert refused.code == "method_not_allowed"
    assert set(refused.headers["Allow"].replace(" ", "").split(",")) == {"GET", "HEAD", "PUT"}
    for path in ("/v2/x", "/v2/x/", "/v2/x/1/2", "/v2//1", "/V2/x/1"):
        assert (await service.get(path, cookie=token)).status == 404, path
    for sent, value in (
        ("a%20b", "a b"),
        ("%2F", "/"),
        ("%25", "%"),
        ("%252F", "%2F"),
        ("%3Cb%3E", "<b>"),
        ("%C3%A9", "é"),
    ):
        assert (await service.get(f"/v2/x/{sent}", cookie=token)).json == value
    expecting = await service.get("/v2/x/1", cookie=token, headers={"Expect": "nothing"})
    assert expecting.status == 417


# --- records


RECORDING = one(
    Record(type="app.order_placed", fields=("order", "amount", "note", "id"), per_hour=3),
    method="POST",
    path="/v2/orders/{id}",
    fields=(
        Field("order", max_length=20),
        Field("amount", "integer", required=False),
        Field("note", personal=True),
    ),
)
SECRET = "call me at 030 1234567"


async def test_an_event_of_ones_own_is_in_the_log_with_what_is_personal_sealed(
    house: House, connection: Connection
) -> None:
    await house.build(RECORDING)
    token = await house.service.token(USER)
    sent = {"order": "A-1", "amount": 7, "note": SECRET}
    answer = await house.service.post("/v2/orders/x9", json=sent, cookie=token)
    assert answer.json["status"] == "recorded"
    (stored,) = await read_events(connection, answer.json["position"] - 1, 1)
    assert SECRET.encode() not in stored.entry
    event: Any = stored.event()
    assert (event.type, event.name) == ("app_recorded", "app.order_placed")
    assert json.loads(event.data) == {"order": "A-1", "amount": 7, "id": "x9"}
    me = (await house.service.get("/v1/me", cookie=token)).json
    assert str(event.subject_id) == me["user_id"]
    assert str(event.session_id) == me["session_id"]
    path = "/v1/audit/events?type=app_recorded"
    (seen,) = (await house.service.get(path, cookie=house.token)).json["events"]
    assert seen["name"] == "app.order_placed"
    assert json.loads(seen["data"]) == sent | {"id": "x9"}
    (own,) = [
        e
        for e in (await house.service.get("/v1/me/events", cookie=token)).json["events"]
        if e["type"] == "app_recorded"
    ]
    assert SECRET in own["data"]
    erased = await house.service.post(f"/v1/users/{me['user_id']}/erase", cookie=house.token)
    assert erased.status == 200
    (gone,) = (await house.service.get(path, cookie=house.token)).json["events"]
    assert json.loads(gone["data"]) == {"order": "A-1", "amount": 7, "id": "x9"}
    assert await connection.fetch("SELECT * FROM app_records") == []


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"order": "A"},
        {"order": 7, "note": "n"},
        {"order": "x" * 21, "note": "n"},
        {"order": "A", "note": "n", "amount": 2**63},
        {"order": "A", "note": "n", "amount": True},
        {"order": "A", "note": "n", "more": 1},
        {"order": "\x00", "note": "n"},
        {"order": None, "note": "n"},
    ],
)
async def test_a_body_is_what_is_declared(house: House, body: Any) -> None:
    await house.build(RECORDING)
    token = await house.service.token(USER)
    answer = await house.service.post("/v2/orders/x", json=body, cookie=token)
    assert answer.code == "invalid_input"


async def test_the_log_does_not_grow_beyond_what_is_allowed(
    house: House, connection: Connection
) -> None:
    await house.build(RECORDING)
    token = await house.service.token(USER)

    async def record(token: str) -> Any:
        return await house.service.post(
            "/v2/orders/x", json={"order": "A", "note": "n"}, cookie=token
        )

    answers = await asyncio.gather(*(record(token) for _ in range(12)))
    assert sorted(answer.status for answer in answers) == [200] * 3 + [429] * 9
    (refused, *_) = [answer for answer in answers if answer.status == 429]
    assert refused.code == "too_many_records"
    assert 3500 < int(refused.headers["Retry-After"]) <= 3601
    assert (await record(await house.service.token(USER))).status == 429  # by user, not session
    assert (await record(house.token)).status == 200  # and not of all users
    events = [stored.event().type for stored in await read_events(connection, 0)]
    assert events.count("app_recorded") == 4
    await connection.execute("UPDATE app_records SET since = since - interval '1 hour'")
    assert (await record(token)).status == 200


async def test_nothing_is_recorded_of_a_session_that_has_just_ended(
    house: House, monkeypatch: pytest.MonkeyPatch, connection: Connection
) -> None:
    from gatelog.composer.service.records import Recorder

    await house.build(RECORDING)
    token = await house.service.token(USER)
    real = Recorder.record

    async def hesitant(self: Recorder, *args: Any, **more: Any) -> int:
        assert (await house.service.post("/v1/logout_user", cookie=token)).status == 200
        return await real(self, *args, **more)

    monkeypatch.setattr(Recorder, "record", hesitant)
    body = {"order": "A", "note": "n"}
    answer = await house.service.post("/v2/orders/x", json=body, cookie=token)
    assert answer.code == "not_authenticated"
    events = [stored.event().type for stored in await read_events(connection, 0)]
    assert "app_recorded" not in events


async def test_what_was_done_before_a_refusal_is_done_and_told(house: House) -> None:
    record = Record(type="app.seen", per_hour=1)
    await house.build(one(Login(), record, method="POST", access="public"))
    body = {"login": USER, "password": PASSWORD}
    assert (await house.service.post("/v2/one", json=body)).json["status"] == "recorded"
    again = await house.service.post("/v2/one", json=body)
    assert again.code == "too_many_records"
    assert (await house.service.get("/v1/me", cookie=again.token)).status == 200


# --- answers


async def test_a_template_tells_of_the_caller_alone(house: House) -> None:
    text = json.dumps(
        {
            "user": "{{session.user_id}}",
            "roles": "{{session.roles}}",
            "amr": "{{session.amr}}",
            "until": "{{session.expires_at}}",
            "words": "{{body.note}}, {{body.maybe}} {{path.id}}",
            "maybe": "{{body.maybe}}",
        }
    )
    await house.build(
        one(
            Respond(json=text, status=202),
            method="POST",
            path="/v2/{id}/tell",
            fields=(Field("note"), Field("maybe", "boolean", required=False)),
        )
    )
    seen = set()
    for who in (USER, ADMIN):
        token = await house.service.token(who)
        note = '"}, {{session.user_id}} <script>'
        answer = await house.service.post("/v2/7/tell", json={"note": note}, cookie=token)
        me = (await house.service.get("/v1/me", cookie=token)).json
        assert answer.status == 202
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.json == {
            "user": me["user_id"],
            "roles": me["roles"],
            "amr": me["amr"],
            "until": me["expires_at"],
            "words": f"{note},  7",
            "maybe": None,
        }
        seen.add(answer.json["user"])
    assert len(seen) == 2


async def test_a_handler_of_the_hosted_application(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    await house.build(
        both(
            one(Handler(name="greet"), name="A", path="/v2/greet/{place}"),
            one(Handler(name="greet"), name="B", path="/v2/public", access="public"),
            one(
                Login(),
                Handler(name="greet"),
                name="C",
                path="/v2/in",
                method="POST",
                access="public",
            ),
            one(Handler(name="breaks"), name="D", path="/v2/breaks"),
        )
    )
    service, token = house.service, await house.service.token(USER)
    me = (await service.get("/v1/me", cookie=token)).json["user_id"]
    assert (await service.get("/v2/greet/x", cookie=token)).json == {"hello": me, "at": "x"}
    assert (await service.get("/v2/public", cookie=token)).json["hello"] == "nobody"
    entered = await service.post("/v2/in", json={"login": USER, "password": PASSWORD})
    assert entered.json["hello"] == me and entered.token
    broken = await service.get("/v2/breaks", cookie=token)
    assert broken.code == "internal_error" and b"secret" not in broken.body


async def test_markup_is_text(house: House) -> None:
    evil = "</script><script>alert(1)</script>"
    composition = one(
        Respond(json=json.dumps({evil: "{{path.id}}"})),
        name=evil[:60],
        description=evil,
        path="/v2/{id}/x",
        access="public",
    )
    await house.build(composition)
    answer = await house.service.get("/v2/%3Cb%3E/x")
    assert answer.json == {evil: "<b>"}
    assert answer.headers["Content-Type"] == "application/json"


# --- what everything has


async def test_composed_endpoints_are_in_the_document(house: House) -> None:
    before = await house.service.get("/openapi.json")
    await house.build(both(WALK, RECORDING))
    after = await house.service.get("/openapi.json")
    assert before.headers["ETag"] != after.headers["ETag"]
    paths = after.json["paths"]
    assert paths["/v2/logout_user"]["get"]["summary"] == "Logout user"
    assert "security" in paths["/v2/me"]["get"]
    place = paths["/v2/orders/{id}"]["post"]
    assert set(place["responses"]) >= {"200", "401", "422", "429"}
    ref = place["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    schema = after.json["components"]["schemas"][ref.rpartition("/")[2]]
    assert schema["properties"]["order"]["maxLength"] == 20
    assert schema["required"] == ["order", "note"]
    from openapi_spec_validator import validate

    validate(after.json)
    await house.build(WALK)
    assert "/v2/orders/{id}" not in (await house.service.get("/openapi.json")).json["paths"]


def counted(route: str, status: str) -> float:
    labels = {"route": route, "method": "GET", "status": status}
    return REGISTRY.get_sample_value("gatelog_http_request_duration_seconds_count", labels) or 0.0


async def test_composed_endpoints_are_counted_by_their_templates(house: House) -> None:
    from gatelog.http.requests import requests_here

    await house.build(one(CurrentUser(), path="/v2/counted/{id}"))
    requests_here.flush()
    before = counted("/v2/counted/{id}", "401")
    for number in range(3):
        await house.service.get(f"/v2/counted/{number}")
    await house.build(one(ListSessions(), path="/v2/counted/{id}"))
    await house.service.get("/v2/counted/x")
    requests_here.flush()
    assert counted("/v2/counted/{id}", "401") == before + 4


async def test_behind_a_proxy_cookies_are_secure(house: House) -> None:
    await house.build(WALK)
    body = {"login": USER, "password": PASSWORD}
    answer = await house.service.post("/v2/login", json=body, headers=SECURE_HOST)
    assert answer.set_cookie.startswith("__Host-gatelog=")
    assert "; Secure" in answer.set_cookie


async def test_inside_somebody_elses_application(config: Config, database: Dsns) -> None:
    from gatelog.hosting.app import add_to

    async def own(request: web.Request) -> web.StreamResponse:
        return web.json_response("own")

    async with housing(config, database) as house:
        await house.build(WALK)
    app = web.Application()
    app.add_routes([web.get("/own/{x}", own)])
    add_to(app, config, database.app, projector=True)
    async with serving(app, config) as service:
        token = await service.token(USER)
        assert (await service.get("/own/1", cookie=token)).json == "own"
        assert (await service.get("/v2/me")).status == 401
        assert (await service.get("/v2/me", cookie=token)).status == 200
        admin = House(service, await service.token(ADMIN))
        await admin.draft(one(CurrentUser(), path="/own/{y}"))
        assert (await admin.ask("POST", "/build", json={})).code == "not_buildable"
