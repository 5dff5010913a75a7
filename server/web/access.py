"""Who may reach a handler: the one middleware.

Rules:

- Every handler is protected unless it is marked ``@public``; a mark on a class does not reach its
  subclasses. What is neither routed nor allowed is answered 404 or 405 without any look-up.
- A handler reads ``request[SESSION]``; that costs no more than the reading.
- A session is checked from memory without an ``await`` where memory can know, else by the primary.
- What was answered for a session is not for caches: ``Cache-Control: no-store`` (unless the
  handler has set its own) and ``Vary``. A handler that streams calls ``keep_private`` itself
  before it prepares its response.
- A request that changes something and carries a session cookie is refused if it comes from
  another site. A handler of GET that changes something is marked ``@changes_state``.
- Every error leaves as a problem document.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from server.core.errors import GatelogError
from server.core.sessions import Session
from server.core.tokens import token_digest
from server.service.gate import Gate
from server.web.credentials import UnclearCredentials, read_token, refuse_cross_site
from server.web.problems import (
    NO_CREDENTIALS,
    NO_SESSION,
    UNCLEAR_CREDENTIALS,
    VARY_BY_CREDENTIALS,
    http_problem,
    internal_error,
    problem,
)

SESSION: Final = web.RequestKey("session", Session)

MarkedT = TypeVar("MarkedT", bound=Callable[..., Any])

_PUBLIC = "gatelog_public"
_CHANGES_STATE = "gatelog_changes_state"
_SAFE_METHODS = frozenset({hdrs.METH_GET, hdrs.METH_HEAD, hdrs.METH_OPTIONS, hdrs.METH_TRACE})


def public(handler: MarkedT) -> MarkedT:
    """Mark a handler that answers without a session."""
    setattr(handler, _PUBLIC, True)
    return handler


def changes_state(handler: MarkedT) -> MarkedT:
    """Mark a handler that changes something although its method says that it is safe."""
    setattr(handler, _CHANGES_STATE, True)
    return handler


class Door:
    """What the middleware needs while the application runs; ``gate`` is there from its start."""

    __slots__ = ("gate",)

    gate: Gate


def session_check(door: Door, now_ns: Callable[[], int] = time.time_ns) -> Middleware:
    """The middleware that lets a request through to its handler, or answers in its place.

    ``now_ns`` is the wall clock, which session lifetimes are measured by.
    """

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            marks = handler.__dict__
            if request.method not in _SAFE_METHODS or _CHANGES_STATE in marks:
                refuse_cross_site(request)
            if _PUBLIC in marks:
                return await handler(request)
            unrouted = request.match_info.http_exception
            if unrouted is not None:
                raise unrouted
            token = read_token(request)
            if token is None:
                return NO_CREDENTIALS.response()
            digest = token_digest(token)
            session = door.gate.peek(digest)
            if session is None:
                session = await door.gate.find(digest) or False
            if session is False or session.expires_us <= now_ns() // 1000:
                return NO_SESSION.response()
            request[SESSION] = session
            response = await handler(request)
            keep_private(response)
            return response
        except Exception as error:
            return _answer(request, error)

    return check


def _answer(request: web.Request, error: Exception) -> web.StreamResponse:
    """The response to what a handler raised; raises it again where none can be sent."""
    gone = isinstance(error, ConnectionError) and request.transport is None
    if gone or request.writer.output_size > 0:
        raise error
    if isinstance(error, UnclearCredentials):
        return UNCLEAR_CREDENTIALS.response()
    if isinstance(error, GatelogError):
        return problem(error)
    if isinstance(error, web.HTTPException):
        if SESSION in request:
            keep_private(error)
        response = http_problem(error)
        if response is None:
            raise error
        return response
    return internal_error(error)


def keep_private(response: web.StreamResponse) -> None:
    """Keep what was answered for one session out of every cache."""
    headers = response.headers
    headers.setdefault(hdrs.CACHE_CONTROL, "no-store")
    if headers.setdefault(hdrs.VARY, VARY_BY_CREDENTIALS) != VARY_BY_CREDENTIALS:
        headers.add(hdrs.VARY, VARY_BY_CREDENTIALS)
