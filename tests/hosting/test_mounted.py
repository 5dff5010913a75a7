"""The life of a hosted application, and that nothing in it is past the check, whenever it came."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from aiohttp.typedefs import Handler
from gatelog import SESSION, public
from gatelog.config import Config
from gatelog.errors import ConfigError
from gatelog.hosting.app import build_app, make_runner
from gatelog.hosting.mounted import Mounted
from gatelog.http.metrics import exposition
from gatelog.http.requests import requests_here

from tests.http.test_guard import ACTIVE, USER, Memory, services_with
from tests.serving import Service, serving

NAME = web.AppKey("name", str)


def behind(config: Config, hosted: web.Application) -> web.Application:
    """The application with this one hosted, on a gate that knows one session."""
    return build_app(config, services_with(Memory(), config), hosted)


async def whose(request: web.Request) -> web.Response:
    return web.Response(text=str(request[SESSION].subject_id))


@public
async def anybodys(_: web.Request) -> web.Response:
    return web.Response(text="open")


async def is_protected(service: Service, path: str, method: str = "GET") -> None:
    """Whether it needs the session, and answers with it: as often as it is asked."""
    for _ in range(2):
        assert (await service.send(method, path)).status == 401
        answer = await service.send(method, path, bearer=ACTIVE)
        assert (answer.status, answer.body) == (200, str(USER).encode())


# --- what it adds as it starts


def growing(tmp_path: Path) -> web.Application:
    """Adds all of itself as it starts."""
    (tmp_path / "a.txt").write_text("a file")

    @web.middleware
    async def mark(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        response.headers["X-Seen"] = str(request.get(SESSION, "nobody") != "nobody")
        return response

    async def hook(_: web.Request, response: web.StreamResponse) -> None:
        response.headers["X-Hook"] = "seen"

    async def start(app: web.Application) -> None:
        app.router.add_get("/late", whose, name="late")
        app.router.add_get("/items/{id}", whose)
        app.router.add_get("/open", anybodys)
        app.router.add_static("/files", tmp_path)
        app.middlewares.append(mark)
        app.on_response_prepare.append(hook)

    async def context(app: web.Application) -> AsyncIterator[None]:
        app.router.add_post("/later", whose)
        yield

    app = web.Application()
    app.router.add_get("/early", whose)
    app.on_startup.append(start)
    app.cleanup_ctx.append(context)
    return app


async def test_what_it_adds_as_it_starts_is_served_and_protected(
    config: Config, tmp_path: Path
) -> None:
    hosted = growing(tmp_path)
    async with serving(behind(config, hosted), config) as service:
        for path in ("/api/early", "/api/late", "/api/items/7"):
            await is_protected(service, path)
            answer = await service.get(path, bearer=ACTIVE)
            assert (answer.headers["X-Seen"], answer.headers["X-Hook"]) == ("True", "seen")
        await is_protected(service, "/api/later", "POST")
        assert (await service.get("/api/files/a.txt")).status == 401
        assert (await service.get("/api/files/a.txt", bearer=ACTIVE)).body == b"a file"
        assert (await service.get("/api/open")).body == b"open"
        refused = await service.get("/api/late", headers={"Expect": "nonsense"})
        assert refused.code == "expectation_failed"
        assert str(hosted.router["late"].url_for()) == "/api/late"
        assert (await service.get("/late", bearer=ACTIVE)).status == 404
        told = exposition().decode()
        assert 'route="/api/items/{id}"' in told
        assert "/items/7" not in told


async def test_the_same_application_by_itself(tmp_path: Path) -> None:
    """What the test above asks for is what aiohttp does."""
    runner = web.AppRunner(growing(tmp_path))
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        async with aiohttp.ClientSession() as client:
            answer = await client.get(url + "/files/a.txt")
            assert (answer.headers["X-Seen"], answer.headers["X-Hook"]) == ("False", "seen")
    finally:
        await runner.cleanup()


def adding_to_an_inner_one() -> web.Application:
    inner, app = web.Application(), web.Application()

    async def start(app: web.Application) -> None:
        app.router.add_get("/late", whose)

    inner.on_startup.append(start)
    app.add_subapp("/inner", inner)
    return app


def adding_an_inner_one() -> web.Application:
    async def start(app: web.Application) -> None:
        inner = web.Application()
        inner.router.add_get("/late", whose)
        app.add_subapp("/inner", inner)

    app = web.Application()
    app.on_startup.append(start)
    return app


@pytest.mark.parametrize("make", [adding_to_an_inner_one, adding_an_inner_one])
async def test_what_aiohttp_refuses_by_itself_refuses_the_start(
    config: Config, make: Callable[[], web.Application]
) -> None:
    alone = web.AppRunner(make())
    with pytest.raises(RuntimeError, match=r"[Ff]rozen") as by_itself:
        await alone.setup()
    await alone.cleanup()
    with pytest.raises(RuntimeError) as hosted:
        async with serving(behind(config, make()), config):
            pass
    assert str(hosted.value).partition("<")[0] == str(by_itself.value).partition("<")[0]


# --- what comes after the start


async def test_what_is_added_after_the_start_is_protected_or_refused(config: Config) -> None:
    inner, hosted = web.Application(), web.Application()
    inner.router.add_get("/there", whose)
    hosted.router.add_get("/there", whose)
    kept = [
        (hosted.router.add_resource("/kept"), "/api/kept"),
        (hosted.router.add_resource("/kept/{x}"), "/api/kept/1"),
        (inner.router.add_resource("/kept"), "/api/inner/kept"),
    ]
    hosted.add_subapp("/inner", inner)
    async with serving(behind(config, hosted), config) as service:
        for resource, path in kept:
            assert (await service.get(path, bearer=ACTIVE)).status == 404
            resource.add_route("GET", whose)
            await is_protected(service, path)
        for app in (hosted, inner):
            with pytest.raises(RuntimeError, match="frozen"):
                app.router.add_get("/new", whose)
        with pytest.raises(RuntimeError, match="frozen"):
            hosted.middlewares.clear()


@pytest.mark.parametrize("when", ["before", "as it starts"])
async def test_a_route_beside_it_refuses_the_start(config: Config, when: str) -> None:
    app = behind(config, web.Application())

    async def start(app: web.Application) -> None:
        app.router.add_get("/api/past", whose)

    if when == "before":
        await start(app)
    else:
        app.on_startup.append(start)
    with pytest.raises(RuntimeError, match="not protected"):
        async with serving(app, config):
            pass


# --- its life


def recording(told: list[str], name: str, *inner: web.Application) -> web.Application:
    """Says what happens to it."""
    app = web.Application()

    def says(what: str) -> Callable[[Any], Any]:
        async def say(given: web.Application) -> None:
            assert given is app
            told.append(f"{name} {what}")

        return say

    async def context(given: web.Application) -> AsyncIterator[None]:
        assert given is app
        told.append(f"{name} enters")
        yield
        told.append(f"{name} leaves")

    for number, each in enumerate(inner):
        app.add_subapp(f"/{number}", each)
    app.on_startup.append(says("starts"))
    app.on_shutdown.append(says("shuts down"))
    app.on_cleanup.append(says("cleans up"))
    app.cleanup_ctx.append(context)
    return app


async def test_it_lives_once_and_as_by_itself(config: Config) -> None:
    by_itself: list[str] = []
    alone = web.AppRunner(recording(by_itself, "app", recording(by_itself, "inner")))
    await alone.setup()
    by_itself.append("serves")
    await alone.cleanup()

    told: list[str] = []
    hosted = recording(told, "app", recording(told, "inner"))
    async with serving(behind(config, hosted), config) as service:
        told.append("serves")
        with pytest.warns(DeprecationWarning, match="loop"):
            assert hosted.loop is asyncio.get_running_loop()
        assert hosted.frozen
        assert service.runner.app is not None
        assert service.runner.app.frozen
    assert told == by_itself
    assert len(set(told)) == len(told)


async def test_it_ends_before_what_it_is_inside_of(config: Config) -> None:
    told: list[str] = []
    outer = behind(config, recording(told, "app"))

    async def around(_: web.Application) -> AsyncIterator[None]:
        told.append("services open")
        yield
        told.append("services close")

    outer.cleanup_ctx.insert(0, around)
    async with serving(outer, config):
        pass
    assert told[0] == "services open"
    assert told[-1] == "services close"


@pytest.mark.parametrize("where", ["hosted", "outer"])
async def test_a_start_that_fails_half_way_is_cleaned_up(config: Config, where: str) -> None:
    told: list[str] = []
    hosted = recording(told, "app")
    outer = behind(config, hosted)

    async def fail(_: web.Application) -> None:
        raise OSError("no disk")

    (hosted if where == "hosted" else outer).on_startup.append(fail)
    runner = make_runner(outer, config)
    with pytest.raises(OSError, match="no disk"):
        await runner.setup()
    await runner.cleanup()  # as ``run_app`` does
    assert told.count("app leaves") == told.count("app enters") == 1
    assert "app shuts down" not in told


def test_it_is_hosted_once(config: Config) -> None:
    hosted = web.Application()
    behind(config, hosted)
    with pytest.raises(ConfigError, match="in use already"):
        behind(config, hosted)


async def test_what_was_frozen_meanwhile_refuses_the_start(config: Config) -> None:
    hosted = web.Application()
    app = behind(config, hosted)
    hosted.freeze()
    with pytest.raises(RuntimeError, match="frozen before its start"):
        async with serving(app, config):
            pass


# --- what it may do


@pytest.mark.parametrize("origins", ["", "https://app.example"])
async def test_middlewares_run_once_and_behind_the_check(config: Config, origins: str) -> None:
    """With a middleware of the outermost application (CORS has one), aiohttp runs those of all
    applications that a match names: it must name none when aiohttp asks."""
    runs: list[str] = []

    @web.middleware
    async def count(request: web.Request, handler: Handler) -> web.StreamResponse:
        runs.append(request.app[NAME])
        return await handler(request)

    inner, hosted = web.Application(middlewares=[count]), web.Application(middlewares=[count])
    inner[NAME], hosted[NAME] = "inner", "hosted"
    inner.router.add_get("/{x}", whose)
    hosted.add_subapp("/inner", inner)
    own = msgspec.structs.replace(config, cors_origins=origins)
    async with serving(behind(own, hosted), own) as service:
        for path in ("/api/inner/1", "/api/inner/1/2"):
            runs.clear()
            assert (await service.get(path)).status == 401
            assert runs == [], "past the check"
            await service.get(path, bearer=ACTIVE)
            assert runs == ["hosted", "inner"]


@pytest.mark.parametrize("origins", ["", "https://app.example"])
async def test_its_hooks_see_refusals_too(config: Config, origins: str) -> None:
    hosted = web.Application()
    hosted[NAME] = "hosted"
    hosted.router.add_get("/x", whose)

    async def hook(request: web.Request, response: web.StreamResponse) -> None:
        response.headers["X-Hook"] = f"{request.app[NAME]} {request.config_dict[NAME]}"

    hosted.on_response_prepare.append(hook)
    own = msgspec.structs.replace(config, cors_origins=origins)
    async with serving(behind(own, hosted), own) as service:
        for path in ("/api/x", "/api/nothing"):
            for bearer in (None, ACTIVE):
                answer = await service.get(path, bearer=bearer)
                assert answer.headers["X-Hook"] == "hosted hosted", (path, bearer)


async def test_an_inner_one_for_domains(config: Config) -> None:
    """The same path is somebody else's elsewhere: it is not kept."""
    domain, hosted = web.Application(), web.Application()
    domain.router.add_get("/x", whose)
    hosted.router.add_get("/x", anybodys)
    hosted.add_domain("one.example", domain)
    hosted.add_domain("two.example", domain)
    async with serving(behind(config, hosted), config) as service:
        for host in ("one.example", "two.example", "one.example"):
            assert (await service.get("/api/x")).body == b"open"
            there = {"Host": host}
            assert (await service.get("/api/x", headers=there)).status == 401
            answer = await service.get("/api/x", headers=there, bearer=ACTIVE)
            assert answer.body == str(USER).encode()
            assert (await service.get("/x", headers=there, bearer=ACTIVE)).status == 404


async def test_forms_have_as_many_fields_as_it_says(config: Config) -> None:
    async def count(request: web.Request) -> web.Response:
        return web.Response(text=str(len(await request.post())))

    hosted = web.Application(client_max_fields=3)
    hosted.router.add_post("/form", count)
    async with serving(behind(config, hosted), config) as service:
        few = await service.post("/api/form", data={"a": "1", "b": "2"}, bearer=ACTIVE)
        assert (few.status, few.body) == (200, b"2")
        many = {str(number): "x" for number in range(4)}
        assert (await service.post("/api/form", data=many, bearer=ACTIVE)).status == 413


async def test_what_finds_its_own_way_is_protected(config: Config) -> None:
    """A resource of the application's own, which makes its matches and routes as it likes."""

    class Match(web.UrlMappingMatchInfo):
        """One of its own."""

    class Everywhere(web.PlainResource):
        async def resolve(self, request: web.Request) -> Any:
            route = web.ResourceRoute("GET", tell, self)
            kind = Match if request.path.endswith("own") else web.UrlMappingMatchInfo
            return kind({"x": request.path}, route), {"GET"}

    async def tell(request: web.Request) -> web.Response:
        assert request.match_info["x"] == request.path
        return await whose(request)

    hosted = web.Application()
    hosted.router.register_resource(Everywhere("/own"))
    app = behind(config, hosted)
    async with serving(app, config) as service:
        await is_protected(service, "/api/own")
        await is_protected(service, "/api/own/below")
    (mounted,) = (each for each in app.router.resources() if isinstance(each, Mounted))
    assert not mounted._bound, "nothing is kept of what comes and goes"


async def test_no_resource_answers_outside_of_the_prefix(config: Config) -> None:
    class Stubborn(web.PlainResource):
        def add_prefix(self, prefix: str) -> None:
            """Stays where it is."""

    hosted, stubborn = web.Application(), Stubborn("/outside")
    stubborn.add_route("GET", anybodys)
    hosted.router.register_resource(stubborn)
    app = behind(config, hosted)
    async with serving(app, config) as service:
        assert (await service.get("/outside")).status == 404
        (mounted,) = (each for each in app.router.resources() if isinstance(each, Mounted))
        assert await mounted.resolve(make_mocked_request("GET", "/outside")) == (None, set())


async def test_a_route_of_several_applications_has_the_middlewares_of_each(config: Config) -> None:
    def marking(name: str) -> web.Application:
        @web.middleware
        async def mark(request: web.Request, handler: Handler) -> web.StreamResponse:
            response = await handler(request)
            response.headers["X-Through"] = name
            return response

        return web.Application(middlewares=[mark])

    shared, ways = web.Application(), {name: marking(name) for name in ("one", "two")}
    shared.router.add_get("/api/shared", whose)

    class Either(web.PlainResource):
        async def resolve(self, request: web.Request) -> Any:
            found = await shared.router.resolve(request)
            found.add_app(shared)
            found.add_app(ways[request.headers["Way"]])
            return found, set()

        def __iter__(self) -> Any:
            return iter(shared.router.routes())

    hosted = web.Application()
    hosted.router.register_resource(Either("/shared"))
    for app in (shared, *ways.values()):
        app.pre_freeze()
    async with serving(behind(config, hosted), config) as service:
        for way in ("one", "two", "one"):
            answer = await service.get("/api/shared", headers={"Way": way}, bearer=ACTIVE)
            assert (answer.status, answer.headers["X-Through"]) == (200, way)


async def test_what_looks_at_more_than_the_path_is_asked_each_time(config: Config) -> None:
    class ForRobots(web.PlainResource):
        async def resolve(self, request: web.Request) -> Any:
            return await super().resolve(request) if "Robot" in request.headers else (None, set())

    async def robots(_: web.Request) -> web.Response:
        return web.Response(text="beep")

    def made() -> web.Application:
        app, special = web.Application(), ForRobots("/x")
        special.add_route("GET", public(robots))
        app.router.register_resource(special)
        app.router.register_resource(plain := web.PlainResource("/x"))
        plain.add_route("GET", anybodys)
        return app

    hosted = made()
    hosted.add_subapp("/inner", made())
    async with serving(behind(config, hosted), config) as service:
        for path in ("/api/x", "/api/inner/x"):
            for _ in range(2):
                assert (await service.get(path)).body == b"open"
                assert (await service.get(path, headers={"Robot": "yes"})).body == b"beep"


async def test_what_is_remembered_is_bounded(config: Config) -> None:
    inner, hosted = web.Application(), web.Application()
    for app in (inner, hosted):
        app.router.add_route("*", "/plain", anybodys)
        app.router.add_get("/{x}", anybodys)
    hosted.add_subapp("/inner", inner)
    app = behind(config, hosted)
    async with serving(app, config) as service:
        for number in range(30):
            if number == 1:
                counted = len(requests_here.cells) + len(requests_here._by_method)
            for path in (f"/api/{number}", f"/api/inner/{number}", f"/api/none/{number}"):
                await service.get(path, bearer=ACTIVE)
            for path in ("/api/plain", f"/api/plain?{number}", "/api/inner/plain"):
                assert (await service.get(path)).body == b"open"
                with suppress(aiohttp.ClientError):
                    await service.send("PURGE", path)
        assert len(requests_here.cells) + len(requests_here._by_method) == counted
        remembered: list[Any] = [
            place
            for resources in app.router._resource_index.values()
            for resource in resources
            for place in getattr(resource, "_places", ())
        ]
        assert sorted(map(str, remembered)) == ["('GET', '/api/inner/plain')", "GET", "GET"]
        (mounted,) = (each for each in app.router.resources() if isinstance(each, Mounted))
        assert len(mounted._bound) <= len(hosted.router.routes())
