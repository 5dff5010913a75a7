"""The handlers that find users, and the one that creates them.

Auditors read; administrators create. Who reads about others is recorded first.
"""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

import msgspec
from aiohttp import hdrs, web
from msgspec import Meta

from gatelog.accounts.service.acting import NO_SUCH_USER, Actor
from gatelog.accounts.web import ACCOUNTS
from gatelog.accounts.web.logins import LoginName, NewPassword
from gatelog.console.rules.paging import parse_key
from gatelog.console.store.users import UserRow, UserState
from gatelog.console.web import FIND_USERS
from gatelog.console.web.parameters import (
    CURSOR,
    LIMIT,
    NEXT_LINK,
    limit_of,
    linked,
    only,
    onward,
)
from gatelog.errors import (
    InvalidInput,
    LoginTaken,
    NoSuchRole,
    RecentLoginRequired,
    WeakPassword,
)
from gatelog.http.answers import JSON, answer
from gatelog.http.bodies import id_in_path, read_body
from gatelog.http.caller import caller_of
from gatelog.http.described import Reply, describes
from gatelog.http.guard import SESSION, no_tokens
from gatelog.http.roles import record_read, refuse_old_login, requires
from gatelog.moments import Moment
from gatelog.settings import RoleName

PATH = "/v1/users"
AUDITED = "users"


class FoundUser(msgspec.Struct, frozen=True):
    """A user. ``login``: null for who is erased; ``factors``: how many are enrolled."""

    user_id: UUID
    login: str | None
    registered_at: Moment
    disabled: bool
    erased: bool
    roles: tuple[str, ...]
    factors: int


class UserDetails(FoundUser, frozen=True, kw_only=True):
    """A user, wrong passwords in a row, and since when an address of mail is verified (null: none
    is)."""

    password_failures: int
    address_verified_at: Moment | None


class FoundUsers(msgspec.Struct, omit_defaults=True):
    """A page of users; ``next``: the one after it."""

    users: list[FoundUser]
    next: str | None = None


class NewUser(msgspec.Struct, forbid_unknown_fields=True):
    """A user whom an administrator creates."""

    login: LoginName
    password: NewPassword
    roles: list[RoleName] = []


class UserCreated(msgspec.Struct):
    """The new user's id, and where the log says so."""

    user_id: UUID
    position: int
    status: Literal["created"] = "created"


def shown_user(user: UserRow) -> FoundUser:
    """The user as the API shows one."""
    return FoundUser(
        user_id=user.subject_id,
        login=user.login,
        registered_at=user.registered_at,
        disabled=user.disabled,
        erased=user.erased,
        roles=user.roles,
        factors=user.factors,
    )


def _details(state: UserState) -> UserDetails:
    return UserDetails(
        **msgspec.structs.asdict(shown_user(state.user)),
        password_failures=state.failures,
        address_verified_at=state.address_verified_at,
    )


@requires("auditor", "admin")
@describes(
    query={
        "login": Annotated[str, Meta(description="The one who has this login, and no other.")],
        "limit": LIMIT,
        "cursor": CURSOR,
    },
    returns={
        200: Reply(content={JSON[hdrs.CONTENT_TYPE]: FoundUsers}, sometimes=NEXT_LINK),
    },
    raises=(InvalidInput,),
)
async def list_users(request: web.Request) -> web.StreamResponse:
    """The users, those that came last first, without those who are erased; or the one with a
    login."""
    query = request.query
    only(query, ("login", "limit", "cursor"))
    limit, before = limit_of(query), parse_key(query["cursor"]) if "cursor" in query else None
    await record_read(request, AUDITED)
    users = request.app[FIND_USERS]
    if "login" in query:
        found = await users.by_login(query["login"])
        return answer(FoundUsers([shown_user(found.user)] if found is not None else []))
    page = await users.newest(limit, before)
    target = onward(request, page.next)
    return linked(answer(FoundUsers([shown_user(user) for user in page.users], target)), target)


@requires("auditor", "admin")
@describes(path={"user_id": UUID}, returns={200: UserDetails})
async def show_user(request: web.Request) -> web.StreamResponse:
    """One user, erased or not."""
    user_id = id_in_path(request, "user_id", NO_SUCH_USER)
    await record_read(request, AUDITED)
    return answer(_details(await request.app[FIND_USERS].by_id(user_id)))


@no_tokens
@requires("admin")
@describes(
    body=NewUser,
    returns={201: UserCreated},
    raises=(InvalidInput, LoginTaken, NoSuchRole, RecentLoginRequired, WeakPassword),
)
async def create_user(request: web.Request) -> web.StreamResponse:
    """Create a user with a password that you have agreed on; to have one chosen, invite."""
    refuse_old_login(request)
    body = await read_body(request, NewUser)
    by = Actor(request[SESSION].subject_id, caller_of(request).client)
    creating = request.app[ACCOUNTS].creating
    created = await creating.create(body.login, body.password, tuple(body.roles), by)
    return answer(UserCreated(created.subject_id, created.position), status=201)


def directory_routes() -> list[web.RouteDef]:
    """The routes of finding and creating users."""
    return [
        web.get(PATH, list_users),
        web.post(PATH, create_user),
        web.get(f"{PATH}/{{user_id:[0-9A-Fa-f-]{{36}}}}", show_user),
    ]
