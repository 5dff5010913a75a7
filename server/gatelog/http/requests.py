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

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler
from multidict import istr
from prometheus_client import Histogram

from gatelog.http.identity import AUTH_PATH, ME_PATH
from gatelog.http.nowhere import Nowhere
from gatelog.traces import CURRENT, HEADER, Trace

BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
FLUSH_S = 1.0
UNMATCHED = "unmatched"
BROKEN_OFF = 499
OTHER_METHOD = "other"
TRACEPARENT = istr(HEADER)
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
    """The requests of this process that are not yet in ``REQUEST_TIME``."""

    __slots__ = ("_cells", "_due", "_keys", "_others")

    def __init__(self) -> None:
        self._others: list[Callable[[], None]] = []
        self._keys: dict[tuple[object, str, int], _Cell] = {}
        self._cells: dict[tuple[str, str, str], _Cell] = {}
        self._due = False

    def add(self, place: object, method: str, status: int, took_s: float) -> None:
        """Count one; ``place`` is the resource that answers, or a fixed path."""
        cell = self._keys.get((place, method, status))
        if cell is None:
            cell = self._cell(place, method, status)
        cell.counts[bisect_left(BUCKETS_S, took_s)] += 1
        cell.sum_s += took_s
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_later(FLUSH_S, self.flush)

    def _cell(self, place: object, method: str, status: int) -> _Cell:
        known = method if method in hdrs.METH_ALL else OTHER_METHOD
        cell = self._cells.setdefault((template_of(place), known, str(status)), _Cell())
        if known == method:  # what clients make up is not remembered
            self._keys[place, method, status] = cell
        return cell

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
        self._due = False
        for other in self._others:
            other()
        for labels, cell in self._cells.items():
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
    add = requests_here.add

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        began = perf_counter()
        CURRENT.set(Trace(request.headers.getall(TRACEPARENT, None)))
        try:
            response = await answering(request)
        except BaseException as error:
            add(place_of(request), request.method, status_of(error), perf_counter() - began)
            raise
        add(place_of(request), request.method, response.status, perf_counter() - began)
        return response

    return answer


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


def place_of(request: web.BaseRequest) -> object:
    """What answered: a resource, or the path of what is answered without a look at the routes."""
    found = getattr(request, "_match_info", None)
    if found is not None:
        return found.route.resource
    return request.raw_path if request.raw_path in SHORT_PATHS else None


def template_of(place: object) -> str:
    """The template of the route that answers there, or ``UNMATCHED``."""
    if place in SHORT_PATHS:
        return str(place)
    if isinstance(place, web.AbstractResource) and not isinstance(place, Nowhere):
        return place.canonical
    return UNMATCHED
