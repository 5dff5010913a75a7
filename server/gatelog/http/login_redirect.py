"""Where a browser without a session is sent to log in, and where it is to come back to.

Rules:

- Only a navigation is sent anywhere: ``Sec-Fetch-Mode: navigate`` (Fetch Metadata, section 2.3), or
  ``Accept: text/html`` where that header is missing. Everything else gets the 401 itself.
- Only a 401 becomes a redirect. Who is logged in and lacks a role gets 403, so there is no loop.
- What a proxy says of the request (``X-Forwarded-Proto``, ``-Host``, ``-Uri``, ``-Method``) is
  believed of a trusted proxy alone, and only where each comes once. Else nobody is sent back.
- The return address is put together of checked parts: a host that the configuration names, or the
  login page's own, and a path. Whatever a browser may read otherwise (a backslash, a control
  character, ``//`` at the start, user information) means no return address, never a cleaned one.
- A proxy that passes on nothing but 401 and 403 (nginx ``auth_request``) asks with
  ``?login=header``: the address comes in a header of the 401 then.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote, urlsplit

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler
from multidict import istr

from gatelog.config import Config
from gatelog.http.credentials import is_from_proxy
from gatelog.http.guard import Door
from gatelog.http.problems import VARY_BY_CREDENTIALS

LOGIN_HEADER: Final = istr("X-Gatelog-Login")
LOGIN_PARAMETER: Final = "login"
RETURN_PARAMETER: Final = "return_to"
MAX_RETURN_CHARS = 2048  # a longer address is not brought back to

_SEC_FETCH_MODE = "Sec-Fetch-Mode"
_X_FORWARDED_URI = "X-Forwarded-Uri"
_X_FORWARDED_METHOD = "X-Forwarded-Method"
_VARY = f"{VARY_BY_CREDENTIALS}, {_SEC_FETCH_MODE}, {hdrs.ACCEPT}"

_is_host = re.compile(
    r"(?:[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?"
).fullmatch
_is_path = re.compile(
    r"/(?![/\\])[!#-\[\]-~]*"
).fullmatch  # printable ASCII, no quote, no backslash


def sent_to_login(door: Door, checked: Handler) -> Handler:
    """The checked handler; a navigation that it answers 401 is sent to the login page."""
    config = door.config
    if not config.login_url:
        return checked

    async def answer(request: web.Request) -> web.StreamResponse:
        response = await checked(request)
        if response.status != 401:
            return response
        if not is_navigation(request.headers):
            return response
        location = login_address(config, request)
        if request.query.getall(LOGIN_PARAMETER, ()) == ["header"]:
            response.headers[LOGIN_HEADER] = location
            response.headers[hdrs.VARY] = _VARY
            return response
        headers = {hdrs.LOCATION: location, hdrs.CACHE_CONTROL: "no-store", hdrs.VARY: _VARY}
        return web.Response(status=303, headers=headers)

    return answer


def is_navigation(headers: Mapping[str, str]) -> bool:
    """Whether a browser asks for a page to show, by its own word."""
    mode = headers.get(_SEC_FETCH_MODE)
    if mode is not None:
        return mode == "navigate"
    kinds = headers.get(hdrs.ACCEPT, "").lower().split(",")
    return any(kind.partition(";")[0].strip() == "text/html" for kind in kinds)


def login_address(config: Config, request: web.Request) -> str:
    """The login page, with the address to come back to where there is one to trust."""
    back = None
    if is_from_proxy(request.remote, config.trusted_networks):
        back = return_address(config, request)
    if back is None:
        return config.login_url
    joint = "&" if "?" in config.login_url else "?"
    return f"{config.login_url}{joint}{RETURN_PARAMETER}={quote(back, safe='')}"


def return_address(config: Config, request: web.Request) -> str | None:
    """The address that the trusted proxy was asked for; None if it may not be returned to."""
    said = []
    for name in (hdrs.X_FORWARDED_PROTO, hdrs.X_FORWARDED_HOST, _X_FORWARDED_URI):
        values = request.headers.getall(name, ())
        if len(values) != 1:
            return None
        said.append(values[0])
    if request.headers.get(_X_FORWARDED_METHOD, hdrs.METH_GET) != hdrs.METH_GET:
        return None  # a form's answer cannot be asked for again
    return checked_address(config.hosts_returned_to, *said)


def checked_address(hosts: frozenset[str], scheme: str, host: str, path: str) -> str | None:
    """The address of these parts; None if they are not exactly one to one of these hosts."""
    host = host.lower()
    if scheme not in {"http", "https"} or host not in hosts or not _is_host(host):
        return None
    address = f"{scheme}://{host}{path}"
    if not _is_path(path) or len(address) > MAX_RETURN_CHARS or urlsplit(address).netloc != host:
        return None
    return address
