"""The overview: how the service stands, as it is at this moment; a module keeps it so.

What the page shows is what the API shows (``console.web.overview``), and its live stream is the
API's.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
from aiohttp import web

from gatelog.console.rules.minutes import MINUTE
from gatelog.console.service.overview import Overview, Rates
from gatelog.console.web import LOOKING
from gatelog.http.roles import requires
from gatelog.pages.door import page
from gatelog.pages.layout import show

OVERVIEW_PATH: Final = "/console/"
READERS: Final = ("auditor", "admin")
CHART_HEIGHT: Final = 100
BAR_STEP: Final = 10
# Where one goes about what needs attention, by its code.
WHERE: Final = {
    "many_failures": "/console/audit?type=login_failed",
    "throttled": "/console/audit?type=logins_throttled",
    "locked": "/console/audit?type=password_locked",
    "one_admin": "/console/users",
}


class Bar(msgspec.Struct, frozen=True):
    """A bar of a chart, in the chart's own units."""

    x: int
    y: float
    height: float


class Chart(msgspec.Struct, frozen=True):
    """A chart of the last hour: its bars, and what it says in words."""

    name: str
    title: str
    now: str
    says: str
    bars: list[Bar]


class Row(msgspec.Struct, frozen=True):
    """A minute, and what happened in it."""

    minute: datetime
    logins: str
    failures: str
    ends: str


def chart(name: str, title: str, counts: Sequence[int | None]) -> Chart:
    """The chart of these counts, the last of which is of the minute that goes on."""
    highest = max((count for count in counts if count is not None), default=0)
    scale = CHART_HEIGHT / max(highest, 1)
    bars = [
        Bar(
            n * BAR_STEP,
            round(CHART_HEIGHT - (count or 0) * scale, 2),
            round((count or 0) * scale, 2),
        )
        for n, count in enumerate(counts)
    ]
    says = f"{told(counts[-2])} in the last full minute, {highest:,} at most in the last hour"
    return Chart(name, title, told(counts[-1]), says, bars)


def told(count: int | None) -> str:
    """A count, as it is written; of what is not known a dash."""
    return "\N{EN DASH}" if count is None else f"{count:,}"


def charts(rates: Rates) -> list[Chart]:
    """The three of them."""
    return [
        chart("logins", "Logins", rates.logins),
        chart("failures", "Failed logins", rates.failures),
        chart("ends", "Sessions ended", rates.ends),
    ]


def rows(rates: Rates) -> list[Row]:
    """The last minutes in numbers, the newest first."""
    columns = zip(rates.logins, rates.failures, rates.ends, strict=True)
    newest_first = list(columns)[::-1]
    return [
        Row(rates.minute - back * MINUTE, *map(told, counts))
        for back, counts in enumerate(newest_first)
    ]


def _context(found: Overview) -> dict[str, Any]:
    return {
        "now": found,
        "charts": charts(found.rates),
        "rows": rows(found.rates),
        "where": WHERE,
        "told": told,
    }


@requires(*READERS)
@page
async def overview_page(request: web.Request) -> web.StreamResponse:
    """How things stand."""
    return show(request, "console/overview.html", **_context(await request.app[LOOKING].now()))


@requires(*READERS)
@page
async def to_overview(request: web.Request) -> web.StreamResponse:
    """The page is called ``/console/``."""
    response = web.Response(status=308)
    response.headers["Location"] = OVERVIEW_PATH
    return response


def overview_page_routes() -> list[web.RouteDef]:
    """The routes of the overview."""
    return [web.get(OVERVIEW_PATH, overview_page), web.get("/console", to_overview)]
