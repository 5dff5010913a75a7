"""As of: who was logged in then, and how each of these sessions ended since.

A moment is a time (UTC) or a position; the slider goes over the positions that are there. Without
either it is now. The address is that of the answer, which for what has passed never changes, but
for how sessions have ended since.
"""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

import msgspec
from aiohttp import web
from multidict import MultiDict

from gatelog.accounts.web import ACCOUNTS
from gatelog.audit.rules.shown import MAX_POSITION, AuditFilter
from gatelog.audit.store.asof import SessionPage
from gatelog.audit.web.asof import AS_OF, ShownSession, shown_session
from gatelog.audit.web.events import (
    AUDIT,
    parse_filter,
    position_parameter,
    time_parameter,
)
from gatelog.errors import InvalidInput, Purged
from gatelog.http.roles import record_read, requires
from gatelog.pages.audit import READERS, link, whole_moment, without_empty
from gatelog.pages.door import page
from gatelog.pages.forms import Form, again
from gatelog.pages.layout import show

AS_OF_PATH: Final = "/console/as-of"
PAGE_ROWS: Final = 50
_TEMPLATE: Final = "console/as_of.html"
_FIELDS: Final = ("at", "position", "user")
_OTHERS: Final = ("at", "position", "limit")


class Then(msgspec.Struct, frozen=True):
    """A session that was active then, and whose it is, if that may still be known."""

    session: ShownSession
    login: str | None


@page
@requires(*READERS)
async def as_of_page(request: web.Request) -> web.StreamResponse:
    """Who was logged in at a moment."""
    if (cleaned := without_empty(request)) is not None:
        return cleaned
    query = MultiDict(
        (name, whole_moment(value) if name == "at" else value)
        for name, value in request.query.items()
    )
    values = {name: query.get(name, "") for name in _FIELDS}
    form = Form(values | {"at": request.query.get("at", "")})
    for name in _FIELDS:
        form.check(name, lambda _, name=name: _read(name, query))  # type: ignore[misc]
    first, head = await request.app[AUDIT].edges()
    known: dict[str, Any] = {
        "first": max(first - 1, 1),
        "head": head,
        "moment": None,
        "position": head,
    }
    if form.is_wrong:
        return again(request, _TEMPLATE, form, **known)
    try:
        wanted = parse_filter(query, names=("user", "before"), also=_OTHERS)
    except InvalidInput as error:
        return again(request, _TEMPLATE, form, error, **known)
    await record_read(request, "sessions")
    try:
        found = await _asked(request, query, wanted, head)
    except (InvalidInput, Purged) as error:
        at = "at" if form["at"] else "position"
        return again(request, _TEMPLATE, form, error, at=at, **known)
    if found is not None:
        known |= await _answer(request, query, found)
    return show(request, _TEMPLATE, form=form, **known)


def _read(name: str, query: MultiDict[str]) -> None:
    """Raises InvalidInput for what the field may not hold."""
    if name == "user":
        parse_filter(MultiDict((name, value) for value in query.getall(name, ())))
    elif name == "at":
        time_parameter(query, name)
        if query.get("at") and query.get("position"):
            raise InvalidInput("Give a time or a position.")
    else:
        position = position_parameter(query, name)
        if position is not None and not 0 < position < MAX_POSITION:
            raise InvalidInput("A position is a number from 1 on.")


async def _asked(
    request: web.Request, query: MultiDict[str], wanted: AuditFilter, head: int
) -> SessionPage | None:
    """The page that is asked for; None of a log in which nothing has happened."""
    at, position = time_parameter(query, "at"), position_parameter(query, "position")
    if at is None and position is None:
        if not head:
            return None
        position = head
    return await request.app[AS_OF].sessions(
        at=at,
        position=position,
        user=wanted.user,
        before=wanted.before,
        limit=wanted.limit if "limit" in query else PAGE_ROWS,
    )


async def _answer(
    request: web.Request, query: MultiDict[str], found: SessionPage
) -> dict[str, Any]:
    sessions = [shown_session(each) for each in found.sessions]
    users: set[UUID] = {session.user_id for session in sessions}
    logins = await request.app[ACCOUNTS].users.logins_of(users)
    moment = (
        {} if "at" in query or "position" in query else {"position": str(found.moment.position)}
    )
    return {
        "moment": found.moment,
        "position": found.moment.position,
        "then": [Then(session, logins.get(session.user_id)) for session in sessions],
        "older": link(AS_OF_PATH, query, **moment, before=str(found.before))
        if found.before is not None
        else None,
        "latest": link(AS_OF_PATH, query, before=None) if "before" in query else None,
    }


def asof_page_routes() -> list[web.RouteDef]:
    """The route of the page."""
    return [web.get(AS_OF_PATH, as_of_page)]
