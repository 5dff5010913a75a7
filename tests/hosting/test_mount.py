"""Whole applications behind the check: hosted under a path, and with the product inside."""

from __future__ import annotations

import io
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from aiohttp import WSServerHandshakeError, web
from aiohttp.typedefs import Handler
from gatelog import SESSION, public, recent_login, requires, setup
from gatelog.clock import utc_now
from gatelog.config import Config
from gatelog.errors import ConfigError
from gatelog.hosting import app as hosting
from gatelog.hosting.mount import application, find

from tests.conftest import Dsns
from tests.serving import Service, serving

LARGE = 3 * 1024 * 1024  # more than the product itself takes
WHO = "the session's user"


async def whoami(request: web.Request) -> web.Response:
    return web.json_response({WHO: str(request[SESSION].subject_id)})


@public
async def prices(_: web.Request) -> web.Response:
    return web.Response(text="free")


@requires("admin")
async def admins(_: web.Request) -> web.Response:
    return web.Response(text="welcome")


@recent_login(minutes=5)
async def fresh(_: web.Request) -> web.Response:
    return web.Response(text="fresh")


@public
@requires("admin")
async def contradicted(_: web.Request) -> web.Response:
    return web.Response(text="open?")


class Basket(web.View):
    async def get(self) -> web.Response:
        return await whoami(self.request)

    @requires("admin")
    async def delete(self) -> web.Response:
        return web.Response(text="emptied")


async def upload(request: web.Request) -> web.Response:
    return web.Response(text=str(len(await request.read())))


async def echo(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        await socket.send_str(message.data)
    return socket


async def failing(_: web.Request) -> web.Response:
    raise KeyError("nobody expected this")


def shop(folder: Path) -> web.Application:
    """An application as people have them, with middlewares and error pages of its own."""

    @web.middleware
    async def pages(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            response = await handler(request)
        except web.HTTPNotFound:
            if request.path.endswith("/unrouted"):
                return web.Response(text="a secret of a middleware")
            return web.Response(status=404, text="the shop's own page")
        session = request.get(SESSION)
        response.headers["X-Seen"] = str(session.subject_id) if session else "nobody"
        return response

    orders = web.Application()
    orders.add_routes([web.get("/mine", whoami)])
    app = web.Application(middlewares=[pages], client_max_size=2 * LARGE)
    app.add_routes(
        [
            web.get("/whoami", whoami),
            web.get("/prices", prices),
            web.get("/admins", admins),
            web.get("/fresh", fresh),
            web.get("/contradicted", contradicted),
            web.view("/basket", Basket),
            web.post("/upload", upload),
            web.get("/echo", echo),
            web.get("/failing", failing),
            web.static("/files", folder),
        ]
    )
    app.add_subapp("/orders", orders)
    return app


PROTECTED = (
    "whoami",
    "admins",
    "fresh",
    "contradicted",
    "basket",
    "echo",
    "files/a.txt",
    "orders/mine",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "a.txt").write_text("a file")
    return folder


@pytest.fixture(params=["hosted", "inside"])
async def shopping(
    request: pytest.FixtureRequest, config: Config, database: Dsns, folder: Path
) -> AsyncIterator[tuple[Service, str]]:
    """The shop, and where it answers: hosted by the product, or with the product inside."""
    if request.param == "hosted":
        app, prefix = hosting.create_app(config, database.app, shop(folder)), "/api/"
    else:
        app, prefix = shop(folder), "/"
        setup(app, msgspec.structs.replace(config, database_url=database.app), projector=False)
    async with serving(app, config) as service:
        await service.register()
        yield service, prefix


async def test_everything_is_protected_that_is_not_public(shopping: tuple[Service, str]) -> None:
    service, prefix = shopping
    for name in PROTECTED:
        answer = await service.get(prefix + name)
        assert (name, answer.status) == (name, 401)
        assert answer.code == "not_authenticated"
        assert "X-Seen" not in answer.headers, "no middleware of the shop runs before the check"
    assert (await service.post(prefix + "upload", data=b"x")).status == 401
    assert (await service.get(prefix + "prices")).body == b"free"


async def test_who_is_logged_in_gets_in_until_the_logout(shopping: tuple[Service, str]) -> None:
    service, prefix = shopping
    token = await service.token()
    me = (await service.get("/v1/me", cookie=token)).json["user_id"]
    for name in ("whoami", "basket", "orders/mine"):
        answer = await service.get(prefix + name, cookie=token)
        assert (answer.status, answer.json, answer.headers["X-Seen"]) == (200, {WHO: me}, me)
        assert answer.headers["Cache-Control"] == "no-store"
    file = await service.get(prefix + "files/a.txt", cookie=token)
    assert (file.status, file.body) == (200, b"a file")
    assert (await service.post("/v1/logout_user", cookie=token)).status == 200
    for name in PROTECTED:
        assert (await service.get(prefix + name, cookie=token)).status == 401


async def test_roles_and_recent_logins(shopping: tuple[Service, str]) -> None:
    service, prefix = shopping  # alice is the first user and no admin
    token = await service.token()
    for name in ("admins", "contradicted"):
        answer = await service.get(prefix + name, cookie=token)
        # what is public is answered without a look at the session: the role is never known
        assert answer.status == (403 if name == "admins" else 401), name
    assert (await service.send("DELETE", prefix + "basket", cookie=token)).code == "forbidden"
    assert (await service.get(prefix + "fresh", cookie=token)).body == b"fresh"


async def test_an_old_login_is_not_recent(
    shopping: tuple[Service, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    service, prefix = shopping
    token = await service.token()
    later = utc_now() + timedelta(minutes=6)
    monkeypatch.setattr("gatelog.http.roles.utc_now", lambda: later)
    answer = await service.get(prefix + "fresh", cookie=token)
    assert (answer.status, answer.code) == (401, "recent_login_required")
    assert (await service.get(prefix + "whoami", cookie=token)).status == 200


async def test_bodies_are_as_large_as_the_shop_says(shopping: tuple[Service, str]) -> None:
    service, prefix = shopping
    token = await service.token()
    taken = await service.post(prefix + "upload", data=io.BytesIO(bytes(LARGE)), cookie=token)
    assert (taken.status, taken.body) == (200, str(LARGE).encode())
    refused = await service.post(prefix + "upload", data=io.BytesIO(bytes(3 * LARGE)), cookie=token)
    assert refused.status == 413


async def test_its_error_pages_are_its_own(shopping: tuple[Service, str]) -> None:
    service, prefix = shopping
    token = await service.token()
    answer = await service.get(prefix + "nothing", cookie=token)
    assert (answer.status, answer.body) == (404, b"the shop's own page")
    assert (await service.send("PATCH", prefix + "prices", cookie=token)).status == 405
    assert (await service.get(prefix + "failing", cookie=token)).code == "internal_error"


async def test_what_a_middleware_answers_without_a_route_is_protected(
    shopping: tuple[Service, str],
) -> None:
    service, prefix = shopping
    for name in ("unrouted", "nothing"):
        assert (await service.get(prefix + name)).status == 401
    token = await service.token()
    assert (
        await service.get(prefix + "unrouted", cookie=token)
    ).body == b"a secret of a middleware"


async def test_expectations_are_answered_as_everywhere(shopping: tuple[Service, str]) -> None:
    service, prefix = shopping
    answer = await service.get(prefix + "prices", headers={"Expect": "nonsense"})
    assert answer.code == "expectation_failed"


async def test_a_websocket_of_the_own_origin_alone(shopping: tuple[Service, str]) -> None:
    service, prefix = shopping
    token = await service.token()
    own = f"http://{service.host}:{service.port}"

    async def said(origin: str) -> str:
        headers = {"Cookie": f"gatelog={token}", "Origin": origin, "Sec-Fetch-Site": "same-site"}
        async with service._client.ws_connect(own + prefix + "echo", headers=headers) as socket:
            await socket.send_str("hello")
            return await socket.receive_str()

    assert await said(own) == "hello"
    with pytest.raises(WSServerHandshakeError) as refused:
        await said("https://evil.example.com")
    assert refused.value.status == 403


async def test_a_foreign_page_changes_nothing(shopping: tuple[Service, str]) -> None:
    service, prefix = shopping
    token = await service.token()
    foreign = {"Origin": "https://evil.example.com", "Sec-Fetch-Site": "cross-site"}
    answer = await service.post(prefix + "upload", data=b"x", cookie=token, headers=foreign)
    assert (answer.status, answer.code) == (403, "cross_site_request")


# --- where it is mounted, and what cannot be


@pytest.mark.parametrize("prefix", ["/v1", "/v1/me", "/v1/shop", "/health", "/metrics"])
def test_a_mount_does_not_take_the_products_paths(
    config: Config, folder: Path, prefix: str
) -> None:
    elsewhere = msgspec.structs.replace(config, mount=prefix)
    with pytest.raises(ConfigError, match="GATELOG_MOUNT"):
        hosting.create_app(elsewhere, "", shop(folder))


def test_an_application_that_is_in_use_is_not_hosted(config: Config) -> None:
    used = web.Application()
    used.freeze()
    with pytest.raises(ConfigError, match="GATELOG_APP"):
        hosting.create_app(config, "", used)


async def test_a_route_past_the_check_refuses_the_start(config: Config, folder: Path) -> None:
    app = hosting.create_app(config, "", shop(folder))
    app.router.add_get("/past", whoami)
    with pytest.raises(RuntimeError, match="not protected"):
        async with serving(app, config):
            pass


def test_the_product_comes_once_and_where_its_paths_are_free(config: Config) -> None:
    own = msgspec.structs.replace(config, database_url="postgresql://nowhere/x")
    app = web.Application()
    setup(app, own)
    with pytest.raises(RuntimeError, match="already"):
        setup(app, own)
    taken = web.Application()
    taken.router.add_get("/v1/me", whoami)
    with pytest.raises(RuntimeError, match="/v1/me"):
        setup(taken, own)
    with pytest.raises(ConfigError, match="GATELOG_DATABASE_URL"):
        setup(web.Application(), config)


# --- how it is found

MODULE = """
from aiohttp import web

async def hello(request):
    return web.Response(text="hello")

routes = [web.get("/hello", hello)]
table = web.RouteTableDef()
table.get("/hello")(hello)
app = web.Application()

def factory():
    app = web.Application()
    app.add_routes(routes)
    return app

async def slow_factory():
    return factory()

nothing = 42
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a module that has an application in every form."""
    (tmp_path / "shop_of_this_test.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", ["app", "routes", "table", "factory", "slow_factory"])
async def test_every_form_of_an_application(project: Path, name: str) -> None:
    made = await application(find(f"shop_of_this_test:{name}"))
    assert isinstance(made, web.Application)
    assert len(made.router.routes()) == (0 if name == "app" else 2), "GET and HEAD"


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("shop_of_this_test", "package.module:name"),
        (":app", "package.module:name"),
        ("shop_of_this_test:", "package.module:name"),
        ("shop_of_this_test:missing", "missing"),
        ("no_such_module_anywhere:app", "no_such_module_anywhere"),
        ("shop_of_this_test:nothing", "int"),
    ],
)
async def test_what_cannot_be_hosted_is_told(project: Path, target: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as error:
        await application(find(target))
    assert "GATELOG_APP" in str(error.value)


async def test_a_module_that_another_one_hides_is_told(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.path", [path for path in sys.path if path != str(project)])
    (project / "gatelog.py").write_text("app = None\n")
    (project / "http").mkdir()
    (project / "sys.py").write_text("")
    for target, own in (
        ("gatelog:app", "gatelog.py"),
        ("http.web:app", "http"),
        ("sys:app", "sys.py"),
    ):
        with pytest.raises(ConfigError) as error:
            find(target)
        assert f"{project / own} is hidden by " in str(error.value)
    (project / "not_hidden_of_this_test.py").write_text("")
    with pytest.raises(ConfigError, match="no attribute 'nothing'"):
        find("not_hidden_of_this_test:nothing")
    with pytest.raises(ConfigError) as error:  # the project has none of this name
        find("email:app")
    assert "hidden" not in str(error.value)
