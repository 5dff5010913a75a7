"""The composer's events for handlers that are written by hand: the same use cases, the same
answers. What the composer makes of a build as a project is made of these."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Self

import msgspec
from aiohttp import web

from gatelog.accounts.web import ACCOUNTS
from gatelog.composer.rules.composition import (
    MAX_RECORD_BYTES,
    MAX_RECORDS_PER_HOUR,
    ChangePassword,
    CurrentUser,
    EndOthers,
    ListSessions,
    Login,
    Logout,
    Register,
    Step,
)
from gatelog.composer.web.turns import PLAIN, Answered, Done, Turn, call, end_all, handle, record
from gatelog.errors import GatelogError, InvalidInput
from gatelog.http.answers import JSON, answer
from gatelog.http.problems import problem
from gatelog.sessions.rules.record import Session

_MAX_JSON_BYTES: Final = 2 * MAX_RECORD_BYTES  # texts are longer in JSON than declared
_own_type: Final = re.compile(r"app\.[a-z][a-z0-9_]{0,47}").fullmatch
_encode = msgspec.json.Encoder().encode


class Steps:
    """What a request does, event by event, and what is answered then.

        @changes_state
        @public
        async def log_out(request: web.Request) -> web.StreamResponse:
            async with Steps(request) as steps:
                await steps.log_out()
                steps.respond({"bye": True})
            return steps.response

    The answer is that of the last event which has one; cookies that earlier ones have set go along.
    An event that is refused ends the block, and what was done before it is done: ``response`` is
    the refusal then, or, where no cookie was set, the error goes on. The handler's marks are those
    of any handler: ``@changes_state`` for what changes something by GET, and ``@no_tokens`` with
    logins, new passwords and the ends of sessions.

    ``body``: what ``read_body`` has returned; ``register`` and ``log_in`` read its ``login`` and
    ``password`` (``token``: ``cookie`` or ``bearer``), ``change_password`` its ``current_password``
    and ``new_password``. Raises TypeError for a handler of a mounted application: it must be one of
    the routes of ``create_app`` or of the application that ``setup`` was called with.
    """

    def __init__(self, request: web.Request, body: Any = None) -> None:
        if ACCOUNTS not in request.app:
            raise TypeError("Gatelog is not in this handler's application itself")
        self._turn = Turn(request, body)
        self._said: web.StreamResponse | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        if isinstance(error, Answered):
            self._said = error.response
            return True
        if isinstance(error, GatelogError) and self._turn.has_set_cookies:
            self._said = self._turn.says(problem(error))
            return True
        return False

    @property
    def response(self) -> web.StreamResponse:
        """What is answered."""
        return self._said if self._said is not None else self._turn.says(answer(Done()))

    @property
    def session(self) -> Session:
        """The session of the request, or the one that ``log_in`` has started.

        Raises NotAuthenticated (401) where there is none.
        """
        return self._turn.logged_in

    async def _plain(self, kind: type[Step]) -> None:
        self._said = await PLAIN[kind](self._turn) or self._said

    async def register(self) -> None:
        """Make a user of the body's login and password; answers 201."""
        await self._plain(Register)

    async def log_in(self) -> None:
        """Start a session with the body's login and password, or ask for a second factor."""
        await self._plain(Login)

    async def log_out(self) -> None:
        """End the session, if there is one."""
        await self._plain(Logout)

    async def end_others(self) -> None:
        """End the user's other sessions; takes a recent login."""
        await self._plain(EndOthers)

    async def end_all(self, *, tokens: bool = False) -> None:
        """End all sessions of the user; ``tokens``: those of machines, too.

        Raises RecentLoginRequired for an old login, TokenNotAllowed for a machine's token.
        """
        self._said = await end_all(self._turn, tokens=tokens)

    async def change_password(self) -> None:
        """Replace the password and every session of the user."""
        await self._plain(ChangePassword)

    async def current_user(self) -> None:
        """Answer who is asking, as ``/v1/me`` does."""
        await self._plain(CurrentUser)

    async def list_sessions(self) -> None:
        """Answer the user's active sessions, as ``/v1/sessions`` does."""
        await self._plain(ListSessions)

    async def record(
        self,
        name: str,
        fields: Mapping[str, Any],
        *,
        personal: Mapping[str, Any] | None = None,
        per_hour: int = 60,
    ) -> None:
        """Append an event of one's own type to the log, as one of the session's user.

        ``name``: ``app.`` and a word of lower-case letters, digits and ``_``. ``fields`` stay
        readable; ``personal`` ones are sealed under the user's key. What is None is left out.
        ``per_hour``: of one user under this name, at most; beyond that it is a 429.

        Raises NotAuthenticated where nobody is logged in, ValueError for a name or a limit that
        cannot be, InvalidInput for more than 16 KiB as JSON.
        """
        if _own_type(name) is None:
            raise ValueError(f"{name!r} is no type of one's own: it is like app.order_placed")
        if not 1 <= per_hour <= MAX_RECORDS_PER_HOUR:
            raise ValueError(f"per_hour is from 1 to {MAX_RECORDS_PER_HOUR}")
        sealed = dict(personal or {})
        if len(_encode([dict(fields), sealed])) > _MAX_JSON_BYTES:
            raise InvalidInput(f"At most {_MAX_JSON_BYTES} bytes of JSON can be recorded.")
        self._said = await record(self._turn, name, fields, sealed, per_hour)

    def respond(self, content: Any, *, status: int = 200) -> None:
        """Answer this as JSON."""
        response = web.Response(status=status, body=_encode(content), headers=JSON)
        self._said = self._turn.says(response)

    async def call(
        self,
        upstream: str,
        method: str,
        *segments: str,
        body: Mapping[str, Any] | None = None,
    ) -> None:
        """Ask an upstream of ``GATELOG_UPSTREAMS`` for these segments below its address, and answer
        what it says; ``body`` goes along as JSON, without what is None."""
        self._said = await call(self._turn, upstream, method, segments, body)

    async def handle(self, name: str) -> None:
        """Call the function that ``composable`` has registered under this name.

        Raises Unavailable where there is none.
        """
        self._said = await handle(self._turn, name=name)
