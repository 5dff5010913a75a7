"""The handlers of tokens for machines: create one, list them, end one.

A token is shown once, to who creates it. What changes tokens needs a recent login, and no token can
do it.
"""

from __future__ import annotations

from datetime import date
from typing import Annotated, Literal
from uuid import UUID

import msgspec
from aiohttp import web
from msgspec import Meta

from gatelog.accounts.rules.names import MAX_NAME_LENGTH
from gatelog.accounts.rules.tokens import MAX_LIFETIME_S
from gatelog.accounts.service.tokens import CreatedToken, DescribedToken
from gatelog.accounts.web import ACCOUNTS
from gatelog.accounts.web.sessions import ENDING, tell_ended
from gatelog.errors import Forbidden, RecentLoginRequired, TooManyTokens
from gatelog.http.answers import PREFERENCE, answer, private
from gatelog.http.bodies import id_in_path, read_body
from gatelog.http.caller import caller_of
from gatelog.http.described import describes
from gatelog.http.guard import SESSION, no_tokens
from gatelog.http.roles import refuse_old_login
from gatelog.moments import Moment
from gatelog.sessions.rules.tokens import MACHINE_TOKEN
from gatelog.settings import RoleName


class NewToken(msgspec.Struct, forbid_unknown_fields=True):
    """A token to create: what it is called, for how many seconds it lives, and its roles."""

    name: Annotated[str, Meta(extra_json_schema={"minLength": 1, "maxLength": MAX_NAME_LENGTH})]
    lifetime_s: Annotated[int, Meta(ge=1, le=MAX_LIFETIME_S)]
    roles: Annotated[list[RoleName], Meta(max_length=64)] = []


class Created(msgspec.Struct):
    """The new token; ``token`` is told this once."""

    token_id: UUID
    token: Annotated[str, Meta(extra_json_schema={"pattern": f"^{MACHINE_TOKEN}$"})]
    name: str
    roles: tuple[str, ...]
    created_at: Moment
    expires_at: Moment
    position: int
    status: Literal["created"] = "created"


class ListedToken(msgspec.Struct):
    """A token of the caller. ``last_used_on``: the day (UTC) of its last use; null: never."""

    token_id: UUID
    name: str | None
    roles: tuple[str, ...]
    created_at: Moment
    expires_at: Moment
    last_used_on: date | None


class Tokens(msgspec.Struct):
    """The user's active tokens."""

    tokens: list[ListedToken]


_TOKEN = {"token_id": UUID}


@no_tokens
@describes(
    body=NewToken,
    returns={201: Created},
    raises=(Forbidden, RecentLoginRequired, TooManyTokens),
)
async def create_token(request: web.Request) -> web.StreamResponse:
    """Create a token for a machine, with roles of one's own."""
    refuse_old_login(request)
    body = await read_body(request, NewToken)
    tokens, client = request.app[ACCOUNTS].tokens, caller_of(request).client
    created = await tokens.create(
        request[SESSION], body.name, body.lifetime_s, tuple(body.roles), client
    )
    return private(_created(created), status=201)


def _created(created: CreatedToken) -> Created:
    session = created.session
    return Created(
        token_id=session.session_id,
        token=created.token,
        name=created.name,
        roles=session.roles,
        created_at=session.started_at,
        expires_at=session.expires_at,
        position=created.position,
    )


@describes(returns={200: Tokens})
async def list_tokens(request: web.Request) -> web.StreamResponse:
    """The user's active tokens, oldest first."""
    described = await request.app[ACCOUNTS].tokens.of_user(request[SESSION].subject_id)
    return answer(Tokens([_listed(each) for each in described]))


def _listed(described: DescribedToken) -> ListedToken:
    session = described.session
    return ListedToken(
        token_id=session.session_id,
        name=described.name,
        roles=session.roles,
        created_at=session.started_at,
        expires_at=session.expires_at,
        last_used_on=described.last_used_on,
    )


@no_tokens
@describes(path=_TOKEN, headers=PREFERENCE, returns=ENDING, raises=(RecentLoginRequired,))
async def end_token(request: web.Request) -> web.StreamResponse:
    """End one of the user's own tokens."""
    token_id = id_in_path(request, "token_id", "You have no such token.")
    refuse_old_login(request)
    caller = caller_of(request)
    ended = await request.app[ACCOUNTS].tokens.end(request[SESSION], token_id, caller.client)
    return await tell_ended(request, caller, ended)


def token_routes() -> list[web.RouteDef]:
    """Every route of tokens."""
    return [
        web.post("/v1/tokens", create_token),
        web.get("/v1/tokens", list_tokens),
        web.delete("/v1/tokens/{token_id:[0-9A-Fa-f-]{36}}", end_token),
    ]
