"""Who is behind a token: the check of every protected request.

Rules (the design's three steps):

1. ``peek`` answers from memory where memory can know, without an ``await``.
2. ``find`` asks the primary, batched; its answer is never older than the call.
3. When neither can know, the answer is DatabaseUnavailable (503), never a guess.

Both know about lifetimes: a session whose time is over is none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

from gatelog.clock import utc_now_us
from gatelog.errors import GatelogError
from gatelog.sessions.rules.record import Session
from gatelog.sessions.service.metrics import CHECKS_REFUSED, PRIMARY_LOOKUPS, PRIMARY_TIME

Peek = Callable[[bytes], Session | Literal[False] | None]


class Primary(Protocol):
    """Finds sessions on the primary."""

    async def find(self, digest: bytes) -> Session | None: ...


class Gate:
    """Finds the active session behind a token digest.

    ``peek``: the session if memory knows it is active, False if it knows it is not, else None.
    It is an attribute and not a method, which spares every request a call.
    """

    __slots__ = ("_primary", "peek")

    def __init__(self, primary: Primary, peek: Peek) -> None:
        self._primary = primary
        self.peek = peek

    async def find(self, digest: bytes) -> Session | None:
        """The session if it is active, by the primary. Raises Unavailable when nobody can tell."""
        PRIMARY_LOOKUPS.inc()
        try:
            with PRIMARY_TIME.time():
                session = await self._primary.find(digest)
        except GatelogError:
            CHECKS_REFUSED.inc()
            raise
        if session is None or session.expires_us <= utc_now_us():
            return None
        return session


def know_nothing(_: bytes) -> None:
    """The ``peek`` of who has no replica, or does not want to use it."""
    return
