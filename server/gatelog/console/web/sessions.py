"""The handlers of everybody's sessions: who is in now, and the end of one's, or of all.

Auditors read; administrators end. Who reads about others is recorded first. The end of everybody's
takes a recent login and a word: it is not to happen by a slip.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal
from uuid import UUID

import msgspec
from aiohttp import hdrs, web
from msgspec import Meta

from gatelog.accounts.service.acting import Actor
from gatelog.accounts.service.sessions import NO_SUCH_SESSION
from gatelog.accounts.web import ACCOUNTS
from gatelog.console.service.sessions import SessionNow, Wanted
from gatelog.console.web import WHO_IS_IN
from gatelog.console.web.parameters import (
    CURSOR,
    LIMIT,
    NEXT_LINK,
    id_of,
    limit_of,
    linked,
    only,
    onward,
)
from gatelog.errors import InvalidInput, NotFound, RecentLoginRequired
from gatelog.http.answers import JSON, answer
from gatelog.http.bodies import id_in_path, read_body
from gatelog.http.caller import caller_of
from gatelog.http.described import Reply, describes
from gatelog.http.guard import SESSION, no_tokens
from gatelog.http.roles import record_read, refuse_old_login, requires
from gatelog.moments import Moment
from gatelog.privacy.rules import normalise_address

PATH = "/v1/active_sessions"
AUDITED = "sessions"
FILTERS: Final = ("user", "device", "address", "limit", "cursor")
EVERYBODY: Final = "everybody"


class ActiveNow(msgspec.Struct, frozen=True):
    """An active session, and whose it is.

    ``device``, ``user_agent`` and ``address`` are those of its login; what is not known (any more)
    is null. ``last_seen_at`` is as exact as use is recorded. ``expires_at``: when it is over unless
    it is used; ``absolute_at``: at the latest.
    """

    session_id: UUID
    user_id: UUID
    login: str | None
    started_at: Moment
    last_seen_at: Moment
    expires_at: Moment
    absolute_at: Moment
    authenticated_at: Moment
    amr: tuple[str, ...]
    roles: tuple[str, ...]
    device: str | None
    user_agent: str | None
    address: str | None


class ActiveSessions(msgspec.Struct, omit_defaults=True):
    """A page. It may be short; what has no ``next`` is the end."""

    sessions: list[ActiveNow]
    next: str | None = None


class SessionsEnded(msgspec.Struct):
    """How many sessions ended, and where the log says so."""

    ended: int
    position: int
    status: Literal["ended"] = "ended"


class EndingEverybody(msgspec.Struct, forbid_unknown_fields=True):
    """``confirm``: the word, to say that it is meant; ``tokens``: those of machines, too."""

    confirm: Literal["everybody"]
    tokens: bool = False


def shown_session(found: SessionNow) -> ActiveNow:
    """The session as the API shows one: without its token's digest, which is nobody's business."""
    session = found.session
    return ActiveNow(
        session_id=session.session_id,
        user_id=session.subject_id,
        login=found.login,
        started_at=session.started_at,
        last_seen_at=session.last_seen_at,
        expires_at=session.expires_at,
        absolute_at=session.absolute_at,
        authenticated_at=session.authenticated_at,
        amr=session.amr,
        roles=session.roles,
        device=found.device,
        user_agent=found.agent,
        address=found.address,
    )


def address_of(text: str) -> str:
    """An address in its normal spelling. Raises InvalidInput."""
    try:
        return normalise_address(text)
    except InvalidInput:
        raise InvalidInput("The parameter address must be an IP address.") from None


@requires("auditor", "admin")
@describes(
    query={
        "user": Annotated[UUID, Meta(description="Of this user.")],
        "device": Annotated[str, Meta(description="On a device with these words in its name.")],
        "address": Annotated[
            str,
            Meta(
                description="Begun from this IP address.",
                extra_json_schema={"anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]},
            ),
        ],
        "limit": LIMIT,
        "cursor": CURSOR,
    },
    returns={200: Reply(content={JSON[hdrs.CONTENT_TYPE]: ActiveSessions}, sometimes=NEXT_LINK)},
    raises=(InvalidInput,),
)
async def active_sessions(request: web.Request) -> web.StreamResponse:
    """Who is in now, without tokens: the sessions that are active and fit, those that started last
    first."""
    query = request.query
    only(query, FILTERS)
    wanted = Wanted(
        limit=limit_of(query),
        user=id_of(query, "user"),
        device=query.get("device", ""),
        address=address_of(query["address"]) if "address" in query else None,
        cursor=query.get("cursor"),
    )
    await record_read(request, AUDITED)
    page = await request.app[WHO_IS_IN].page(wanted)
    target = onward(request, page.next)
    shown = [shown_session(each) for each in page.sessions]
    return linked(answer(ActiveSessions(shown, target)), target)


@requires("admin")
@describes(path={"session_id": UUID}, returns={200: SessionsEnded}, raises=(NotFound,))
async def end_session(request: web.Request) -> web.StreamResponse:
    """End anybody's session, or a token."""
    session_id = id_in_path(request, "session_id", NO_SUCH_SESSION)
    by = Actor(request[SESSION].subject_id, caller_of(request).client)
    ended = await request.app[ACCOUNTS].sessions.revoke_session(session_id, by)
    return answer(SessionsEnded(ended.ended, ended.position))


@no_tokens
@requires("admin")
@describes(
    body=EndingEverybody,
    returns={200: SessionsEnded},
    raises=(InvalidInput, RecentLoginRequired),
)
async def end_everybody(request: web.Request) -> web.StreamResponse:
    """End everybody's sessions, the caller's last."""
    refuse_old_login(request)
    body = await read_body(request, EndingEverybody)
    by = Actor(request[SESSION].subject_id, caller_of(request).client)
    sessions = request.app[ACCOUNTS].sessions
    ended = await sessions.end_everybody(by, tokens=body.tokens)
    return answer(SessionsEnded(ended.ended, ended.position))


def active_session_routes() -> list[web.RouteDef]:
    """The routes of everybody's sessions."""
    return [
        web.get(PATH, active_sessions),
        web.post(f"{PATH}/end_all", end_everybody),
        web.delete(f"{PATH}/{{session_id:[0-9A-Fa-f-]{{36}}}}", end_session),
    ]
