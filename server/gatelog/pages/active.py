"""Sessions: who is in now, and the end of one session, or of everybody's.

The end of one takes a recent sign-in; that of everybody's also takes a word.
"""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import urlencode
from uuid import UUID

from aiohttp import web

from gatelog.accounts.service.sessions import NO_SUCH_SESSION
from gatelog.accounts.web import ACCOUNTS
from gatelog.console.service.sessions import Wanted
from gatelog.console.web import FIND_USERS, WHO_IS_IN
from gatelog.console.web.parameters import only
from gatelog.console.web.sessions import AUDITED, EVERYBODY
from gatelog.errors import InvalidInput
from gatelog.http.bodies import id_in_path
from gatelog.http.roles import record_read, refuse_old_login, requires
from gatelog.pages.account import done, what_is_done
from gatelog.pages.door import page, referring_path
from gatelog.pages.forms import Form, again, read_form
from gatelog.pages.layout import show
from gatelog.pages.overview import READERS
from gatelog.pages.users import NOBODY, USERS_PATH, actor, is_admin
from gatelog.privacy.rules import normalise_address

SESSIONS_PATH: Final = "/console/sessions"
PAGE_ROWS: Final = 50
FIELDS: Final = ("user", "device", "address")
_TEMPLATE: Final = "console/sessions.html"


@requires(*READERS)
@page
async def sessions_page(request: web.Request) -> web.StreamResponse:
    """Who is in now, of those that are asked for."""
    only(request.query, (*FIELDS, "cursor", "done"))
    await record_read(request, AUDITED)
    form = Form({name: request.query.get(name, "").strip() for name in FIELDS})
    context = await _of_page(request, form, request.query.get("cursor"))
    if form.is_wrong:
        return again(request, _TEMPLATE, form, **context)
    return show(request, _TEMPLATE, form=form, **context)


async def _of_page(request: web.Request, form: Form, cursor: str | None = None) -> dict[str, Any]:
    """What is shown; what is wrong with the question is noted in the form, and nothing is found."""
    user, address = await _user(request, form), _address(form)
    context: dict[str, Any] = {
        "sessions": [],
        "older": None,
        "newest": _link(form) if cursor is not None else None,
        "filtered": any(form[name] for name in FIELDS),
        "may_change": is_admin(request),
        "word": EVERYBODY,
        "done": what_is_done(request),
    }
    if form.is_wrong:
        return context
    wanted = Wanted(
        limit=PAGE_ROWS, user=user, device=form["device"], address=address, cursor=cursor
    )
    found = await request.app[WHO_IS_IN].page(wanted)
    older = _link(form, cursor=found.next) if found.next is not None else None
    return context | {"sessions": found.sessions, "older": older}


def _link(form: Form, **more: str) -> str:
    """The page with this question."""
    asked = {name: form[name] for name in FIELDS if form[name]} | more
    return SESSIONS_PATH + (f"?{urlencode(asked)}" if asked else "")


async def _user(request: web.Request, form: Form) -> UUID | None:
    if not form["user"]:
        return None
    found = await request.app[FIND_USERS].named(form["user"])
    if found is None:
        form.faults["user"] = NOBODY
        return None
    return found.user.subject_id


def _address(form: Form) -> str | None:
    if not form["address"]:
        return None
    try:
        return normalise_address(form["address"])
    except InvalidInput:
        form.faults["address"] = "This is no IP address."
        return None


@requires("admin")
@page
async def end_one(request: web.Request) -> web.StreamResponse:
    """End anybody's session, or a token."""
    session_id = id_in_path(request, "session_id", NO_SUCH_SESSION)
    await read_form(request)
    refuse_old_login(request)
    await request.app[ACCOUNTS].sessions.revoke_session(session_id, actor(request))
    came_from = (referring_path(request) or "").partition("?")[0]
    of_user = came_from.startswith(f"{USERS_PATH}/")
    return done(came_from if of_user else SESSIONS_PATH, "ended_one")


@requires("admin")
@page
async def end_everybody(request: web.Request) -> web.StreamResponse:
    """End everybody's sessions, now that the word has been written."""
    form = await read_form(request, "confirm", "tokens")
    refuse_old_login(request)
    if form["confirm"].strip().casefold() != EVERYBODY:
        form.faults["confirm"] = f"Write {EVERYBODY} to end all sessions."
        context = await _of_page(request, Form())
        return again(request, _TEMPLATE, form, **context)
    sessions = request.app[ACCOUNTS].sessions
    await sessions.end_everybody(actor(request), tokens=bool(form["tokens"]))
    return done(SESSIONS_PATH, "ended_everybody")


def active_page_routes() -> list[web.RouteDef]:
    """The routes of everybody's sessions."""
    return [
        web.get(SESSIONS_PATH, sessions_page),
        web.post(f"{SESSIONS_PATH}/end_everybody", end_everybody),
        web.post(f"{SESSIONS_PATH}/{{session_id:[0-9A-Fa-f-]{{36}}}}/end", end_one),
    ]
