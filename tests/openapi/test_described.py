"""Handlers of others that say what they take and answer, and where that is shown."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any
from uuid import UUID

import msgspec
import pytest
from aiohttp import web
from gatelog import GatelogError, describes, public, read_body, recent_login, requires, setup
from gatelog.accounts.web import ACCOUNTS
from gatelog.config import Config
from gatelog.hosting.app import create_app
from gatelog.hosting.openapi import document
from msgspec import Meta
from openapi_spec_validator import validate

from tests.conftest import Dsns
from tests.contract import Contract
from tests.serving import PASSWORD, Service, serving

DOCS = Path(__file__).parents[2] / "docs" / "openapi.md"
NO_DATABASE = "postgresql://nobody@localhost/nothing"


class Order(msgspec.Struct, forbid_unknown_fields=True):
    """What somebody wants to have."""

    item: Annotated[str, Meta(min_length=1, max_length=40)]
    count: Annotated[int, Meta(ge=1, le=100)] = 1


class Placed(msgspec.Struct):
    order_id: UUID
    order: Order


class Paging(msgspec.Struct):
    after: Annotated[int, Meta(ge=0, description="Behind this one.")]
    limit: Annotated[int, Meta(ge=1, le=50)] | None = None


class OutOfStock(GatelogError):
    code, status, title = "out_of_stock", 409, "There are none left"


@describes(body=Order, returns={201: Placed}, raises=[OutOfStock])
async def place(request: web.Request) -> web.Response:
    """Place an order. It is
    sent today.

    Raises OutOfStock.
    """
    order = await read_body(request, Order)
    if order.item == "moon":
        raise OutOfStock("There was one only.")
    content = msgspec.json.encode(Placed(UUID(int=7), order))
    return web.Response(status=201, body=content, content_type="application/json")


@requires("clerk", "admin")
@recent_login(minutes=5)
@describes(query=Paging, path={"year": int}, returns={200: list[Order], 204: None})
async def listed(_: web.Request) -> web.Response:
    """All orders of a year"""
    return web.json_response([])


@public
@describes(returns={200: "text/csv"}, raises=[web.HTTPNotFound, web.HTTPTooManyRequests])
async def prices(_: web.Request) -> web.Response:
    """What things cost."""
    raise web.HTTPNotFound


@requires("admin")
class Basket(web.View):
    @describes(returns={200: Order})
    async def get(self) -> web.Response:
        """What is in it."""
        return web.json_response({"item": "pear", "count": 2})

    async def delete(self) -> web.Response:
        return web.Response(text="not said")


async def secret(_: web.Request) -> web.Response:
    """Nobody needs to know."""
    return web.Response()


def shop() -> web.Application:
    years = web.Application()
    years.add_routes([web.get(r"/{year:\d{4}}", listed)])
    app = web.Application()
    app.add_routes(
        [
            web.post("/orders", place),
            web.get("/prices", prices),
            web.view("/basket", Basket),
            web.get("/secret", secret),
        ]
    )
    app.add_subapp("/years", years)
    return app


def of_mine(told: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {path: item for path, item in told["paths"].items() if path.startswith(prefix)}


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    return document(create_app(Config(mount="/shop"), NO_DATABASE, shop()))


def test_what_is_described_is_there_and_nothing_else(told: dict[str, Any]) -> None:
    validate(told)
    assert {path: set(item) for path, item in of_mine(told, "/shop").items()} == {
        "/shop/orders": {"post"},
        "/shop/prices": {"get", "head"},
        "/shop/basket": {"get"},
        "/shop/years/{year}": {"get", "head"},
    }
    assert "Nobody needs to know" not in str(told)


def test_a_body_and_an_answer(told: dict[str, Any]) -> None:
    operation = told["paths"]["/shop/orders"]["post"]
    assert (operation["summary"], operation["description"]) == (
        "Place an order",
        "It is sent today.",
    )
    assert operation["requestBody"]["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/Order"
    }
    order = told["components"]["schemas"]["Order"]
    assert order["properties"]["count"]["maximum"] == 100
    assert order["description"] == "What somebody wants to have."
    assert {"201", "400", "401", "409", "413", "415", "422"} <= operation["responses"].keys()
    assert "401" not in told["paths"]["/shop/prices"]["get"]["responses"]
    problem = told["components"]["responses"]["409.out_of_stock"]
    assert "There are none left (`out_of_stock`)" in problem["description"]


def test_parameters_and_marks(told: dict[str, Any]) -> None:
    operation = told["paths"]["/shop/years/{year}"]["get"]
    year, after, limit = operation["parameters"]
    assert year == {"name": "year", "in": "path", "schema": {"type": "integer"}, "required": True}
    assert (after["name"], after["required"], after["description"]) == (
        "after",
        True,
        "Behind this one.",
    )
    assert limit == {
        "name": "limit",
        "in": "query",
        "schema": {"type": "integer", "minimum": 1, "maximum": 50},
    }
    assert {"bearer": ["clerk"]} in operation["security"]
    assert "recent_login_required" in str(_resolved(told, operation["responses"]["401"]))
    assert "forbidden" in str(_resolved(told, operation["responses"]["403"]))
    basket = told["paths"]["/shop/basket"]["get"]
    assert basket["security"][0] == {"cookie": ["admin"]}
    prices = told["paths"]["/shop/prices"]["get"]
    assert prices["security"] == []
    assert set(prices["responses"]["200"]["content"]) == {"text/csv"}
    assert "too_many_requests" in str(_resolved(told, prices["responses"]["429"]))


def _resolved(told: dict[str, Any], response: dict[str, Any]) -> Any:
    return told["components"]["responses"][response["$ref"].rpartition("/")[2]]


def test_with_the_product_inside() -> None:
    app = shop()
    setup(app, Config(database_url=NO_DATABASE))
    told = document(app)
    assert set(of_mine(told, "/orders")["/orders"]) == {"post"}
    assert told["paths"]["/orders"]["post"]["security"]
    assert told["paths"]["/prices"]["get"]["security"] == []
    assert "/v1/me" in told["paths"]


@pytest.fixture
async def shopping(config: Config, database: Dsns) -> AsyncIterator[Service]:
    app = create_app(config, database.app, shop())
    async with serving(app, config) as service:
        await service.register()
        yield service


async def test_it_answers_as_it_says(shopping: Service) -> None:
    judge = Contract((await shopping.get("/openapi.json")).json)
    token = await shopping.token()

    async def status(json: Any) -> int:
        answer = await shopping.post("/api/orders", json=json, bearer=token)
        judge.check("POST", "/api/orders", answer.status, answer.headers, answer.body)
        return answer.status

    assert await status({"item": "pear", "count": 3}) == 201
    assert await status({"item": "moon"}) == 409
    assert await status({"item": ""}) == 422
    assert await status({"item": "pear", "price": 0}) == 422
    stranger = await shopping.post("/api/orders", json={"item": "pear"})
    assert stranger.status == 401
    judge.check("POST", "/api/orders", 401, stranger.headers, stranger.body)
    missing = await shopping.get("/api/prices")
    assert missing.code == "not_found"
    judge.check("GET", "/api/prices", 404, missing.headers, missing.body)


async def test_the_example_of_the_documentation(config: Config, database: Dsns) -> None:
    (program,) = re.findall(r"^```python\n(.*?)^```$", DOCS.read_text(), re.M | re.S)
    module = ModuleType("example")
    exec(compile(program, str(DOCS), "exec"), vars(module))  # noqa: S102
    app = create_app(config, database.app, [web.post("/orders", module.place)])
    judge = Contract(document(app))
    async with serving(app, config) as service:
        await app[ACCOUNTS].logins.add_user("grace", PASSWORD, ("admin",))
        token = await service.token("grace")
        for order, status in (({"item": "pear"}, 201), ({"item": 1}, 422), ({"price": 1}, 422)):
            answer = await service.post("/orders", json=order, bearer=token)
            assert answer.status == status
            judge.check("POST", "/orders", status, answer.headers, answer.body)


def test_operations_of_one_name_are_told_apart() -> None:
    @describes(returns={200: None})
    async def handler(_: web.Request) -> web.Response:
        """Do it."""
        return web.Response()

    routes = [web.post("/a/b", handler), web.post("/a-b", handler), web.post("/a_b", handler)]
    told = document(create_app(Config(), NO_DATABASE, routes))
    validate(told)
    names = [told["paths"][path]["post"]["operationId"] for path in ("/a/b", "/a-b", "/a_b")]
    assert names == ["post_a_b", "post_a_b_2", "post_a_b_3"]


def test_structs_of_one_name_are_told_apart() -> None:
    first = msgspec.defstruct("Thing", [("a", int)], module="shop.first")
    second = msgspec.defstruct("Thing", [("b", int)], module="shop.second")

    @describes(body=first, returns={200: second})
    async def handler(_: web.Request) -> web.Response:
        """Change it."""
        return web.Response()

    told = document(create_app(Config(), NO_DATABASE, [web.post("/thing", handler)]))
    validate(told)
    names = [name for name in told["components"]["schemas"] if name.endswith("Thing")]
    assert sorted(names) == ["shop.first.Thing", "shop.second.Thing"]


class Opaque:
    pass


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ({"returns": {}}, ValueError),
        ({"returns": {20: None}}, ValueError),
        ({"returns": {200: Opaque()}}, TypeError),
        ({"returns": {200: None}, "body": object()}, TypeError),
        ({"returns": {200: None}, "query": {"a": Opaque()}}, TypeError),
    ],
)
def test_what_cannot_be_described_is_refused(said: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        describes(**said)
