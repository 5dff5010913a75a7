"""The mark of a page's handler, and what becomes of errors for a person.

Rules:

- A browser's navigation (``http.login_redirect.is_navigation``) without a session is sent to sign
  in, and back; so is one whose session must be fresher or must have begun by a second factor. Any
  other error is a page with the same status, code and headers.
- Whatever else asks, a program or a page's own script, gets the problem document.
- A machine's token opens no page.
- The way back is a path of this origin (``own_path``). Where a form was sent, it is the page on
  which the form stood.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, TypeVar, cast
from urllib.parse import quote, urlsplit

import msgspec
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from gatelog.errors import FactorLoginRequired, NotAuthenticated, RecentLoginRequired
from gatelog.http.answers import keep_private
from gatelog.http.guard import AROUND, Door, no_tokens
from gatelog.http.login_redirect import MAX_RETURN_CHARS, RETURN_PARAMETER, is_navigation
from gatelog.http.problems import CONTENT_TYPE, Problem
from gatelog.pages.headers import secure
from gatelog.pages.layout import show

HandlerT = TypeVar("HandlerT", bound=Callable[..., Any])

LOGIN_PATH: Final = "/login"
HOME_PATH: Final = "/account"
WHY_PARAMETER: Final = "why"  # the code of what asks for a login
_SIGN_IN_FIRST: Final = {
    error.code for error in (NotAuthenticated, RecentLoginRequired, FactorLoginRequired)
}
VARY: Final = f"Sec-Fetch-Mode, {hdrs.ACCEPT}"

# printable ASCII without quotes and backslashes; what begins with // would be another host
_is_path = re.compile(r"/(?!/)[!#-&(-\[\]-~]*").fullmatch
_decode = msgspec.json.Decoder(Problem).decode


def page(handler: HandlerT) -> HandlerT:
    """Mark a handler as a page's, or as a form's: a person gets pages of it, errors as well."""
    no_tokens(handler)
    setattr(handler, AROUND, for_people)
    return handler


def for_people(_: Door, checked: Handler) -> Handler:
    """The checked handler, with pages and headers for people around what it answers."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = await checked(request)
        if response.prepared:
            return response
        if response.content_type == CONTENT_TYPE:
            if not is_navigation(request.headers):
                return response
            response = _for_person(request, cast(web.Response, response))
        response.headers.add(hdrs.VARY, VARY)
        secure(request, response)
        return response

    return answer


def _for_person(request: web.Request, response: web.Response) -> web.Response:
    """The page in place of this problem document."""
    problem = _decode(cast(bytes, response.body))
    if response.status == 401 and problem.code in _SIGN_IN_FIRST:
        shown = web.Response(status=303)
        shown.headers[hdrs.LOCATION] = login_path(_way_back(request), problem.code)
        keep_private(shown)
        return shown
    shown = show(request, "error.html", status=response.status, problem=problem)
    for name in (hdrs.RETRY_AFTER, hdrs.ALLOW, hdrs.SET_COOKIE):
        for value in response.headers.getall(name, ()):
            shown.headers.add(name, value)
    return shown


def login_path(back: str, why: str = "") -> str:
    """The page to sign in, which leads back there. ``why``: the code of what asks for it."""
    asked = [f"{RETURN_PARAMETER}={quote(back, safe='')}"] if back != HOME_PATH else []
    if why and why != NotAuthenticated.code:
        asked.append(f"{WHY_PARAMETER}={why}")
    return LOGIN_PATH + ("?" + "&".join(asked) if asked else "")


def own_path(text: str) -> str | None:
    """The path, with its query, if it is one of this origin's to any browser; else None."""
    usable = len(text) <= MAX_RETURN_CHARS and _is_path(text) is not None
    return text if usable else None


def _way_back(request: web.Request) -> str:
    """Where the person is to come back to: this page, or that of the form."""
    if request.method in {hdrs.METH_GET, hdrs.METH_HEAD}:
        return own_path(request.raw_path) or HOME_PATH
    return referring_path(request) or HOME_PATH


def referring_path(request: web.Request) -> str | None:
    """The page of this origin on which a link or a form stood, if the browser says so."""
    try:
        parts = urlsplit(request.headers.get(hdrs.REFERER, ""))
    except ValueError:
        return None
    if parts.netloc.lower() != request.headers.get(hdrs.HOST, "").lower() or not parts.netloc:
        return None
    return own_path(parts.path + (f"?{parts.query}" if parts.query else ""))
