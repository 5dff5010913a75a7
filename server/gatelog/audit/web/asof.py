"""Who was logged in then: ``GET /v1/audit/sessions?at=TIME`` or ``?position=N``.

The sessions that started last come first. Pages are linked as those of events are; ``before`` in a
link is the position of a session's start. A page may be short; what has no ``next`` is the end.
"""

from __future__ import annotations

from typing import Annotated, Any, Final
from urllib.parse import urlencode
from uuid import UUID

import msgspec
from aiohttp import hdrs, web
from msgspec import Meta

from gatelog.audit.rules.shown import MAX_POSITION
from gatelog.audit.service.asof import AsOf
from gatelog.audit.store.asof import End, SessionPage, SessionThen
from gatelog.audit.web.events import (
    PAGE_LINKS,
    Time,
    parameters,
    parse_filter,
    position_parameter,
    time_parameter,
)
from gatelog.errors import InvalidInput, Purged
from gatelog.http.answers import JSON, answer
from gatelog.http.described import Reply, describes
from gatelog.http.roles import record_read, requires
from gatelog.moments import Moment

AS_OF: Final = web.AppKey("as_of", AsOf)

PATH = "/v1/audit/sessions"
FILTERS = ("user", "before")
OTHERS = ("at", "position", "limit")


class ShownSession(msgspec.Struct, frozen=True):
    """A session or a token that was active: since which event, and how it ended since (null: not).

    ``expires_at``: when it was over at the latest.
    """

    session_id: UUID
    user_id: UUID
    position: int
    started_at: Moment
    expires_at: Moment
    roles: tuple[str, ...]
    is_token: bool
    ended: End | None


class SessionsThen(msgspec.Struct, omit_defaults=True):
    """A page: the sessions that were active after the event at ``position``, at the time ``at``."""

    position: int
    at: Moment
    sessions: list[ShownSession]
    next: str | None = None


def shown_session(then: SessionThen) -> ShownSession:
    """The session without its token's digest, which is nobody's business."""
    session = then.session
    return ShownSession(
        session_id=session.session_id,
        user_id=session.subject_id,
        position=then.position,
        started_at=session.started_at,
        expires_at=session.absolute_at,
        roles=session.roles,
        is_token=session.is_token,
        ended=then.ended,
    )


def _parameters() -> dict[str, Any]:
    return parameters(FILTERS, "limit") | {
        "at": Annotated[Time, Meta(description="Who was logged in at this time?")],
        "position": Annotated[
            int, Meta(ge=1, le=MAX_POSITION, description="Who was logged in after this event?")
        ],
    }


@requires("auditor", "admin")
@describes(
    query=_parameters,
    returns={200: Reply(content={JSON[hdrs.CONTENT_TYPE]: SessionsThen}, sometimes=PAGE_LINKS)},
    raises=(Purged,),
)
async def sessions_as_of(request: web.Request) -> web.StreamResponse:
    """A page of the sessions that were active then, the last that started first. Takes one of
    `at` and `position`."""
    wanted = parse_filter(request.query, names=FILTERS, also=OTHERS)
    at = time_parameter(request.query, "at")
    position = position_parameter(request.query, "position")
    if (at is None) == (position is None):
        raise InvalidInput("Give one of the parameters at and position.")
    if position == 0:
        raise InvalidInput("The parameter position must be a position: a number from 1 on.")
    await record_read(request, "sessions")
    page = await request.app[AS_OF].sessions(
        at=at, position=position, user=wanted.user, before=wanted.before, limit=wanted.limit
    )
    return _paged(request, page)


def _paged(request: web.Request, page: SessionPage) -> web.Response:
    target = _link(request, page.before)
    shown = [shown_session(then) for then in page.sessions]
    response = answer(SessionsThen(page.moment.position, page.moment.at, shown, target))
    if target is not None:
        response.headers.add(hdrs.LINK, f'<{target}>; rel="next"')
    return response


def _link(request: web.Request, before: int | None) -> str | None:
    if before is None:
        return None
    question = [(name, value) for name, value in request.query.items() if name != "before"]
    return f"{request.path}?{urlencode([*question, ('before', str(before))])}"


def asof_routes() -> list[web.RouteDef]:
    """The route of as-of queries."""
    return [web.get(PATH, sessions_as_of)]
