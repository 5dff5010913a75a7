"""Signing in and out: the password, the second factor after it, and the way back.

Rules:

- Where somebody comes back to is a path of this origin, or an address that forward-auth would send
  a browser back to (``http.login_redirect.checked_address``); anything else is home. It
  travels in the form, and is checked again when the form is sent.
- Who is signed in already is not signed in anew, unless something asks for it; and is not sent on
  to another origin without a click, so that two services never send a browser to and fro.
- Signing out is a form: nothing that a link, a picture or a prefetch could do.
"""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
from aiohttp import hdrs, web

from gatelog.accounts.service.logins import Grant
from gatelog.accounts.service.second_steps import FactorAnswer
from gatelog.accounts.web import ACCOUNTS
from gatelog.accounts.web.devices import device_tokens
from gatelog.accounts.web.logins import give_cookies
from gatelog.config import Config
from gatelog.errors import (
    ChallengeOver,
    FactorLoginRequired,
    FactorRequired,
    GatelogError,
    InvalidInput,
    RecentLoginRequired,
)
from gatelog.http.answers import forget_session_cookie
from gatelog.http.caller import caller_of
from gatelog.http.guard import public
from gatelog.http.login_redirect import RETURN_PARAMETER, checked_address
from gatelog.http.settings import CONFIG
from gatelog.pages.door import HOME_PATH, LOGIN_PATH, WHY_PARAMETER, own_path, page
from gatelog.pages.forms import Form, again, onward, read_form
from gatelog.pages.headers import policy
from gatelog.pages.layout import show, visitor

FACTOR_PATH: Final = f"{LOGIN_PATH}/factor"
LOGOUT_PATH: Final = "/logout"
MEANS: Final = ("totp", "passkey", "recovery_code")
_WHY: Final = {
    RecentLoginRequired.code: "For this you must have signed in within the last minutes.",
    FactorLoginRequired.code: "This takes a second factor: sign in again, with it.",
    "another": "Sign in with the other account: you are signed out of this one then.",
}
_encode = msgspec.json.Encoder().encode


def way_back(config: Config, text: str) -> str:
    """Where to go after signing in: this address; else the reader's own page, or the root of the
    host whose login page this is (``GATELOG_LOGIN_URL``)."""
    path = own_path(text)
    if path is not None:
        return path
    home = "/" if config.login_url else HOME_PATH
    scheme, _, rest = text.partition("://")
    host, slash, path = rest.partition("/")
    address = checked_address(config.hosts_returned_to, scheme, host, slash + path)
    return address if address is not None else home


def _form_page(response: web.Response, back: str) -> web.Response:
    """The page with its form, which may lead to the origin of the way back."""
    if not back.startswith("/"):
        parts = urlsplit(back)
        origin = f"{parts.scheme}://{parts.netloc}"
        response.headers[hdrs.CONTENT_SECURITY_POLICY] = policy(origin)
    return response


def _context(request: web.Request, back: str) -> dict[str, Any]:
    config = request.app[CONFIG]
    return {
        "back": back,
        "passkeys": bool(config.public_url),
        "registration": config.registration == "open",
        "recovery": config.mails,
        "why": _WHY.get(request.query.get(WHY_PARAMETER, ""), ""),
    }


@public
@page
async def sign_in_page(request: web.Request) -> web.StreamResponse:
    """The form; who is signed in already goes on."""
    back = way_back(request.app[CONFIG], request.query.get(RETURN_PARAMETER, ""))
    context = _context(request, back)
    if await visitor(request) is not None and not context["why"]:
        if back.startswith("/"):
            return onward(back)
        return show(request, "signed_in.html", back=back)
    return _form_page(show(request, "login.html", form=Form(), **context), back)


@public
@page
async def sign_in(request: web.Request) -> web.StreamResponse:
    """Start a session by password, or ask for the factor that it takes."""
    form = await read_form(request, "login", "password", RETURN_PARAMETER)
    back, caller = way_back(request.app[CONFIG], form[RETURN_PARAMETER]), caller_of(request)
    try:
        grant = await request.app[ACCOUNTS].logins.log_in(
            form["login"],
            form["password"],
            caller.client,
            device_tokens(request, caller),
            over=caller.digest if caller.by_cookie else None,
        )
    except FactorRequired as required:
        return _ask_for_factor(request, required, back)
    except GatelogError as error:
        at = "login" if isinstance(error, InvalidInput) else None
        response = again(request, "login.html", form, error, at=at, **_context(request, back))
        return _form_page(response, back)
    return signed_in(request, grant, back)


def _ask_for_factor(request: web.Request, required: FactorRequired, back: str) -> web.Response:
    asked = _encode(required.passkey).decode() if required.passkey is not None else ""
    form = Form({"challenge": required.challenge, "asked": asked})
    response = show(
        request, "login_factor.html", form=form, back=back, means=frozenset(required.means)
    )
    return _form_page(response, back)


@public
@page
async def answer_factor(request: web.Request) -> web.StreamResponse:
    """Answer by code what was asked after the password. (A passkey is for ``passkeys.js``.)"""
    form = await read_form(
        request, "challenge", "code", "recovery_code", "asked", RETURN_PARAMETER, lists=("means",)
    )
    back, caller = way_back(request.app[CONFIG], form[RETURN_PARAMETER]), caller_of(request)
    code, recovery_code = form["code"].replace(" ", ""), form["recovery_code"].strip()
    try:
        if bool(code) == bool(recovery_code):
            raise InvalidInput("Write the code of your authenticator, or a recovery code.")
        grant = await request.app[ACCOUNTS].second_steps.log_in(
            form["challenge"],
            FactorAnswer(code=code) if code else FactorAnswer(recovery_code=recovery_code),
            caller.client,
            device_tokens(request, caller),
            over=caller.digest if caller.by_cookie else None,
        )
    except ChallengeOver as error:
        response = again(request, "login.html", Form(), error, **_context(request, back))
        return _form_page(response, back)
    except GatelogError as error:
        at = "recovery_code" if recovery_code and not code else "code"
        means = frozenset(form.all("means")) & frozenset(MEANS)
        response = again(request, "login_factor.html", form, error, at=at, back=back, means=means)
        return _form_page(response, back)
    return signed_in(request, grant, back)


def signed_in(request: web.Request, grant: Grant, back: str) -> web.StreamResponse:
    """On to where they come from, with the session."""
    response = onward(back)
    give_cookies(response, request, caller_of(request), grant)
    return response


@public
@page
async def sign_out(request: web.Request) -> web.StreamResponse:
    """End the session of this browser; answered when no replica accepts it any more."""
    await read_form(request)
    caller = caller_of(request)
    if caller.digest is not None:
        await request.app[ACCOUNTS].sessions.log_out(caller.digest, caller.client)
    response = onward("/")
    forget_session_cookie(response, caller)
    return response


def sign_in_routes() -> list[web.RouteDef]:
    """The routes of signing in and out."""
    return [
        web.get(LOGIN_PATH, sign_in_page),
        web.post(LOGIN_PATH, sign_in),
        web.post(FACTOR_PATH, answer_factor),
        web.post(LOGOUT_PATH, sign_out),
    ]
