"""The handlers of one's own second factors: list, enrol and remove them, make recovery codes.

What changes them takes a recent login: a session that was stolen must not be the one that locks its
owner out, or makes itself at home.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from aiohttp import web
from msgspec import Meta

from gatelog.accounts.rules.events import FactorKind
from gatelog.accounts.rules.names import MAX_NAME_LENGTH
from gatelog.accounts.service.factors import Enrolled
from gatelog.accounts.web import ACCOUNTS
from gatelog.accounts.web.second_steps import Code, PasskeyAnswer
from gatelog.errors import (
    ChallengeOver,
    Conflict,
    FactorLoginRequired,
    Forbidden,
    InvalidCredentials,
    InvalidInput,
    PasskeysOff,
    RecentLoginRequired,
    TooManyFactors,
    WrongCode,
)
from gatelog.http.answers import PREFERENCE, Outcome, answer, private, told, told_reply
from gatelog.http.bodies import id_in_path, read_body
from gatelog.http.caller import caller_of
from gatelog.http.described import describes
from gatelog.http.guard import SESSION, no_tokens
from gatelog.http.roles import refuse_old_login
from gatelog.moments import Moment

FactorName = Annotated[str, Meta(extra_json_schema={"minLength": 1, "maxLength": MAX_NAME_LENGTH})]
END_OTHERS = "end_others"


class ListedFactor(msgspec.Struct):
    """A factor of the caller, and what they call it. ``used_at``: null until it is used."""

    factor_id: UUID
    factor: FactorKind
    name: str
    enrolled_at: Moment
    used_at: Moment | None


class ListedFactors(msgspec.Struct):
    """The caller's factors, and how many recovery codes are left."""

    factors: list[ListedFactor]
    recovery_codes: int


class SeedOffered(msgspec.Struct):
    """A seed for an authenticator program, as text, as an address, and that as a QR code (SVG). It
    counts when one of its codes is handed in with ``challenge``."""

    challenge: str
    expires_at: Moment
    secret: str
    uri: str
    qr_svg: str


class PasskeyOffered(msgspec.Struct):
    """What ``navigator.credentials.create`` takes; its answer is handed in with ``challenge``."""

    challenge: str
    expires_at: Moment
    public_key: dict[str, Any]


class SeedConfirmation(msgspec.Struct, forbid_unknown_fields=True):
    """A code that the seed has now. ``end_others``: and end all other sessions."""

    challenge: str
    code: Code
    name: FactorName = "Authenticator"
    end_others: bool = False


class PasskeyConfirmation(msgspec.Struct, forbid_unknown_fields=True):
    """The passkey that the browser has made. ``end_others``: and end all other sessions."""

    challenge: str
    passkey: PasskeyAnswer
    name: FactorName = "Passkey"
    end_others: bool = False


class FactorAdded(Outcome):
    """A factor is enrolled; with the first one there are recovery codes, shown this once."""

    factor_id: UUID
    ended: int
    position: int
    recovery_codes: tuple[str, ...] | None = None
    status: Literal["enrolled"] = "enrolled"


class FactorGone(Outcome):
    """A factor is removed, and so many sessions with it."""

    ended: int
    position: int
    status: Literal["removed"] = "removed"


class CodesMade(Outcome):
    """Recovery codes, shown this once; those of before are none any more."""

    recovery_codes: tuple[str, ...]
    position: int


_ENROLS = (
    ChallengeOver,
    Conflict,
    FactorLoginRequired,
    Forbidden,
    RecentLoginRequired,
    TooManyFactors,
    WrongCode,
)
_OFFERS = (FactorLoginRequired, Forbidden, InvalidCredentials, RecentLoginRequired)


@describes(returns={200: ListedFactors})
async def list_factors(request: web.Request) -> web.StreamResponse:
    """The user's second factors, oldest first."""
    found, left = await request.app[ACCOUNTS].factors.described(request[SESSION].subject_id)
    listed = [ListedFactor(f.factor_id, f.kind, f.name, f.enrolled_at, f.used_at) for f in found]
    return answer(ListedFactors(listed, left))


@no_tokens
@describes(returns={200: SeedOffered}, raises=_OFFERS)
async def offer_seed(request: web.Request) -> web.StreamResponse:
    """A fresh seed for an authenticator program (TOTP, RFC 6238)."""
    refuse_old_login(request)
    offer = await request.app[ACCOUNTS].factors.offer_seed(request[SESSION])
    return private(
        SeedOffered(offer.challenge, offer.expires_at, offer.secret, offer.uri, offer.qr_svg)
    )


@no_tokens
@describes(
    body=SeedConfirmation,
    headers=PREFERENCE,
    returns={201: told_reply(FactorAdded)},
    raises=_ENROLS,
)
async def enrol_seed(request: web.Request) -> web.StreamResponse:
    """Enrol the seed that was offered: from now on it takes a factor to log in."""
    body = await read_body(request, SeedConfirmation)
    refuse_old_login(request)
    enrolled = await request.app[ACCOUNTS].factors.enrol_seed(
        request[SESSION],
        body.challenge,
        body.code,
        name=body.name,
        end_others=body.end_others,
        client=caller_of(request).client,
    )
    return await _added(request, enrolled)


@no_tokens
@describes(returns={200: PasskeyOffered}, raises=(PasskeysOff, *_OFFERS))
async def offer_passkey(request: web.Request) -> web.StreamResponse:
    """What to ask the browser for, to make a passkey (WebAuthn level 2)."""
    refuse_old_login(request)
    offer = await request.app[ACCOUNTS].factors.offer_passkey(request[SESSION])
    return private(PasskeyOffered(offer.challenge, offer.expires_at, offer.public_key))


@no_tokens
@describes(
    body=PasskeyConfirmation,
    headers=PREFERENCE,
    returns={201: told_reply(FactorAdded)},
    raises=(*_ENROLS, PasskeysOff),
)
async def enrol_passkey(request: web.Request) -> web.StreamResponse:
    """Enrol the passkey that the browser has made: it opens with the password, and without."""
    body = await read_body(request, PasskeyConfirmation)
    refuse_old_login(request)
    enrolled = await request.app[ACCOUNTS].factors.enrol_passkey(
        request[SESSION],
        body.challenge,
        body.passkey,
        name=body.name,
        end_others=body.end_others,
        client=caller_of(request).client,
    )
    return await _added(request, enrolled)


async def _added(request: web.Request, enrolled: Enrolled) -> web.StreamResponse:
    content = FactorAdded(
        factor_id=enrolled.factor_id,
        ended=enrolled.ended,
        position=enrolled.position,
        recovery_codes=enrolled.recovery_codes or None,
    )
    response = await told(request, caller_of(request), content, enrolled.position)
    response.set_status(201)
    return response


@no_tokens
@describes(
    path={"factor_id": UUID},
    query={
        END_OTHERS: Annotated[
            Literal["true", "false"], Meta(description="`true`: and end all other sessions.")
        ]
    },
    headers=PREFERENCE,
    returns={200: told_reply(FactorGone)},
    raises=(FactorLoginRequired, Forbidden, RecentLoginRequired),
)
async def remove_factor(request: web.Request) -> web.StreamResponse:
    """Remove one of the user's own factors. With the last one the password is enough again."""
    factor_id = id_in_path(request, "factor_id", "You have no such factor.")
    given = request.query.getall(END_OTHERS, ["false"])
    if set(request.query) - {END_OTHERS} or given not in (["true"], ["false"]):
        raise InvalidInput("The parameter is end_others, true or false.")
    refuse_old_login(request)
    gone = await request.app[ACCOUNTS].factors.remove(
        request[SESSION],
        factor_id,
        end_others=given == ["true"],
        client=caller_of(request).client,
    )
    content = FactorGone(ended=gone.ended, position=gone.position)
    return await told(request, caller_of(request), content, gone.position)


@no_tokens
@describes(
    headers=PREFERENCE,
    returns={200: told_reply(CodesMade)},
    raises=(Conflict, FactorLoginRequired, Forbidden, RecentLoginRequired),
)
async def make_codes(request: web.Request) -> web.StreamResponse:
    """Fresh recovery codes, each of which stands in for a factor once."""
    refuse_old_login(request)
    caller = caller_of(request)
    codes, position = await request.app[ACCOUNTS].factors.make_codes(
        request[SESSION], caller.client
    )
    return await told(request, caller, CodesMade(recovery_codes=codes, position=position), position)


def factor_routes() -> list[web.RouteDef]:
    """The routes of one's own factors."""
    return [
        web.get("/v1/factors", list_factors),
        web.post("/v1/factors/totp", offer_seed),
        web.post("/v1/factors/totp/confirm", enrol_seed),
        web.post("/v1/factors/passkeys", offer_passkey),
        web.post("/v1/factors/passkeys/confirm", enrol_passkey),
        web.post("/v1/factors/recovery_codes", make_codes),
        web.delete("/v1/factors/{factor_id:[0-9A-Fa-f-]{36}}", remove_factor),
    ]
