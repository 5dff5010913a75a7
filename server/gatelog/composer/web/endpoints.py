"""Endpoints of a build as handlers: the same check before each as before the product's own.

An endpoint is compiled when it is asked for first, and once for as long as it and its action stay
what they are, whatever else is built: a build of a thousand endpoints holds nobody up.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import Annotated, Any, Final

import msgspec
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler
from msgspec import Meta

from gatelog.accounts.web.logins import Carrier, Granted, LoginName, NewPassword, Password
from gatelog.accounts.web.logins import Registered as RegisteredUser
from gatelog.accounts.web.sessions import Ending, Sessions
from gatelog.composer.rules.composition import (
    Action,
    AnyStep,
    Call,
    ChangePassword,
    Composition,
    CurrentUser,
    EndAll,
    EndOthers,
    Endpoint,
    Field,
    ListSessions,
    Login,
    Logout,
    Record,
    Register,
    Respond,
    stands_for_own,
)
from gatelog.composer.rules.composition import Handler as HandlerStep
from gatelog.composer.web.turns import Done, Recorded, Turn, run_of, take
from gatelog.errors import (
    FactorRequired,
    GatelogError,
    InvalidCredentials,
    LoginTaken,
    NotAuthenticated,
    RecentLoginRequired,
    RegistrationClosed,
    TooManyAttempts,
    TooManyRecords,
    TooManySessions,
    UpstreamFailed,
    WeakPassword,
)
from gatelog.http.bodies import read_body
from gatelog.http.described import Reply, describes
from gatelog.http.guard import Door, changes_state, guarded, no_tokens, public
from gatelog.http.identity import Me
from gatelog.http.roles import requires

_KINDS: Mapping[str, Any] = {"integer": int, "boolean": bool}
_READ: Mapping[str, Any] = {
    "login": LoginName,
    "password": Password,
    "current_password": Password,
    "new_password": NewPassword,
}
_SAYS: Mapping[type[Any], Mapping[int, Any]] = {
    Register: {201: RegisteredUser},
    Login: {200: Granted},
    Logout: {200: Ending},
    EndOthers: {200: Ending},
    EndAll: {200: Ending},
    ChangePassword: {200: Granted},
    CurrentUser: {200: Me},
    ListSessions: {200: Sessions},
    Record: {200: Recorded},
    HandlerStep: {200: Reply(says="What the handler says.")},
    Call: {200: Reply(says="What the upstream says.")},
}
_RAISES: Mapping[type[Any], tuple[type[GatelogError], ...]] = {
    Register: (RegistrationClosed, LoginTaken, TooManyAttempts, WeakPassword),
    Login: (FactorRequired, InvalidCredentials, TooManyAttempts, TooManySessions),
    Logout: (NotAuthenticated,),
    EndOthers: (RecentLoginRequired,),
    EndAll: (RecentLoginRequired,),
    ChangePassword: (InvalidCredentials, TooManyAttempts, WeakPassword),
    Record: (NotAuthenticated, TooManyRecords),
    Call: (UpstreamFailed,),
}
_FOR_LOGINS: Final = (Login, ChangePassword, EndOthers, EndAll)


class Served:
    """An endpoint that is served, and its action."""

    __slots__ = ("_door", "_handler", "action", "endpoint", "routes")

    def __init__(self, endpoint: Endpoint, action: Action, door: Door) -> None:
        self.endpoint = endpoint
        self.action = action
        self._door = door
        self._handler: Handler | None = None
        self.routes: dict[
            str, web.ResourceRoute
        ] = {}  # that its requests are counted by, by method

    @property
    def handler(self) -> Handler:
        """The handler behind its check."""
        if self._handler is None:
            self._handler = guarded(self._door, handler_of(self.endpoint, self.action))
        return self._handler


def body_of(endpoint: Endpoint, action: Action) -> type[msgspec.Struct] | None:
    """The type of the body of this endpoint's requests; None where none is read."""
    read = [name for step in action.steps for name in step.TAKES]
    if any(isinstance(step, Login) for step in action.steps):
        read.append("token")
    names = tuple(dict.fromkeys(read))
    if not names and not endpoint.fields:
        return None
    declared = [(field.name, *_typed(field)) for field in endpoint.fields]
    own = [(name, _READ[name]) for name in names if name in _READ]
    more = [("token", Carrier, "cookie")] if "token" in names else []
    required = [*own, *(field for field in declared if len(field) == 2)]
    optional = [*more, *(field for field in declared if len(field) == 3)]
    return msgspec.defstruct(
        _body_name(endpoint), [*required, *optional], forbid_unknown_fields=True
    )


def _body_name(endpoint: Endpoint) -> str:
    """A name that no other body has, of characters that a document's schema may be called by."""
    words = "_".join(re.findall(r"[A-Za-z0-9]+", endpoint.path))
    place = f"{endpoint.method} {endpoint.path}"
    return f"{endpoint.method}_{words}_{sha256(place.encode()).hexdigest()[:8]}"


def _typed(field: Field) -> tuple[Any, ...]:
    """The type of a field, and its default where it may be missing."""
    kind: Any = _KINDS.get(field.kind)
    if kind is None:
        kind = Annotated[str, Meta(max_length=field.max_length)]
    elif kind is int:
        kind = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
    return (kind,) if field.required else (kind | None, None)


def handler_of(endpoint: Endpoint, action: Action) -> Handler:
    """The handler of an endpoint, with the marks by which it is checked and described."""
    runs = tuple(run_of(step, endpoint) for step in action.steps)
    body_type = body_of(endpoint, action)

    if body_type is None:

        async def composed(request: web.Request) -> web.StreamResponse:
            return await take(Turn(request, None), runs)

    else:
        expected: type[msgspec.Struct] = body_type

        async def composed(request: web.Request) -> web.StreamResponse:
            return await take(Turn(request, await read_body(request, expected)), runs)

    composed.__doc__ = _doc(endpoint, action)
    handler: Handler = describes(
        body=body_type,
        returns=_returns(action.steps),
        raises=tuple(dict.fromkeys(_raises(action.steps))),
    )(composed)
    if any(step.CHANGES for step in action.steps):
        changes_state(handler)
    if any(isinstance(step, _FOR_LOGINS) for step in action.steps):
        no_tokens(handler)
    if endpoint.access == "public":
        return public(handler)
    return requires(*endpoint.roles)(handler) if endpoint.access == "roles" else handler


def _doc(endpoint: Endpoint, action: Action) -> str:
    more = endpoint.description or action.description
    return f"{endpoint.name}. {more}".strip()


def _returns(steps: tuple[AnyStep, ...]) -> Mapping[int, Any]:
    last = steps[-1] if steps else None
    if isinstance(last, Respond):
        return {last.status: Reply(content={"application/json": Any})}
    return _SAYS.get(type(last), {200: Done})


def _raises(steps: tuple[AnyStep, ...]) -> Iterator[type[GatelogError]]:
    for step in steps:
        yield from _RAISES.get(type(step), ())


class Compiler:
    """Makes endpoints of compositions, and keeps those that are in use."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._made: dict[tuple[Endpoint, Action], Served] = {}

    def compile(self, composition: Composition) -> tuple[Served, ...]:
        """What is served, but for what the product serves itself. What was compiled before is taken
        as it is."""
        made: dict[tuple[Endpoint, Action], Served] = {}
        for endpoint, action in composition.pairs():
            if stands_for_own(endpoint, action):
                continue
            pair = endpoint, action
            made[pair] = self._made.get(pair) or Served(endpoint, action, self._door)
        self._made = made
        return tuple(made.values())


def methods_of(by_method: Mapping[str, Served]) -> set[str]:
    """The methods that are answered there: HEAD goes with a GET that changes nothing."""
    methods = set(by_method)
    got = by_method.get(hdrs.METH_GET)
    if got is not None and has_head(got):
        methods.add(hdrs.METH_HEAD)
    return methods


def has_head(served: Served) -> bool:
    """Whether a HEAD may do what the GET does."""
    return not any(step.CHANGES for step in served.action.steps)
