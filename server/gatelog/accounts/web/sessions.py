"""The handlers of one's own sessions: log out, list them, end them.

Whoever is told that a session is over is told so after no replica accepts it any more. Who ends
sessions other than the one at hand must have logged in recently: a session that was stolen must not
be the one that locks its owner out.
"""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

import msgspec
from aiohttp import web
from msgspec import Meta

from gatelog.accounts.rules.names import MAX_NAME_LENGTH
from gatelog.accounts.service.accounts import Accounts
from gatelog.accounts.service.acting import Ended
from gatelog.accounts.service.sessions import DescribedSession
from gatelog.accounts.web import ACCOUNTS
from gatelog.errors import NotAuthenticated, RecentLoginRequired
from gatelog.http.answers import (
    COOKIE_IS_FORGOTTEN,
    PREFERENCE,
    Outcome,
    answer,
    forget_session_cookie,
    told,
    told_reply,
)
from gatelog.http.bodies import id_in_path, read_body
from gatelog.http.caller import Caller, caller_of
from gatelog.http.described import describes
from gatelog.http.guard import SESSION, changes_state, no_tokens, public
from gatelog.http.problems import UNCLEAR_CREDENTIALS
from gatelog.http.roles import refuse_old_login
from gatelog.moments import Moment
from gatelog.sessions.rules.record import Session


class Ending(Outcome):
    """How many sessions ended; ``position``: where the log says so, if it was asked."""

    status: Literal["logged_out", "ended"]
    ended: int
    position: int | None

    @property
    def happened_at(self) -> int | None:
        """The position of what has just ended something: what a receipt is for."""
        return self.position if self.ended else None


class ListedSession(msgspec.Struct):
    """A session of the caller. ``device`` and ``address`` are those of its login; null: not known.

    ``last_seen_at`` is as exact as use is recorded. ``expires_at``: when it is over unless it is
    used; ``absolute_at``: at the latest. ``authenticated_at``, ``amr``: when the user was
    authenticated, and by which methods (RFC 8176).
    """

    session_id: UUID
    started_at: Moment
    expires_at: Moment
    current: bool
    last_seen_at: Moment
    absolute_at: Moment
    authenticated_at: Moment
    amr: tuple[str, ...]
    name: str | None
    device: str | None
    address: str | None


class SessionName(msgspec.Struct, forbid_unknown_fields=True):
    """What the user calls a session; null: nothing."""

    name: (
        Annotated[str, Meta(extra_json_schema={"minLength": 1, "maxLength": MAX_NAME_LENGTH})]
        | None
    )


class WhatEnds(msgspec.Struct, forbid_unknown_fields=True):
    """Which of all end; ``tokens``: those for machines, too."""

    tokens: bool = False


class NamedSession(msgspec.Struct):
    """The name that it has from now on."""

    session_id: UUID
    name: str | None
    status: Literal["named"] = "named"


class Sessions(msgspec.Struct):
    """The user's active sessions."""

    sessions: list[ListedSession]


ENDING = {200: told_reply(Ending, **COOKIE_IS_FORGOTTEN)}
_SESSION = {"session_id": UUID}


@public
@changes_state
@describes(headers=PREFERENCE, returns=ENDING, raises=(NotAuthenticated,))
async def log_out(request: web.Request) -> web.StreamResponse:
    """End the session that the request presents, if there is one; forget its cookie anyway."""
    caller, ending = caller_of(request), Ending("logged_out", 0, None)
    if caller.digest is not None:
        ended = await request.app[ACCOUNTS].sessions.log_out(caller.digest, caller.client)
        ending.ended, ending.position = ended.ended, ended.position
    if caller.unclear:
        response = UNCLEAR_CREDENTIALS.response()
    else:
        response = await told(request, caller, ending, ending.happened_at)
    forget_session_cookie(response, caller)
    return response


@describes(returns={200: Sessions})
async def list_sessions(request: web.Request) -> web.StreamResponse:
    """The user's active sessions, oldest first."""
    return answer(await sessions_of(request.app[ACCOUNTS], request[SESSION]))


async def sessions_of(accounts: Accounts, here: Session) -> Sessions:
    """The sessions of the user whose session this is, for that user."""
    described = await accounts.sessions.described(here.subject_id)
    return Sessions([_listed(each, here) for each in described])


def _listed(described: DescribedSession, here: Session) -> ListedSession:
    session = described.session
    return ListedSession(
        session_id=session.session_id,
        started_at=session.started_at,
        expires_at=session.expires_at,
        current=session.session_id == here.session_id,
        last_seen_at=session.last_seen_at,
        absolute_at=session.absolute_at,
        authenticated_at=session.authenticated_at,
        amr=session.amr,
        name=described.name,
        device=described.device,
        address=described.address,
    )


@no_tokens
@describes(body=SessionName, path=_SESSION, returns={200: NamedSession})
async def name_session(request: web.Request) -> web.StreamResponse:
    """Give one of the user's own sessions a name, or none."""
    session_id = id_in_path(request, "session_id", "You have no such session.")
    body = await read_body(request, SessionName)
    sessions = request.app[ACCOUNTS].sessions
    name = await sessions.rename(request[SESSION], session_id, body.name)
    return answer(NamedSession(session_id, name))


@no_tokens
@describes(path=_SESSION, headers=PREFERENCE, returns=ENDING, raises=(RecentLoginRequired,))
async def end_session(request: web.Request) -> web.StreamResponse:
    """End one of the user's own sessions."""
    session_id = id_in_path(request, "session_id", "You have no such session.")
    session, caller = request[SESSION], caller_of(request)
    if session_id != session.session_id:
        refuse_old_login(request)
    ended = await request.app[ACCOUNTS].sessions.end_session(session, session_id, caller.client)
    response = await tell_ended(request, caller, ended)
    if session_id == session.session_id:
        forget_session_cookie(response, caller)
    return response


@no_tokens
@describes(headers=PREFERENCE, returns=ENDING, raises=(RecentLoginRequired,))
async def end_others(request: web.Request) -> web.StreamResponse:
    """End the user's other sessions."""
    refuse_old_login(request)
    caller = caller_of(request)
    ended = await request.app[ACCOUNTS].sessions.end_others(request[SESSION], caller.client)
    return await tell_ended(request, caller, ended)


@no_tokens
@describes(body=WhatEnds, headers=PREFERENCE, returns=ENDING, raises=(RecentLoginRequired,))
async def end_all(request: web.Request) -> web.StreamResponse:
    """End all of the user's sessions, this one too, and if asked for, the tokens."""
    refuse_old_login(request)
    body, caller = await read_body(request, WhatEnds), caller_of(request)
    sessions = request.app[ACCOUNTS].sessions
    ended = await sessions.end_all(request[SESSION], caller.client, tokens=body.tokens)
    response = await tell_ended(request, caller, ended)
    forget_session_cookie(response, caller)
    return response


async def tell_ended(request: web.Request, caller: Caller, ended: Ended) -> web.Response:
    """The answer to a user who ended sessions of theirs."""
    ending = Ending("ended", ended.ended, ended.position)
    return await told(request, caller, ending, ending.happened_at)


def session_routes() -> list[web.RouteDef]:
    """The routes of one's own sessions. HEAD goes with GET, but not where GET changes something."""
    return [
        web.get("/v1/logout_user", log_out, allow_head=False),
        web.post("/v1/logout_user", log_out),
        web.get("/v1/sessions", list_sessions),
        web.delete("/v1/sessions/{session_id:[0-9A-Fa-f-]{36}}", end_session),
        web.patch("/v1/sessions/{session_id:[0-9A-Fa-f-]{36}}", name_session),
        web.post("/v1/sessions/end_others", end_others),
        web.post("/v1/sessions/end_all", end_all),
    ]
