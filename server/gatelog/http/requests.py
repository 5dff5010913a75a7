"""What is counted of every request: its route's template, method and status, and how long it took.

Rules:

- The quick path adds to plain numbers of this process. They go into the files that all workers
  share a second later, and at once where somebody fetches the metrics: a request pays for no lock.
  What else a process counts in this way is told at the same time (``telling``).
- Each request gets its trace here (``gatelog.traces``), before anything else sees it.
- Under a runner of ours requests are counted around everything, elsewhere in the first middleware.
- Labels are bounded: templates of routes and never paths, the methods that HTTP registers, and
  statuses. What no route answers is ``unmatched``.
- The time ends when the handler has answered, before a response is sent.
- What ended before it was answered, because the client had gone or a stream's session was over, is
  499, as nginx counts it: no error of the service.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import cast

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler
from prometheus_client import Histogram

from gatelog.http.identity import AUTH_PATH, ME_PATH
from gatelog.http.nowhere import Nowhere
from gatelog.http.templated import Templated
from gatelog.traces import CURRENT, Trace

BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
FLUSH_S = 1.0
UNMATCHED = "unmatched"
BROKEN_OFF = 499
OTHER_METHOD = "other"
SHORT_PATHS = frozenset({AUTH_PATH, ME_PATH})

Answering = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

REQUEST_TIME = Histogram(
    "gatelog_http_request_duration_seconds",
    "How long handlers took to answer, by template of the route, method and status.",
    ["route", "method", "status"],
    buckets=BUCKETS_S,
)


class _Cell:
    """What was counted for one set of labels since it was told last."""

    __slots__ = ("counts", "sum_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS_S) + 1)
        self.sum_s = 0.0


class Requests:
    """The requests of this process that are not yet in ``REQUEST_TIME``.

    ``cells`` are found by what answered (a route, or a fixed path) and status, where that says the
    method as well: a request pays for no more than that.
    """

    __slots__ = ("_by_labels", "_by_method", "_others", "cells", "due")

    def __init__(self) -> None:
        self.cells: dict[tuple[object, int], _Cell] = {}
        self.due = False
        self._others: list[Callable[[], None]] = []
        self._by_method: dict[tuple[object, str, int], _Cell] = {}
        self._by_labels: dict[tuple[str, str, str], _Cell] = {}

    def find(self, place: object, method: str, status: int) -> _Cell:
        """Where requests like this are counted; from now on in ``cells``, if it may be there."""
        cell = self._by_method.get((place, method, status))
        if cell is not None:
            return cell
        known = method if method in hdrs.METH_ALL else OTHER_METHOD
        cell = self._by_labels.setdefault((template_of(place), known, str(status)), _Cell())
        if _has_one_method(place):
            self.cells[place, status] = cell
        elif known == method and _stays(place):  # what clients make up is not remembered
            self._by_method[place, method, status] = cell
        return cell

    def will_flush(self) -> None:
        """Flush in a second; once, however many requests there are."""
        self.due = True
        asyncio.get_running_loop().call_later(FLUSH_S, self.flush)

    @contextmanager
    def telling(self, *others: Callable[[], None]) -> Iterator[None]:
        """Meanwhile, call these whenever what was counted is told."""
        self._others.extend(others)
        try:
            yield
        finally:
            for other in others:
                self._others.remove(other)

    def flush(self) -> None:
        """Put what was counted where all workers' counts are."""
        self.due = False
        for other in self._others:
            other()
        for labels, cell in self._by_labels.items():
            if not any(cell.counts):
                continue
            histogram = REQUEST_TIME.labels(*labels)
            # There is no public way to add many at once; tests/http/test_requests.py sees to it.
            histogram._sum.inc(cell.sum_s)
            for bucket, count in zip(histogram._buckets, cell.counts, strict=True):
                if count:
                    bucket.inc(count)
            cell.counts, cell.sum_s = [0] * len(cell.counts), 0.0


requests_here = Requests()


def counted(answering: Answering) -> Answering:
    """The same, with each request counted and in its trace."""
    here = requests_here
    known, first_s, set_trace = here.cells.get, BUCKETS_S[0], CURRENT.set

    async def answer(request: web.Request) -> web.StreamResponse:
        began = perf_counter()
        set_trace(Trace(request.headers))
        try:
            response = await answering(request)
            status = response.status
        except BaseException as error:
            status = status_of(error)
            raise
        finally:  # in one place: calls would cost as much as the rest
            took_s = perf_counter() - began
            found = request._match_info
            place = request.raw_path.partition("?")[0] if found is None else found.route
            cell = known((place, status)) or here.find(place, request.method, status)
            cell.counts[0 if took_s <= first_s else bisect_left(BUCKETS_S, took_s)] += 1
            cell.sum_s += took_s
            if not here.due:
                here.will_flush()
        return response

    return cast(Answering, answer)


@web.middleware
async def counting(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The same as a middleware, for an application that is served by others."""

    async def answering(_: web.BaseRequest) -> web.StreamResponse:
        return await handler(request)

    return await counted(answering)(request)


def status_of(error: BaseException) -> int:
    """What a request counts as that has ended in this way."""
    if isinstance(error, asyncio.CancelledError | ConnectionError):
        return BROKEN_OFF
    return error.status if isinstance(error, web.HTTPException) else 500


def _resource(place: object) -> object:
    return place.resource if isinstance(place, web.AbstractRoute) else None


def _stays(place: object) -> bool:
    """Whether this will be found again, and is not made for a request."""
    resource = _resource(place)
    if isinstance(resource, web.AbstractResource):
        return any(route is place for route in resource)
    return place in SHORT_PATHS


def _has_one_method(place: object) -> bool:
    """Whether the method of its requests is known: of aiohttp's own routes, and of shortcuts."""
    if isinstance(place, web.AbstractRoute):
        kinds = (web.PlainResource, web.DynamicResource, web.StaticResource, Templated)
        own = type(place.resource) in kinds
        return own and place.method != hdrs.METH_ANY and _stays(place)
    return place in SHORT_PATHS


def place_of(request: web.BaseRequest) -> object:
    """What answered: a route, or the path of what is answered without a look at the routes."""
    found = getattr(request, "_match_info", None)
    return request.raw_path.partition("?")[0] if found is None else found.route


def template_of(place: object) -> str:
    """The template of the route that answers there, or ``UNMATCHED``."""
    if place in SHORT_PATHS:
        return str(place)
    resource = _resource(place)
    if isinstance(resource, web.AbstractResource) and not isinstance(resource, Nowhere):
        return resource.canonical
    return UNMATCHED
