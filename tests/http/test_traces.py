"""The trace of a request: taken from a well-formed ``traceparent`` or made, and in every line."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from aiohttp import web
from gatelog import public, setup
from gatelog.config import Config
from gatelog.host.logs import JsonLines, TextLines
from gatelog.hosting.app import create_app
from gatelog.traces import current_trace_id, trace_id_of
from multidict import CIMultiDict

from tests.conftest import Dsns
from tests.serving import Service, serving

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
GOOD = f"00-{TRACE}-00f067aa0ba902b7-01"
BAD = [
    "",
    "garbage",
    GOOD.upper(),
    GOOD.replace("00-4", "ff-4"),
    GOOD.replace("00-4", "0-4"),
    GOOD.replace(TRACE, "0" * 32),
    GOOD.replace(TRACE, TRACE[:-1]),
    GOOD.replace(TRACE, TRACE[:-1] + "g"),
    GOOD.replace("00f067aa0ba902b7", "0" * 16),
    GOOD[:-1],
    GOOD + "0",
    GOOD + "-",
    GOOD + "-more",
    GOOD.replace("-01", "-0x"),
    GOOD.replace("00-4", "01-4") + "0",
    GOOD + "\n",
    GOOD.replace("-", "_"),
]
LATER = [GOOD.replace("00-4", "cc-4"), GOOD.replace("00-4", "01-4") + "-what-comes.later"]

logger = logging.getLogger("tests.traced")


@pytest.mark.parametrize("line", [GOOD, GOOD.replace("-01", "-ff"), *LATER])
def test_what_is_well_formed(line: str) -> None:
    assert trace_id_of([line]) == TRACE


@pytest.mark.parametrize("line", BAD)
def test_what_is_not(line: str) -> None:
    assert trace_id_of([line]) is None


def test_one_header_and_no_more() -> None:
    assert trace_id_of([]) is None
    assert trace_id_of([GOOD, GOOD]) is None


# --- in requests


@public
async def traced(_: web.Request) -> web.Response:
    logger.warning("here\nand below")
    started = asyncio.create_task(_id_later())
    return web.json_response([current_trace_id(), current_trace_id(), await started])


async def _id_later() -> str | None:
    return current_trace_id()


@public
async def failing(_: web.Request) -> web.Response:
    raise RuntimeError("something that nobody may read")


@pytest.fixture(params=["hosted", "inside"])
async def service(
    request: pytest.FixtureRequest, config: Config, database: Dsns
) -> AsyncIterator[Service]:
    routes = [web.get("/traced", traced), web.get("/failing", failing)]
    if request.param == "hosted":
        app = create_app(config, database.app, routes)
    else:
        app = web.Application()
        app.add_routes(routes)
        setup(app, _of(config, database), projector=False)
    async with serving(app, config) as running:
        yield running


def _of(config: Config, database: Dsns) -> Config:
    from msgspec.structs import replace

    return replace(config, database_url=database.app)


class Lines:
    """What is written to the log, by this formatter."""

    def __init__(self, formatter: logging.Formatter) -> None:
        self.stream = io.StringIO()
        self.handler = logging.StreamHandler(self.stream)
        self.handler.setFormatter(formatter)

    @property
    def text(self) -> str:
        return self.stream.getvalue()


@pytest.fixture
def lines(request: pytest.FixtureRequest) -> Iterator[Lines]:
    written = Lines(request.param())
    logging.getLogger().addHandler(written.handler)
    yield written
    logging.getLogger().removeHandler(written.handler)


async def ids(service: Service, *headers: str) -> Any:
    sent = CIMultiDict([("traceparent", header) for header in headers])
    return (await service.get("/traced", headers=sent)).json


async def test_the_callers_or_ones_own(service: Service) -> None:
    assert await ids(service, GOOD) == [TRACE] * 3
    seen = set()
    for headers in ([], ["garbage"], [GOOD, GOOD]):
        first, second, in_a_task = await ids(service, *headers)
        assert first == second == in_a_task != TRACE
        assert re.fullmatch(r"[0-9a-f]{32}", first)
        seen.add(first)
    assert len(seen) == 3, "on one connection, each request has its own"
    assert current_trace_id() is None


@pytest.mark.parametrize("lines", [JsonLines], indirect=True)
async def test_a_line_of_json_says_which(service: Service, lines: Lines) -> None:
    await ids(service, GOOD)
    logger.warning("elsewhere")
    found = {line["message"]: line for line in map(json.loads, lines.text.splitlines())}
    assert found["here\nand below"]["trace_id"] == TRACE
    assert "trace_id" not in found["elsewhere"]


@pytest.mark.parametrize("lines", [TextLines], indirect=True)
async def test_a_line_of_text_says_which(service: Service, lines: Lines) -> None:
    await ids(service, GOOD)
    logger.warning("elsewhere")
    assert f"tests.traced: here trace_id={TRACE}\n    and below\n" in lines.text
    assert "tests.traced: elsewhere\n" in lines.text


@pytest.mark.parametrize("lines", [JsonLines], indirect=True)
async def test_who_gets_an_error_can_name_its_lines(service: Service, lines: Lines) -> None:
    answer = await service.get("/failing")
    assert answer.status == 500
    (line,) = (json.loads(one) for one in lines.text.splitlines() if "unexpected error" in one)
    assert answer.json["trace_id"] == line["trace_id"]
    assert "trace_id" not in (await service.get("/v1/me")).json
