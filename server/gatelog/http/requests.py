"""What is counted of every request: its route's template, method and status, and how long it took.

Rules:

- The quick path adds to plain numbers of this process. They go into the files that all workers
  share a second later, and at once where somebody fetches the metrics: a request pays for no lock.
- Labels are bounded: templates of routes and never paths, the methods that HTTP registers, and
  statuses. What no route answers is ``unmatched``.
- The time ends when the handler has answered, before a response is sent.
- What ended before it was answered, because the client had gone or a stream's session was over, is
  499, as nginx counts it: no error of the service.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Awaitable, Callable
from time import perf_counter

from aiohttp import hdrs, web
from prometheus_client import Histogram

from gatelog.http.identity import AUTH_PATH, ME_PATH
from gatelog.http.nowhere import Nowhere

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
    """The requests of this process that are not yet in ``REQUEST_TIME``."""

    __slots__ = ("_cells", "_due", "_keys")

    def __init__(self) -> None:
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
        cell = self._cells.setdefault((_template(place), known, str(status)), _Cell())
        if known == method:  # what clients make up is not remembered
            self._keys[place, method, status] = cell
        return cell

    def flush(self) -> None:
        """Put what was counted where all workers' counts are."""
        self._due = False
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
    """The same, with each request counted."""
    add = requests_here.add

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        began = perf_counter()
        try:
            response = await answering(request)
        except BaseException as error:
            add(_place(request), request.method, _status(error), perf_counter() - began)
            raise
        add(_place(request), request.method, response.status, perf_counter() - began)
        return response

    return answer


def _status(error: BaseException) -> int:
    if isinstance(error, asyncio.CancelledError | ConnectionError):
        return BROKEN_OFF
    return error.status if isinstance(error, web.HTTPException) else 500


def _place(request: web.BaseRequest) -> object:
    """What answered: a resource, or the path of what is answered without a look at the routes."""
    found = getattr(request, "_match_info", None)
    if found is not None:
        return found.route.resource
    path = request.raw_path.partition("?")[0]
    return path if path in SHORT_PATHS else None


def _template(place: object) -> str:
    if place in SHORT_PATHS:
        return str(place)
    if isinstance(place, web.AbstractResource) and not isinstance(place, Nowhere):
        return place.canonical
    return UNMATCHED
