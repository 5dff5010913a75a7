"""The handlers of administrators: other people's sessions, their rights, and their erasure.

Each one needs the role ``admin``: 401 without a session, 403 without the role, 404 for a user who
does not exist (any more), 409 for what would leave nobody to administer. Who did it, and from
where, is recorded with it.
"""

from __future__ import annotations

from datetime import date
from typing import Literal
from uuid import UUID

import msgspec
from aiohttp import web

from gatelog.accounts.service.acting import NO_SUCH_USER, Actor, Ended
from gatelog.accounts.service.tokens import last_used_on
from gatelog.accounts.web import ACCOUNTS
from gatelog.accounts.web.sessions import WhatEnds
from gatelog.errors import LastAdmin, NoSuchRole
from gatelog.http.answers import answer
from gatelog.http.bodies import id_in_path, read_body
from gatelog.http.caller import caller_of
from gatelog.http.described import describes
from gatelog.http.guard import SESSION, no_tokens
from gatelog.http.roles import record_read, requires
from gatelog.moments import Moment
from gatelog.sessions.rules.state import ActiveSession
from gatelog.settings import RoleName

Change = Literal[
    "ended", "disabled", "enabled", "unlocked", "erased", "granted", "revoked", "factors_removed"
]


class UserSession(msgspec.Struct):
    """An active session, the roles that it has, and how and when its user was authenticated."""

    session_id: UUID
    started_at: Moment
    expires_at: Moment
    roles: tuple[str, ...]
    authenticated_at: Moment
    amr: tuple[str, ...]


class UserToken(msgspec.Struct):
    """An active token. ``last_used_on``: the day (UTC) of its last use; null: never."""

    token_id: UUID
    created_at: Moment
    expires_at: Moment
    roles: tuple[str, ...]
    last_used_on: date | None


class UserSessions(msgspec.Struct):
    """The active sessions of a user, and the tokens."""

    user_id: UUID
    sessions: list[UserSession]
    tokens: list[UserToken]


class Changed(msgspec.Struct):
    """What was done to a user, how many sessions it ended, and where the log says so."""

    status: Change
    ended: int
    position: int


_USER = {"user_id": UUID}
_ROLE = _USER | {"role": RoleName}
_CHANGED = {200: Changed}


def _user(request: web.Request) -> UUID:
    return id_in_path(request, "user_id", NO_SUCH_USER)


def _actor(request: web.Request) -> Actor:
    return Actor(request[SESSION].subject_id, caller_of(request).client)


def _changed(status: Change, ended: Ended) -> web.Response:
    return answer(Changed(status, ended.ended, ended.position))


def _shown(session: ActiveSession) -> UserSession:
    return UserSession(
        session_id=session.session_id,
        started_at=session.started_at,
        expires_at=session.expires_at,
        roles=session.roles,
        authenticated_at=session.authenticated_at,
        amr=session.amr,
    )


def _token(token: ActiveSession) -> UserToken:
    return UserToken(
        token_id=token.session_id,
        created_at=token.started_at,
        expires_at=token.expires_at,
        roles=token.roles,
        last_used_on=last_used_on(token),
    )


@requires("admin")
@describes(path=_USER, returns={200: UserSessions})
async def list_sessions(request: web.Request) -> web.StreamResponse:
    """The user's active sessions and tokens, oldest first."""
    user_id, accounts = _user(request), request.app[ACCOUNTS]
    await record_read(request, "user_sessions")
    sessions = await accounts.sessions.sessions_of(user_id)
    tokens = await accounts.tokens.listed(user_id)
    return answer(
        UserSessions(
            user_id,
            [_shown(session) for session in sessions],
            [_token(token) for token in tokens],
        )
    )


@no_tokens
@requires("admin")
@describes(body=WhatEnds, path=_USER, returns=_CHANGED)
async def end_all(request: web.Request) -> web.StreamResponse:
    """End all sessions of the user, and if asked for, the tokens."""
    user_id, body = _user(request), await read_body(request, WhatEnds)
    sessions = request.app[ACCOUNTS].sessions
    ended = await sessions.revoke_all(user_id, _actor(request), tokens=body.tokens)
    return _changed("ended", ended)


@requires("admin")
@describes(path=_USER, returns=_CHANGED, raises=(LastAdmin,))
async def disable(request: web.Request) -> web.StreamResponse:
    """Keep the user from logging in, and end all sessions and tokens."""
    users = request.app[ACCOUNTS].users
    return _changed("disabled", await users.disable(_user(request), _actor(request)))


@requires("admin")
@describes(path=_USER, returns=_CHANGED)
async def enable(request: web.Request) -> web.StreamResponse:
    """Let the user log in again."""
    users = request.app[ACCOUNTS].users
    return _changed("enabled", await users.enable(_user(request), _actor(request)))


@requires("admin")
@describes(path=_USER, returns=_CHANGED)
async def unlock(request: web.Request) -> web.StreamResponse:
    """Forgive the user's failed logins, which have locked the password or may soon."""
    users = request.app[ACCOUNTS].users
    recorded = await users.unlock(_user(request), _actor(request))
    return answer(Changed("unlocked", 0, recorded.position))


@requires("admin")
@describes(path=_USER, returns=_CHANGED, raises=(LastAdmin,))
async def erase(request: web.Request) -> web.StreamResponse:
    """Forget the user for good."""
    users = request.app[ACCOUNTS].users
    return _changed("erased", await users.erase(_user(request), _actor(request)))


@no_tokens
@requires("admin")
@describes(path=_USER, returns=_CHANGED)
async def remove_factors(request: web.Request) -> web.StreamResponse:
    """Remove all second factors of a user who has lost them, and end all sessions."""
    factors = request.app[ACCOUNTS].factors
    return _changed("factors_removed", await factors.reset(_user(request), _actor(request)))


@no_tokens
@requires("admin")
@describes(path=_ROLE, returns=_CHANGED, raises=(NoSuchRole,))
async def grant_role(request: web.Request) -> web.StreamResponse:
    """Give the user a role, and end all sessions, but no tokens."""
    users, role = request.app[ACCOUNTS].users, request.match_info["role"]
    return _changed("granted", await users.grant_role(_user(request), role, _actor(request)))


@no_tokens
@requires("admin")
@describes(path=_ROLE, returns=_CHANGED, raises=(LastAdmin, NoSuchRole))
async def revoke_role(request: web.Request) -> web.StreamResponse:
    """Take a role away, and end all sessions, and the tokens that have it."""
    users, role = request.app[ACCOUNTS].users, request.match_info["role"]
    return _changed("revoked", await users.revoke_role(_user(request), role, _actor(request)))


def user_routes() -> list[web.RouteDef]:
    """Every route below ``/v1/users``."""
    user = "/v1/users/{user_id:[0-9A-Fa-f-]{36}}"
    role = f"{user}/roles/{{role:[a-z][a-z0-9_-]{{0,31}}}}"
    return [
        web.get(f"{user}/sessions", list_sessions),
        web.post(f"{user}/sessions/end_all", end_all),
        web.post(f"{user}/disable", disable),
        web.post(f"{user}/enable", enable),
        web.post(f"{user}/unlock", unlock),
        web.post(f"{user}/erase", erase),
        web.post(f"{user}/remove_factors", remove_factors),
        web.post(role, grant_role),
        web.delete(role, revoke_role),
    ]
