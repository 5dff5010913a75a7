"""Spans of requests, appends and hashing: as OpenTelemetry's SDK gets them, and none unasked."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import nullcontext
from typing import Any

import msgspec
import pytest
from aiohttp import web
from gatelog import public, setup, spans
from gatelog.config import Config
from gatelog.hosting.app import create_app
from gatelog.http.spanned import spanned

from tests.conftest import Dsns
from tests.serving import PASSWORD, Service, serving

otel = pytest.importorskip("opentelemetry.sdk.trace", reason="the extra 'otel' is not installed")
memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
export = pytest.importorskip("opentelemetry.sdk.trace.export")

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SECRET = "what-nobody-may-read"


@pytest.fixture
def exported() -> Iterator[Any]:
    """What the SDK exports, while spans are made with it."""
    exporter = memory.InMemorySpanExporter()
    provider = otel.TracerProvider()
    provider.add_span_processor(export.SimpleSpanProcessor(exporter))
    spans.use(provider.get_tracer("tests"))
    yield exporter
    spans.use(None)


@public
async def failing(_: web.Request) -> web.Response:
    raise RuntimeError(SECRET)


@pytest.fixture(params=["hosted", "inside"])
async def service(
    request: pytest.FixtureRequest, exported: Any, config: Config, database: Dsns
) -> AsyncIterator[Service]:
    routes = [web.get("/failing/{what}", failing)]
    if request.param == "hosted":
        app = create_app(config, database.app, routes)
    else:
        app = web.Application()
        app.add_routes(routes)
        own = msgspec.structs.replace(config, database_url=database.app)
        setup(app, own, projector=False)
    async with serving(app, config) as running:
        yield running


def found(exported: Any, name: str) -> Any:
    (span,) = (span for span in exported.get_finished_spans() if span.name == name)
    return span


async def test_a_request_is_a_span_of_its_callers_trace(service: Service, exported: Any) -> None:
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
    assert (await service.get("/v1/me", headers=headers)).status == 401
    span = found(exported, "GET /v1/me")
    assert f"{span.context.trace_id:032x}" == TRACE
    assert f"{span.parent.span_id:016x}" == PARENT
    assert span.kind.name == "SERVER"
    assert dict(span.attributes) == {
        "http.request.method": "GET",
        "http.response.status_code": 401,
        "http.route": "/v1/me",
    }
    assert span.status.status_code.name == "UNSET"


async def test_a_login_hashes_and_appends_within_it(service: Service, exported: Any) -> None:
    await service.register()
    exported.clear()
    assert (await service.log_in()).status == 200
    request = found(exported, "POST /v1/login_user")
    hashing = found(exported, "hash password")
    admitted, started = (s for s in exported.get_finished_spans() if s.name == "append")
    assert admitted.attributes == {"gatelog.command": "AdmitTry"}
    assert started.attributes == {"gatelog.command": "StartSession"}
    for span in (admitted, hashing, started):
        assert span.parent.span_id == request.context.span_id
        assert span.start_time >= request.start_time
    assert admitted.end_time <= hashing.start_time
    assert started.start_time >= hashing.end_time


async def test_a_failure_is_said_and_nothing_of_what_came_in(
    service: Service, exported: Any
) -> None:
    path = f"/failing/{SECRET}?x={SECRET}"
    answer = await service.send("GET", path, headers={"X": SECRET, "User-Agent": SECRET})
    assert answer.status == 500
    span = found(exported, "GET /failing/{what}")
    assert span.status.status_code.name == "ERROR"
    assert span.attributes["error.type"] == "500"
    assert answer.json["trace_id"] == f"{span.context.trace_id:032x}"
    await service.log_in("nobody-at-all", PASSWORD)
    await service.send("PROPFIND", f"/{SECRET}")
    for one in exported.get_finished_spans():
        assert SECRET not in one.to_json()
        assert "nobody-at-all" not in one.to_json()
        assert PASSWORD not in one.to_json()
    assert {"HTTP"} == {
        one.name for one in exported.get_finished_spans() if "OTHER" in one.to_json()
    }


def test_nothing_is_done_where_none_is_wanted() -> None:
    async def answering(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response()

    assert not spans.wanted()
    assert spanned(answering) is answering
    assert isinstance(spans.span("append"), nullcontext)
    spans.look()
    assert not spans.wanted(), "the packages alone make none: nobody has set up a provider"
