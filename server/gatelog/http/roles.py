"""Who may use a handler: the roles that its session must have one of, how fresh it must be, and by
which method it began.

What shows an auditor or administrator something about others is recorded first: an audit read.
Recording is a capability of its own: the application says who does it (``READ_RECORDER``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import wraps
from typing import Any, Final, Protocol, TypeVar, cast
from uuid import UUID

from aiohttp import web

from gatelog.clock import utc_now
from gatelog.errors import (
    FactorLoginRequired,
    Forbidden,
    NotAuthenticated,
    RecentLoginRequired,
    TokenNotAllowed,
)
from gatelog.http.caller import caller_of
from gatelog.http.described import METHOD, RECENT, ROLES
from gatelog.http.guard import SESSION
from gatelog.http.settings import CONFIG
from gatelog.privacy.rules import Client
from gatelog.sessions.rules.record import Session

HandlerT = TypeVar("HandlerT", bound=Callable[..., Any])


class ReadRecorder(Protocol):
    """Who records audit reads; ``what`` is one of ``audit.rules.events.AuditedRead``."""

    async def recorded_read(self, caller: UUID, what: str, client: Client) -> None:
        """Returns when the log says that the caller reads about others. Raises Unavailable."""


READ_RECORDER: Final[web.AppKey[ReadRecorder]] = web.AppKey("read_recorder")


def requires(*roles: str, amr: str = "") -> Callable[[HandlerT], HandlerT]:
    """Mark a handler, a view or a view's method as being for users with one of these roles, or who
    have logged in by this method, or both.

    ``amr``: a method by its registered name (RFC 8176, section 2): ``mfa`` for a second factor or a
    passkey, ``hwk`` for a passkey that never leaves its device. Who lacks the roles is answered
    403, a session that began without the method 401 with the code ``factor_login_required``, and
    goes on. A change of roles ends the user's sessions, so what the session says is true. Raises
    ValueError without a role and a method, and for a role that nobody could have.
    """
    if not all(roles) or not (roles or amr):
        raise ValueError("name the roles of which a user must have one")
    wanted = frozenset(roles)

    def refuse(session: Session) -> None:
        if wanted and not wanted & session.roles:
            raise Forbidden(f"This needs the role {' or '.join(roles)}.")
        _refuse_without(session, amr)

    def say(asked: Mapping[str, Any]) -> Mapping[str, Any]:
        named = {ROLES: (*asked.get(ROLES, ()), wanted)} if wanted else {}
        return named | ({METHOD: amr} if amr else {})

    return _refusing(refuse, say)


def recent_login(minutes: float, amr: str = "") -> Callable[[HandlerT], HandlerT]:
    """Mark a handler, a view or a view's method as being for users who have just logged in, and by
    this method if one is named (``requires``).

    A session whose user was authenticated longer ago than these minutes is answered 401 with the
    code ``recent_login_required``, one that began without the method with the code
    ``factor_login_required``; both go on, and the user logs in again. A token for a machine is
    answered 403 with the code ``token_not_allowed``: it cannot log in. Raises ValueError for a time
    that is not positive.
    """
    if not minutes > 0:
        raise ValueError("the time since the login must be more than 0 minutes")
    longest = timedelta(minutes=minutes)

    def refuse(session: Session) -> None:
        if session.is_token:
            raise TokenNotAllowed()
        if utc_now() - session.authenticated_at > longest:
            raise RecentLoginRequired(f"This needs a login of the last {minutes:g} minutes.")
        _refuse_without(session, amr)

    return _refusing(refuse, lambda _: {RECENT: True} | ({METHOD: amr} if amr else {}))


def _refuse_without(session: Session, amr: str) -> None:
    """Raises FactorLoginRequired for a session that began without this method, if there is one."""
    if amr and amr not in session.amr:
        raise FactorLoginRequired(f"This needs a login by {amr} (RFC 8176).")


def refuse_old_login(request: web.Request) -> None:
    """Refuse what the configuration asks a recent login for (OWASP ASVS 5.0, 7.5.2).

    Raises RecentLoginRequired when its user was authenticated longer ago, and the session goes on;
    TokenNotAllowed for a machine.
    """
    if request[SESSION].is_token:
        raise TokenNotAllowed()
    longest_s = request.config_dict[CONFIG].recent_login_s
    age = utc_now() - request[SESSION].authenticated_at
    if longest_s and age > timedelta(seconds=longest_s):
        raise RecentLoginRequired("This needs a more recent login: log in again.")


def _refusing(
    refuse: Callable[[Session], None], say: Callable[[Mapping[str, Any]], Mapping[str, Any]]
) -> Callable[[HandlerT], HandlerT]:
    """The mark that has this called with the session before a handler.

    ``say``: what it adds to the marks that the handler has, for who describes it.
    """

    def mark(handler: HandlerT) -> HandlerT:
        @wraps(handler, updated=() if isinstance(handler, type) else ("__dict__",))
        async def checked(target: web.Request | web.View) -> web.StreamResponse:
            request = target.request if isinstance(target, web.View) else target
            session = request.get(SESSION)
            if session is None:  # the handler is public as well; the stricter mark counts
                raise NotAuthenticated("This needs a session: log in first.")
            refuse(session)
            return cast(web.StreamResponse, await handler(target))

        for name, value in say(vars(handler)).items():
            setattr(checked, name, value)
        return cast(HandlerT, checked)

    return mark


async def record_read(request: web.Request, what: str) -> None:
    """Returns when the log says who reads about others here. Raises Unavailable."""
    recorder = request.app[READ_RECORDER]
    await recorder.recorded_read(request[SESSION].subject_id, what, caller_of(request).client)
