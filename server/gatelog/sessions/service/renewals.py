"""Records that sessions are used, behind the requests that use them.

Rules:

- Nobody waits for it: a request leaves the digest of its token, and goes on.
- What a process has noted goes to the log a part at a time, one part after the other, so that a
  login finds the log's lock free between two of them.
- Whatever goes wrong, it is forgotten: too many, a database that does not answer, a process that
  was stopped meanwhile. Use is noted as
  long as it is due, so the next request renews. It is decided on the state under the log's lock
  (``sessions.rules.renewing``).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from gatelog.clock import new_event_id
from gatelog.errors import GatelogError
from gatelog.log.rules.kinds import Command
from gatelog.log.store.batch import Recorded
from gatelog.sessions.rules.events import SessionsRenewed
from gatelog.sessions.rules.lifetimes import MOST_RENEWED
from gatelog.sessions.rules.renewing import RenewSessions
from gatelog.sessions.service.metrics import RENEWALS, RENEWALS_DROPPED
from gatelog.sessions.store.replica_place import boottime_ns

logger = logging.getLogger(__name__)

LONGEST_INTERVAL_S = 1.0
INTERVALS_IN_IDLE_TIME = 32
LATEST_NS = 5_000_000_000  # use that is older is none now
MOST_WAITING = 16_384  # sessions of a process


def interval_s(shortest_idle_s: int | None) -> float:
    """How long use may wait to be recorded: a second, less where sessions may idle very shortly."""
    if shortest_idle_s is None:
        return LONGEST_INTERVAL_S
    return min(LONGEST_INTERVAL_S, shortest_idle_s / INTERVALS_IN_IDLE_TIME)


class Renewals:
    """One per process; ``note`` returns at once."""

    def __init__(
        self,
        submit: Callable[[Command], Awaitable[Recorded]],
        *,
        interval_s: float = LONGEST_INTERVAL_S,
        most_waiting: int = MOST_WAITING,
    ) -> None:
        self._submit = submit
        self._interval_s = interval_s
        self._most_waiting = most_waiting
        self._waiting: dict[bytes, None] = {}
        self._sent: frozenset[bytes] = frozenset()  # in the last round: memory may not know yet
        self._task: asyncio.Task[None] | None = None

    @property
    def busy(self) -> bool:
        """Whether anything is noted, or was a moment ago."""
        return self._task is not None and not self._task.done()

    def note(self, digest: bytes) -> None:
        """The session behind this digest is used, and that is due to be recorded."""
        if digest in self._waiting or digest in self._sent:
            return
        if len(self._waiting) >= self._most_waiting:
            RENEWALS_DROPPED.inc()
            return
        self._waiting[digest] = None
        if not self.busy:
            self._task = asyncio.create_task(self._run(), name="renewals")

    async def _run(self) -> None:
        while self._waiting or self._sent:
            since_ns = boottime_ns()
            await asyncio.sleep(self._interval_s)
            taken = list(self._waiting)
            if boottime_ns() - since_ns > LATEST_NS:  # this process, or its machine, was stopped
                RENEWALS_DROPPED.inc(len(taken))
                taken = []
            self._waiting, self._sent = {}, frozenset(taken)
            for first in range(0, len(taken), MOST_RENEWED):
                if not await self._record(tuple(taken[first : first + MOST_RENEWED])):
                    RENEWALS_DROPPED.inc(len(taken) - first)
                    break

    async def _record(self, digests: tuple[bytes, ...]) -> bool:
        try:
            recorded = await self._submit(
                RenewSessions(event_id=new_event_id(), token_digests=digests)
            )
        except GatelogError as error:
            logger.info("that sessions are used is not recorded now: %s", error)
            return False
        for event in recorded.events:
            if isinstance(event, SessionsRenewed):
                RENEWALS.inc(len(event.token_digests))
        return True

    async def close(self) -> None:
        """Stop; what is noted is forgotten."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
