"""The handler by which users erase themselves.

It takes a recent login, and the login name once more: nobody is erased by a slip. What is left are
events about a number (``accounts.service.users``).
"""

from __future__ import annotations

from typing import Literal

import msgspec
from aiohttp import web

from gatelog.accounts.rules.credentials import normalise_login
from gatelog.accounts.service.acting import Actor, Ended
from gatelog.accounts.web import ACCOUNTS
from gatelog.accounts.web.logins import LoginName
from gatelog.errors import InvalidInput, LastAdmin, NotAuthenticated, RecentLoginRequired
from gatelog.http.answers import COOKIE_IS_FORGOTTEN, forget_session_cookie, private
from gatelog.http.bodies import read_body
from gatelog.http.caller import caller_of
from gatelog.http.described import Reply, describes
from gatelog.http.guard import SESSION, no_tokens
from gatelog.http.roles import refuse_old_login

ERASE_PATH = "/v1/me/erase"


class Erasing(msgspec.Struct, forbid_unknown_fields=True):
    """The caller's own login, as they mean it."""

    login: LoginName


class Erased(msgspec.Struct):
    """How many sessions ended, and where the log says so."""

    ended: int
    position: int
    status: Literal["erased"] = "erased"


@no_tokens
@describes(
    body=Erasing,
    returns={200: Reply(content={"application/json": Erased}, sometimes=COOKIE_IS_FORGOTTEN)},
    raises=(InvalidInput, LastAdmin, RecentLoginRequired),
)
async def erase_me(request: web.Request) -> web.StreamResponse:
    """Forget the caller for good: the account, the sessions, and what is personal in the log."""
    body = await read_body(request, Erasing)
    ended = await erased(request, body.login)
    response = private(Erased(ended.ended, ended.position))
    forget_session_cookie(response, caller_of(request))
    return response


async def erased(request: web.Request, login: str) -> Ended:
    """Erase the caller, who has written their login.

    Raises RecentLoginRequired, InvalidInput for another login, LastAdmin, NotAuthenticated for who
    is erased already.
    """
    refuse_old_login(request)
    users, subject_id = request.app[ACCOUNTS].users, request[SESSION].subject_id
    own = await users.login_of(subject_id)
    if own is None:
        raise NotAuthenticated()
    if normalise_login(login) != own:
        raise InvalidInput("This is not your login.")
    return await users.erase(subject_id, Actor(subject_id, caller_of(request).client))


def erasing_routes() -> list[web.RouteDef]:
    """The route of erasing oneself."""
    return [web.post(ERASE_PATH, erase_me)]
