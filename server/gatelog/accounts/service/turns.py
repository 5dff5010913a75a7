"""Turns at the dear work of a login: the fair queue (``accounts.rules.turns``) at work.

Rules:

- Whoever has a turn looks up, is admitted, and has a password hashed; there are a few more turns
  than threads that hash, so that none of these stands still while another login asks the database.
- Who finds no room, or is displaced, is refused (HashingFull) before anything is done for them.
- Who goes away leaves the line, and gives a turn back.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from prometheus_client import Counter, Histogram

from gatelog.accounts.rules.turns import FairQueue, Lane
from gatelog.errors import HashingFull

# A line may have a quarter of all places: one flood leaves room for others.
LINES = 4
# One is hashed, another asks the database meanwhile.
TURNS_A_THREAD = 2

WAITED = Histogram(
    "gatelog_login_queue_seconds",
    "How long logins waited for their turn at hashing, by class (known device or stranger).",
    ["known"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
REFUSED = Counter(
    "gatelog_login_queue_refused_total", "Logins refused because their line was full.", ["known"]
)


class Turns:
    """So many turns at a time. ``queue``: how many of a class may wait for one."""

    def __init__(self, turns: int, queue: int) -> None:
        self._free = turns
        self._queue: FairQueue[asyncio.Future[None]] = FairQueue(
            of_a_line=max(1, queue // LINES), in_all=queue
        )

    def waiting(self, *, known: bool) -> int:
        """How many of this class wait."""
        return self._queue.waiting(known=known)

    @asynccontextmanager
    async def turn(self, lane: Lane) -> AsyncIterator[None]:
        """Wait for a turn, and have it. Raises HashingFull."""
        await self._wait(lane)
        try:
            yield
        finally:
            self._give_back()

    async def _wait(self, lane: Lane) -> None:
        known = str(lane.known).lower()
        if self._free:
            self._free -= 1
            WAITED.labels(known).observe(0)
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        room, displaced = self._queue.offer(waiter, lane)
        if displaced is not None and not displaced.done():
            displaced.set_exception(HashingFull())
        if not room:
            REFUSED.labels(known).inc()
            raise HashingFull()
        try:
            with WAITED.labels(known).time():
                await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._give_back()  # the turn came at the same moment
            else:
                self._queue.withdraw(waiter, lane)
            raise
        except HashingFull:
            REFUSED.labels(known).inc()
            raise

    def _give_back(self) -> None:
        """The turn goes to who waits, or is free."""
        while (waiter := self._queue.take()) is not None:
            if not waiter.done():
                waiter.set_result(None)
                return
        self._free += 1
