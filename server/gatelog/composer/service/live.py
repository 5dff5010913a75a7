"""What is live in this process, and the question before each request whether it still is.

A build is announced in the log (``log.rules.events.Announcement``), and reaches every host with the
sessions, in the same replica and under the same lease. Rules:

- Before a composed endpoint is looked for, the replica is asked which build is announced; that
  takes a microsecond. The one that this process has made ready is used if it is that one.
- Where memory cannot know (no lease: a projector that was stopped, a paused host), the primary is
  asked, by a query that is sent after the request came. Where nobody can tell, it is a 503.
- So when a build has been waited for like the end of a session (``sessions.service.barrier``), no
  request that comes later sees one from before: every replica either has it or has no lease.
- A build that is announced and not ready here is loaded by the request that needs it, and others
  wait for that; what is loaded has the SHA-256 that the log says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, Protocol, TypeVar

from gatelog.composer.rules.composition import EMPTY, Composition
from gatelog.composer.rules.events import TOPIC, build_announced
from gatelog.composer.store.builds import BuildStore
from gatelog.errors import Unavailable
from gatelog.sessions.store.replica_place import announced_decoder

T = TypeVar("T")
Make = Callable[[int, Composition], Awaitable[T]]


class Primary(Protocol):
    """Tells what is announced, as the primary knows it."""

    async def find(self) -> dict[str, bytes]: ...


class Live(Generic[T]):
    """What this process has made of the build that is live."""

    def __init__(
        self,
        *,
        peek: Callable[[], bytes | None],
        primary: Primary,
        store: BuildStore,
        make: Make[T],
    ) -> None:
        """``peek``: what memory says is announced (``ReplicaReader.announced``); ``make``: of a
        build's number and composition what requests are answered with."""
        self._peek = peek
        self._primary = primary
        self._store = store
        self._make = make
        self._loading = asyncio.Lock()
        self._packed: bytes | None = None  # as memory had it when ``_made`` was what it says
        self._value: bytes | None = None
        self._made: T | None = None

    def current(self) -> T | None:
        """What answers now, if memory knows and it is ready; None: ask ``now``."""
        packed = self._peek()
        return self._made if packed is not None and packed == self._packed else None

    async def now(self) -> T:
        """What answers a request that has come before this call. Raises Unavailable."""
        packed = self._peek()
        if packed is not None:
            announced = announced_decoder.decode(packed)
        else:
            announced = await self._primary.find()
        value = announced.get(TOPIC, b"")
        async with self._loading:
            if self._made is None or self._value != value:
                self._packed = None
                self._made, self._value = await self._load(value), value
            if packed is not None:
                self._packed = packed
            return self._made

    async def _load(self, value: bytes) -> T:
        number, digest = build_announced(value)
        if not number:
            return await self._make(0, EMPTY)
        found = await self._store.build(number)
        if found is None or found[0].digest != digest:
            raise Unavailable("The build that is announced is not in the database.")
        return await self._make(number, found[1])
