"""What the steps of an action do, one after the other, to one request.

Rules:

- Every step calls the use case that the product's own endpoint calls, with the same refusals: a
  composed login is throttled like any, a composed end of sessions asks for a recent login.
- The last step that says something is the answer. Cookies that earlier steps have set go along
  with it. A step that is refused ends the action, and what was done before it is done.
- A step knows the session of the request, or the one that a login has started here; no other.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec
from aiohttp import web

from gatelog.accounts.service.grants import Grant
from gatelog.accounts.web import ACCOUNTS
from gatelog.accounts.web.asked import asked
from gatelog.accounts.web.devices import device_tokens
from gatelog.accounts.web.logins import Carrier, Registered, give_cookies, granted
from gatelog.accounts.web.sessions import Ending, sessions_of, tell_ended
from gatelog.composer.rules.composition import (
    AnyStep,
    Call,
    ChangePassword,
    CurrentUser,
    EndAll,
    EndOthers,
    Endpoint,
    Handler,
    ListSessions,
    Login,
    Logout,
    Record,
    Register,
    Respond,
    Step,
)
from gatelog.composer.rules.paths import parse_path
from gatelog.composer.rules.templates import Template
from gatelog.composer.service.handlers import handler_named
from gatelog.composer.web import RECORDER, UPSTREAMS
from gatelog.errors import FactorRequired, GatelogError, NotAuthenticated, Unavailable
from gatelog.http.answers import (
    JSON,
    answer,
    forget_session_cookie,
    keep_private,
    set_session_cookie,
    told,
)
from gatelog.http.caller import Caller, caller_of
from gatelog.http.guard import SESSION
from gatelog.http.identity import identity_headers, me_content
from gatelog.http.problems import UNCLEAR_CREDENTIALS, problem
from gatelog.http.roles import refuse_old_login
from gatelog.sessions.rules.record import Session, packed
from gatelog.sessions.rules.tokens import token_digest

Effect = Callable[[web.StreamResponse], None]
_encode = msgspec.json.Encoder().encode


class Recorded(msgspec.Struct):
    """Where the log says so."""

    position: int
    status: str = "recorded"


class Done(msgspec.Struct):
    """That it is done."""

    status: str = "done"


class Turn:
    """One request on its way through an action."""

    __slots__ = (
        "_digest",
        "_effects",
        "body",
        "carrier",
        "fresh",
        "path",
        "private",
        "request",
        "session",
    )

    def __init__(self, request: web.Request, body: Any) -> None:
        self.request = request
        self.body = body
        self.path: Any = request.match_info
        self.session: Session | None = request.get(SESSION)
        self.private = self.session is not None
        self.fresh = False  # the session was started by a step
        self.carrier: Carrier | None = None  # of its token
        self._digest: bytes | None = None
        self._effects: list[Effect] = []

    @property
    def caller(self) -> Caller:
        return caller_of(self.request)

    @property
    def logged_in(self) -> Session:
        """The session. Raises NotAuthenticated: the check of compositions is not relied on here."""
        if self.session is None:
            raise NotAuthenticated("This needs a session: log in first.")
        return self.session

    @property
    def has_set_cookies(self) -> bool:
        """Whether the answer has something of an earlier step to bring along."""
        return bool(self._effects)

    @property
    def digest(self) -> bytes | None:
        """Of the token whose session it is."""
        return self._digest if self.fresh else self.caller.digest

    def says(self, response: web.StreamResponse) -> web.StreamResponse:
        """The answer of a step, with the cookies that earlier ones have set."""
        for effect in self._effects:
            effect(response)
        if self.private:
            keep_private(response)
        return response

    def grants(self, grant: Grant, carrier: Carrier) -> None:
        """From here on, it is this session."""
        self.session = Session(packed(grant.session))
        self._digest, self.fresh, self.private = token_digest(grant.token), True, True
        self.carrier = carrier
        if carrier == "cookie":
            self._effects.append(
                partial(give_cookies, request=self.request, caller=self.caller, grant=grant)
            )

    def forgets(self) -> None:
        """From here on, there is no session, and no cookie of one."""
        caller, fresh = self.caller, self.fresh
        self.session, self._digest, self.fresh, self.private = None, None, False, True

        def forget(response: web.StreamResponse) -> None:
            if fresh:
                set_session_cookie(response, caller, "", 0)
            forget_session_cookie(response, caller)

        self._effects.append(forget)


Run = Callable[[Turn], Awaitable[web.StreamResponse | None]]


def run_of(step: AnyStep, endpoint: Endpoint) -> Run:
    """What this step does to a turn; it answers, where it has something to say."""
    match step:
        case EndAll():
            return partial(end_all, tokens=step.tokens)
        case Record():
            return _recording(step, endpoint)
        case Respond():
            return _responding(step)
        case Call():
            return _calling(step, endpoint)
        case Handler():
            return partial(handle, name=step.name)
    return PLAIN[type(step)]


# --- accounts and sessions


async def _register(turn: Turn) -> web.StreamResponse:
    logins = turn.request.app[ACCOUNTS].logins
    body = turn.body
    user_id = await logins.register(body.login, body.password, turn.caller.client)
    turn.private = True
    return turn.says(answer(Registered(user_id), 201))


async def _log_in(turn: Turn) -> web.StreamResponse:
    request, caller, body = turn.request, turn.caller, turn.body
    carrier: Carrier = body.token
    over = caller.digest if caller.by_cookie else None
    devices = device_tokens(request, caller) if carrier == "cookie" else None
    try:
        grant = await request.app[ACCOUNTS].logins.log_in(
            body.login, body.password, caller.client, devices, over=over
        )
    except FactorRequired as required:
        raise Answered(turn.says(asked(required))) from None
    response = await granted(request, caller, "logged_in", grant, carrier)
    turn.says(response)
    turn.grants(grant, carrier)
    return response


async def _log_out(turn: Turn) -> web.StreamResponse:
    request, caller = turn.request, turn.caller
    ending, digest = Ending("logged_out", 0, None), turn.digest
    if digest is not None:
        ended = await request.app[ACCOUNTS].sessions.log_out(digest, caller.client)
        ending.ended, ending.position = ended.ended, ended.position
    unclear = caller.unclear and not turn.fresh
    turn.forgets()
    if unclear:
        raise Answered(turn.says(UNCLEAR_CREDENTIALS.response()))
    return turn.says(await told(request, caller, ending, ending.happened_at))


async def _end_others(turn: Turn) -> web.StreamResponse:
    session = _recent(turn)
    sessions = turn.request.app[ACCOUNTS].sessions
    ended = await sessions.end_others(session, turn.caller.client)
    return turn.says(await tell_ended(turn.request, turn.caller, ended))


async def end_all(turn: Turn, *, tokens: bool) -> web.StreamResponse:
    """End all sessions of the user."""
    session = _recent(turn)
    sessions = turn.request.app[ACCOUNTS].sessions
    ended = await sessions.end_all(session, turn.caller.client, tokens=tokens)
    turn.forgets()
    return turn.says(await tell_ended(turn.request, turn.caller, ended))


def _recent(turn: Turn) -> Session:
    """The session, whose login is a recent one. Raises RecentLoginRequired, TokenNotAllowed."""
    session = turn.logged_in
    if not turn.fresh:
        refuse_old_login(turn.request)
    return session


async def _change_password(turn: Turn) -> web.StreamResponse:
    request, caller, body = turn.request, turn.caller, turn.body
    grant = await request.app[ACCOUNTS].logins.change_password(
        turn.logged_in,
        body.current_password,
        body.new_password,
        caller.client,
        device_tokens(request, caller) if caller.by_cookie else None,
    )
    carrier: Carrier = turn.carrier or ("cookie" if caller.by_cookie else "bearer")
    response = await granted(request, caller, "password_changed", grant, carrier)
    turn.says(response)
    turn.grants(grant, carrier)
    return response


async def _current_user(turn: Turn) -> web.StreamResponse:
    return turn.says(web.Response(body=me_content(turn.logged_in), headers=JSON))


async def _list_sessions(turn: Turn) -> web.StreamResponse:
    accounts = turn.request.app[ACCOUNTS]
    return turn.says(answer(await sessions_of(accounts, turn.logged_in)))


PLAIN: dict[type[Step], Run] = {
    Register: _register,
    Login: _log_in,
    Logout: _log_out,
    EndOthers: _end_others,
    ChangePassword: _change_password,
    CurrentUser: _current_user,
    ListSessions: _list_sessions,
}


# --- what the operator adds


def _recording(step: Record, endpoint: Endpoint) -> Run:
    personal = {field.name for field in endpoint.fields if field.personal}
    declared = {field.name for field in endpoint.fields}

    async def run(turn: Turn) -> web.StreamResponse:
        told_fields = {
            name: getattr(turn.body, name) if name in declared else turn.path[name]
            for name in step.fields
        }
        return await record(
            turn,
            step.type,
            {n: v for n, v in told_fields.items() if n not in personal},
            {n: v for n, v in told_fields.items() if n in personal},
            step.per_hour,
        )

    return run


async def record(
    turn: Turn,
    name: str,
    open_fields: Mapping[str, Any],
    personal_fields: Mapping[str, Any],
    per_hour: int,
) -> web.StreamResponse:
    """Append an event of this own type; fields that are None are left out."""
    session, digest = turn.logged_in, turn.digest
    if digest is None:
        raise NotAuthenticated("This needs a session: log in first.")
    position = await turn.request.app[RECORDER].record(
        name,
        session,
        digest,
        turn.caller.client,
        open_fields={n: v for n, v in open_fields.items() if v is not None},
        personal_fields={n: v for n, v in personal_fields.items() if v is not None},
        per_hour=per_hour,
    )
    return turn.says(answer(Recorded(position)))


def _session_value(session: Session | None, name: str) -> Any:
    """What a template's ``session.…`` stands for."""
    if session is None:
        raise NotAuthenticated("This needs a session: log in first.")
    match name:
        case "user_id":
            return session.subject_text
        case "session_id":
            return session.session_text
        case "roles":
            return sorted(session.roles)
        case "amr":
            return sorted(session.amr)
    return msgspec.to_builtins(getattr(session, name))  # a moment, as everywhere in texts


# By what a template refers to: how the values of a turn are looked up.
_PLACES: dict[str, Callable[[Turn], Callable[[str], Any]]] = {
    "session": lambda turn: partial(_session_value, turn.session),
    "path": lambda turn: turn.path.__getitem__,
    "body": lambda turn: partial(getattr, turn.body),
}


def _responding(step: Respond) -> Run:
    template, status = Template(step.json), step.status
    places = [(each, _PLACES[each]) for each in {each.place for each in template.references}]

    async def respond(turn: Turn) -> web.StreamResponse:
        content = template.fill({place: values_of(turn) for place, values_of in places})
        return turn.says(web.Response(status=status, body=content, headers=JSON))

    return respond


def _calling(step: Call, endpoint: Endpoint) -> Run:
    pattern = parse_path(step.path) if step.path != "/" else None
    fixed = [] if pattern is None else list(pattern.segments)
    names = () if pattern is None else pattern.names
    fields = [field.name for field in endpoint.fields]

    async def run(turn: Turn) -> web.StreamResponse:
        values = iter(names)
        segments = [turn.path[next(values)] if part is None else part for part in fixed]
        body = {name: getattr(turn.body, name) for name in fields} if step.body else None
        return await call(turn, step.upstream, endpoint.method, segments, body)

    return run


async def call(
    turn: Turn, upstream: str, method: str, segments: Sequence[str], body: Mapping[str, Any] | None
) -> web.StreamResponse:
    """Ask a listed upstream; of the body, fields that are None are left out."""
    headers = identity_headers(turn.session) if turn.session is not None else {}
    content = None
    if body is not None:
        content = _encode({name: value for name, value in body.items() if value is not None})
    said = await turn.request.app[UPSTREAMS].call(
        upstream, method, segments, headers=headers, body=content
    )
    response = web.Response(status=said.status, body=said.body)
    response.headers["X-Content-Type-Options"] = "nosniff"
    if said.media:
        response.content_type = said.media
        response.charset = "utf-8" if said.media == "text/plain" else None
    turn.private = True
    return turn.says(response)


async def handle(turn: Turn, *, name: str) -> web.StreamResponse:
    """Call a function of the hosted application."""
    handler = handler_named(name)
    if handler is None:
        raise Unavailable(f"The handler {name} is not registered on this host.")
    if turn.session is not None:
        turn.request[SESSION] = turn.session
    else:
        turn.request.pop(SESSION, None)
    return turn.says(await handler(turn.request))


class Answered(Exception):
    """The action ends here, with this answer."""

    def __init__(self, response: web.StreamResponse) -> None:
        super().__init__()
        self.response = response


async def take(turn: Turn, runs: tuple[Run, ...]) -> web.StreamResponse:
    """Go through these steps; the answer is that of the last one which has one."""
    said: web.StreamResponse | None = None
    try:
        for run in runs:
            said = await run(turn) or said
    except Answered as ended:
        return ended.response
    except GatelogError as error:
        if not turn.has_set_cookies:
            raise
        return turn.says(problem(error))  # what was done before is done, and has its cookies
    return said if said is not None else turn.says(answer(Done()))
