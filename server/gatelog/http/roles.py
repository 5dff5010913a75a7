"""Who may use a handler: the roles that its session must have one of.

What shows an auditor or administrator something about others is recorded first: an audit read.
Recording is a capability of its own: the application says who does it (``READ_RECORDER``).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Final, Protocol
from uuid import UUID

from aiohttp import web
from aiohttp.typedefs import Handler

from gatelog.errors import Forbidden
from gatelog.http.caller import caller_of
from gatelog.http.guard import SESSION
from gatelog.privacy.rules import Client


class ReadRecorder(Protocol):
    """Who records audit reads; ``what`` is one of ``audit.rules.events.AuditedRead``."""

    async def recorded_read(self, caller: UUID, what: str, client: Client) -> None:
        """Returns when the log says that the caller reads about others. Raises Unavailable."""


READ_RECORDER: Final[web.AppKey[ReadRecorder]] = web.AppKey("read_recorder")


def needs_role(*roles: str) -> Callable[[Handler], Handler]:
    """Keep everybody from a handler who has none of these roles. Raises Forbidden.

    A change of roles ends the user's sessions, so what the session says is true.
    """
    wanted = frozenset(roles)

    def mark(handler: Handler) -> Handler:
        @wraps(handler)
        async def checked(request: web.Request) -> web.StreamResponse:
            if not wanted & request[SESSION].roles:
                raise Forbidden(f"This needs the role {' or '.join(roles)}.")
            return await handler(request)

        return checked

    return mark


async def record_read(request: web.Request, what: str) -> None:
    """Returns when the log says who reads about others here. Raises Unavailable."""
    recorder = request.app[READ_RECORDER]
    await recorder.recorded_read(request[SESSION].subject_id, what, caller_of(request).client)
