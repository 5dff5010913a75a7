"""Deliberately broken variants of the service. The checker must find each of them.

They exist only here. Each breaks one rule of ``sessions.rules.lease`` or of the lookup; everything
else of the process is the real thing.
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import TYPE_CHECKING

import msgspec
from gatelog.log.rules.kinds import Command, Trace
from gatelog.log.store.batch import Recorded
from gatelog.sessions.rules.lease import Incarnation, Verdict, lease_deadline
from gatelog.sessions.service.barrier import Barrier, Waited
from gatelog.sessions.store.leases import EpochHead, Look, read_epoch_head
from gatelog.sessions.store.replica_place import boottime_ns

from tests.faults.hesitation import (
    AimedProjector,
    HesitantAppender,
    HesitantLookup,
    HesitantProjector,
    Hesitation,
    Pause,
)

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection
    from gatelog.sessions.rules.record import Session
    from gatelog.sessions.store.replica_writer import ReplicaWriter


class RowAndHeadInOneSnapshot(AimedProjector):
    """The head is read in the transaction that writes the row: before anybody can see the row.

    It matters when the row was not there before: so it rests until the row has been removed.
    """

    async def _renew(self, lease: Connection, writer: ReplicaWriter) -> None:
        await self.hesitation.resting()
        t0_ns = self._clock_ns()
        state = writer.state
        try:
            async with lease.transaction():
                await self._write_row(lease, writer, state, t0_ns)
                head = await read_epoch_head(lease, state.position)
                await self._catch_up(writer, head.position)
            self._grant(writer, head, t0_ns)
        finally:
            self._aimed = False


class DeadlineFromTheReply(AimedProjector):
    def _grant(self, writer: ReplicaWriter, head: EpochHead, t0_ns: int) -> None:
        super()._grant(writer, head, self._clock_ns())


class GrantBeforeCatchingUp(HesitantProjector):
    async def _catch_up(self, writer: ReplicaWriter, position: int) -> None:
        pass

    def _grant(self, writer: ReplicaWriter, head: EpochHead, t0_ns: int) -> None:
        writer.set_deadline(lease_deadline(t0_ns, self.terms))


_submitted_ns: ContextVar[int] = ContextVar("submitted")


class NotingAppender(HesitantAppender):
    """Notes when a command was submitted, for TimerBeforeTheCommit."""

    def submit(self, command: Command, trace: Trace | None = None) -> asyncio.Future[Recorded]:
        _submitted_ns.set(boottime_ns())
        return super().submit(command, trace)


class TimerBeforeTheCommit(Barrier):
    async def wait(
        self, position: int, committed_at_ns: int, *, ended_in: str | None = None
    ) -> Waited:
        began_ns = _submitted_ns.get(committed_at_ns)
        return await super().wait(position, began_ns, ended_in=ended_in)


class RowsAreAlwaysComplete(Barrier):
    """Whoever has just seen the incarnation takes its rows for all that there are."""

    def _take_in(self, look: Look) -> Incarnation:
        return msgspec.structs.replace(super()._take_in(look), since_ns=-(1 << 62))


class IncarnationIsTheEpoch(Barrier):
    """What was known of the epoch is held to be true of an older copy that has the same name."""

    def _take_in(self, look: Look) -> Incarnation:
        return super()._take_in(msgspec.structs.replace(look, incarnation=look.epoch))


class NobodyWaits(Barrier):
    """What is recorded is answered at once, whatever replicas know of it."""

    async def wait(
        self, position: int, committed_at_ns: int, *, ended_in: str | None = None
    ) -> Waited:
        return Waited(position, Verdict.ACKNOWLEDGED, None, 0)


class AnswerOfAnEarlierQuery(HesitantLookup):
    """Who asks while a query for the same session is in flight gets the answer of that query."""

    _in_flight: dict[bytes, asyncio.Future[Session | None]] = {}  # noqa: RUF012  # one per process

    async def find(self, digest: bytes) -> Session | None:
        earlier = self._in_flight.get(digest)
        if earlier is not None:
            return await asyncio.shield(earlier)
        return await super().find(digest)

    async def _answer(self, batch: dict[bytes, asyncio.Future[Session | None]]) -> None:
        self._in_flight.update(batch)
        try:
            await super()._answer(batch)
        finally:
            for digest in batch:
                self._in_flight.pop(digest, None)


class Variant(msgspec.Struct, frozen=True):
    """What a process is made of, and the hesitation under which the breach comes to light."""

    projector: type[HesitantProjector] = HesitantProjector
    appender: type[HesitantAppender] = HesitantAppender
    lookup: type[HesitantLookup] = HesitantLookup
    barrier: type[Barrier] = Barrier
    hesitation: Hesitation = Hesitation()
    needs_projectors: bool = True


FAITHFUL = Variant(
    hesitation=Hesitation(
        following=Pause(0.02, 2.0),
        renewing=Pause(0.1, 1.0),
        resting=Pause(0.1, 3.0),
        committing=Pause(0.02, 1.0),
        answering=Pause(0.02, 1.0),
    )
)
# For a lease of half a second. A pause that the breach needs is longer than a logout waits.
LATE = Pause(0.1, 1.5, shortest_s=0.7)
LATE_WHERE_IT_MATTERS = Pause(1.0, 1.2, shortest_s=0.7)
LATE_COMMIT = Pause(0.3, 1.0, shortest_s=0.7)
UNTIL_THE_ROW_IS_GONE = Pause(1.0, 1.2, shortest_s=0.8)
BEFORE_THE_GRANT = Pause(1.0, 0.35, shortest_s=0.15)
BEFORE_THE_ANSWER = Pause(0.3, 0.3)
BROKEN = {
    "row and head in one snapshot": Variant(
        projector=RowAndHeadInOneSnapshot,
        hesitation=Hesitation(
            following=LATE_WHERE_IT_MATTERS,
            renewing=BEFORE_THE_GRANT,
            resting=UNTIL_THE_ROW_IS_GONE,
        ),
    ),
    "deadline counted from the reply": Variant(
        projector=DeadlineFromTheReply,
        hesitation=Hesitation(following=LATE_WHERE_IT_MATTERS, renewing=BEFORE_THE_GRANT),
    ),
    "granting before catching up": Variant(
        projector=GrantBeforeCatchingUp, hesitation=Hesitation(following=LATE)
    ),
    "timer started before the commit": Variant(
        appender=NotingAppender,
        barrier=TimerBeforeTheCommit,
        hesitation=Hesitation(following=LATE, committing=LATE_COMMIT),
    ),
    "the answer of an earlier query": Variant(
        lookup=AnswerOfAnEarlierQuery,
        hesitation=Hesitation(answering=BEFORE_THE_ANSWER),
        needs_projectors=False,
    ),
}
# The same hesitation without a breach: what is found is found by the breach.
CONTROLS = {
    "late anywhere": Variant(
        hesitation=Hesitation(
            following=LATE,
            renewing=Pause(0.3, 0.4),
            resting=Pause(0.3, 1.5),
            committing=LATE_COMMIT,
            answering=BEFORE_THE_ANSWER,
        )
    ),
    "late where it matters": Variant(
        projector=AimedProjector,
        hesitation=Hesitation(
            following=LATE_WHERE_IT_MATTERS,
            renewing=BEFORE_THE_GRANT,
            resting=msgspec.structs.replace(UNTIL_THE_ROW_IS_GONE, probability=0.5),
        ),
    ),
}
# What matters only when rows are lost.
PLAIN = "plain"
ROWS_ARE_ALWAYS_COMPLETE = "rows are always complete"
INCARNATION_IS_THE_EPOCH = "the incarnation is the epoch"
MISTAKEN = {
    PLAIN: Variant(),
    ROWS_ARE_ALWAYS_COMPLETE: Variant(barrier=RowsAreAlwaysComplete),
    INCARNATION_IS_THE_EPOCH: Variant(barrier=IncarnationIsTheEpoch),
}
# What is looked for with builds (tests.composer.test_everywhere).
NOBODY_WAITS = "nobody waits"
BUILDING = {NOBODY_WAITS: Variant(barrier=NobodyWaits)}
VARIANTS = {"faithful": FAITHFUL} | CONTROLS | BROKEN | MISTAKEN | BUILDING
