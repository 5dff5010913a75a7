"""My data: take it along, or have it forgotten."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from gatelog.accounts.web.own import erased
from gatelog.audit.web.own_export import own_export
from gatelog.errors import GatelogError, RecentLoginRequired
from gatelog.http.answers import forget_session_cookie
from gatelog.http.caller import caller_of
from gatelog.pages.door import HOME_PATH, login_path, page
from gatelog.pages.forms import Form, again, onward, read_form
from gatelog.pages.layout import show

DATA_PATH: Final = f"{HOME_PATH}/data"
_TEMPLATE: Final = "account/data.html"


@page
async def data_page(request: web.Request) -> web.StreamResponse:
    """What one may do with one's data."""
    return show(request, _TEMPLATE, form=Form())


@page
async def download(request: web.Request) -> web.StreamResponse:
    """All of it, as the API gives it; who signed in too long ago does so, and comes back here."""
    try:
        return await own_export(request)
    except RecentLoginRequired as error:
        return onward(login_path(DATA_PATH, error.code))


@page
async def erase(request: web.Request) -> web.StreamResponse:
    """Forget me for good, now that I have written my login once more."""
    form = await read_form(request, "login")
    try:
        await erased(request, form["login"])
    except GatelogError as error:
        at = "login" if error.code == "invalid_input" else None
        return again(request, _TEMPLATE, form, error, at=at)
    response = onward("/")
    forget_session_cookie(response, caller_of(request))
    return response


def data_routes() -> list[web.RouteDef]:
    """The routes of one's data."""
    return [
        web.get(DATA_PATH, data_page),
        web.get(f"{DATA_PATH}/download", download),
        web.post(f"{DATA_PATH}/erase", erase),
    ]
