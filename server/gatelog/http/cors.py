"""Answers that pages of other origins may read (Cross-Origin Resource Sharing, Fetch, section 3.2).

Rules:

- Exact origins and none by default; never ``*``, since credentials are allowed.
- A preflight of an allowed origin is answered before the check: a browser sends it without
  credentials (section 3.2.2). Any other goes on like every request, and its page reads nothing.
- Every answer says that it varies by ``Origin``, also to who sends none: a cache must not hand on
  what was meant for one origin to another (section 3.2.5).
- Methods and headers are not restricted here: what a request may do is the check's to say.
- An application that answers for its own resources keeps what it has set.
- The session cookie is SameSite=Lax: it goes along from another origin of the same site. A page of
  another site uses the token as Bearer.
"""

from __future__ import annotations

import re
from collections.abc import Set

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

MAX_AGE_S = 600  # how long a browser may remember a preflight's answer

_READABLE = "Retry-After, WWW-Authenticate, Preference-Applied"  # beside the safe ones
_VARY_OF_PREFLIGHT = (
    f"{hdrs.ORIGIN}, {hdrs.ACCESS_CONTROL_REQUEST_METHOD}, {hdrs.ACCESS_CONTROL_REQUEST_HEADERS}"
)
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 (RFC 9110, section 5.6.2)
_is_method = re.compile(_TOKEN).fullmatch
_is_header_list = re.compile(rf"{_TOKEN}(?:[ \t]*,[ \t]*{_TOKEN})*").fullmatch


def share(app: web.Application, origins: Set[str]) -> None:
    """Let pages of these origins read what the application answers; call it last.

    Costs nothing where there are none.
    """
    if not origins:
        return
    app.middlewares.insert(0, _answering_preflights(origins))

    async def mark(request: web.Request, response: web.StreamResponse) -> None:
        headers = response.headers
        _vary(response, hdrs.ORIGIN)
        origin = _allowed(request, origins)
        if origin is None or hdrs.ACCESS_CONTROL_ALLOW_ORIGIN in headers:
            return
        headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
        headers[hdrs.ACCESS_CONTROL_ALLOW_CREDENTIALS] = "true"
        headers.setdefault(hdrs.ACCESS_CONTROL_EXPOSE_HEADERS, _READABLE)

    app.on_response_prepare.append(mark)


def _answering_preflights(origins: Set[str]) -> Middleware:
    @web.middleware
    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        method = request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_METHOD)
        if request.method != hdrs.METH_OPTIONS or method is None:
            return await handler(request)
        names = ", ".join(request.headers.getall(hdrs.ACCESS_CONTROL_REQUEST_HEADERS, ()))
        understood = _is_method(method) and (not names or _is_header_list(names))
        if _allowed(request, origins) is None or not understood:
            return await handler(request)
        headers = {
            hdrs.ACCESS_CONTROL_ALLOW_METHODS: method,
            hdrs.ACCESS_CONTROL_MAX_AGE: str(MAX_AGE_S),
            hdrs.CACHE_CONTROL: "no-store",
            hdrs.VARY: _VARY_OF_PREFLIGHT,
        }
        if names:
            headers[hdrs.ACCESS_CONTROL_ALLOW_HEADERS] = names
        return web.Response(status=204, headers=headers)

    return answer


def _allowed(request: web.Request, origins: Set[str]) -> str | None:
    """The request's origin if its pages may read the answer; several headers are none."""
    sent = request.headers.getall(hdrs.ORIGIN, ())
    return sent[0] if len(sent) == 1 and sent[0] in origins else None


def _vary(response: web.StreamResponse, name: str) -> None:
    lines = response.headers.getall(hdrs.VARY, ())
    named = {part.strip().lower() for line in lines for part in line.split(",")}
    if not named & {"*", name.lower()}:
        response.headers[hdrs.VARY] = ", ".join([*lines, name])
