"""The check in front of hosted handlers, with sessions known from memory."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, cast
from uuid import UUID

import pytest
from aiohttp import web
from aiohttp.typedefs import Handler
from gatelog.audit.service.export import LogPages
from gatelog.audit.service.follow import Follower
from gatelog.config import Config
from gatelog.console.service.console import make_console
from gatelog.errors import DatabaseUnavailable, Forbidden, SchemaMismatch
from gatelog.hosting.app import OpenServices, build_app
from gatelog.hosting.services import Services
from gatelog.http.guard import SESSION, public
from gatelog.log.store.database import Database
from gatelog.sessions.rules.record import Session
from gatelog.sessions.rules.tokens import token_digest
from gatelog.sessions.service.gate import Gate

from tests.builders import session_record
from tests.composer.house import nothing_composed
from tests.serving import Service, serving, serving_with

USER, ID = UUID(int=1), UUID(int=2)
ACTIVE, ENDED, FAR, LOST, UNKNOWN = (letter * 43 for letter in "aefxu")


def session() -> Session:
    now = datetime.now(UTC)
    return Session(
        session_record(
            session_id=ID,
            subject_id=USER,
            started_at=now,
            expires_at=now + timedelta(seconds=60),
            roles=("admin",),
        )
    )


class Memory(Gate):
    """A gate that knows some sessions, and says what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.near = {
            token_digest(ACTIVE): session(),
            token_digest(ENDED): False,
        }

    def peek(self, digest: bytes) -> Session | Literal[False] | None:
        self.asked.append("peek")
        return cast(Session | Literal[False] | None, self.near.get(digest))

    async def find(self, digest: bytes) -> Session | None:
        self.asked.append("find")
        if digest == token_digest(LOST):
            raise DatabaseUnavailable("host db.internal is gone")
        return session() if digest == token_digest(FAR) else None


@pytest.fixture
def gate() -> Memory:
    return Memory()


Hosting = Callable[..., AbstractAsyncContextManager[Service]]


def services_with(gate: Gate, config: Config) -> OpenServices:
    """No services but this gate."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[Services]:
        unused: Any = None
        nowhere = Database("", timeout_s=1, pool_size=1)
        follower = Follower(config, nowhere, LogPages(nowhere, unused))
        others = dict.fromkeys(Services.__struct_fields__, unused) | {
            "gate": gate,
            "follower": follower,
            "console": make_console(config, nowhere, unused),
            "composing": nothing_composed(nowhere),
            "tells": (),
        }
        yield Services(**others)

    return opened


@pytest.fixture
def services(gate: Memory, config: Config) -> OpenServices:
    return services_with(gate, config)


@pytest.fixture
def hosting(services: OpenServices, config: Config) -> Hosting:
    """Serves handlers at /hosted (GET and POST) and under the paths that are given."""

    def host(
        handler: Handler | type[web.View] | None = None, **others: Handler
    ) -> AbstractAsyncContextManager[Service]:
        routes: list[web.RouteDef] = []
        if handler is not None:
            routes += [web.get("/hosted", handler), web.post("/hosted", handler)]
        routes += [web.get(f"/{name}", other) for name, other in others.items()]
        return serving_with(services, config, *routes)

    return host


async def whoami(request: web.Request) -> web.StreamResponse:
    found = request[SESSION]
    return web.Response(text=f"{found.subject_id.int} {found.session_id.int} {found.roles}")


@pytest.mark.parametrize(
    ("token", "status", "asked"),
    [
        (None, 401, []),
        ("malformed", 401, []),
        (ACTIVE, 200, ["peek"]),
        (ENDED, 401, ["peek"]),
        (FAR, 200, ["peek", "find"]),
        (UNKNOWN, 401, ["peek", "find"]),
        (LOST, 503, ["peek", "find"]),
    ],
)
async def test_the_check(
    hosting: Hosting, gate: Memory, token: str | None, status: int, asked: list[str]
) -> None:
    async with hosting(whoami) as service:
        answer = await service.get("/hosted", cookie=token)
    assert answer.status == status
    assert gate.asked == asked
    if status == 200:
        assert answer.body == b"1 2 frozenset({'admin'})"
    else:
        assert answer.code == {401: "not_authenticated", 503: "database_unavailable"}[status]
        assert b"db.internal" not in answer.body


async def test_what_is_not_routed_is_not_looked_up(hosting: Hosting, gate: Memory) -> None:
    async with hosting(whoami) as service:
        assert (await service.get("/nowhere", cookie=ACTIVE)).status == 404
        assert (await service.send("PUT", "/hosted", cookie=ACTIVE)).status == 405
    assert gate.asked == []


async def test_what_is_not_allowed_names_what_is(hosting: Hosting) -> None:
    async with hosting(whoami) as service:
        answer = await service.send("PUT", "/hosted")
        assert (answer.status, answer.code) == (405, "method_not_allowed")
        assert answer.headers["Allow"] == "GET,HEAD,POST"
        for method, path in [("GET", "/hosted/below"), ("POST", "/%0A"), ("GET", "/")]:
            answer = await service.send(method, path)
            assert (answer.status, answer.code) == (404, "not_found")


async def test_an_application_does_not_start_with_an_unprotected_handler(
    services: OpenServices, config: Config
) -> None:
    added, files, nested = (build_app(config, services) for _ in range(3))
    below = web.Application()
    below.router.add_get("/hosted", whoami)
    added.router.add_get("/hosted", whoami)
    files.router.add_static("/files", ".")
    nested.add_subapp("/below", below)
    for app in (added, files, nested):
        with pytest.raises(RuntimeError, match="is not protected"):
            async with serving(app, config):
                pass


async def test_a_public_handler(hosting: Hosting, gate: Memory) -> None:
    @public
    async def open_to_all(request: web.Request) -> web.StreamResponse:
        assert SESSION not in request
        return web.Response(text="welcome")

    async with hosting(open_to_all) as service:
        answer = await service.get("/hosted", cookie=ACTIVE)
    assert answer.body == b"welcome"
    assert "Cache-Control" not in answer.headers
    assert gate.asked == []


async def test_class_based_views(hosting: Hosting) -> None:
    class Protected(web.View):
        async def get(self) -> web.StreamResponse:
            return web.Response(text=str(self.request[SESSION].subject_id.int))

    @public
    class Open(web.View):
        async def get(self) -> web.StreamResponse:
            return web.Response(text="welcome")

    class Below(Open):
        pass

    for view, without, with_session in [(Protected, 401, 200), (Open, 200, 200), (Below, 401, 200)]:
        async with hosting(view) as service:
            assert (await service.get("/hosted")).status == without
            assert (await service.get("/hosted", cookie=ACTIVE)).status == with_session


async def test_headers_of_the_handler_stay(hosting: Hosting) -> None:
    async def handler(_: web.Request) -> web.StreamResponse:
        return web.Response(headers={"Cache-Control": "private, max-age=5", "Vary": "Accept"})

    async with hosting(handler) as service:
        answer = await service.get("/hosted", cookie=ACTIVE)
    assert answer.headers["Cache-Control"] == "private, max-age=5"
    assert answer.headers.getall("Vary") == ["Accept", "Cookie, Authorization"]


async def test_what_a_handler_raises(hosting: Hosting) -> None:
    async def redirect(_: web.Request) -> web.StreamResponse:
        raise web.HTTPFound("/elsewhere")

    async def forbidden(_: web.Request) -> web.StreamResponse:
        raise web.HTTPForbidden(headers={"X-Why": "because"})

    async def own_words(_: web.Request) -> web.StreamResponse:
        raise web.HTTPForbidden(text="in my own words")

    async def ours(_: web.Request) -> web.StreamResponse:
        raise Forbidden("You need a role.")

    async def operators(_: web.Request) -> web.StreamResponse:
        raise SchemaMismatch("the table events is missing")

    async def nothing(_: web.Request) -> web.StreamResponse:
        return cast(web.StreamResponse, None)

    async with hosting(
        redirect=redirect,
        forbidden=forbidden,
        own_words=own_words,
        ours=ours,
        operators=operators,
        nothing=nothing,
    ) as service:
        answer = await service.get("/redirect", cookie=ACTIVE)
        assert (answer.status, answer.headers["Location"]) == (302, "/elsewhere")
        assert answer.headers["Cache-Control"] == "no-store"
        answer = await service.get("/forbidden", cookie=ACTIVE)
        assert (answer.status, answer.code) == (403, "forbidden")
        assert answer.headers["X-Why"] == "because"
        answer = await service.get("/own_words", cookie=ACTIVE)
        assert (answer.status, answer.body) == (403, b"in my own words")
        answer = await service.get("/ours", cookie=ACTIVE)
        assert (answer.status, answer.json["detail"]) == (403, "You need a role.")
        answer = await service.get("/nothing", cookie=ACTIVE)
        assert (answer.status, answer.code) == (500, "internal_error")
        assert answer.json.keys() == {"type", "title", "status", "code", "trace_id"}
        answer = await service.get("/operators", cookie=ACTIVE)
        assert (answer.status, answer.code) == (503, "unavailable")
        assert int(answer.headers["Retry-After"]) > 0
        assert answer.json.keys() == {"type", "title", "status", "code", "trace_id"}


async def test_a_defect_is_logged_without_what_it_says(
    hosting: Hosting, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(request: web.Request) -> web.StreamResponse:
        try:
            int(request.headers["Cookie"])
        except ValueError as error:
            raise LookupError(request.headers["Cookie"]) from error
        return web.Response()

    async with hosting(broken) as service:
        answer = await service.get("/hosted", cookie=ACTIVE)
    assert (answer.status, answer.code) == (500, "internal_error")
    assert ACTIVE not in answer.body.decode() + caplog.text
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    message = record.getMessage()
    assert "builtins.LookupError" in message
    assert "builtins.ValueError" in message
    assert "in broken" in message


async def test_a_defect_after_the_response_began_ends_the_connection(
    hosting: Hosting, caplog: pytest.LogCaptureFixture
) -> None:
    async def streamed(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "100"})
        await response.prepare(request)
        await response.write(b"half")
        raise ValueError("x")

    async with hosting(streamed) as service:
        with pytest.raises(Exception, match="payload is not completed"):
            await service.get("/hosted", cookie=ACTIVE)
    assert "builtins.ValueError" in caplog.text


async def test_a_large_body_for_a_hosted_handler(hosting: Hosting) -> None:
    async def echo(request: web.Request) -> web.StreamResponse:
        return web.Response(body=await request.read())

    async with hosting(echo) as service:
        answer = await service.post("/hosted", cookie=ACTIVE, data=b"x" * 20_000)
        assert (answer.status, answer.code) == (413, "body_too_large")
        assert (await service.post("/hosted", cookie=ACTIVE, data=b"x")).body == b"x"
