"""Who is behind a token: the check of every protected request.

Rules (the design's three steps):

1. ``peek`` answers from memory where memory can know, without an ``await``.
2. ``find`` asks the primary, batched; its answer is never older than the call. Whether a session
   has idled too long is for the primary to say.
3. When neither can know, the answer is DatabaseUnavailable (503), never a guess.

Both know about lifetimes: a session whose time is over is none. Who passes the check has used the
session, and whoever records that is told when it is due; ``look`` and ``look_up`` ask the same for
who only watches, for no use of it: a page that is left open keeps nobody logged in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

from gatelog.clock import utc_now_us
from gatelog.errors import GatelogError
from gatelog.sessions.rules.record import Session
from gatelog.sessions.service.metrics import CHECKS_REFUSED, PRIMARY_LOOKUPS, PRIMARY_TIME

Peek = Callable[[bytes], Session | Literal[False] | None]
Use = Callable[[bytes], None]


class Primary(Protocol):
    """Finds sessions on the primary."""

    async def find(self, digest: bytes) -> Session | None: ...


def tell_nobody(_: bytes) -> None:
    """Nobody records that a session is used."""


class Gate:
    """Finds the active session behind a token digest.

    ``peek``: the session if memory knows it is active, False if it knows it is not, else None;
    ``look``: the same, and no use. They are attributes and not methods, which spares every request
    a call. ``on_use`` is told the digest of a session whose use is to be recorded; ``peek`` tells
    it by itself.
    """

    __slots__ = ("_on_use", "_primary", "look", "peek")

    def __init__(
        self, primary: Primary, peek: Peek, *, look: Peek | None = None, on_use: Use = tell_nobody
    ) -> None:
        self._primary = primary
        self._on_use = on_use
        self.peek = peek
        self.look = look or peek

    async def find(self, digest: bytes) -> Session | None:
        """The session if it is active, by the primary. Raises Unavailable when nobody can tell."""
        session = await self.look_up(digest)
        if session is not None and session.quiet_until_us <= utc_now_us():
            self._on_use(digest)
        return session

    async def look_up(self, digest: bytes) -> Session | None:
        """The same, and no use of the session. Raises Unavailable when nobody can tell."""
        PRIMARY_LOOKUPS.inc()
        try:
            with PRIMARY_TIME.time():
                session = await self._primary.find(digest)
        except GatelogError:
            CHECKS_REFUSED.inc()
            raise
        if session is None or session.absolute_us <= utc_now_us():
            return None
        return session


def know_nothing(_: bytes) -> None:
    """The ``peek`` of who has no replica, or does not want to use it."""
    return
