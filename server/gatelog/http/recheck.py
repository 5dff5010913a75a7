"""Whether who sent a request may still have its answer, for answers that take long.

The check before a handler is of that moment; what is sent for minutes is checked again all the way.
"""

from __future__ import annotations

from typing import Final

from aiohttp import web

from gatelog.http.caller import caller_of
from gatelog.sessions.service.gate import Gate

GATE: Final = web.AppKey("gate", Gate)


class Asker:
    """Whoever sent the request, as long as their session is active."""

    def __init__(self, request: web.Request) -> None:
        self._digest = caller_of(request).digest or b""
        self._gate = request.app[GATE]

    async def is_there(self) -> bool:
        """Whether the session is still active. Raises Unavailable when nobody can tell."""
        session = self._gate.peek(self._digest)
        if session is None:
            session = await self._gate.find(self._digest)
        return bool(session)
