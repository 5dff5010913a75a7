"""My history: what the log has about me, newest first, each with its proof."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlencode

import msgspec
from aiohttp import web

from gatelog.audit.rules.shown import Cursor
from gatelog.audit.web.events import AUDIT, OWN_FILTERS, PAGING, parse_filter
from gatelog.http.answers import OWN_EVENTS_PATH
from gatelog.http.guard import SESSION
from gatelog.pages.door import HOME_PATH, page
from gatelog.pages.layout import show
from gatelog.pages.words import own_words

HISTORY_PATH: Final = f"{HOME_PATH}/history"
PAGE_ROWS: Final = 25


def beside(request: web.Request, cursor: Cursor | None) -> str | None:
    """The address of the page beside this one: the same question, next to that position."""
    if cursor is None:
        return None
    question = [(name, value) for name, value in request.query.items() if name != "cursor"]
    question.append(("cursor", f"{cursor.side}-{cursor.position}"))
    return f"{request.path}?{urlencode(question)}"


@page
async def history(request: web.Request) -> web.StreamResponse:
    """A page of what is recorded about me. Raises InvalidInput."""
    wanted = parse_filter(request.query, names=OWN_FILTERS, also=PAGING)
    if "limit" not in request.query:
        wanted = msgspec.structs.replace(wanted, limit=PAGE_ROWS)
    me = request[SESSION].subject_id
    found = await request.app[AUDIT].page_of_own(me, wanted)
    return show(
        request,
        "account/history.html",
        events=[(event, *own_words(event)) for event in found.events],
        me=me,
        older=beside(request, found.next),
        newer=beside(request, found.prev),
        proof_path=OWN_EVENTS_PATH,
    )


def history_routes() -> list[web.RouteDef]:
    """The route of one's own history."""
    return [web.get(HISTORY_PATH, history)]
