"""My account: who I am here, where I am signed in, and my password.

Rules: what ends a session other than this one takes a recent sign-in, as the API does
(``refuse_old_login``); the name of a device takes none.
"""

from __future__ import annotations

from typing import Any, Final

from aiohttp import web

from gatelog.accounts.web import ACCOUNTS
from gatelog.accounts.web.devices import device_tokens
from gatelog.accounts.web.logins import give_cookies
from gatelog.errors import GatelogError, InvalidCredentials, InvalidInput
from gatelog.http.answers import forget_session_cookie
from gatelog.http.bodies import id_in_path
from gatelog.http.caller import caller_of
from gatelog.http.guard import SESSION
from gatelog.http.roles import refuse_old_login
from gatelog.http.settings import CONFIG
from gatelog.pages.door import HOME_PATH, page
from gatelog.pages.forms import Form, again, onward, read_form
from gatelog.pages.layout import show

PASSWORD_PATH: Final = f"{HOME_PATH}/password"
SESSIONS_PATH: Final = f"{HOME_PATH}/sessions"
NO_SUCH_SESSION: Final = "You have no such session."
DONE_PARAMETER: Final = "done"  # what a form has done, told on the page that comes after it
_ID: Final = "[0-9A-Fa-f-]{36}"


def done(path: str, what: str) -> web.Response:
    """On to this page, which says what has been done."""
    return onward(f"{path}?{DONE_PARAMETER}={what}")


def what_is_done(request: web.Request) -> str:
    """What the form before has done, as a word that templates know; anybody may have written it."""
    return request.query.get(DONE_PARAMETER, "")


# --- sessions


@page
async def account(request: web.Request) -> web.StreamResponse:
    """Who I am here, and where I am signed in."""
    return show(request, "account/sessions.html", form=Form(), **await _of_account(request))


async def _of_account(request: web.Request) -> dict[str, Any]:
    here, accounts = request[SESSION], request.app[ACCOUNTS]
    described = await accounts.sessions.described(here.subject_id)
    newest_first = sorted(described, key=lambda each: each.session.started_at, reverse=True)
    current = [each for each in newest_first if each.session.session_id == here.session_id]
    others = [each for each in newest_first if each.session.session_id != here.session_id]
    return {
        "login": await accounts.users.login_of(here.subject_id),
        "current": current,
        "others": others,
        "done": what_is_done(request),
        "named": None,
    }


@page
async def name_session(request: web.Request) -> web.StreamResponse:
    """Give one of my sessions a name; an empty one takes it away."""
    session_id = id_in_path(request, "session_id", NO_SUCH_SESSION)
    form = await read_form(request, "name")
    sessions = request.app[ACCOUNTS].sessions
    try:
        await sessions.rename(request[SESSION], session_id, form["name"].strip() or None)
    except InvalidInput as error:
        context = await _of_account(request) | {"named": session_id}
        return again(request, "account/sessions.html", form, error, at="name", **context)
    return done(HOME_PATH, "named")


@page
async def end_session(request: web.Request) -> web.StreamResponse:
    """End one of my sessions; with this one, I am signed out."""
    session_id = id_in_path(request, "session_id", NO_SUCH_SESSION)
    await read_form(request)
    here, caller = request[SESSION], caller_of(request)
    if session_id != here.session_id:
        refuse_old_login(request)
    await request.app[ACCOUNTS].sessions.end_session(here, session_id, caller.client)
    if session_id != here.session_id:
        return done(HOME_PATH, "ended")
    response = onward("/")
    forget_session_cookie(response, caller)
    return response


@page
async def end_others(request: web.Request) -> web.StreamResponse:
    """End all of my sessions but this one."""
    await read_form(request)
    refuse_old_login(request)
    sessions = request.app[ACCOUNTS].sessions
    await sessions.end_others(request[SESSION], caller_of(request).client)
    return done(HOME_PATH, "ended_others")


# --- the password


@page
async def password_page(request: web.Request) -> web.StreamResponse:
    """The form for another password."""
    return show(request, "account/password.html", form=Form(), **await _of_password(request))


async def _of_password(request: web.Request) -> dict[str, Any]:
    login = await request.app[ACCOUNTS].users.login_of(request[SESSION].subject_id)
    return {"login": login, "min_length": request.app[CONFIG].password_min_length}


@page
async def change_password(request: web.Request) -> web.StreamResponse:
    """Replace the password and every session; this browser gets a fresh one."""
    form = await read_form(request, "current_password", "new_password", "login")
    caller = caller_of(request)
    try:
        grant = await request.app[ACCOUNTS].logins.change_password(
            request[SESSION],
            form["current_password"],
            form["new_password"],
            caller.client,
            device_tokens(request, caller),
        )
    except GatelogError as error:
        at = {InvalidCredentials.code: "current_password", InvalidInput.code: "new_password"}
        context = await _of_password(request)
        page_again = "account/password.html"
        return again(request, page_again, form, error, at=at.get(error.code), **context)
    response = done(HOME_PATH, "password")
    give_cookies(response, request, caller, grant)
    return response


def account_routes() -> list[web.RouteDef]:
    """The routes of sessions and of the password."""
    session = f"{SESSIONS_PATH}/{{session_id:{_ID}}}"
    return [
        web.get(HOME_PATH, account),
        web.post(f"{session}/name", name_session),
        web.post(f"{session}/end", end_session),
        web.post(f"{SESSIONS_PATH}/end_others", end_others),
        web.get(PASSWORD_PATH, password_page),
        web.post(PASSWORD_PATH, change_password),
    ]
