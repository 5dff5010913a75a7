"""The API's document: it is valid, it has everything, and it is served to everybody."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from aiohttp import web
from gatelog import errors, setup
from gatelog.config import Config
from gatelog.errors import ConfigError, GatelogError
from gatelog.hosting.app import create_app
from gatelog.hosting.docs import DOCUMENT_PATH, PAGE, PAGE_PATH, POLICY
from gatelog.hosting.openapi import document
from gatelog.hosting.operations import METHODS
from gatelog.hosting.routes import own_pages
from gatelog.http.nowhere import Nowhere
from gatelog.kinds import register_all
from openapi_spec_validator import validate

from tests.conftest import Dsns
from tests.contract import Broken, Contract, contract
from tests.serving import Service, serving

NO_DATABASE = "postgresql://nobody@localhost/nothing"
ALL = Config(identity_issuer="https://gatelog.example")  # with every route
# Of errors that no operation of the product's own answers with: what a hosted handler may raise,
# what is answered where there is no operation, and what operators and callers inside are told.
ELSEWHERE = {
    "session_data_too_large",
    "method_not_allowed",
    "event_id_conflict",
    "events_lost",
    "invalid_proof",
    "invalid_signature",
    "log_differs",
    "malformed_proof",
    "not_understood",
    "not_verified",
    "operator_error",
    "sealing_refused",
    # of composed endpoints alone
    "too_many_records",
    "upstream_failed",
}


@pytest.fixture(scope="module")
def app() -> web.Application:
    register_all()
    return create_app(ALL, NO_DATABASE)


@pytest.fixture(scope="module")
def told(app: web.Application) -> dict[str, Any]:
    return document(app)


def operations(told: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in told["paths"].items():
        for method, operation in item.items():
            yield method.upper(), path, operation


def test_it_is_valid(told: dict[str, Any]) -> None:
    assert told["openapi"].startswith("3.1.")
    validate(told)


def test_every_route_is_described(app: web.Application, told: dict[str, Any]) -> None:
    routes = {
        (method, route.resource.canonical)
        for route in app.router.routes()
        if route.resource is not None and not isinstance(route.resource, Nowhere)
        for method in (METHODS if route.method == "*" else (route.method,))
    }
    parts = {path for path, _ in PAGE.values()} - {PAGE_PATH}  # files of the page
    for_people = web.Application()
    for_people.add_routes(own_pages(ALL))
    parts |= {resource.canonical for resource in for_people.router.resources()}
    described = {(method, path) for method, path, _ in operations(told)}
    assert described == {(method, path) for method, path in routes if path not in parts}


def test_every_operation_says_what_it_is(told: dict[str, Any]) -> None:
    names = [operation["operationId"] for _, _, operation in operations(told)]
    assert len(names) == len(set(names))
    tags = {tag["name"] for tag in told["tags"]}
    for method, path, operation in operations(told):
        place = f"{method} {path}"
        assert len(operation["summary"]) > 5, place
        assert set(operation["tags"]) <= tags, place
        assert any(status < "400" for status in operation["responses"]), place
        assert {"400", "403", "417", "500", "503"} <= operation["responses"].keys(), place
        assert ("401" in operation["responses"]) >= bool(operation["security"]), place
        assert ("requestBody" in operation) == ("415" in operation["responses"]), place


def subclasses(cls: type[GatelogError]) -> Iterator[type[GatelogError]]:
    yield cls
    for each in cls.__subclasses__():
        if each.__module__ == errors.__name__:
            yield from subclasses(each)


def test_every_problem_code_is_in_it(told: dict[str, Any]) -> None:
    """A new error is answered by an operation, or it is said that none does."""
    there = set()
    for response in told["components"]["responses"].values():
        for media in response.get("content", {}).values():
            there |= set(media["schema"]["allOf"][1]["properties"]["code"]["enum"])
    assert there | ELSEWHERE == {cls.code for cls in subclasses(GatelogError)}
    assert not there & ELSEWHERE


def test_roles_and_sessions_are_in_it(told: dict[str, Any]) -> None:
    def security(method: str, path: str) -> list[dict[str, list[str]]]:
        return list(told["paths"][path][method]["security"])

    assert security("post", "/v1/login_user") == []
    assert {"bearer": []} in security("get", "/v1/me")
    assert {} not in security("get", "/v1/me")
    assert {} in security("post", "/v1/logout_user")
    audit = security("get", "/v1/audit/events")
    assert {"cookie": ["auditor"]} in audit and {"cookie": ["admin"]} in audit
    assert {
        tuple(each["bearer"]) for each in security("get", "/v1/users/{user_id}/sessions")[2:]
    } == {("admin",)}


def test_it_is_the_same_everywhere() -> None:
    settings = Config(password_min_length=20, login_url="https://login.example/", cors_origins="")
    assert document(create_app(settings, NO_DATABASE)) == document(
        create_app(Config(), NO_DATABASE)
    )


# --- how it is served


@pytest.mark.parametrize("path", [DOCUMENT_PATH, *(path for path, _ in PAGE.values())])
async def test_everybody_gets_it_once(service: Service, path: str) -> None:
    first = await service.get(path)
    assert first.status == 200
    assert first.headers["Cache-Control"] == "no-cache"
    assert first.headers["X-Content-Type-Options"] == "nosniff"
    tag = first.headers["ETag"]
    for known in (tag, f'"other", {tag}', f"W/{tag}", "*"):
        again = await service.get(path, headers={"If-None-Match": known})
        assert (again.status, again.body, again.headers["ETag"]) == (304, b"", tag), known
    for unknown in ('"other"', tag.strip('"'), '"*"', "?"):
        again = await service.get(path, headers={"If-None-Match": unknown})
        assert (again.status, again.body) == (200, first.body), unknown
    head = await service.send("HEAD", path)
    assert (head.status, head.headers["ETag"]) == (200, tag)
    assert int(head.headers["Content-Length"]) == len(first.body)


async def test_it_is_the_document_of_this_application(service: Service) -> None:
    answer = await service.get(DOCUMENT_PATH)
    assert answer.json == msgspec.to_builtins(document(service.runner.app))
    assert len(answer.body) < 240_000
    page = await service.get(PAGE_PATH)
    assert page.headers["Content-Security-Policy"] == POLICY
    assert "unsafe" not in POLICY
    sizes = [len((await service.get(path)).body) for path, _ in PAGE.values()]
    assert sum(sizes) < 100_000


async def test_it_is_taken_away(config: Config, database: Dsns) -> None:
    config = msgspec.structs.replace(config, docs="off")
    async with serving(create_app(config, database.app), config) as service:
        for path in (DOCUMENT_PATH, PAGE_PATH, *(path for path, _ in PAGE.values())):
            assert (await service.get(path)).status == 404


async def own(_: web.Request) -> web.Response:
    return web.Response(text="mine")


def test_its_paths_are_free_when_it_is_off() -> None:
    config = Config(database_url=NO_DATABASE, mount="/docs")
    with pytest.raises(ConfigError, match="/docs has paths of the product"):
        create_app(config, NO_DATABASE, web.Application())
    create_app(msgspec.structs.replace(config, docs="off"), NO_DATABASE, web.Application())

    def with_docs() -> web.Application:
        app = web.Application()
        app.add_routes([web.get(PAGE_PATH, own)])
        return app

    with pytest.raises(RuntimeError, match=PAGE_PATH):
        setup(with_docs(), config)
    setup(with_docs(), msgspec.structs.replace(config, docs="off"))


# --- what is not in it is found


JSON = {"Content-Type": "application/json", "Cache-Control": "no-store"}
ALIVE = b'{"worker":1,"workers":2,"status":"alive"}'


@pytest.mark.parametrize(
    ("asked", "status", "headers", "body", "fault"),
    [
        ("GET /health/alive", 202, JSON, ALIVE, "202 is not in the document"),
        ("PUT /health/alive", 200, JSON, ALIVE, "method is not in the document"),
        ("GET /health/alive", 200, {"Content-Type": "text/html"}, ALIVE, "is text/html"),
        ("GET /health/alive", 200, JSON, b'{"worker":1}', '"workers" is a required'),
        ("GET /health/alive", 200, JSON, ALIVE[:-1] + b',"x":1}', "'x' was unexpected"),
        ("GET /v1/me", 401, {"Content-Type": "application/problem+json"}, b"{}", "lacks"),
        ("POST /v1/sessions/end_all?a=b", 404, JSON, b"", "404 is not in the document"),
    ],
)
def test_what_is_not_foreseen_is_found(
    asked: str, status: int, headers: dict[str, str], body: bytes, fault: str
) -> None:
    method, path = asked.split()
    contract().check("GET", "/health/alive", 200, JSON, ALIVE)
    contract().check("GET", "/nowhere", 404, {}, b"")
    with pytest.raises(Broken, match=fault):
        contract().check(method, path, status, headers, body)


def test_a_code_of_another_operation_is_found() -> None:
    def problem(status: int, code: str) -> bytes:
        return b'{"type":"urn:gatelog:problem:x","title":"t","status":%d,"code":"%b"}' % (
            status,
            code.encode(),
        )

    kind = {"Content-Type": "application/problem+json"}
    judge: Contract = contract()
    judge.check("POST", "/v1/register_user", 409, kind, problem(409, "login_taken"))
    with pytest.raises(Broken, match="last_admin"):
        judge.check("POST", "/v1/register_user", 409, kind, problem(409, "last_admin"))
