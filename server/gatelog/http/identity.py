"""Who is asking: answered from the session alone, without any look-up.

``me`` is for the user's own client; ``auth`` is for a proxy in front of other services that asks
before it lets a request through (forward authentication). Rules of ``auth``:

- 200 with the identity in headers and an empty body, 401, or 403 for who lacks the role that the
  proxy wants. Anything else (503, 422 for a parameter that is not known) means that
  nobody can tell, and a proxy lets nobody through then.
- Every identity header is always there, so that a proxy which copies them overwrites what a
  client has sent under these names; the signed one is empty where the proxy does not say for whom.
- The method is that of the request which the proxy asks about. Nothing is changed here, so none
  is refused.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Annotated, Final, Literal

import msgspec
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler
from msgspec import Meta
from multidict import istr
from yarl import URL

from gatelog.errors import Forbidden, InvalidInput
from gatelog.http.answers import keep_private
from gatelog.http.described import Reply, describes
from gatelog.http.encoded import Template
from gatelog.http.guard import AROUND, SESSION, changes_nothing
from gatelog.http.login_redirect import LOGIN_HEADER, LOGIN_PARAMETER, sent_to_login
from gatelog.http.signed_identity import token_for
from gatelog.moments import Moment
from gatelog.sessions.rules.record import Session

ME_PATH: Final = "/v1/me"
AUTH_PATH: Final = "/v1/auth"

USER_HEADER: Final = istr("X-Gatelog-User")
SESSION_HEADER: Final = istr("X-Gatelog-Session")
ROLES_HEADER: Final = istr("X-Gatelog-Roles")
EXPIRES_HEADER: Final = istr("X-Gatelog-Expires")  # whole seconds since 1970 (UTC), rounded down
IDENTITY_HEADER: Final = istr("X-Gatelog-Identity")  # ``gatelog.http.signed_identity``

ROLE_PARAMETER: Final = "role"
AUDIENCE_PARAMETER: Final = "audience"
_AUDIENCE: Final = r"[!#-\[\]-~]{1,255}"  # printable ASCII, as it is in JSON
_is_audience = re.compile(_AUDIENCE).fullmatch

_encode = msgspec.json.Encoder().encode

Id = Annotated[str, Meta(extra_json_schema={"format": "uuid"})]


class Me(msgspec.Struct):
    """The session of who asks, or the token.

    ``authenticated_at``, ``amr``: when the user was authenticated, and by which methods (RFC 8176).
    """

    user_id: Id
    session_id: Id
    started_at: Moment
    expires_at: Moment
    roles: tuple[str, ...]
    authenticated_at: Moment
    amr: tuple[str, ...]
    is_token: bool


def _private(**headers: str) -> Template:
    """Answers for one session each."""
    example = web.Response(headers=headers)
    keep_private(example)
    return Template(example.headers)


_EMPTY = _private()
_JSON = _private(**{hdrs.CONTENT_TYPE: "application/json"})


@describes(returns={200: Me})
async def me(request: web.Request) -> web.StreamResponse:
    """Who is asking, and how long the session lasts."""
    return _JSON.response(me_content(request[SESSION]))


async def quick_me(request: web.Request) -> web.StreamResponse:
    """The same, in bytes."""
    return _JSON.encoded(request, me_content(request[SESSION]))


def me_content(session: Session) -> bytes:
    """Who is asking, as ``Me`` in JSON."""
    user_id, session_id, started_at, expires_at, roles = session.texts()
    return _encode(
        Me(
            user_id,
            session_id,
            started_at,
            expires_at,
            _names(roles),
            session.authenticated_at,
            _names(session.amr_text),
            session.is_token,
        )
    )


@lru_cache  # there are few combinations
def _names(text: str) -> tuple[str, ...]:
    return tuple(sorted(text.split(","))) if text else ()


@changes_nothing
@describes(
    query={
        ROLE_PARAMETER: Annotated[
            list[Annotated[str, Meta(min_length=1)]],
            Meta(description="A role that the user must have; of several, one."),
        ],
        AUDIENCE_PARAMETER: Annotated[
            str,
            Meta(
                pattern=f"^{_AUDIENCE}$",
                description="The API that a signed identity is for; only proxies get it.",
            ),
        ],
        LOGIN_PARAMETER: Annotated[
            Literal["header"],
            Meta(description=f"A 401 stays one, with the login page's address in {LOGIN_HEADER}."),
        ],
    },
    returns={
        200: Reply(
            says="Let it through.",
            headers={
                USER_HEADER: "The user's id.",
                SESSION_HEADER: "The session's id.",
                ROLES_HEADER: "The user's roles, with commas.",
                EXPIRES_HEADER: "When the session ends, in seconds since 1970.",
                IDENTITY_HEADER: "A signed identity (a JSON Web Token, RFC 7519), or empty.",
            },
        ),
        401: Reply(
            says="Nobody is logged in.",
            sometimes={LOGIN_HEADER: "The login page, if that is asked for."},
        ),
        303: Reply(
            says="A browser's navigation without a session, where a login page is configured.",
            headers={hdrs.LOCATION: "The login page."},
        ),
    },
    raises=(Forbidden,),
)
async def auth(request: web.Request) -> web.StreamResponse:
    """Whether to let the request through that a proxy asks about, and whose it is. The method is
    that of the request in question.

    With a signed identity for the API that is named, if one is. Raises Forbidden, and InvalidInput
    for a parameter that is not known: no proxy takes a 422 for a yes.
    """
    return _EMPTY.response(more=await _told(request, request.app))


def quick_auth(app: web.Application) -> Handler:
    """The same in bytes, for requests that do not know their application."""

    @changes_nothing
    async def quick(request: web.Request) -> web.StreamResponse:
        return _EMPTY.encoded(request, more=await _told(request, app))

    setattr(quick, AROUND, sent_to_login)
    return quick


async def _told(request: web.Request, app: web.Application) -> str:
    """The header lines for a proxy that asks so. Raises InvalidInput, Forbidden, Unavailable."""
    asked, session = _asked(request.rel_url.raw_query_string), request[SESSION]
    if asked.roles and not session.roles & set(asked.roles):
        raise Forbidden(f"This needs the role {' or '.join(asked.roles)}.")
    if asked.audience is None:
        return _identity(session, "")
    return _identity(session, await token_for(app, request.remote, session, asked.audience))


class _Asked(msgspec.Struct, frozen=True):
    """What a proxy wants to know."""

    roles: tuple[str, ...]
    audience: str | None


@lru_cache  # a proxy asks the same again and again
def _asked(query: str) -> _Asked:
    """What this query string asks for. Raises InvalidInput."""
    parameters = URL.build(query_string=query, encoded=True).query
    roles = tuple(parameters.getall(ROLE_PARAMETER, ()))
    audiences = parameters.getall(AUDIENCE_PARAMETER, ())
    if (
        set(parameters) - {ROLE_PARAMETER, AUDIENCE_PARAMETER, LOGIN_PARAMETER}
        or "" in roles
        or len(audiences) > 1
        or not all(_is_audience(audience) for audience in audiences)
        or parameters.getall(LOGIN_PARAMETER, ["header"]) != ["header"]
    ):
        raise InvalidInput(
            "The parameters are 'role', which names a role, 'audience', which names one API, and"
            " 'login=header'."
        )
    return _Asked(roles, audiences[0] if audiences else None)


def identity_headers(session: Session) -> dict[str, str]:
    """Who it is, for what stands behind: the same headers as a proxy gets, without a token."""
    return {
        USER_HEADER: session.subject_text,
        SESSION_HEADER: session.session_text,
        ROLES_HEADER: session.roles_text,
        EXPIRES_HEADER: str(session.expires_us // 1_000_000),
        IDENTITY_HEADER: "",
    }


def _identity(session: Session, token: str) -> str:
    return (
        f"{USER_HEADER}: {session.subject_text}\r\n"
        f"{SESSION_HEADER}: {session.session_text}\r\n"
        f"{ROLES_HEADER}: {session.roles_text}\r\n"
        f"{EXPIRES_HEADER}: {session.expires_us // 1_000_000}\r\n"
        f"{IDENTITY_HEADER}: {token}\r\n"
    )


setattr(auth, AROUND, sent_to_login)


def identity_routes() -> list[web.RouteDef]:
    """The routes of who is asking."""
    return [web.get(ME_PATH, me), web.route("*", AUTH_PATH, auth)]
