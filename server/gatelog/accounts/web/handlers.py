"""The handlers of users and their sessions, and of health.

Each one reads its input, calls one use case and says what came of it; the rules are elsewhere.
"""

from __future__ import annotations

import os
from datetime import datetime
from typing import Final, Literal
from uuid import UUID

import msgspec
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from gatelog.accounts.service.accounts import Ended, Grant
from gatelog.config import Config
from gatelog.errors import GatelogError, NotFound
from gatelog.hosting.services import Services
from gatelog.http.bodies import read_body
from gatelog.http.clients import client_of
from gatelog.http.credentials import (
    UnclearCredentials,
    clear_session_cookie,
    has_session_cookie,
    read_token,
    set_session_cookie,
)
from gatelog.http.guard import SESSION, changes_state, keep_private, public
from gatelog.http.identity import AUTH_PATH, ME_PATH, auth, me
from gatelog.http.problems import UNCLEAR_CREDENTIALS, problem
from gatelog.http.receipts import Receipt, apply_preference, receipt_for
from gatelog.privacy.rules import Client
from gatelog.sessions.rules.tokens import token_digest

CONFIG: Final = web.AppKey("config", Config)
SERVICES: Final = web.AppKey("services", Services)

Carrier = Literal["cookie", "bearer"]

_encode = msgspec.json.Encoder().encode
_JSON = {hdrs.CONTENT_TYPE: "application/json"}


# --- what comes in


class Registration(msgspec.Struct, forbid_unknown_fields=True):
    login: str
    password: str


class Login(msgspec.Struct, forbid_unknown_fields=True):
    """``token`` says how the token shall travel: in a cookie, or in the body for a bearer."""

    login: str
    password: str
    carrier: Carrier = msgspec.field(name="token", default="cookie")


class PasswordChange(msgspec.Struct, forbid_unknown_fields=True):
    current_password: str
    new_password: str


# --- what goes out


class Registered(msgspec.Struct):
    user_id: UUID
    status: str = "registered"


class Granted(msgspec.Struct, omit_defaults=True):
    """A session that has started; ``token`` only for who asked to carry it as a bearer."""

    status: str
    user_id: UUID
    session_id: UUID
    expires_at: datetime
    position: int
    token: str | None = None
    token_type: str | None = None
    receipt: Receipt | None = None


class Ending(msgspec.Struct):
    """``position`` is where the log says so; None when the log was not asked."""

    status: str
    ended: int
    position: int | None
    receipt: Receipt | msgspec.UnsetType = msgspec.UNSET


class ListedSession(msgspec.Struct):
    session_id: UUID
    started_at: datetime
    expires_at: datetime
    current: bool


class Sessions(msgspec.Struct):
    sessions: list[ListedSession]


class Alive(msgspec.Struct):
    worker: int
    workers: int
    status: str = "alive"


def answer(content: msgspec.Struct, status: int = 200) -> web.Response:
    """A JSON response."""
    return web.Response(status=status, body=_encode(content), headers=_JSON)


def _private(content: msgspec.Struct, status: int = 200) -> web.Response:
    """An answer of a public handler that is for one client only."""
    response = answer(content, status)
    keep_private(response)
    return response


# --- users


@public
async def register(request: web.Request) -> web.StreamResponse:
    """Create a user."""
    body = await read_body(request, Registration)
    user_id = await request.app[SERVICES].accounts.register(
        body.login, body.password, client(request)
    )
    return _private(Registered(user_id), status=201)


@public
async def log_in(request: web.Request) -> web.StreamResponse:
    """Start a session, whatever credentials come along: the token is always a fresh one."""
    body = await read_body(request, Login)
    grant = await request.app[SERVICES].accounts.log_in(body.login, body.password, client(request))
    response = await _granted(request, "logged_in", grant, body.carrier)
    keep_private(response)
    return response


async def change_password(request: web.Request) -> web.StreamResponse:
    """Replace the password and every session; the fresh token travels as the old one did."""
    body = await read_body(request, PasswordChange)
    grant = await request.app[SERVICES].accounts.change_password(
        request[SESSION], body.current_password, body.new_password, client(request)
    )
    carrier: Carrier = "cookie" if has_session_cookie(request) else "bearer"
    return await _granted(request, "password_changed", grant, carrier)


async def _granted(
    request: web.Request, status: str, grant: Grant, carrier: Carrier
) -> web.StreamResponse:
    session = grant.session
    content = Granted(
        status, session.subject_id, session.session_id, session.expires_at, grant.position
    )
    content.receipt = await _receipt(request, grant.position)
    if carrier == "bearer":
        content.token, content.token_type = grant.token, "Bearer"
    response = answer(content)
    apply_preference(response, content.receipt)
    if carrier == "cookie":
        lifetime = session.expires_at - session.started_at
        set_session_cookie(request, response, grant.token, int(lifetime.total_seconds()))
    return response


# --- sessions


@public
@changes_state
async def log_out(request: web.Request) -> web.StreamResponse:
    """End the session that the request presents, if there is one; forget its cookie anyway."""
    try:
        response = await _log_out(request)
    except UnclearCredentials:
        response = UNCLEAR_CREDENTIALS.response()
    if has_session_cookie(request):
        clear_session_cookie(request, response)
    return response


async def _log_out(request: web.Request) -> web.Response:
    token = read_token(request)
    if token is None:
        return _private(Ending("logged_out", 0, None))
    ended = await request.app[SERVICES].accounts.log_out(token_digest(token), client(request))
    response = await _ended(request, "logged_out", ended)
    keep_private(response)
    return response


async def list_sessions(request: web.Request) -> web.StreamResponse:
    """The user's active sessions, oldest first."""
    here = request[SESSION]
    sessions = await request.app[SERVICES].accounts.list_sessions(here.subject_id)
    return answer(
        Sessions(
            [
                ListedSession(
                    s.session_id, s.started_at, s.expires_at, s.session_id == here.session_id
                )
                for s in sessions
            ]
        )
    )


async def end_session(request: web.Request) -> web.StreamResponse:
    """End one of the user's own sessions."""
    session_id = uuid(request.match_info["session_id"], "You have no such session.")
    ended = await request.app[SERVICES].accounts.end_session(
        request[SESSION], session_id, client(request)
    )
    response = await _ended(request, "ended", ended)
    if session_id == request[SESSION].session_id and has_session_cookie(request):
        clear_session_cookie(request, response)
    return response


async def end_others(request: web.Request) -> web.StreamResponse:
    """End the user's other sessions."""
    ended = await request.app[SERVICES].accounts.end_others(request[SESSION], client(request))
    return await _ended(request, "ended", ended)


async def end_all(request: web.Request) -> web.StreamResponse:
    """End all of the user's sessions, this one too."""
    ended = await request.app[SERVICES].accounts.end_all(request[SESSION], client(request))
    response = await _ended(request, "ended", ended)
    if has_session_cookie(request):
        clear_session_cookie(request, response)
    return response


def ending(status: str, ended: Ended) -> Ending:
    """What a command did, for the answer."""
    return Ending(status, ended.ended, ended.position)


async def _ended(request: web.Request, status: str, ended: Ended) -> web.Response:
    """The answer to a user who ended sessions of theirs, with a receipt if there is one to give."""
    content = ending(status, ended)
    receipt = await _receipt(request, ended.position) if ended.ended else None
    if receipt is not None:
        content.receipt = receipt
    response = answer(content)
    apply_preference(response, receipt)
    return response


async def _receipt(request: web.Request, position: int) -> Receipt | None:
    """The receipt for an event about the caller, if the request prefers one."""
    return await receipt_for(request, request.app[SERVICES].proofs, position)


def client(request: web.Request) -> Client:
    """The client behind the request."""
    return client_of(request, request.app[CONFIG].trusted_networks)


def uuid(text: str, otherwise: str) -> UUID:
    """The id in its one spelling; any other text names nothing. Raises NotFound, saying so."""
    try:
        value = UUID(text)
    except ValueError:
        raise NotFound(otherwise) from None
    if str(value) != text.lower():
        raise NotFound(otherwise)
    return value


# --- health


def alive(config: Config) -> Handler:
    """The handler that says which worker answers; its body never changes."""
    body = _encode(Alive(os.getpid(), config.worker_count))

    @public
    async def health_alive(_: web.Request) -> web.StreamResponse:
        return web.Response(body=body, headers=_JSON | {hdrs.CACHE_CONTROL: "no-store"})

    return health_alive


@public
async def ready(request: web.Request) -> web.StreamResponse:
    """Whether the service can do its work, and why not."""
    try:
        await request.app[SERVICES].accounts.ready()
    except GatelogError as error:
        return problem(error, tell=True)
    return web.Response(
        body=b'{"status":"ready"}', headers=_JSON | {hdrs.CACHE_CONTROL: "no-store"}
    )


def routes(config: Config) -> list[web.RouteDef]:
    """Every route of the product. HEAD goes with GET, but not where GET changes something."""
    return [
        web.post("/v1/register_user", register),
        web.post("/v1/login_user", log_in),
        web.get("/v1/logout_user", log_out, allow_head=False),
        web.post("/v1/logout_user", log_out),
        web.get(ME_PATH, me),
        web.route("*", AUTH_PATH, auth),
        web.get("/v1/sessions", list_sessions),
        web.delete("/v1/sessions/{session_id:[0-9A-Fa-f-]{36}}", end_session),
        web.post("/v1/sessions/end_others", end_others),
        web.post("/v1/sessions/end_all", end_all),
        web.post("/v1/change_password", change_password),
        web.get("/health/alive", alive(config)),
        web.get("/health/ready", ready),
    ]
