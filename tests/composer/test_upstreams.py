"""Calls of upstreams: those that are listed, whatever a client or an upstream makes of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from aiohttp import web
from gatelog.composer.rules.composition import Call, Field, Login
from gatelog.composer.service.upstreams import Upstreams, below
from gatelog.config import Config, load_config
from gatelog.errors import ConfigError, NotFound, UpstreamFailed
from yarl import URL

from tests.composer.compositions import both, one
from tests.composer.house import USER, House, housing
from tests.conftest import Dsns
from tests.serving import PASSWORD


class Upstream:
    """A service that notes what it is asked, and answers as it was told."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []
        self.answer: dict[str, Any] = {"body": b'{"up": true}', "content_type": "application/json"}
        self.port = 0

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.asked.append((request.method, request.raw_path, headers, await request.read()))
        return web.Response(**self.answer)


@asynccontextmanager
async def upstream() -> AsyncIterator[Upstream]:
    """One that is running."""
    found = Upstream()
    runner = web.ServerRunner(web.Server(found.handle))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    found.port = runner.addresses[0][1]
    yield found
    await runner.cleanup()


@pytest.fixture
async def listed() -> AsyncIterator[Upstream]:
    async with upstream() as found:
        yield found


@pytest.fixture
async def other() -> AsyncIterator[Upstream]:
    """One that is not listed."""
    async with upstream() as found:
        yield found


@pytest.fixture
async def calling(config: Config, database: Dsns, listed: Upstream) -> AsyncIterator[House]:
    """The house, with an upstream and endpoints that call it."""
    addresses = {"orders": f"http://127.0.0.1:{listed.port}/base", "gone": "http://127.0.0.1:1"}
    config = msgspec.structs.replace(config, upstreams=json.dumps(addresses))
    async with housing(config, database) as house:
        await house.build(
            both(
                one(Call(upstream="orders", path="/of/{id}"), name="A", path="/v2/orders/{id}"),
                one(
                    Call(upstream="orders", body=True),
                    name="B",
                    path="/v2/new",
                    method="POST",
                    fields=(Field("note"), Field("more", required=False)),
                ),
                one(Call(upstream="orders"), name="C", path="/v2/open", access="public"),
                one(Call(upstream="gone"), name="D", path="/v2/gone"),
                one(
                    Login(),
                    Call(upstream="orders"),
                    name="E",
                    path="/v2/in",
                    method="POST",
                    access="public",
                ),
            )
        )
        yield house


async def test_who_it_is_goes_along_and_the_credentials_do_not(
    calling: House, listed: Upstream
) -> None:
    token = await calling.service.token(USER)
    me = (await calling.service.get("/v1/me", cookie=token)).json
    answer = await calling.service.get(
        "/v2/orders/7?ignored=1", cookie=token, headers={"X-Gatelog-User": "root", "X-Else": "x"}
    )
    assert (answer.status, answer.json) == (200, {"up": True})
    assert answer.headers["Cache-Control"] == "no-store"
    method, path, headers, body = listed.asked.pop()
    assert (method, path, body) == ("GET", "/base/of/7", b"")
    assert headers["x-gatelog-user"] == me["user_id"]
    assert headers["x-gatelog-session"] == me["session_id"]
    assert not {"cookie", "authorization", "x-else"} & headers.keys()
    await calling.service.get("/v2/open", cookie=token, headers={"X-Gatelog-User": "root"})
    assert not {name for name in listed.asked.pop()[2] if name.startswith("x-gatelog")}
    entered = await calling.service.post("/v2/in", json={"login": USER, "password": PASSWORD})
    assert entered.status == 200 and entered.token
    assert listed.asked[-1][2]["x-gatelog-user"] == me["user_id"]
    assert PASSWORD.encode() not in listed.asked[-1][3]


async def test_declared_fields_go_along_as_json(calling: House, listed: Upstream) -> None:
    token = await calling.service.token(USER)
    listed.answer = {"status": 201, "body": b'{"made": 1}', "content_type": "application/json"}
    answer = await calling.service.post("/v2/new", json={"note": '"}'}, cookie=token)
    assert (answer.status, answer.json) == (201, {"made": 1})
    assert listed.asked[-1][0] == "POST"
    assert json.loads(listed.asked[-1][3]) == {"note": '"}'}


@pytest.mark.parametrize(
    "value",
    [
        "@evil.example",
        "%40evil.example%2F",
        "..%2F..%2Fadmin",
        "%2F%2Fevil.example",
        "a%3Fb%23c",
        "%0d%0aHost%3A%20evil",
        "%5B%3A%3A1%5D",
        "http%3A%2F%2Fevil.example",
        "%C2%A0%E3%80%82",
        "a;b:c@d",
    ],
)
async def test_no_value_leads_elsewhere(calling: House, listed: Upstream, value: str) -> None:
    token = await calling.service.token(USER)
    answer = await calling.service.get(f"/v2/orders/{value}", cookie=token)
    assert answer.status == 200, value
    _, path, headers, _ = listed.asked.pop()
    assert path.startswith("/base/of/") and path.count("/") == 3, path
    assert not set(path) & set("?#@;: \r\n")
    assert headers["host"] == f"127.0.0.1:{listed.port}"


@pytest.mark.parametrize("value", ["..", ".", "%2E%2E", "%2e"])
async def test_no_step_in_a_tree_is_sent_on(calling: House, listed: Upstream, value: str) -> None:
    token = await calling.service.token(USER)
    assert (await calling.service.get(f"/v2/orders/{value}", cookie=token)).status == 404
    assert listed.asked == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(
    calling: House, listed: Upstream, other: Upstream, status: int
) -> None:
    token = await calling.service.token(USER)
    where = f"http://127.0.0.1:{other.port}/secret"
    listed.answer = {"status": status, "headers": {"Location": where}}
    answer = await calling.service.get("/v2/orders/1", cookie=token)
    assert answer.code == "upstream_failed"
    assert "Location" not in answer.headers and other.asked == []


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ({"text": "<script>", "content_type": "text/html"}, 502),
        ({"body": b"<svg>", "content_type": "image/svg+xml"}, 502),
        ({"body": b"x", "content_type": "application/javascript"}, 502),
        ({"text": "plain <b>", "content_type": "text/plain"}, 200),
        ({"status": 204}, 204),
        ({"status": 404, "body": b"{}", "content_type": "application/json"}, 404),
        ({"status": 500, "body": b"{}", "content_type": "application/json"}, 500),
        ({"body": b"x" * (1024 * 1024 + 1), "content_type": "text/plain"}, 502),
        (
            {
                "body": b"{}",
                "content_type": "application/json",
                "headers": {"Set-Cookie": "gatelog=stolen", "X-Evil": "1"},
            },
            200,
        ),
    ],
)
async def test_what_is_handed_on(
    calling: House, listed: Upstream, answer: dict[str, Any], status: int
) -> None:
    token = await calling.service.token(USER)
    listed.answer = answer
    found = await calling.service.get("/v2/orders/1", cookie=token)
    assert found.status == status
    assert not {"Set-Cookie", "X-Evil"} & set(found.headers)
    if status == 200:
        assert found.headers["X-Content-Type-Options"] == "nosniff"


async def test_who_does_not_answer_is_a_502(calling: House) -> None:
    token = await calling.service.token(USER)
    answer = await calling.service.get("/v2/gone", cookie=token)
    assert answer.code == "upstream_failed"
    assert b"127.0.0.1" not in answer.body


async def test_who_does_not_answer_in_time() -> None:
    async def silent(request: web.BaseRequest) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    runner = web.ServerRunner(web.Server(silent), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    listed = {"slow": f"http://127.0.0.1:{runner.addresses[0][1]}"}
    try:
        async with Upstreams(listed, timeout_s=0.05) as asking:
            with pytest.raises(UpstreamFailed):
                await asking.call("slow", "GET", [], headers={})
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    "address",
    [
        "http://user@orders.internal",
        "http://user:word@orders.internal",
        "http://orders.internal@evil.example",
        "http://orders.internal\\@evil.example",
        "http://orders.internal?x",
        "http://orders.internal#x",
        "http://orders.internal/../x",
        "http://orders.internal:0",
        "http://orders.internal:99999",
        "ftp://orders.internal",
        "file:///etc/passwd",
        "orders.internal",
        "http://",
        "http://[::1",
        "http://[::1%25eth0]",
        "http://ORDERS.internal",
        "http://orders internal",
        "http://orders.internal\n",
    ],
)
def test_an_address_that_is_read_in_two_ways_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="GATELOG_UPSTREAMS"):
        load_config({"GATELOG_UPSTREAMS": json.dumps({"orders": address})})


@pytest.mark.parametrize(
    "address", ["https://orders.internal", "http://[::1]:8080/base/x", "http://10.0.0.7:81/"]
)
def test_addresses_that_are_usable(address: str) -> None:
    config = load_config({"GATELOG_UPSTREAMS": json.dumps({"orders": address})})
    assert config.upstreams_listed == {"orders": address.rstrip("/")}


def test_what_is_below_an_address_stays_there() -> None:
    base = URL("http://[::1]:8080/base")
    assert str(below(base, ["a b", "%2F", "é"])) == "http://[::1]:8080/base/a%20b/%252F/%C3%A9"
    for wrong in ("", ".", ".."):
        with pytest.raises(NotFound):
            below(base, ["a", wrong])
