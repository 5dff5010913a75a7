"""The handlers of passwords: register, log in, change it."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

import msgspec
from aiohttp import web
from msgspec import Meta

from gatelog.accounts.rules.credentials import MAX_LOGIN_LENGTH, MAX_PASSWORD_LENGTH
from gatelog.accounts.service.grants import Grant
from gatelog.accounts.web import ACCOUNTS
from gatelog.accounts.web.asked import REFUSED_OR_ASKED, asked
from gatelog.accounts.web.devices import COOKIES_ARE_SET, device_tokens, set_device_cookie
from gatelog.config import MIN_PASSWORD_LENGTH
from gatelog.errors import (
    FactorRequired,
    InvalidCredentials,
    LoginTaken,
    RegistrationClosed,
    TooManyAttempts,
    TooManySessions,
    WeakPassword,
)
from gatelog.http.answers import (
    PREFERENCE,
    Outcome,
    private,
    set_session_cookie,
    told,
    told_reply,
)
from gatelog.http.bodies import read_body
from gatelog.http.caller import Caller, caller_of
from gatelog.http.described import describes
from gatelog.http.guard import SESSION, no_tokens, public
from gatelog.moments import Moment

Carrier = Literal["cookie", "bearer"]


Granting = Literal["logged_in", "password_changed"]
# What texts must be is for the rules to say, in words of their own (accounts.rules.credentials);
# lengths are of what they normalise to.
LoginName = Annotated[
    str,
    Meta(
        description="Without white space and what cannot be seen; the case does not matter.",
        extra_json_schema={
            "format": "login",
            "minLength": 1,
            "maxLength": MAX_LOGIN_LENGTH,
            "examples": ["ada"],
        },
    ),
]
_PASSWORD = {
    "format": "password",
    "minLength": 1,
    "maxLength": MAX_PASSWORD_LENGTH,
    "examples": ["correct horse battery staple"],
}
Password = Annotated[str, Meta(extra_json_schema=_PASSWORD)]
NewPassword = Annotated[
    str,
    Meta(
        description="Long, and none that many have; 15 characters, if the service does not differ.",
        extra_json_schema=_PASSWORD | {"minLength": MIN_PASSWORD_LENGTH},
    ),
]


class Registration(msgspec.Struct, forbid_unknown_fields=True):
    """A new user."""

    login: LoginName
    password: NewPassword


class Login(msgspec.Struct, forbid_unknown_fields=True):
    """``token`` says how the token shall travel: in a cookie, or in the body for a bearer."""

    login: LoginName
    password: Password
    carrier: Carrier = msgspec.field(name="token", default="cookie")


class PasswordChange(msgspec.Struct, forbid_unknown_fields=True):
    """The password, and the one that it shall be."""

    current_password: Password
    new_password: NewPassword


class Registered(msgspec.Struct):
    """The new user's id."""

    user_id: UUID
    status: Literal["registered"] = "registered"


class Granted(Outcome):
    """A session that has started; ``token`` only for who asked to carry it as a bearer.

    ``expires_at``: when it is over unless it is used; ``absolute_at``: at the latest.
    """

    status: Granting
    user_id: UUID
    session_id: UUID
    expires_at: Moment
    absolute_at: Moment
    position: int
    token: str | None = None
    token_type: Literal["Bearer"] | None = None


@public
@describes(
    body=Registration,
    returns={201: Registered},
    raises=(RegistrationClosed, LoginTaken, TooManyAttempts, WeakPassword),
)
async def register(request: web.Request) -> web.StreamResponse:
    """Create a user."""
    body = await read_body(request, Registration)
    user_id = await request.app[ACCOUNTS].logins.register(
        body.login, body.password, caller_of(request).client
    )
    return private(Registered(user_id), status=201)


@public
@no_tokens
@describes(
    body=Login,
    headers=PREFERENCE,
    returns={200: told_reply(Granted, **COOKIES_ARE_SET), 401: REFUSED_OR_ASKED},
    raises=(FactorRequired, InvalidCredentials, TooManyAttempts, TooManySessions),
)
async def log_in(request: web.Request) -> web.StreamResponse:
    """Start a session, whatever credentials come along: the token is always a fresh one. Who has a
    second factor is answered 401 `factor_required`, and goes on with `/v1/login_factor`.

    The session of a cookie that comes along is superseded.
    """
    body = await read_body(request, Login)
    caller = caller_of(request)
    over = caller.digest if caller.by_cookie else None
    devices = device_tokens(request, caller) if body.carrier == "cookie" else None
    try:
        grant = await request.app[ACCOUNTS].logins.log_in(
            body.login, body.password, caller.client, devices, over=over
        )
    except FactorRequired as required:
        return asked(required)
    return await granted(request, caller, "logged_in", grant, body.carrier)


@no_tokens
@describes(
    body=PasswordChange,
    headers=PREFERENCE,
    returns={200: told_reply(Granted, **COOKIES_ARE_SET)},
    raises=(InvalidCredentials, TooManyAttempts, WeakPassword),
)
async def change_password(request: web.Request) -> web.StreamResponse:
    """Replace the password and every session; the fresh token travels as the old one did."""
    body = await read_body(request, PasswordChange)
    caller = caller_of(request)
    grant = await request.app[ACCOUNTS].logins.change_password(
        request[SESSION],
        body.current_password,
        body.new_password,
        caller.client,
        device_tokens(request, caller) if caller.by_cookie else None,
    )
    carrier: Carrier = "cookie" if caller.by_cookie else "bearer"
    return await granted(request, caller, "password_changed", grant, carrier)


async def granted(
    request: web.Request, caller: Caller, status: Granting, grant: Grant, carrier: Carrier
) -> web.StreamResponse:
    """The answer to who has got a session: the token in a cookie, or in the body for a bearer."""
    session = grant.session
    content = Granted(
        status,
        session.subject_id,
        session.session_id,
        session.expires_at,
        session.absolute_at,
        grant.position,
    )
    if carrier == "bearer":
        content.token, content.token_type = grant.token, "Bearer"
    response = await told(request, caller, content, grant.position)
    if carrier == "cookie":
        give_cookies(response, request, caller, grant)
    return response


def give_cookies(
    response: web.StreamResponse, request: web.Request, caller: Caller, grant: Grant
) -> None:
    """Let the browser keep the token of its session, and by what it is known from now on."""
    session = grant.session
    lifetime = session.absolute_at - session.started_at
    set_session_cookie(response, caller, grant.token, int(lifetime.total_seconds()))
    if grant.device is not None:
        set_device_cookie(response, request, caller, grant.device)


def login_routes() -> list[web.RouteDef]:
    """The routes of passwords."""
    return [
        web.post("/v1/register_user", register),
        web.post("/v1/login_user", log_in),
        web.post("/v1/change_password", change_password),
    ]
