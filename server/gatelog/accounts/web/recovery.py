"""The handlers of ways back in, of invitations and of one's address of mail.

Who asks for a link is told the same, whoever has the login. Who uses one is told one and the same
error, whatever is wrong with it.
"""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

import msgspec
from aiohttp import web
from msgspec import Meta

from gatelog.accounts.service.acting import NO_SUCH_USER, Actor
from gatelog.accounts.service.recovery import MadeLink
from gatelog.accounts.web import ACCOUNTS
from gatelog.accounts.web.logins import LoginName, NewPassword
from gatelog.errors import (
    InvalidInput,
    LinkUnusable,
    LoginTaken,
    NoSuchRole,
    RecentLoginRequired,
    RecoveryClosed,
    TooManyAttempts,
    WeakPassword,
)
from gatelog.http.answers import answer, private
from gatelog.http.bodies import id_in_path, read_body
from gatelog.http.caller import caller_of
from gatelog.http.described import describes
from gatelog.http.guard import SESSION, no_tokens, public
from gatelog.http.roles import refuse_old_login, requires
from gatelog.mail.rules.addresses import MAX_ADDRESS_LENGTH
from gatelog.moments import Moment
from gatelog.settings import RoleName

LinkToken = Annotated[str, Meta(description="What follows `=` in the link's fragment.")]
Address = Annotated[
    str,
    Meta(
        extra_json_schema={
            "format": "email",
            "minLength": 3,
            "maxLength": MAX_ADDRESS_LENGTH,
            "examples": ["ada@example.com"],
        }
    ),
]


class Recovering(msgspec.Struct, forbid_unknown_fields=True):
    """Who wants a link by mail."""

    login: LoginName


class Asked(msgspec.Struct):
    """The same, whether there is such a user or not."""

    status: Literal["accepted"] = "accepted"


class NewPasswordByLink(msgspec.Struct, forbid_unknown_fields=True):
    """A link's token, and the password that shall be."""

    token: LinkToken
    new_password: NewPassword


class PasswordSet(msgspec.Struct):
    """How many sessions ended, and where the log says so."""

    ended: int
    position: int
    status: Literal["password_set"] = "password_set"


class Invitation(msgspec.Struct, forbid_unknown_fields=True):
    """A new user. With an ``address`` the link goes there, and proves it; else it is answered."""

    login: LoginName
    roles: list[RoleName] = []
    address: Address | None = None


class Link(msgspec.Struct):
    """A one-time link. ``token`` and ``link`` are null where it goes out by mail."""

    status: Literal["link_made", "invited"]
    user_id: UUID
    lifetime_s: int
    position: int
    token: str | None
    link: str | None


class NewAddress(msgspec.Struct, forbid_unknown_fields=True):
    """An address of mail, to which a link is sent."""

    address: Address


class AddressLink(msgspec.Struct, forbid_unknown_fields=True):
    """The token of a link that was sent to an address."""

    token: LinkToken


class MailAddress(msgspec.Struct):
    """The verified address of mail; null where there is none."""

    address: str | None
    verified_at: Moment | None


class AddressChanged(msgspec.Struct):
    """What became of it. ``position``: where the log says so, if it was asked."""

    status: Literal["verified", "removed"]
    position: int | None


@public
@describes(
    body=Recovering, returns={202: Asked}, raises=(RecoveryClosed, InvalidInput, TooManyAttempts)
)
async def ask(request: web.Request) -> web.StreamResponse:
    """Have a link for a new password sent to the user's verified address, if there is one."""
    body = await read_body(request, Recovering)
    await request.app[ACCOUNTS].recovery.ask(body.login, caller_of(request).client)
    return private(Asked(), status=202)


@public
@describes(body=NewPasswordByLink, returns={200: PasswordSet}, raises=(LinkUnusable, WeakPassword))
async def set_password(request: web.Request) -> web.StreamResponse:
    """Set a password by a one-time link: all sessions end, and a locked password is unlocked."""
    body = await read_body(request, NewPasswordByLink)
    ended = await request.app[ACCOUNTS].recovery.set_password(
        body.token, body.new_password, caller_of(request).client
    )
    return private(PasswordSet(ended.ended, ended.position))


def _actor(request: web.Request) -> Actor:
    return Actor(request[SESSION].subject_id, caller_of(request).client)


def _link(status: Literal["link_made", "invited"], made: MadeLink) -> Link:
    return Link(status, made.subject_id, made.lifetime_s, made.position, made.token, made.link)


@no_tokens
@requires("admin")
@describes(path={"user_id": UUID}, returns={200: Link}, raises=(RecentLoginRequired,))
async def reset(request: web.Request) -> web.StreamResponse:
    """Make a link for the user: sent to their address, or answered where they have none."""
    refuse_old_login(request)
    user_id = id_in_path(request, "user_id", NO_SUCH_USER)
    made = await request.app[ACCOUNTS].recovery.reset(user_id, _actor(request))
    return answer(_link("link_made", made))


@no_tokens
@requires("admin")
@describes(
    body=Invitation,
    returns={201: Link},
    raises=(InvalidInput, LoginTaken, NoSuchRole, RecoveryClosed, RecentLoginRequired),
)
async def invite(request: web.Request) -> web.StreamResponse:
    """Create a user, who chooses a password by a link."""
    refuse_old_login(request)
    body = await read_body(request, Invitation)
    made = await request.app[ACCOUNTS].recovery.invite(
        body.login, tuple(body.roles), body.address, _actor(request)
    )
    return answer(_link("invited", made), status=201)


@describes(returns={200: MailAddress})
async def show_address(request: web.Request) -> web.StreamResponse:
    """The user's verified address of mail."""
    found = await request.app[ACCOUNTS].recovery.address_of(request[SESSION].subject_id)
    address, since = found if found is not None else (None, None)
    return answer(MailAddress(address, since))


@no_tokens
@describes(
    body=NewAddress,
    returns={202: Asked},
    raises=(RecoveryClosed, InvalidInput, RecentLoginRequired, TooManyAttempts),
)
async def propose_address(request: web.Request) -> web.StreamResponse:
    """Have a link sent to an address; it is the user's when the link is used."""
    refuse_old_login(request)
    body = await read_body(request, NewAddress)
    await request.app[ACCOUNTS].recovery.propose_address(
        request[SESSION], body.address, caller_of(request).client
    )
    return answer(Asked(), status=202)


@no_tokens
@describes(returns={200: AddressChanged}, raises=(RecentLoginRequired,))
async def remove_address(request: web.Request) -> web.StreamResponse:
    """Forget the user's address of mail."""
    refuse_old_login(request)
    recorded = await request.app[ACCOUNTS].recovery.remove_address(
        request[SESSION], caller_of(request).client
    )
    return answer(AddressChanged("removed", recorded.position if recorded else None))


@public
@describes(body=AddressLink, returns={200: AddressChanged}, raises=(LinkUnusable,))
async def verify_address(request: web.Request) -> web.StreamResponse:
    """Verify an address by the link that was sent to it."""
    body = await read_body(request, AddressLink)
    recorded = await request.app[ACCOUNTS].recovery.verify_address(
        body.token, caller_of(request).client
    )
    return private(AddressChanged("verified", recorded.position))


def recovery_routes() -> list[web.RouteDef]:
    """The routes of links and addresses."""
    return [
        web.post("/v1/recover", ask),
        web.post("/v1/recover/confirm", set_password),
        web.post("/v1/users/{user_id:[0-9A-Fa-f-]{36}}/reset", reset),
        web.post("/v1/users/invite", invite),
        web.get("/v1/me/address", show_address),
        web.put("/v1/me/address", propose_address),
        web.delete("/v1/me/address", remove_address),
        web.post("/v1/address/confirm", verify_address),
    ]
