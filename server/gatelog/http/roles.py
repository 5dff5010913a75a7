"""Who may use a handler: the roles that its session must have one of.

What shows an auditor or administrator something about others is recorded first: an audit read.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

from aiohttp import web
from aiohttp.typedefs import Handler

from gatelog.accounts.web.handlers import SERVICES, client
from gatelog.errors import Forbidden
from gatelog.http.guard import SESSION
from gatelog.log.rules.events import AuditedRead


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


async def record_read(request: web.Request, what: AuditedRead) -> None:
    """Returns when the log says who reads about others here. Raises Unavailable."""
    audit = request.app[SERVICES].audit
    await audit.recorded_read(request[SESSION].subject_id, what, client(request))
