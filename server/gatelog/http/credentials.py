"""Where a request carries its token, and where a request comes from.

Rules:

- A token comes in the session cookie, in ``Authorization: Bearer``, or in both if they agree.
  A malformed cookie, or several that differ, are no credential at all: never a guess.
- A machine's token comes as a bearer and never in a cookie. One whose checksum is wrong is
  malformed.
- Other schemes of ``Authorization`` are not ours (a proxy in front may use Basic) and are passed
  over: they neither help nor harm a session cookie.
- The cookie is ``__Host-gatelog``: Secure, HttpOnly, SameSite=Lax, Path=/. Over plain HTTP, where
  peer and Host are both loopback and nothing was forwarded, it is ``gatelog`` without Secure;
  anywhere else a cookie of that name, which a neighbouring host could set, is not looked at.
- This runs on every request: the raw header is scanned for the exact name, at the start or after
  ``;`` and white space. A user agent puts one space there (RFC 6265, section 5.4), some gateways
  none. Only where a quote appears, which our cookie never has, the library's parser is asked.
- What changes something is for one's own pages: a request with a session cookie that another
  origin made a browser send is refused, a sibling subdomain's too, and so is one that a browser or
  a framework sends ahead of time, for a page that nobody may ever open.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from ipaddress import ip_address
from urllib.parse import urlsplit

from aiohttp import hdrs, web

from gatelog.errors import CrossSiteRequest, NotAuthenticated, Premature, TokenNotAllowed
from gatelog.http.settings import CONFIG
from gatelog.sessions.rules.tokens import (
    MACHINE_TOKEN,
    TOKEN_LENGTH,
    fits_checksum,
    is_machine_token,
    is_well_formed,
)
from gatelog.settings import Network

SECURE_COOKIE = "__Host-gatelog"
LOCAL_COOKIE = "gatelog"

_SECURE_PAIR = SECURE_COOKIE + "="
_LOCAL_PAIR = LOCAL_COOKIE + "="
_BEARER = "bearer"

_FORWARDING_HEADERS = (
    hdrs.FORWARDED,
    hdrs.X_FORWARDED_FOR,
    hdrs.X_FORWARDED_HOST,
    hdrs.X_FORWARDED_PROTO,
    hdrs.VIA,
    "X-Real-IP",
)
_SEC_FETCH_SITE = "Sec-Fetch-Site"
_PURPOSES = ("Sec-Purpose", "Purpose", "X-Purpose", "X-Moz")
_PREFETCH_MARKS = ("Next-Router-Prefetch", "X-Middleware-Prefetch", "X-Nuxt-Prefetch")
_DEFAULT_PORTS = {"http": 80, "https": 443}

# A header without quotes that has our cookie, well-formed, where a cookie may stand.
_only_secure_cookie = re.compile(
    rf'(?:[^"]*;[ \t]*)?{_SECURE_PAIR}([A-Za-z0-9_-]{{{TOKEN_LENGTH}}})(?:[ \t]*;[^"]*)?'
).fullmatch
# A bearer of either form, as nearly everybody writes it.
_only_bearer = re.compile(rf"Bearer ({MACHINE_TOKEN}|[A-Za-z0-9_-]{{{TOKEN_LENGTH}}})").fullmatch
_values_of = {
    pair: re.compile(rf"(?:^|;)[ \t]*{pair}([^;]*)").findall for pair in (_SECURE_PAIR, _LOCAL_PAIR)
}
_quoted = re.compile(r'"(?:[^"\\]|\\.)*"')


class UnclearCredentials(NotAuthenticated):
    """The request's credentials are malformed or contradict each other."""


def read_token(request: web.Request) -> str | None:
    """The well-formed token that the request presents, or None. Raises UnclearCredentials."""
    headers = request.headers
    lines = headers.getall(hdrs.COOKIE, None)
    if hdrs.AUTHORIZATION not in headers:
        if lines is None:
            return None
        if len(lines) == 1 and lines[0].count(_LOCAL_PAIR) == 1:
            found = _only_secure_cookie(lines[0])
            if found is not None:
                return found[1]
    elif lines is None:
        found = _only_bearer(headers[hdrs.AUTHORIZATION])
        if found is not None and len(headers.getall(hdrs.AUTHORIZATION)) == 1:
            token = found[1]
            if len(token) == TOKEN_LENGTH or fits_checksum(token):
                return token
    return _unusual_token(request, "; ".join(lines or ()))


def _unusual_token(request: web.Request, raw: str) -> str | None:
    """The token of a request that carries more than one cookie of the secure name, or a bearer."""
    token = _cookie_token(request, raw)
    bearer = _bearer_token(request.headers.getall(hdrs.AUTHORIZATION, ()))
    if token is not None and (not is_well_formed(token) or bearer not in {None, token}):
        raise UnclearCredentials()
    if bearer is not None and not is_well_formed(bearer) and not is_machine_token(bearer):
        raise UnclearCredentials()
    return bearer if token is None else token


def refuse_machine_token(request: web.Request) -> None:
    """Refuse a request that presents a machine's token, good or not. Raises TokenNotAllowed."""
    try:
        token = read_token(request)
    except UnclearCredentials:
        return
    if token is not None and is_machine_token(token):
        raise TokenNotAllowed()


def has_session_cookie(request: web.Request) -> bool:
    """Whether a session cookie comes with the request, well-formed or not."""
    lines = request.headers.getall(hdrs.COOKIE, ())
    return any(_LOCAL_PAIR in line for line in lines)  # the end of the other name, too


def _cookie_token(request: web.Request, raw: str) -> str | None:
    if _LOCAL_PAIR not in raw:
        return None
    if '"' in raw:
        return _quoted_cookie_token(request, raw)
    token, local = _only_value(raw, _SECURE_PAIR), _only_value(raw, _LOCAL_PAIR)
    if local is None or not is_local(request):
        return token
    if token is not None and local != token:
        raise UnclearCredentials()
    return local


def _only_value(raw: str, pair: str) -> str | None:
    """The value of the cookie whose ``name=`` is given. Raises UnclearCredentials for several."""
    values = {value.rstrip(" \t") for value in _values_of[pair](raw)}
    if len(values) > 1:
        raise UnclearCredentials()
    return values.pop() if values else None


def _quoted_cookie_token(request: web.Request, raw: str) -> str | None:
    """The library's reading of a header with quotes in it; the rules stay the same."""
    if len(request.headers.getall(hdrs.COOKIE)) > 1:
        raise UnclearCredentials()
    unquoted = _quoted.sub("", raw)
    names = [SECURE_COOKIE, LOCAL_COOKIE] if is_local(request) else [SECURE_COOKIE]
    for name in names:
        _only_value(unquoted, name + "=")
    tokens = {request.cookies[name] for name in names if name in request.cookies}
    if len(tokens) > 1:
        raise UnclearCredentials()
    return tokens.pop() if tokens else None


def _bearer_token(lines: Sequence[str]) -> str | None:
    if not any(line[: len(_BEARER)].lower() == _BEARER for line in lines):
        return None
    scheme, _, token = lines[0].partition(" ")
    if len(lines) > 1 or len(scheme) != len(_BEARER):
        raise UnclearCredentials()
    return token.strip(" ")


# --- where the request comes from


def is_local(request: web.Request) -> bool:
    """Whether the request came over plain HTTP from this very machine, through no proxy."""
    headers = request.headers
    return (
        request.scheme == "http"
        and _is_loopback(request.remote or "")
        and _is_loopback_host(headers.get(hdrs.HOST, ""))
        and not is_forwarded(request)
    )


def is_forwarded(request: web.Request) -> bool:
    """Whether the request came through a proxy that says so."""
    return any(name in request.headers for name in _FORWARDING_HEADERS)


@lru_cache(maxsize=256)
def _is_loopback(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False


@lru_cache(maxsize=256)
def _is_loopback_host(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    return name == "localhost" or _is_loopback(name)


def refuse_foreign(request: web.Request) -> None:
    """Refuse a request that comes ahead of time, or with our cookie from another origin.

    For requests that change something. What carries no session cookie acts in nobody's name and may
    pass. Who sends no ``Sec-Fetch-Site`` and no ``Origin`` is no browser of today (Fetch Metadata,
    section 2.1; Fetch, section 3.1), and may pass, too.
    Raises CrossSiteRequest or Premature.
    """
    headers = request.headers
    if is_premature(headers):
        raise Premature()
    if hdrs.COOKIE in headers and has_session_cookie(request):
        refuse_other_origin(request)


def refuse_other_origin(request: web.Request) -> None:
    """Refuse what another origin made a browser send, with our cookie or without.

    Raises CrossSiteRequest.
    """
    headers = request.headers
    sites = {site.strip().lower() for site in headers.getall(_SEC_FETCH_SITE, ())}
    if "cross-site" in sites:
        raise CrossSiteRequest()
    origins = headers.getall(hdrs.ORIGIN, ())
    if sites == {"same-origin"} or (sites == {"none"} and not origins):
        return  # the browser's own word; whoever is in front may have rewritten the Host
    if sites and not origins:  # a link or a form of a sibling: it says at most where it stands
        origins = [_origin_of(headers.get(hdrs.REFERER, ""))]
    if any(not _is_own(request, origin) for origin in origins):
        raise CrossSiteRequest()


def is_premature(headers: Mapping[str, str]) -> bool:
    """Whether a browser or a framework sends this for a page that may be opened later.

    ``Sec-Purpose`` is of the Fetch standard and of speculation rules (prefetch, prerender); the
    others are older browsers' and frameworks' own marks.
    """
    if any("prefetch" in headers.get(name, "").lower() for name in _PURPOSES):
        return True
    return any(name in headers for name in _PREFETCH_MARKS)


def _is_own(request: web.Request, origin: str) -> bool:
    config = request.config_dict[CONFIG]
    if origin.strip() in config.origins_trusted:
        return True
    hosts = [request.headers.get(hdrs.HOST, "")]
    if is_from_proxy(request.remote, config.trusted_networks):
        hosts += request.headers.getall(hdrs.X_FORWARDED_HOST, ())[-1:]
    return any(_is_same_host(origin, host) for host in hosts)


def is_from_proxy(peer: str | None, trusted: Iterable[Network]) -> bool:
    """Whether the connection's peer is a proxy whose word is believed."""
    try:
        address = ip_address(peer or "")
    except ValueError:
        return False
    return any(address in network for network in trusted)


def _origin_of(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}" if rest else "null"


def _is_same_host(origin: str, host: str) -> bool:
    """Whether an Origin names this Host; the scheme is the proxy's to know, not ours."""
    try:
        theirs = urlsplit(origin.strip())
        ours = urlsplit(f"//{host.strip()}")
        default = _DEFAULT_PORTS.get(theirs.scheme)
        same_port = (theirs.port or default) == (ours.port or default)
    except ValueError:
        return False
    return default is not None and theirs.hostname == ours.hostname and same_port
