"""Pages of other origins: which of them may read the answers."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
import pytest
from aiohttp import web
from gatelog import public, setup
from gatelog.config import Config, load_config
from gatelog.errors import ConfigError
from gatelog.hosting import app as hosting

from tests.conftest import Dsns
from tests.hosting.test_mount import whoami
from tests.serving import PASSWORD, Service, serving

APP = "https://app.example"
OTHERS = (
    "https://evil.example",
    "https://app.example.evil.example",
    "https://app.example:8443",
    "http://app.example",
    "HTTPS://APP.EXAMPLE",
    "https://app.example/",
    "null",
    "*",
)
SAME_SITE = {"Sec-Fetch-Site": "same-site", "Origin": APP}


@public
async def own(_: web.Request) -> web.Response:
    shared = {"Access-Control-Allow-Origin": "https://partner.example", "Vary": "Accept"}
    return web.Response(headers=shared)


async def stream(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b"one")
    return response


ROUTES = [
    web.get("/whoami", whoami),
    web.put("/whoami", whoami),
    web.get("/own", own),
    web.get("/stream", stream),
]


def shop() -> web.Application:
    app = web.Application()
    app.add_routes(ROUTES)
    return app


@pytest.fixture(params=["routes", "hosted", "inside"])
async def shopping(
    request: pytest.FixtureRequest, config: Config, database: Dsns
) -> AsyncIterator[tuple[Service, str]]:
    """The shop in every form, and where it answers."""
    config = msgspec.structs.replace(config, cors_origins=f"{APP}, https://other.example:8443")
    prefix = ""
    if request.param == "routes":
        app = hosting.create_app(config, database.app, ROUTES)
    elif request.param == "hosted":
        app, prefix = hosting.create_app(config, database.app, shop()), "/api"
    else:
        app = shop()
        setup(app, msgspec.structs.replace(config, database_url=database.app), projector=False)
    async with serving(app, config) as service:
        await service.register()
        yield service, prefix


def preflight(origin: str, method: str = "PUT", **more: str) -> dict[str, str]:
    return {"Origin": origin, "Access-Control-Request-Method": method, **more}


async def test_a_page_logs_in_calls_and_logs_out(shopping: tuple[Service, str]) -> None:
    service, prefix = shopping
    asked = preflight(APP, "POST", **{"Access-Control-Request-Headers": "content-type"})
    before = await service.send("OPTIONS", "/v1/login_user", headers=asked)
    assert (before.status, before.headers["Access-Control-Allow-Headers"]) == (204, "content-type")
    login = {"login": "alice", "password": PASSWORD}
    answer = await service.post("/v1/login_user", json=login, headers=SAME_SITE)
    assert answer.headers["Access-Control-Allow-Origin"] == APP
    assert answer.headers["Access-Control-Allow-Credentials"] == "true"
    token = answer.token
    for method, path, status in (
        ("GET", prefix + "/whoami", 200),
        ("PUT", prefix + "/whoami", 200),
        ("GET", prefix + "/stream", 200),
        ("GET", "/v1/me", 200),
        ("GET", "/v1/auth", 200),
        ("GET", "/v1/logout_user", 200),
        ("GET", prefix + "/whoami", 401),
        ("GET", "/v1/me", 401),
    ):
        answer = await service.send(method, path, cookie=token, headers=SAME_SITE)
        assert (path, answer.status) == (path, status)
        assert answer.headers.getall("Access-Control-Allow-Origin") == [APP]
        assert answer.headers["Access-Control-Allow-Credentials"] == "true"
        assert "origin" in answer.headers["Vary"].lower()


async def test_a_preflight_needs_no_session(shopping: tuple[Service, str]) -> None:
    service, prefix = shopping
    for path in (prefix + "/whoami", "/v1/me", "/v1/logout_user", prefix + "/nothing"):
        answer = await service.send("OPTIONS", path, headers=preflight(APP))
        assert (path, answer.status, answer.body) == (path, 204, b"")
        assert answer.headers["Access-Control-Allow-Origin"] == APP
        assert answer.headers["Access-Control-Allow-Methods"] == "PUT"
        assert answer.headers["Access-Control-Allow-Credentials"] == "true"
        assert answer.headers["Access-Control-Max-Age"] == "600"


@pytest.mark.parametrize("origin", OTHERS)
async def test_nobody_else_reads_anything(shopping: tuple[Service, str], origin: str) -> None:
    service, prefix = shopping
    token = await service.token()
    refused = await service.send("OPTIONS", prefix + "/whoami", headers=preflight(origin))
    assert refused.status in {401, 405}
    read = await service.get(prefix + "/whoami", cookie=token, headers={"Origin": origin})
    public = await service.get("/v1/healthz", headers={"Origin": origin})
    for answer in (refused, read, public):
        assert not [name for name in answer.headers if name.lower().startswith("access-control")]
    assert "origin" in read.headers["Vary"].lower()
    ended = await service.get("/v1/logout_user", cookie=token, headers={"Origin": origin})
    assert (ended.status, ended.code) == (403, "cross_site_request")
    assert (await service.get("/v1/me", cookie=token)).status == 200


@pytest.mark.parametrize(
    ("method", "names"), [("PUT", "a b"), ("PUT", "a,,b"), ("PU T", "a"), ("PUT", "x: y"), ("", "")]
)
async def test_a_preflight_that_is_not_well_formed(
    shopping: tuple[Service, str], method: str, names: str
) -> None:
    service, prefix = shopping
    sent = preflight(APP, method, **{"Access-Control-Request-Headers": names})
    answer = await service.send("OPTIONS", prefix + "/whoami", headers=sent)
    assert answer.status in {401, 405}
    assert "Access-Control-Allow-Methods" not in answer.headers


async def test_an_ordinary_options_is_no_preflight(shopping: tuple[Service, str]) -> None:
    service, prefix = shopping
    answer = await service.send("OPTIONS", prefix + "/whoami", headers={"Origin": APP})
    assert answer.status in {401, 405}


async def test_what_a_handler_shares_itself_stays(shopping: tuple[Service, str]) -> None:
    service, prefix = shopping
    answer = await service.get(prefix + "/own", headers={"Origin": APP})
    assert answer.headers["Access-Control-Allow-Origin"] == "https://partner.example"
    assert "Access-Control-Allow-Credentials" not in answer.headers
    assert answer.headers["Vary"] == "Accept, Origin"


async def test_none_by_default(config: Config, database: Dsns) -> None:
    async with serving(hosting.create_app(config, database.app, ROUTES), config) as service:
        answer = await service.send("OPTIONS", "/whoami", headers=preflight(APP))
        assert answer.status == 405
        answer = await service.get("/whoami", headers={"Origin": APP})
        assert answer.status == 401
        assert "Access-Control-Allow-Origin" not in answer.headers


@pytest.mark.parametrize("text", ["*", "null", "app.example", "https://app.example/", "https://*"])
def test_only_exact_origins(text: str) -> None:
    with pytest.raises(ConfigError, match="GATELOG_CORS_ORIGINS"):
        load_config({"GATELOG_CORS_ORIGINS": text})
