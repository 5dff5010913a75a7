"""A span for each request, by OpenTelemetry's conventions for HTTP servers.

The name is the method and the route's template, so that names are few; there is no path and no
address. Where spans are not wanted (``gatelog.spans``), requests are answered as they are.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from gatelog import spans
from gatelog.http.requests import UNMATCHED, Answering, place_of, status_of, template_of


def spanned(answering: Answering) -> Answering:
    """The same with a span around it; the very same where none is wanted."""
    if not spans.wanted():
        return answering

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        with spans.server_span(request.headers) as span:
            try:
                response = await answering(request)
            except BaseException as error:
                _describe(span, request, status_of(error), type(error).__qualname__)
                raise
            _describe(span, request, response.status)
            return response

    return answer


@web.middleware
async def spanning(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The same as a middleware, for an application that is served by others."""

    async def answering(_: web.BaseRequest) -> web.StreamResponse:
        return await handler(request)

    return await spanned(answering)(request)


def _describe(span: Any, request: web.BaseRequest, status: int, error: str = "") -> None:
    known = request.method in hdrs.METH_ALL
    route = template_of(place_of(request))
    named = "" if route == UNMATCHED else f" {route}"
    span.update_name(f"{request.method if known else 'HTTP'}{named}")
    span.set_attribute("http.request.method", request.method if known else "_OTHER")
    span.set_attribute("http.response.status_code", status)
    if named:
        span.set_attribute("http.route", route)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        spans.failed(span, error or str(status))
