"""A hosted application answers as ``add_subapp`` would let it, but for the check.

Random trees of applications are built twice: one is hosted, one is put into an application of plain
aiohttp. Both are asked the same over HTTP: without a session, with one, and once more, since paths
are remembered.
"""

from __future__ import annotations

import asyncio
import json
import warnings
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, cast

import aiohttp
import msgspec
import pytest
from aiohttp import web
from aiohttp.typedefs import Handler
from gatelog import public
from gatelog.config import Config
from gatelog.hosting.app import build_app
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from yarl import URL

from tests.builders import CHEAP_CONFIG
from tests.http.test_guard import ACTIVE, Memory, services_with

NAME = web.AppKey("name", str)
TRACE = web.RequestKey("trace", list)
PREFIXES = ("/api", "/own/api")
LOGGED_IN = {"Authorization": f"Bearer {ACTIVE}"}
FOLDER = Path(__file__).parent

PATHS = (
    *("", "/", "/a", "/a/", "/b", "/a/b", "/c d", "/{x}", "/{x}/", "/a/{x}", "/{x}/b"),
    *(r"/{n:\d+}", "/{t:.*}", "/a{t:.*}", "/a/{t:.*}"),
)
ASKED = (
    *("", "/", "/a", "/a/", "/b", "/a/b", "/a/b/", "//a", "/a//b", "/5", "/c%20d", "/%61", "/ab"),
    *(
        "/a%2Fb",
        "/a%252Fb",
        "/x/b",
        "/a/a",
        "/a/b/a",
        "/b/a/b",
        "/a/short",
        "/short",
        "x",
        "/%7Bx%7D",
    ),
    *("/s", "/s/", "/s/__init__.py", "/s/../a", "/a/s/__init__.py", "/a?x=1"),
)
METHODS = ("GET", "HEAD", "POST", "OPTIONS", "PURGE")


class Route(msgspec.Struct, frozen=True):
    method: str
    path: str
    kind: str  # what its handler does
    public: bool


class Tree(msgspec.Struct, frozen=True):
    """An application and what is in it."""

    routes: tuple[Route, ...]
    middlewares: tuple[str, ...]
    hooks: bool
    static: bool
    inside: tuple[tuple[str, Tree], ...]  # by prefix
    late: tuple[Route, ...] = ()  # routes that it adds as it starts


def trees(depth: int) -> st.SearchStrategy[Tree]:
    routes = st.builds(
        Route,
        st.sampled_from(("GET", "GET", "POST", "*")),
        st.sampled_from(PATHS),
        st.sampled_from(("plain", "plain", "view", "raises", "streams")),
        st.booleans(),
    )
    inside: st.SearchStrategy[Any] = st.just(())
    if depth:
        prefixes = st.sampled_from(("/a", "/b", "/a/b"))
        inside = st.lists(st.tuples(prefixes, trees(depth - 1)), max_size=2).map(tuple)
    return st.builds(
        Tree,
        st.lists(routes, max_size=5).map(tuple),
        st.lists(st.sampled_from(("traces", "old", "pages", "answers")), max_size=2).map(tuple),
        st.booleans(),
        st.booleans(),
        inside,
        st.lists(routes, max_size=2).map(tuple) if depth == 2 else st.just(()),
    )


# --- building


def handler_of(route: Route, number: int) -> Any:
    """A handler that tells all that it sees."""

    def seen(request: web.Request) -> str:
        match = request.match_info
        told = {
            "number": number,
            "variables": dict(match),
            "app": request.app[NAME],
            "known": request.config_dict[NAME],
            "apps": [app[NAME] for app in match.apps[1:]],
            "own handler": match.handler is handler,
            "canonical": match.route.resource.canonical if match.route.resource else None,
            "trace": request.get(TRACE),
            "most": request.client_max_size,
        }
        with suppress(KeyError, RuntimeError, TypeError):
            told["url"] = str(match.route.url_for(**match))
        return json.dumps(told)

    async def plain(request: web.Request) -> web.StreamResponse:
        return web.Response(text=seen(request))

    async def raises(request: web.Request) -> web.StreamResponse:
        raise web.HTTPConflict(text=seen(request))

    async def streams(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        if request.method != "HEAD":
            await response.write(seen(request).encode())
        return response

    class View(web.View):
        async def get(self) -> web.StreamResponse:
            return await plain(self.request)

    made: dict[str, Any] = {"plain": plain, "raises": raises, "streams": streams, "view": View}
    handler = made[route.kind]
    handler.open = route.public
    return public(handler) if route.public else handler


def middleware_of(kind: str, name: str) -> Any:
    async def run(request: web.Request, handler: Handler) -> web.StreamResponse:
        request.setdefault(TRACE, []).append([kind, name, request.app[NAME]])
        if kind == "answers" and request.path.endswith("/short"):
            return web.Response(text=f"{name} {request.app[NAME]}")
        try:
            response = await handler(request)
        except web.HTTPException as error:
            if kind != "pages":
                raise
            return web.Response(status=error.status, text=f"page of {name}: {error.status}")
        if not response.prepared:
            response.headers.add("X-After", f"{kind} {name} {request.app[NAME]}")
        return response

    async def factory(_: web.Application, handler: Handler) -> Handler:
        async def old(request: web.Request) -> web.StreamResponse:
            return await run(request, handler)

        return old

    return factory if kind == "old" else web.middleware(run)


def build(tree: Tree, name: str = "top", *, late: bool = False) -> web.Application:
    """``late``: what it adds as it starts is added then, else at once."""
    middlewares = [middleware_of(kind, f"{name}{n}") for n, kind in enumerate(tree.middlewares)]
    app = web.Application(middlewares=middlewares, client_max_size=4711)
    app[NAME] = name
    if tree.hooks:

        async def hook(request: web.Request, response: web.StreamResponse) -> None:
            response.headers.add(
                "X-Hook", f"{name} {request.app[NAME]} {request.config_dict[NAME]}"
            )

        app.on_response_prepare.append(hook)
    if tree.static:
        app.router.add_static("/s", FOLDER)
    add(app, tree.routes)
    for number, (prefix, inner) in enumerate(tree.inside):
        app.add_subapp(prefix, build(inner, f"{name}.{number}"))
    if not late:
        add(app, tree.late, 100)
        return app

    async def start(app: web.Application) -> None:
        add(app, tree.late, 100)

    app.on_startup.append(start)
    return app


def add(app: web.Application, routes: Iterable[Route], first: int = 0) -> None:
    for number, route in enumerate(routes, first):
        with suppress(RuntimeError):  # another one has the method already
            app.router.add_route(route.method, route.path, handler_of(route, number))


# --- asking


class Seen(msgspec.Struct, frozen=True):
    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...]


class Client:
    def __init__(self, session: aiohttp.ClientSession, port: int, prefix: str) -> None:
        self._session, self._base = session, f"http://127.0.0.1:{port}{prefix}"

    async def ask(
        self, method: str, path: str, headers: Mapping[str, str] | None = None
    ) -> tuple[Seen, bool]:
        """What is answered, and whether plain aiohttp says that it is public."""
        url = URL(self._base + path, encoded=True)
        async with self._session.request(method, url, headers=headers) as got:
            told = [(k, v) for k, v in got.headers.items() if k in {"X-After", "X-Hook", "Allow"}]
            body = await got.read()
            if got.content_type == "application/problem+json" or body.startswith(b"40"):
                body = b""  # (a problem document where aiohttp has its own text)
            return Seen(got.status, body, tuple(sorted(told))), "X-Public" in got.headers


@asynccontextmanager
async def served(app: web.Application, prefix: str) -> AsyncIterator[Client]:
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        async with aiohttp.ClientSession() as session:
            yield Client(session, runner.addresses[0][1], prefix)
    finally:
        await runner.cleanup()


def in_plain_aiohttp(hosted: web.Application, prefix: str) -> web.Application:
    async def say_public(_: web.Application, handler: Handler) -> Handler:
        """Of the old style, since aiohttp looks at the outermost application for such ones."""

        async def say(request: web.Request) -> web.StreamResponse:
            request["public"] = vars(request.match_info.handler).get("open", False)
            return await handler(request)

        return say

    async def mark(request: web.Request, response: web.StreamResponse) -> None:
        if request["public"]:
            response.headers["X-Public"] = "yes"

    outer = web.Application(middlewares=[cast(Any, say_public)], client_max_size=4711)
    outer[NAME] = "outer"
    outer.on_response_prepare.append(mark)
    outer.add_subapp(prefix, hosted)
    return outer


async def compare(tree: Tree, asked: Iterable[tuple[str, str]], config: Config) -> None:
    async with AsyncExitStack() as stack:
        beside = in_plain_aiohttp(build(tree), config.mount)
        plain = await stack.enter_async_context(served(beside, config.mount))
        outer = build_app(config, services_with(Memory(), config), build(tree, late=True))
        hosted = await stack.enter_async_context(served(outer, config.mount))
        for method, path in asked:
            wanted, is_open = await plain.ask(method, path)
            stranger, _ = await hosted.ask(method, path)
            if path == "x":  # (/apix is not inside)
                assert stranger.status == 404
                continue
            if is_open:
                assert stranger == wanted, (method, path)
            else:
                assert stranger.status == 401, (method, path, wanted)
                assert not any(name == "X-After" for name, _ in stranger.headers)
            for _ in range(2):
                got, _ = await hosted.ask(method, path, LOGGED_IN)
                assert got == wanted, (method, path)


requests = st.tuples(st.sampled_from(METHODS), st.sampled_from(ASKED))


@pytest.mark.timeout(300)
@settings(max_examples=40, phases=(Phase.explicit, Phase.generate))  # (servers shrink slowly)
@given(
    trees(2),
    st.lists(requests, min_size=10, max_size=25, unique=True),
    st.booleans(),
    st.sampled_from(PREFIXES),
)
def test_it_answers_as_in_plain_aiohttp(
    tree: Tree, asked: list[tuple[str, str]], cors: bool, prefix: str
) -> None:
    """``cors``: the outermost application has a middleware."""
    origins = "https://app.example" if cors else ""
    config = msgspec.structs.replace(CHEAP_CONFIG, cors_origins=origins, mount=prefix)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "old-style middleware", DeprecationWarning)
        asyncio.run(compare(tree, asked, config))
