"""Making an account: the first one, which administers, and everybody's where that is open.

Rules:

- The first account is made from this machine, or with the setup code that the service prints while
  nobody has one; nobody else becomes an administrator by being first.
- "From this machine" is what the connection says, and what the browser says as well: a proxy on
  this machine that adds no header of its own would else speak for everybody behind it. Where
  proxies are configured, or the service has a public address elsewhere, the code is needed.
- Who has made an account is signed in with it. Where that does not work at once, the account is
  there all the same, and they sign in by the form.
"""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import urlsplit

from aiohttp import HttpVersion11, hdrs, web

from gatelog.accounts.rules.credentials import normalise_login
from gatelog.accounts.web import ACCOUNTS
from gatelog.accounts.web.devices import device_tokens
from gatelog.config import Config
from gatelog.errors import Forbidden, GatelogError, RegistrationClosed
from gatelog.http.caller import caller_of
from gatelog.http.credentials import is_local
from gatelog.http.guard import public
from gatelog.http.settings import CONFIG
from gatelog.pages.door import HOME_PATH, LOGIN_PATH, page
from gatelog.pages.forms import Form, again, onward, read_form
from gatelog.pages.layout import show, visitor
from gatelog.pages.sign_in import signed_in

REGISTER_PATH: Final = "/register"
FIRST_PATH: Final = "/first"
_LOOPBACK: Final = {"localhost", "127.0.0.1", "::1"}


# --- the first account


@public
@page
async def first_page(request: web.Request) -> web.StreamResponse:
    """The form for the first account, while there is none."""
    if await request.app[ACCOUNTS].first_run.is_over():
        return onward("/")
    return show(request, "first.html", form=Form(), **_of_first(request))


@public
@page
async def make_first(request: web.Request) -> web.StreamResponse:
    """Make the first account, which administers, and sign in with it."""
    form = await read_form(request, "login", "password", "code")
    context = _of_first(request)
    form.check("login", normalise_login)
    if form.is_wrong:
        return again(request, "first.html", form, **context)
    try:
        await request.app[ACCOUNTS].first_run.make_admin(
            form["login"],
            form["password"],
            caller_of(request).client,
            code=form["code"] if context["code_needed"] else None,
        )
    except RegistrationClosed:
        return onward("/")
    except Forbidden as error:
        return again(request, "first.html", form, error, at="code", **context)
    except GatelogError as error:
        return again(request, "first.html", form, error, **context)
    return await _signed_in_with(request, form)


def _of_first(request: web.Request) -> dict[str, Any]:
    config = request.app[CONFIG]
    needed = not is_asked_here(config, request)
    return {"code_needed": needed, "min_length": config.password_min_length}


def is_asked_here(config: Config, request: web.Request) -> bool:
    """Whether the browser of somebody at this machine asks, through no proxy."""
    headers = request.headers
    if config.trusted_proxies or request.version < HttpVersion11 or not is_local(request):
        return False
    said = [config.public_url, headers.get(hdrs.ORIGIN, ""), headers.get(hdrs.REFERER, "")]
    return all(not each or _host(each) in _LOOPBACK for each in said)


def _host(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


# --- everybody's


@public
@page
async def register_page(request: web.Request) -> web.StreamResponse:
    """The form for an account of one's own; that of the first one, where that is all there is.

    Raises RegistrationClosed.
    """
    await _refuse_closed(request)
    if request.app[CONFIG].registration == "first":
        return onward(FIRST_PATH)
    await visitor(request)
    return show(request, "register.html", form=Form(), **_of_registering(request))


@public
@page
async def register(request: web.Request) -> web.StreamResponse:
    """Make an account, and sign in with it."""
    form = await read_form(request, "login", "password")
    form.check("login", normalise_login)
    context = _of_registering(request)
    if form.is_wrong:
        return again(request, "register.html", form, **context)
    try:
        await request.app[ACCOUNTS].logins.register(
            form["login"], form["password"], caller_of(request).client
        )
    except GatelogError as error:
        return again(request, "register.html", form, error, **context)
    return await _signed_in_with(request, form)


async def _refuse_closed(request: web.Request) -> None:
    """Raises RegistrationClosed, as registering itself would."""
    registration = request.app[CONFIG].registration
    if registration == "closed":
        raise RegistrationClosed("Ask whoever runs this service for an account.")
    if registration == "first" and await request.app[ACCOUNTS].first_run.is_over():
        raise RegistrationClosed("Registration was open for the first user only.")


def _of_registering(request: web.Request) -> dict[str, Any]:
    return {"min_length": request.app[CONFIG].password_min_length}


async def _signed_in_with(request: web.Request, form: Form) -> web.StreamResponse:
    """Signed in with the account that has just been made; else to the form."""
    caller = caller_of(request)
    try:
        grant = await request.app[ACCOUNTS].logins.log_in(
            form["login"],
            form["password"],
            caller.client,
            device_tokens(request, caller),
            over=caller.digest if caller.by_cookie else None,
        )
    except GatelogError:
        return onward(LOGIN_PATH)
    return signed_in(request, grant, HOME_PATH)


def join_routes() -> list[web.RouteDef]:
    """The routes of making accounts."""
    return [
        web.get(FIRST_PATH, first_page),
        web.post(FIRST_PATH, make_first),
        web.get(REGISTER_PATH, register_page),
        web.post(REGISTER_PATH, register),
    ]
