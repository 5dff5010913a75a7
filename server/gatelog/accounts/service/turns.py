"""Turns at the dear work of a login: the fair queue (``accounts.rules.turns``) at work.

Rules:

- Whoever has a turn looks up, is admitted, and has a password hashed. Strangers have as many turns
  as there are threads that hash; known devices have as many more, so that they wait for the hash
  that is being made, and for no other one of strangers.
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
TURNS_A_THREAD = 2  # half of them for known devices alone

WAITED = Histogram(
    "gatelog_login_queue_seconds",
    "How long logins waited for their turn at hashing, by class (known device or stranger).",
    ["known"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
REFUSED = Counter(
    "gatelog_login_queue_refused_total", "Logins refused because their line was full.", ["known"]
)


class _Waiter:
    """Somebody who waits for a turn."""

    __slots__ = ("came", "lane")

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.came: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Turns:
    """Turns at so many threads. ``queue``: how many of a class may wait for one."""

    def __init__(self, threads: int, queue: int) -> None:
        self._threads = threads
        self._known = self._strangers = 0  # who have a turn
        self._queue: FairQueue[_Waiter] = FairQueue(of_a_line=max(1, queue // LINES), in_all=queue)

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
            self._give_back(lane)

    async def _wait(self, lane: Lane) -> None:
        waiter, known = _Waiter(lane), str(lane.known).lower()
        room, displaced = self._queue.offer(waiter, lane)
        if displaced is not None and not displaced.came.done():
            displaced.came.set_exception(HashingFull())
        if not room:
            REFUSED.labels(known).inc()
            raise HashingFull()
        self._hand_out()
        try:
            with WAITED.labels(known).time():
                await waiter.came
        except asyncio.CancelledError:
            if waiter.came.cancelled():
                self._queue.withdraw(waiter, lane)
            elif waiter.came.exception() is None:
                self._give_back(lane)  # the turn came at the same moment
            raise
        except HashingFull:
            REFUSED.labels(known).inc()
            raise

    def _give_back(self, lane: Lane) -> None:
        self._count(lane, -1)
        self._hand_out()

    def _hand_out(self) -> None:
        """Whoever may have a turn gets one."""
        while self._known + self._strangers < TURNS_A_THREAD * self._threads:
            waiter = self._queue.take(strangers=self._strangers < self._threads)
            if waiter is None:
                return
            if not waiter.came.done():  # or it has just gone away
                self._count(waiter.lane, 1)
                waiter.came.set_result(None)

    def _count(self, lane: Lane, change: int) -> None:
        if lane.known:
            self._known += change
        else:
            self._strangers += change
