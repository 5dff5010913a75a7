"""Errors as responses: problem details (RFC 9457) with a stable ``code``.

Rules:

- What a server-side failure (5xx) was about stays here: its detail may name hosts or tables. Who
  wants to tell it (the readiness check) says so.
- A database that refuses us or is not migrated is 503, like one that does not answer: nothing can
  be known until an operator has mended it.
- A 5xx says by which trace the lines about it are found in the log (``trace_id``).
- A 401 names the scheme that helps (RFC 6750, section 3); a 503 says when to come again.
- No problem is ever stored by a cache.
- What is logged of an unexpected exception is its type and the places it passed, never its
  message: a message may quote what a caller sent.
"""

from __future__ import annotations

import logging
import traceback
from http import HTTPStatus

import msgspec
from aiohttp import hdrs, web
from multidict import CIMultiDict

from gatelog.errors import (
    BodyTooLarge,
    ConfigError,
    GatelogError,
    MethodNotAllowed,
    NotAuthenticated,
    NotBuildable,
    NotFound,
    OperatorError,
    SchemaMismatch,
    Unavailable,
)
from gatelog.traces import current_trace_id

logger = logging.getLogger(__name__)

CONTENT_TYPE = "application/problem+json"
VARY_BY_CREDENTIALS = "Cookie, Authorization"
MENDED_AFTER_S = 5
REALM = 'Bearer realm="gatelog"'

_encode = msgspec.json.Encoder().encode


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """The members of a problem document. ``faults``: all that is wrong, where it is several
    things."""

    type: str
    title: str
    status: int
    code: str
    detail: str | None = None
    trace_id: str | None = None
    faults: list[str] = []


def problem(error: GatelogError, *, tell: bool = False) -> web.Response:
    """The response to this error. ``tell``: with the detail of a 5xx, too."""
    if isinstance(error, OperatorError) and not tell:
        if isinstance(error, ConfigError | SchemaMismatch):
            logger.error("cannot serve: %s", error)
            return problem(Unavailable(retry_after_s=MENDED_AFTER_S))
        return internal_error(error)
    status = Unavailable.status if isinstance(error, OperatorError) else error.status
    detail = error.detail if tell or status < HTTPStatus.INTERNAL_SERVER_ERROR else None
    faults = list(error.faults) if isinstance(error, NotBuildable) else []
    response = _response(status, error.code, error.title, detail, faults)
    if error.retry_after_s is not None:
        response.headers[hdrs.RETRY_AFTER] = str(error.retry_after_s)
    if status == HTTPStatus.UNAUTHORIZED:
        response.headers[hdrs.WWW_AUTHENTICATE] = REALM
        response.headers[hdrs.VARY] = VARY_BY_CREDENTIALS
    return response


def internal_error(error: BaseException) -> web.Response:
    """The response to what nobody expected; the cause is logged."""
    log_unexpected(error)
    return _response(500, GatelogError.code, GatelogError.title, None)


def http_problem(error: web.HTTPException) -> web.Response | None:
    """The problem for an error that aiohttp raised, or a handler with aiohttp's default text.

    None for what is not an error (a redirect) or has a body of its own.
    """
    known = _known_problem(error)
    if known is not None:
        known.headers.extend(
            (hdrs.SET_COOKIE, c) for c in error.headers.getall(hdrs.SET_COOKIE, ())
        )
        return known
    if error.status < HTTPStatus.BAD_REQUEST or error.text != f"{error.status}: {error.reason}":
        return None
    code = error.reason.lower().replace(" ", "_").replace("-", "_")
    response = _response(error.status, code, error.reason, None)
    for name, value in error.headers.items():
        if name not in (hdrs.CONTENT_TYPE, hdrs.CONTENT_LENGTH):
            response.headers.add(name, value)
    return response


def _known_problem(error: web.HTTPException) -> web.Response | None:
    """The problem for an error that has one of our own codes."""
    if isinstance(error, web.HTTPNotFound):
        return problem(NotFound())
    if isinstance(error, web.HTTPMethodNotAllowed):
        response = problem(MethodNotAllowed())
        response.headers[hdrs.ALLOW] = error.headers[hdrs.ALLOW]
        return response
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return problem(BodyTooLarge())
    return None


def _response(
    status: int, code: str, title: str, detail: str | None, faults: list[str] | None = None
) -> web.Response:
    trace_id = current_trace_id() if status >= HTTPStatus.INTERNAL_SERVER_ERROR else None
    kind = f"urn:gatelog:problem:{code}"
    body = _encode(Problem(kind, title, status, code, detail, trace_id, faults or []))
    headers = {hdrs.CONTENT_TYPE: CONTENT_TYPE, hdrs.CACHE_CONTROL: "no-store"}
    return web.Response(status=status, body=body, headers=headers)


class Refusal:
    """A 401 that is encoded once and sent many times."""

    def __init__(self, detail: str, challenge: str) -> None:
        template = problem(NotAuthenticated(detail))
        self._body = template.body
        self._headers = CIMultiDict(template.headers)
        self._headers[hdrs.WWW_AUTHENTICATE] = challenge

    def response(self) -> web.Response:
        return web.Response(status=401, body=self._body, headers=self._headers)


INVALID_TOKEN = f'{REALM}, error="invalid_token"'
NO_CREDENTIALS = Refusal("This needs a session: log in first.", REALM)
NO_SESSION = Refusal("The session has ended, or there never was one.", INVALID_TOKEN)
UNCLEAR_CREDENTIALS = Refusal(
    "The credentials are malformed, or there are several that differ.", INVALID_TOKEN
)


def log_unexpected(error: BaseException) -> None:
    """Log an exception nobody expected: types and places of it and of what caused it."""
    lines: list[str] = []
    seen: BaseException | None = error
    while seen is not None:
        lines += [f"{type(seen).__module__}.{type(seen).__qualname__} at\n"]
        lines += traceback.format_tb(seen.__traceback__)
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    logger.error("unexpected error\n%s", "".join(lines).rstrip())
