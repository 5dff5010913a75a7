"""The wait before a command that ends sessions is answered (see ``gatelog.sessions.rules.lease``).

Rules:

- Everything that says "this session is over" waits here first, for the position that it saw:
  also a logout that found the session ended, and a "not found", because replicas may not know of
  that end yet.
- The rows are read after the commit, on the primary, in one statement with the epoch. One read
  serves all who waited when it was sent.
- The timer alone suffices: without the database the answer comes after the full wait.
- What the process knows of the database's incarnation it notes there, once, so that those who start
  later need not wait to know it themselves.
- What is waited for is never a reason to fail. Only a stop of the service ends a wait early, and
  then the outcome is reported as unknown.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import msgspec

from gatelog.errors import GatelogError, OutcomeUnknown
from gatelog.log.store.database import translated_errors
from gatelog.sessions.rules.lease import (
    Evidence,
    Incarnation,
    LeaseTerms,
    Sighting,
    Verdict,
    barrier_verdict,
    full_wait_ns,
    incarnation_seen,
    may_reap,
    sighted,
    worth_noting,
)
from gatelog.sessions.store.leases import (
    Look,
    note_incarnation,
    read_leases,
    reap,
    reports_lazily,
    wake_projectors,
)
from gatelog.sessions.store.replica_place import boottime_ns

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection
    from gatelog.sessions.rules.lease import LeaseRow

logger = logging.getLogger(__name__)

FIRST_POLL_S = 0.001
LAST_POLL_S = 0.02
POLL_GROWTH = 1.3
FIRST_LOOK_WITHIN_S = 1.0
CALM_AFTER = 10  # looks
WAKE_INTERVAL_NS = 5_000_000  # NOTIFY takes a lock of the whole cluster
_NS = 1_000_000_000


class Waited(msgspec.Struct, frozen=True):
    """How a wait went. ``reason``: what it was for, when it was not over at the first look."""

    position: int
    outcome: Verdict
    reason: Verdict | None
    waited_ns: int


class _Waiter:
    __slots__ = ("committed_at_ns", "done", "ended_in", "position", "reason")

    def __init__(
        self,
        position: int,
        committed_at_ns: int,
        done: asyncio.Future[Verdict],
        ended_in: str | None,
    ) -> None:
        self.position = position
        self.committed_at_ns = committed_at_ns
        self.done = done
        self.ended_in = ended_in
        self.reason: Verdict | None = None


def _ignore(_: Waited) -> None:
    pass


class Barrier:
    """Waits until no replica can accept a session that has ended; one per process."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[Connection]],
        *,
        terms: LeaseTerms,
        idle_look_s: float | None = None,
        clock_ns: Callable[[], int] = boottime_ns,
        on_wait: Callable[[Waited], None] = _ignore,
    ) -> None:
        """``idle_look_s``: how often to look at the rows while nobody waits and the database has
        been the same for a while; None: with each renewal, so that the rows of other hosts, whose
        leases may last longer, are known."""
        self._connect = connect
        self._terms = terms
        self._renewal_s = terms.renewal_ns / _NS
        self._idle_look_s = idle_look_s or self._renewal_s
        self._alike = 0  # looks on end at the same incarnation
        self._clock_ns = clock_ns
        self._on_wait = on_wait
        self._waiters: set[_Waiter] = set()
        self._arrived = asyncio.Event()
        self._looked = asyncio.Event()
        self._connection: Connection | None = None
        self._task: asyncio.Task[None] | None = None
        self._rows: tuple[LeaseRow, ...] = ()
        self._seen: Incarnation | None = None
        self._sightings: dict[str, Sighting] = {}
        self._woken_ns = -WAKE_INTERVAL_NS
        self._unheard = False
        self.looks = 0

    async def __aenter__(self) -> Barrier:
        self._task = asyncio.create_task(self._run(), name="barrier")
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for waiter in self._waiters:
            if not waiter.done.done():
                waiter.done.set_exception(
                    OutcomeUnknown("It is recorded, but the service stops before all hosts know.")
                )
        self._discard_connection()

    async def incarnation(self) -> str | None:
        """The incarnation of the database that was seen last; waits a moment for the first look."""
        if self._seen is None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(FIRST_LOOK_WITHIN_S, self._terms.ttl_ns / _NS)):
                    await self._looked.wait()
        return self._seen.name if self._seen else None

    async def wait(
        self, position: int, committed_at_ns: int, *, ended_in: str | None = None
    ) -> Waited:
        """Return when no replica accepts what ended at or before ``position``.

        ``committed_at_ns``: CLOCK_BOOTTIME (``boottime_ns``) after the commit has returned.
        ``ended_in``: for a command that found what it ended, the ``incarnation()`` from before it
        was sent. Raises OutcomeUnknown when the service stops meanwhile.
        """
        done = asyncio.get_running_loop().create_future()
        waiter = _Waiter(position, committed_at_ns, done, ended_in)
        self._waiters.add(waiter)
        self._arrived.set()
        try:
            outcome = await self._outcome(waiter)
        finally:
            self._waiters.discard(waiter)
        waited = Waited(position, outcome, waiter.reason, self._clock_ns() - committed_at_ns)
        self._on_wait(waited)
        return waited

    async def _outcome(self, waiter: _Waiter) -> Verdict:
        while True:
            ends_ns = waiter.committed_at_ns + full_wait_ns(self._rows, self._terms)
            remaining_ns = ends_ns - self._clock_ns()
            if remaining_ns <= 0:
                return Verdict.WAITED_OUT
            done, _ = await asyncio.wait([waiter.done], timeout=remaining_ns / _NS)
            if done:
                return waiter.done.result()

    async def _run(self) -> None:
        pause_s = FIRST_POLL_S
        while True:
            if self._arrived.is_set():
                self._arrived.clear()
                self._unheard = True
                pause_s = FIRST_POLL_S
            try:
                await self._look_round()
            except GatelogError as error:
                logger.warning("barrier: %s", error)
                await self._start_anew()
            except Exception:
                logger.exception("barrier: a defect")
                await self._start_anew()
            await self._pause(pause_s)
            pause_s = min(pause_s * POLL_GROWTH, LAST_POLL_S)

    async def _pause(self, pause_s: float) -> None:
        """Until somebody comes; for a short time only while others wait."""
        idle_s = self._idle_look_s if self._alike > CALM_AFTER else self._renewal_s
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause_s if self._waiters else idle_s):
                await self._arrived.wait()

    async def _start_anew(self) -> None:
        self._discard_connection()
        await asyncio.sleep(LAST_POLL_S)

    async def _look_round(self) -> None:
        """Read the rows and answer who can be answered."""
        with translated_errors():
            async with asyncio.timeout(self._terms.ttl_ns / _NS):
                if self._connection is None or self._connection.is_closed():
                    self._connection = await self._connect()
                    self._connection.add_termination_listener(self._on_loss)
                    await reports_lazily(self._connection)
                await self._wake(self._connection)
                waiters = tuple(self._waiters)  # who comes later may commit after the read
                sent_ns = self._clock_ns()
                look = await read_leases(self._connection)
                own = self._take_in(look).evidence(sent_ns)
                self._answer(waiters, look, own.and_of(look.noted))
                await self._note(self._connection, look, own)
                await self._reap(self._connection)

    async def _wake(self, connection: Connection) -> None:
        """Let projectors hear of who has come, and give them the time that they need at least."""
        now_ns = self._clock_ns()
        if self._unheard and self._waiters and now_ns - self._woken_ns >= WAKE_INTERVAL_NS:
            self._unheard, self._woken_ns = False, now_ns
            await wake_projectors(connection)
            if self._rows:
                await asyncio.sleep(FIRST_POLL_S)

    def _take_in(self, look: Look) -> Incarnation:
        now_ns = self._clock_ns()
        self.looks += 1
        alike = self._seen is not None and self._seen.name == look.incarnation
        self._alike = self._alike + 1 if alike else 0
        self._rows = look.rows
        self._sightings = sighted(self._sightings, look.rows, now_ns)
        self._seen = incarnation_seen(self._seen, look.incarnation, now_ns, head=look.head)
        self._looked.set()
        return self._seen

    def _answer(self, waiters: tuple[_Waiter, ...], look: Look, evidence: Evidence) -> None:
        for waiter in waiters:
            verdict = barrier_verdict(
                look.rows,
                epoch=look.epoch,
                evidence=evidence,
                of_this_log=waiter.ended_in == look.incarnation,
                position=waiter.position,
                elapsed_ns=self._clock_ns() - waiter.committed_at_ns,
                terms=self._terms,
            )
            if not verdict.may_answer:
                waiter.reason = verdict
            elif not waiter.done.done():
                waiter.done.set_result(verdict)

    async def _note(self, connection: Connection, look: Look, own: Evidence) -> None:
        if worth_noting(own, look.noted, full_wait_ns(look.rows, self._terms)):
            await note_incarnation(connection, look.incarnation, own)

    async def _reap(self, connection: Connection) -> None:
        now_ns = self._clock_ns()
        dead = [item for item in self._sightings.items() if may_reap(item[1], now_ns, self._terms)]
        for replica_id in await reap(connection, dead):
            logger.warning("replica %s has not renewed its lease; its row is removed", replica_id)

    def _on_loss(self, _: object) -> None:
        """The connection has ended: find out soon what the database is now."""
        self._alike = 0
        self._arrived.set()

    def _discard_connection(self) -> None:
        self._alike = 0
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()
