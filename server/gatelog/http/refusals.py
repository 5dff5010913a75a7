"""What was refused, told to who watches the service: a line for what an attack would leave behind.

The event log holds what was done, and who could not log in. A request that is refused did nothing
and belongs to nobody for sure, and a stranger can send any number of them; so it leaves a line on
standard error and no event (OWASP ASVS 5.0, 16.3.2 and 16.3.3). Rules:

- The names are those of OWASP's logging vocabulary; a line is a name and pairs of ``key=value``.
- Nothing in a line is text that a client chose, and nothing is personal: the problem's code, the
  template of the route, the method, the ids of user and session. Who it was and from where, the
  event log says of that session, for as long as it may.
- A process writes at most ``LINES`` of them in ``WINDOW_S``, and then how many it left out.
- 401, 404, 405 and 5xx leave no line: sessions end every day, and metrics count them all.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable
from http import HTTPStatus
from typing import Final

from aiohttp import hdrs, web

from gatelog.errors import (
    CrossSiteRequest,
    GatelogError,
    HashingFull,
    Premature,
    RecentLoginRequired,
)
from gatelog.http.credentials import UnclearCredentials
from gatelog.sessions.rules.record import Session

logger = logging.getLogger(__name__)

LINES: Final = 20
WINDOW_S: Final = 1.0
NOWHERE: Final = "/"  # the template of what no route answers

AUTHZ_FAIL: Final = "authz_fail"
INPUT_VALIDATION_FAIL: Final = "input_validation_fail"
MALICIOUS_CORS: Final = "malicious_cors"
EXCESS_RATE: Final = "excess_rate_limit_exceeded"

_OF_CLASSES: Final[tuple[tuple[type[GatelogError], str | None], ...]] = (
    (CrossSiteRequest, MALICIOUS_CORS),
    (Premature, None),  # a browser that is ahead of its user
    (RecentLoginRequired, AUTHZ_FAIL),
    (UnclearCredentials, INPUT_VALIDATION_FAIL),
    (HashingFull, EXCESS_RATE),
)
_OF_STATUSES: Final[dict[int, str]] = {
    HTTPStatus.BAD_REQUEST: INPUT_VALIDATION_FAIL,
    HTTPStatus.FORBIDDEN: AUTHZ_FAIL,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: INPUT_VALIDATION_FAIL,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: INPUT_VALIDATION_FAIL,
    HTTPStatus.UNPROCESSABLE_ENTITY: INPUT_VALIDATION_FAIL,
    HTTPStatus.TOO_MANY_REQUESTS: EXCESS_RATE,
}


def event_of(error: GatelogError | web.HTTPException) -> str | None:
    """What this refusal is called in OWASP's vocabulary; None for what leaves no line."""
    for cls, event in _OF_CLASSES:
        if isinstance(error, cls):
            return event
    return _OF_STATUSES.get(error.status)


class Refusals:
    """Writes the lines of this process, and no more than it may. ``clock``: seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begun = float("-inf")
        self._written = 0
        self._left_out: Counter[str] = Counter()

    def note(
        self,
        request: web.BaseRequest,
        error: GatelogError | web.HTTPException,
        session: Session | None,
    ) -> None:
        """Write a line about this refusal, if it leaves one."""
        event = event_of(error)
        if event is not None and self._may(event):
            code = error.code if isinstance(error, GatelogError) else f"http_{error.status}"
            who = f" user={session.subject_id} session={session.session_id}" if session else ""
            _write(event, f"code={code} method={_method(request)} route={_route(request)}{who}")

    def note_malformed(self) -> None:
        """The same about what is no HTTP request at all."""
        if self._may(INPUT_VALIDATION_FAIL):
            _write(INPUT_VALIDATION_FAIL, "code=bad_request")

    def _may(self, event: str) -> bool:
        """Whether there is room for a line; otherwise it is counted."""
        now = self._clock()
        if now - self._begun >= WINDOW_S:
            self.tell_left_out()
            self._begun, self._written = now, 0
        if self._written < LINES:
            self._written += 1
            return True
        if not self._left_out:
            asyncio.get_running_loop().call_later(WINDOW_S, self.tell_left_out)
        self._left_out[event] += 1
        return False

    def tell_left_out(self) -> None:
        """Write how many lines of each kind there was no room for, since it was told last."""
        for event, count in self._left_out.items():
            _write(event, f"left_out={count}")
        self._left_out.clear()


def _write(event: str, about: str) -> None:
    level = logging.INFO if event == INPUT_VALIDATION_FAIL else logging.WARNING
    logger.log(level, "%s %s", event, about)


def _method(request: web.BaseRequest) -> str:
    return request.method if request.method in hdrs.METH_ALL else "other"


def _route(request: web.BaseRequest) -> str:
    """The template of the route, never the path: it holds what clients write."""
    found = getattr(request, "_match_info", None)
    if found is None:
        return request.raw_path.partition("?")[0]  # of a shortcut: its path is its template
    resource = found.route.resource
    return resource.canonical if resource is not None else NOWHERE


refusals_here = Refusals()
