"""Who is behind a token: the check of every protected request.

Rules (the design's three steps):

1. ``peek`` answers from memory where memory can know, without an ``await``.
2. ``find`` asks the primary, batched; its answer is never older than the call.
3. When neither can know, the answer is DatabaseUnavailable (503), never a guess.
"""

from __future__ import annotations

import time
from typing import Literal, Protocol

from server.core.sessions import Session


class Primary(Protocol):
    """Finds sessions on the primary."""

    async def find(self, digest: bytes) -> Session | None: ...


class Gate:
    """Finds the active session behind a token digest."""

    def __init__(self, primary: Primary) -> None:
        self._primary = primary

    def peek(self, digest: bytes) -> Session | Literal[False] | None:
        """The session if memory knows it is active, False if it knows it is not, else None."""
        return None

    async def find(self, digest: bytes) -> Session | None:
        """The session if it is active, by the primary. Raises Unavailable when nobody can tell."""
        session = await self._primary.find(digest)
        if session is None or session.expires_us <= time.time_ns() // 1000:
            return None
        return session
