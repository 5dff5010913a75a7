"""The handlers of the second step of a login, and of a passkey in the place of the password.

Like a login they are for everybody, take no session, and start one at most. A page has the browser
answer what stands in ``public_key`` (``PublicKeyCredential.parseRequestOptionsFromJSON``), and
hands in what comes of it (``credential.toJSON()``).
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from aiohttp import web
from msgspec import Meta

from gatelog.accounts.service.second_steps import FactorAnswer
from gatelog.accounts.web import ACCOUNTS
from gatelog.accounts.web.devices import COOKIES_ARE_SET, device_tokens
from gatelog.accounts.web.logins import Carrier, Granted, granted
from gatelog.errors import (
    AnswerRefused,
    ChallengeOver,
    InvalidCredentials,
    InvalidInput,
    PasskeysOff,
    TooManyAttempts,
    TooManySessions,
)
from gatelog.http.answers import PREFERENCE, private, told_reply
from gatelog.http.bodies import read_body
from gatelog.http.caller import caller_of
from gatelog.http.described import describes
from gatelog.http.guard import no_tokens, public
from gatelog.moments import Moment

Code = Annotated[
    str, Meta(extra_json_schema={"examples": ["123456"]}, description="Six digits (TOTP).")
]
PasskeyAnswer = Annotated[
    dict[str, Any],
    Meta(description="What the browser made of it, in JSON (WebAuthn level 2, `toJSON()`)."),
]


class FactorLogin(msgspec.Struct, forbid_unknown_fields=True):
    """The challenge, and one answer to it. ``token``: see a login."""

    challenge: str
    code: Code | msgspec.UnsetType = msgspec.UNSET
    recovery_code: str | msgspec.UnsetType = msgspec.UNSET
    passkey: PasskeyAnswer | msgspec.UnsetType = msgspec.UNSET
    carrier: Carrier = msgspec.field(name="token", default="cookie")


class PasskeyLogin(msgspec.Struct, forbid_unknown_fields=True):
    """The challenge, and the answer to it. ``token``: see a login."""

    challenge: str
    passkey: PasskeyAnswer
    carrier: Carrier = msgspec.field(name="token", default="cookie")


class PasskeyAsked(msgspec.Struct):
    """What ``navigator.credentials.get`` takes, and until when that may be answered."""

    challenge: str
    expires_at: Moment
    public_key: dict[str, Any]


_ANSWERS = ("code", "recovery_code", "passkey")
_GRANTED = {200: told_reply(Granted, **COOKIES_ARE_SET)}
_REFUSALS = (
    AnswerRefused,
    ChallengeOver,
    InvalidCredentials,
    PasskeysOff,
    TooManyAttempts,
    TooManySessions,
)


@public
@no_tokens
@describes(
    body=Annotated[
        FactorLogin,
        Meta(extra_json_schema={"oneOf": [{"required": [name]} for name in _ANSWERS]}),
    ],
    headers=PREFERENCE,
    returns=_GRANTED,
    raises=_REFUSALS,
)
async def log_in_by_factor(request: web.Request) -> web.StreamResponse:
    """Answer what was asked after the password, and start the session. Give one of ``code``,
    ``recovery_code`` and ``passkey``.

    A challenge is good for one right answer, for five minutes, and for five wrong answers.
    """
    body = await read_body(request, FactorLogin)
    given = {
        name: value for name in _ANSWERS if (value := getattr(body, name)) is not msgspec.UNSET
    }
    if len(given) != 1:
        raise InvalidInput("Give one of the fields code, recovery_code and passkey.")
    answer = FactorAnswer(**given)
    caller = caller_of(request)
    grant = await request.app[ACCOUNTS].second_steps.log_in(
        body.challenge,
        answer,
        caller.client,
        device_tokens(request, caller) if body.carrier == "cookie" else None,
        over=caller.digest if caller.by_cookie else None,
    )
    return await granted(request, caller, "logged_in", grant, body.carrier)


@public
@describes(returns={200: PasskeyAsked}, raises=(PasskeysOff,))
async def ask_for_passkey(request: web.Request) -> web.StreamResponse:
    """What to ask any browser for, to log in by a passkey alone. Nobody's name is needed."""
    asked = await request.app[ACCOUNTS].second_steps.ask_for_passkey()
    return private(PasskeyAsked(asked.challenge, asked.expires_at, asked.public_key))


@public
@no_tokens
@describes(
    body=PasskeyLogin,
    headers=PREFERENCE,
    returns=_GRANTED,
    raises=_REFUSALS,
)
async def log_in_by_passkey(request: web.Request) -> web.StreamResponse:
    """Start the session of who has this passkey, without a password."""
    body = await read_body(request, PasskeyLogin)
    caller = caller_of(request)
    grant = await request.app[ACCOUNTS].second_steps.log_in_by_passkey(
        body.challenge,
        body.passkey,
        caller.client,
        device_tokens(request, caller) if body.carrier == "cookie" else None,
        over=caller.digest if caller.by_cookie else None,
    )
    return await granted(request, caller, "logged_in", grant, body.carrier)


def second_step_routes() -> list[web.RouteDef]:
    """The routes of the second step, and of logins by passkey."""
    return [
        web.post("/v1/login_factor", log_in_by_factor),
        web.post("/v1/passkeys/login_options", ask_for_passkey),
        web.post("/v1/passkeys/login", log_in_by_passkey),
    ]
