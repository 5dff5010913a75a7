"""Who may reach a handler: the check before each of them.

It is a middleware in all but its place: aiohttp puts an application's middlewares together anew
for every request, which costs as much as the check itself. So the check is bound to every handler
once, when the application is built, and an application does not start with a handler without it.

Rules:

- Every handler is protected unless it is marked ``@public``; a mark on a class does not reach its
  subclasses. What is neither routed nor allowed is answered 404 or 405 without any look-up.
- A handler reads ``request[SESSION]``; that costs no more than the reading.
- A session is checked from memory without an ``await`` where memory can know, else by the primary.
- What was answered for a session is not for caches: ``Cache-Control: no-store`` (unless the
  handler has set its own) and ``Vary``. A handler that streams calls ``keep_private`` itself
  before it prepares its response.
- A request that changes something and carries a session cookie is refused if it comes from
  another origin, and any is that comes ahead of time. A handler of GET that changes something is
  marked ``@changes_state``, one that changes nothing by any method ``@changes_nothing``.
- A handler that is marked ``@no_tokens`` is for who has logged in: a machine's token is answered
  403 there.
- A WebSocket's handshake is a GET that a page of any origin may send with the cookie (RFC 6455,
  section 10.2), so it is refused like a request that changes something.
- Every error leaves as a problem document; what looks like an attack leaves a line in the log
  (``gatelog.http.refusals``).
"""

from __future__ import annotations

from collections.abc import Callable, Container
from functools import wraps
from time import perf_counter
from typing import Any, Final, Literal, TypeVar, cast

from aiohttp import HttpVersion11, hdrs, web
from aiohttp.abc import AbstractView
from aiohttp.typedefs import Handler, Middleware

from gatelog.config import Config
from gatelog.errors import ExpectationFailed, GatelogError, RequestTimedOut, TokenNotAllowed
from gatelog.http.answers import keep_private
from gatelog.http.bodies import SlowBody
from gatelog.http.credentials import (
    UnclearCredentials,
    read_token,
    refuse_foreign,
    refuse_machine_token,
)
from gatelog.http.described import NO_TOKENS
from gatelog.http.problems import (
    NO_CREDENTIALS,
    NO_SESSION,
    UNCLEAR_CREDENTIALS,
    http_problem,
    internal_error,
    problem,
)
from gatelog.http.refusals import refusals_here
from gatelog.sessions.rules.record import Session
from gatelog.sessions.rules.tokens import token_digest
from gatelog.sessions.service.gate import Gate, Peek
from gatelog.sessions.service.metrics import REPLICA_TIME

SESSION: Final = web.RequestKey("session", Session)

MarkedT = TypeVar("MarkedT", bound=Callable[..., Any])

_PUBLIC = "gatelog_public"
_CHANGES_STATE = "gatelog_changes_state"
_CHANGES_NOTHING = "gatelog_changes_nothing"
_GUARDED = "gatelog_guarded"
AROUND: Final = "gatelog_around"  # a mark: what wraps the check, to see a 401 that it makes
_SAFE_METHODS = frozenset({hdrs.METH_GET, hdrs.METH_HEAD, hdrs.METH_OPTIONS, hdrs.METH_TRACE})


def public(handler: MarkedT) -> MarkedT:
    """Mark a handler, or a view, that answers without a session: to everybody.

    A mark on a class does not reach its subclasses.
    """
    setattr(handler, _PUBLIC, True)
    return handler


def changes_state(handler: MarkedT) -> MarkedT:
    """Mark a handler that changes something although its method says that it is safe (RFC 9110,
    section 9.2.1).

    A request to it that carries a session cookie and comes from another site is refused.
    """
    setattr(handler, _CHANGES_STATE, True)
    return handler


def changes_nothing(handler: MarkedT) -> MarkedT:
    """Mark a handler that changes nothing, whatever its method says.

    No request to it is refused for coming from another site.
    """
    setattr(handler, _CHANGES_NOTHING, True)
    return handler


def no_tokens(handler: MarkedT) -> MarkedT:
    """Mark a handler, or a view, that a token for a machine may not use, whatever its roles are.

    It is answered 403 with the code ``token_not_allowed``. A mark on a class does not reach its
    subclasses.
    """
    setattr(handler, NO_TOKENS, True)
    return handler


class Door:
    """What the check needs while the application runs: the gate, from its start on."""

    __slots__ = ("_untimed", "config", "find", "peek")

    config: Config  # a shortcut past the routes does not know its application
    peek: Peek

    def open(self, gate: Gate) -> None:
        self.peek = self._untimed = gate.peek
        self.find = gate.find

    def time_next(self) -> None:
        """Note how long memory takes for the next check; the others pay nothing for it."""
        self.peek = self._timed

    def _timed(self, digest: bytes) -> Session | Literal[False] | None:
        self.peek = self._untimed
        began = perf_counter()
        known = self._untimed(digest)
        took_s = perf_counter() - began
        if known is not None:
            REPLICA_TIME.observe(took_s)
        return known


async def expected(request: web.Request) -> web.StreamResponse | None:
    """Answer ``Expect`` (RFC 9110, section 10.1.1): 100 to who waits for it, else 417."""
    value = request.headers.get(hdrs.EXPECT, "")
    if value.lower() != "100-continue":
        return problem(ExpectationFailed())
    if request.version == HttpVersion11:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # the answer itself has not begun
    return None


def bind(door: Door, route: web.RouteDef) -> web.RouteDef:
    """The same route with the check before its handler."""
    kwargs = {"expect_handler": expected, **route.kwargs}
    return web.RouteDef(route.method, route.path, guarded(door, route.handler), kwargs)


def guarded(door: Door, handler: Handler | type[AbstractView]) -> Handler:
    """The handler with the check before it, or with as much of it as its marks ask for."""
    inner = cast(Handler, handler)  # a view is awaited like a call of a handler
    check = checked(door, inner, vars(handler))
    around = vars(handler).get(AROUND)
    bound = wraps(inner, updated=())(around(door, check) if around else check)
    setattr(bound, _GUARDED, True)
    return bound


def checking(door: Door) -> Middleware:
    """The check as a middleware: for an application whose handlers are its own.

    It stands first, so that the application's own middlewares see the session. What is neither
    routed nor allowed is checked as well: a middleware may answer it.
    """

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        marks = vars(request.match_info.handler)
        if _GUARDED in marks:
            return await handler(request)
        return await checked(door, handler, marks)(request)

    setattr(check, _GUARDED, True)
    return check


def checked(door: Door, inner: Handler, marks: Container[str]) -> Handler:
    """The check, or as much of it as the marks ask for, and then the handler."""
    return _opened(inner, marks) if _PUBLIC in marks else _protected(door, inner, marks)


def _protected(door: Door, inner: Handler, marks: Container[str]) -> Handler:
    safe, for_logins = _harmless_methods(marks), NO_TOKENS in marks

    async def protected(request: web.Request) -> web.StreamResponse:
        try:
            if request.method not in safe or hdrs.UPGRADE in request.headers:
                refuse_foreign(request)
            token = read_token(request)
            if token is None:
                return NO_CREDENTIALS.response()
            digest = token_digest(token)
            session = door.peek(digest)
            if session is None:
                session = await door.find(digest)
            if not session:
                return NO_SESSION.response()
            request[SESSION] = session
            if for_logins and session.is_token:
                raise TokenNotAllowed()
            response = await inner(request)
            keep_private(response)
            return response
        except Exception as error:
            return _answer(request, error)

    return protected


def _opened(inner: Handler, marks: Container[str]) -> Handler:
    safe, for_logins = _harmless_methods(marks), NO_TOKENS in marks

    async def opened(request: web.Request) -> web.StreamResponse:
        try:
            if request.method not in safe or hdrs.UPGRADE in request.headers:
                refuse_foreign(request)
            if for_logins:
                refuse_machine_token(request)
            return await inner(request)
        except Exception as error:
            return _answer(request, error)

    return opened


def _harmless_methods(marks: Container[str]) -> frozenset[str]:
    """The methods by which a handler with these marks changes nothing."""
    if _CHANGES_NOTHING in marks:
        return frozenset(hdrs.METH_ALL)
    return frozenset() if _CHANGES_STATE in marks else _SAFE_METHODS


def is_public(handler: Handler | type[AbstractView]) -> bool:
    """Whether a handler, with the check before it or not, is marked as answering everybody."""
    marks = vars(handler)
    if _GUARDED in marks:
        marks = vars(marks["__wrapped__"])
    return _PUBLIC in marks


def refuse_unguarded(app: web.Application, mounted: web.AbstractResource | None = None) -> None:
    """See that no handler can be reached past the check. Raises RuntimeError.

    ``mounted``: a resource that puts the check before whatever it finds.
    """
    for resource in app.router.resources():
        for route in resource if resource is not mounted else ():
            if _GUARDED not in vars(route.handler):
                raise RuntimeError(
                    f"{route} is not protected: hand it to the application as hosted"
                )


def _answer(request: web.Request, error: Exception) -> web.StreamResponse:
    """The response to what a handler raised; raises it again where none can be sent."""
    gone = isinstance(error, ConnectionError) and request.transport is None
    if gone or request.writer.output_size > 0:
        raise error
    if isinstance(error, GatelogError | web.HTTPException):
        refusals_here.note(request, error, request.get(SESSION))
    if isinstance(error, UnclearCredentials):
        return UNCLEAR_CREDENTIALS.response()
    if isinstance(error, GatelogError):
        return problem(error)
    if isinstance(error, SlowBody):
        return problem(RequestTimedOut())
    if isinstance(error, web.HTTPException):
        if SESSION in request:
            keep_private(error)
        response = http_problem(error)
        if response is None:
            raise error
        return response
    return internal_error(error)
