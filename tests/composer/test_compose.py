"""Composing over HTTP: the draft, its check, builds, and who may."""

from __future__ import annotations

import asyncio
import json
from hashlib import sha256
from io import BytesIO
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from gatelog.composer.rules import state
from gatelog.composer.rules.composition import (
    EMPTY,
    CurrentUser,
    ListSessions,
    Logout,
    Respond,
    encode,
)
from gatelog.composer.rules.files import read, write
from gatelog.config import Config
from gatelog.hosting.app import create_app
from gatelog.hosting.services import open_services
from gatelog.log.store.database import connect
from gatelog.log.store.reading import read_events
from gatelog.log.store.rebuild import check, rebuild

from tests.composer.compositions import WALK, both, one
from tests.composer.house import USER, House, housing, people
from tests.conftest import Dsns
from tests.serving import PASSWORD, serving

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection

PATHS: list[tuple[str, str, Any]] = [
    ("GET", "/palette", None),
    ("GET", "/draft", None),
    ("PUT", "/draft", {"composition": {}}),
    ("GET", "/file", None),
    ("PUT", "/file", {"toml": "format = 1"}),
    ("POST", "/check", None),
    ("POST", "/build", {}),
    ("GET", "/builds", None),
    ("GET", "/builds/1", None),
    ("GET", "/builds/1/changes", None),
    ("POST", "/builds/1/bring_back", None),
    ("POST", "/run", {"endpoint": "Who am I"}),
    ("POST", "/walk", {"protected": "a", "login": "b", "logout": "c", "body": {}}),
]


@pytest.mark.parametrize(("method", "path", "body"), PATHS)
async def test_it_is_for_administrators_who_have_just_logged_in(
    house: House, method: str, path: str, body: Any
) -> None:
    service = house.service
    assert (await house.ask(method, path, json=body, cookie=None)).status == 401
    user = await service.token(USER)
    assert (await house.ask(method, path, json=body, cookie=user)).code == "forbidden"
    made = await service.post(
        "/v1/tokens",
        json={"name": "ci", "roles": ["admin"], "lifetime_s": 3600},
        cookie=house.token,
    )
    assert made.status == 201, made
    by_token = await house.ask(method, path, json=body, cookie=None, bearer=made.json["token"])
    assert by_token.code == "token_not_allowed"
    foreign = {"Origin": "https://evil.example"}
    if method != "GET":
        answer = await house.ask(method, path, json=body, headers=foreign)
        assert answer.code == "cross_site_request"


@pytest.mark.parametrize(("method", "path", "body"), PATHS)
async def test_an_old_login_is_refused(
    config: Config, database: Dsns, method: str, path: str, body: Any
) -> None:
    config = msgspec.structs.replace(config, recent_login_s=1e-6)
    async with housing(config, database) as house:
        answer = await house.ask(method, path, json=body)
        assert answer.code == "recent_login_required"


async def test_off_it_is_not_there(config: Config, database: Dsns) -> None:
    async with housing(config, database) as house:
        await house.build(WALK)
        assert (await house.service.get("/v2/me")).status == 401
    config = msgspec.structs.replace(config, composer="off")
    async with serving(create_app(config, database.app), config) as service:
        token = await service.token("root")
        for method, path, _ in PATHS:
            answer = await service.send(method, f"/v1/compose{path}", cookie=token)
            assert answer.status == 404
        assert (await service.get("/v2/me", cookie=token)).status == 404


async def test_from_nothing_to_a_build_and_the_walk(house: House) -> None:
    service = house.service
    assert (await house.ask("GET", "/draft")).json == {
        "composition": {},
        "digest": "",
        "changed_at": None,
        "changed_by": None,
        "live": 0,
    }
    assert (await service.get("/v2/me")).status == 404
    drafted = await house.draft(WALK, seen="")
    digest = sha256(encode(WALK)).hexdigest()
    assert drafted.json["digest"] == digest
    assert (await service.get("/v2/me")).status == 404  # a draft is not live
    checked = (await house.ask("POST", "/check")).json
    assert checked["faults"] == [] and len(checked["changes"]) == 6
    built = (await house.ask("POST", "/build", json={"seen": digest})).json
    assert (built["build"], built["status"], len(built["changes"])) == (1, "live", 6)

    assert (await service.get("/v2/me")).status == 401
    logged_in = await service.post("/v2/login", json={"login": USER, "password": PASSWORD})
    assert logged_in.status == 200
    me = await service.get("/v2/me", cookie=logged_in.token)
    assert me.status == 200
    assert me.body == (await service.get("/v1/me", cookie=logged_in.token)).body
    out = await service.get("/v2/logout_user", cookie=logged_in.token)
    assert (out.status, out.json["ended"]) == (200, 1)
    assert "Max-Age=0" in out.set_cookie
    assert (await service.get("/v2/me", cookie=logged_in.token)).status == 401


async def test_nobody_overwrites_what_they_have_not_seen(house: House) -> None:
    first = (await house.draft(WALK)).json["digest"]
    other = one(CurrentUser())
    assert (await house.draft(other, seen="")).code == "draft_outdated"
    assert (await house.draft(other, seen=first)).status == 200
    assert (await house.ask("POST", "/build", json={"seen": first})).code == "draft_outdated"
    for nonsense in ("x", "00", first.upper(), first + "0"):
        assert (await house.draft(other, seen=nonsense)).code == "invalid_input"
    again = await house.draft(other)
    assert again.json["position"] is None and again.json["changes"] == []


async def test_of_many_who_build_at_once_each_build_is_one(house: House) -> None:
    await house.draft(WALK)
    answers = await asyncio.gather(*(house.ask("POST", "/build", json={}) for _ in range(8)))
    assert sorted(answer.status for answer in answers) == [200] + [409] * 7
    assert {a.code for a in answers if a.status == 409} <= {"nothing_to_build", "draft_outdated"}


async def test_what_cannot_be_built_says_all_that_is_wrong(house: House) -> None:
    wrong = both(one(Logout(), CurrentUser()), one(CurrentUser(), path="/v1/me", name="Two"))
    await house.draft(wrong)
    checked = (await house.ask("POST", "/check")).json["faults"]
    assert {(fault["what"], fault["name"], fault["step"]) for fault in checked} == {
        ("endpoint", "Two", None),
        ("action", "Do One", 2),
    }
    refused = await house.ask("POST", "/build", json={})
    assert refused.code == "not_buildable" and len(refused.json["faults"]) == 2
    assert (await house.ask("GET", "/draft")).json["live"] == 0


@pytest.mark.parametrize(
    "path",
    [
        "/v1/me",
        "/v1/logout_user",
        "/v1/{anything}",
        "/{a}",
        "/{a}/{b}/{c}",
        "/v1/users/{user_id}/erase",
        "/v1/log/tile/a/b/c/d",
        "/v1/compose/draft",
        "/v1/compose/{anything}",
        "/metrics",
        "/health/{anything}",
        "/openapi.json",
        "/docs/page.js",
        "/.well-known/jwks.json",
        "/login",
        "/console/users",
        "/console/compose",
        "/api/anything",
        "/{x}/anything",
        "/hosted/{id}",
        "/hosted/files/a/b",
    ],
)
async def test_no_route_can_be_shadowed(config: Config, database: Dsns, path: str) -> None:
    from aiohttp import web

    async def hosted(request: web.Request) -> web.StreamResponse:
        return web.Response(text="hosted")

    routes = [web.get("/hosted/{id}", hosted), web.get("/hosted/files/{path:.*}", hosted)]
    async with housing(config, database, *routes) as house:
        await house.draft(one(CurrentUser(), path=path))
        refused = await house.ask("POST", "/build", json={})
        assert refused.code == "not_buildable", path


async def test_a_route_that_came_later_wins(config: Config, database: Dsns) -> None:
    """A build of before, of a path that the product or the hosted application has now."""
    from aiohttp import web

    async with housing(config, database) as house:
        await house.build(one(Respond(json='"composed"'), access="public", path="/hosted/me"))
        assert (await house.service.get("/hosted/me")).json == "composed"

    async def hosted(request: web.Request) -> web.StreamResponse:
        return web.json_response("hosted")

    routes = [web.get("/hosted/{name}", hosted)]
    async with serving(create_app(config, database.app, routes), config) as service:
        assert (await service.get("/hosted/me")).status == 401
        token = await service.token(USER)
        assert (await service.get("/hosted/me", cookie=token)).json == "hosted"


async def test_every_build_can_be_seen_compared_and_brought_back(house: House) -> None:
    first, second = one(CurrentUser(), name="A"), one(ListSessions(), name="B", path="/v2/two")
    assert [await house.build(each) for each in (first, second, EMPTY)] == [1, 2, 3]
    listed = (await house.ask("GET", "/builds")).json["builds"]
    assert [each["build"] for each in listed] == [3, 2, 1]
    page = await house.ask("GET", "/builds?limit=2")
    assert page.json["next"] == "/v1/compose/builds?limit=2&before=2"
    rest = await house.service.get(page.json["next"], cookie=house.token)
    assert [each["build"] for each in rest.json["builds"]] == [1] and "next" not in rest.json
    shown = (await house.ask("GET", "/builds/2")).json
    assert msgspec.convert(shown["composition"], type(second)) == second
    assert shown["digest"] == sha256(encode(second)).hexdigest()
    compared = (await house.ask("GET", "/builds/1/changes?to=2")).json["changes"]
    assert {(each["how"], each["name"]) for each in compared} == {
        ("removed", "A"),
        ("removed", "Do A"),
        ("added", "B"),
        ("added", "Do B"),
    }
    assert len((await house.ask("GET", "/builds/1/changes")).json["changes"]) == 2
    back = (await house.ask("POST", "/builds/1/bring_back")).json
    assert back["build"] == 4
    assert (await house.service.get("/v2/one")).status == 401
    assert (await house.service.get("/v2/two")).status == 404
    again = (await house.ask("GET", "/draft")).json
    assert msgspec.convert(again["composition"], type(first)) == first  # nothing new was in it
    assert (await house.ask("GET", "/builds/4")).json["restored"] == 1
    assert (await house.ask("POST", "/builds/1/bring_back")).code == "nothing_to_build"
    for path in ("/builds/9", "/builds/0", "/builds/9/changes", "/builds/1/changes?to=9"):
        assert (await house.ask("GET", path)).status == 404, path
    for path in ("/builds/0/bring_back", "/builds/9/bring_back"):
        assert (await house.ask("POST", path)).status == 404, path
    for path in ("/builds?before=0", "/builds?before=x", "/builds?x=1", "/builds/1/changes?to=x"):
        assert (await house.ask("GET", path)).code == "invalid_input", path


async def test_bringing_back_keeps_a_draft_with_something_new(house: House) -> None:
    first, second = one(CurrentUser(), name="A"), one(ListSessions(), name="B")
    await house.build(first)
    await house.build(second)
    await house.draft(WALK)
    assert (await house.ask("POST", "/builds/1/bring_back")).status == 200
    draft = (await house.ask("GET", "/draft")).json
    assert draft["digest"] == sha256(encode(WALK)).hexdigest() and draft["live"] == 3


async def test_a_file_is_taken_and_given(house: House) -> None:
    text = write(WALK)
    taken = await house.ask("PUT", "/file", json={"toml": text})
    assert taken.status == 200
    given = await house.ask("GET", "/file")
    assert given.headers["Content-Type"] == "application/toml"
    assert given.body.decode() == text and read(text) == WALK
    assert (await house.ask("PUT", "/file", json={"toml": "what"})).code == "invalid_input"


async def test_a_large_composition_is_taken_and_a_larger_one_is_not(house: House) -> None:
    many = both(
        *(
            one(CurrentUser(), path=f"/v2/x{n}", name=f"E{n}", description="d" * 300)
            for n in range(900)
        )
    )
    assert await house.build(many) == 1
    assert (await house.service.get("/v2/x899")).status == 401
    large = BytesIO(b'{"toml": "' + b"x" * 1024 * 1024 + b'"}')
    is_json = {"Content-Type": "application/json"}
    answer = await house.ask("PUT", "/file", data=large, headers=is_json)
    assert answer.code == "body_too_large"
    text = "format = 1\n#" + "x" * (512 * 1024)
    assert (await house.ask("PUT", "/file", json={"toml": text})).code == "invalid_input"


async def test_the_palette_says_what_there_is(config: Config, database: Dsns) -> None:
    config = msgspec.structs.replace(
        config, roles='{"clerk": {}}', upstreams='{"orders": "http://127.0.0.1:9/secret"}'
    )
    async with housing(config, database) as house:
        answer = await house.ask("GET", "/palette")
        palette = answer.json
    assert {event["do"] for event in palette["events"]} >= {"login", "logout", "record", "call"}
    assert palette["roles"] == ["admin", "auditor", "clerk"]
    assert palette["upstreams"] == ["orders"]
    assert b"secret" not in answer.body  # names alone


# --- the log


async def test_the_log_says_who_changed_what_and_when(house: House, connection: Connection) -> None:
    await house.build(WALK)
    me = (await house.service.get("/v1/me", cookie=house.token)).json["user_id"]
    found = await house.service.get(
        "/v1/audit/events?type=composer_draft_changed&type=composition_built&order=asc",
        cookie=house.token,
    )
    drafted, built = found.json["events"]
    assert drafted["user_id"] == built["user_id"] == me
    assert built["build"] == 1
    assert "endpoint 'Who am I' added: GET /v2/me" in json.loads(built["data"])
    assert drafted["data"] == built["data"]
    assert built["address"] == "127.0.0.1"
    events = [stored.event() for stored in await read_events(connection, 0)]
    digests = [each.digest for each in events if each.type == "composition_built"]  # type: ignore[attr-defined]
    assert digests == [sha256(encode(WALK)).digest()]
    own = await house.service.get("/v1/me/events", cookie=house.token)
    assert {event["type"] for event in own.json["events"]} >= {"composition_built"}


async def test_a_check_holds_contents_against_the_log(house: House, database: Dsns) -> None:
    await house.build(WALK)
    assert (await check(database.owner)).differences == []
    owner = await connect(database.owner, role=None)
    try:
        await owner.execute("UPDATE announced SET value = '\\x00'")
        report = await check(database.owner)
        assert [each for each in report.differences if each.startswith("announced")]
        assert (await rebuild(database.owner)).changed
        assert (await check(database.owner)).differences == []
        await owner.execute("UPDATE composer_builds SET content = '{}'")
        report = await check(database.owner)
        assert [each for each in report.differences if each.startswith("composer_builds")]
    finally:
        await owner.close()


async def test_a_content_that_was_changed_in_the_database_is_not_served(
    config: Config, database: Dsns
) -> None:
    async with housing(config, database) as house:
        await house.build(WALK)
    owner = await connect(database.owner, role=None)
    evil = encode(one(Respond(json='"evil"'), access="public", path="/v2/me"))
    await owner.execute("UPDATE composer_builds SET content = $1", evil)
    await owner.close()
    async with serving(create_app(config, database.app), config) as service:
        assert (await service.get("/v2/me")).status == 503


async def test_the_application_cannot_change_a_build(connection: Connection) -> None:
    import asyncpg

    for statement in ("UPDATE composer_builds SET content = ''", "DELETE FROM composer_builds"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)


async def test_changes_have_an_end(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "MAX_CHANGES_A_DAY", 3)
    await house.build(WALK)
    assert (await house.draft(EMPTY)).status == 200
    refused = await house.draft(WALK)
    assert refused.code == "too_many_changes" and refused.headers["Retry-After"]
    assert (await house.ask("POST", "/build", json={})).code == "too_many_changes"


async def test_what_an_operator_does_is_nobodys(config: Config, database: Dsns) -> None:
    await people(config, database.app)
    async with open_services(config, database.app) as services:
        composer = services.composing.composer
        await composer.replace(WALK)
        built = await composer.build()
        assert built.build == 1
        draft = await composer.draft()
        assert draft.changed_by is None and draft.live == 1


async def test_no_build_while_a_host_could_not_serve_it(
    house: House, connection: Connection
) -> None:
    """A host of the version before renews its lease, and does not say that it keeps builds."""
    await house.draft(WALK)
    await connection.execute(
        "INSERT INTO replica_lease (replica_id, host, renewal_seq, applied_position, epoch, ttl_ms,"
        " renewed_at) VALUES ('old', 'old.example', 1, 0, 'e', 60000, now())"
    )
    refused = await house.ask("POST", "/build", json={})
    assert refused.code == "hosts_too_old" and "old.example" in refused.json["detail"]
    assert (await house.ask("GET", "/draft")).json["live"] == 0
    await connection.execute("DELETE FROM replica_lease WHERE replica_id = 'old'")
    assert (await house.ask("POST", "/build", json={})).status == 200
