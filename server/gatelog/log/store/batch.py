"""One batch of commands under the lock of the log's head: what is read, decided and written.

Rules:

- Commands are decided on state read by a statement that is younger than the lock, each on the
  world as the earlier ones of the batch left it.
- What was encoded and hashed before the lock was taken is used as it is.
- A command whose first event is in the log already is not decided again: it is answered with what
  it recorded, or refused when the bytes are others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

import asyncpg
import msgspec

from gatelog.clock import moved_ahead
from gatelog.errors import DatabaseUnavailable, EventIdConflict, GatelogError, Purged
from gatelog.ids import derived_event_id
from gatelog.log.rules import events as ev
from gatelog.log.rules.kinds import Command, Trace, World
from gatelog.log.store.kinds import Writing, erasing, reading, writing
from gatelog.log.store.reading import read_events

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection

MAX_BATCH = 256
_HEAD_COLUMNS = 4  # of LOAD_BATCH, before those of the kinds
_FIRST_OF_READING = 2  # the parameters before are LOAD_BATCH's own
_FIRST_OF_WRITING = 10  # those before are WRITE_BATCH's own


class Recorded(msgspec.Struct, frozen=True):
    """What came of a command.

    ``position`` is that of its last event; of a command without events, that of the head when it
    was decided: everything that it saw lies at or before it.
    """

    position: int
    events: tuple[ev.Event, ...] = ()

    @property
    def first(self) -> int:
        """The position of its first event, which is what was asked for; what follows from that
        stands after it."""
        return self.position - max(len(self.events) - 1, 0)

    def count(self, kind: type[ev.Event]) -> int:
        """How many events of this type there are."""
        return sum(isinstance(event, kind) for event in self.events)


class Submission:
    """A command on its way: what was made of it before the lock, and who waits for it."""

    __slots__ = (
        "command",
        "entry",
        "event_id",
        "in_flight",
        "leaf_hash",
        "prepared",
        "trace",
        "waiter",
    )

    def __init__(
        self, command: Command, waiter: asyncio.Future[Recorded], trace: Trace | None
    ) -> None:
        self.command = command
        self.trace = trace
        self.event_id = command.first_event_id
        self.waiter = waiter
        self.in_flight = False
        self.prepared = command.prepared
        self.entry = b""
        self.leaf_hash = b""
        if self.prepared is not None:
            self.entry = ev.encode(self.prepared)
            self.leaf_hash = ev.leaf_hash(self.entry)

    def encoded(self, event: ev.Event) -> tuple[bytes, bytes]:
        """The event's entry and leaf hash, made in advance where that was possible."""
        if event is self.prepared:
            return self.entry, self.leaf_hash
        entry = ev.encode(event)
        return entry, ev.leaf_hash(entry)

    def resolve(self, recorded: Recorded) -> None:
        if not self.waiter.done():
            self.waiter.set_result(recorded)

    def fail(self, error: BaseException) -> None:
        if not self.waiter.done():
            self.waiter.set_exception(error)


class Batch:
    """One batch under the lock: the world it is decided on and what is to be written."""

    def __init__(self, row: asyncpg.Record, world: World) -> None:
        self.head: int = row["position"]
        self.partitioned_to: int = row["partitioned_to"]
        self.recorded_at: datetime = row["recorded_at"]
        self.recorded: dict[UUID, int] = dict(row["recorded"])
        self.world = world
        world.now = self.recorded_at + moved_ahead()
        self.events: list[ev.Event] = []
        self.beside = False
        self.outcomes: list[tuple[Submission, Recorded | GatelogError]] = []
        self.found: list[tuple[Submission, int]] = []
        self._encoded: list[tuple[bytes, bytes]] = []

    def decide(self, submission: Submission) -> None:
        """Decide one command on the world as the earlier ones of the batch left it."""
        if (position := self.recorded.get(submission.event_id)) is not None:
            self.found.append((submission, position))
            return
        try:
            decision = submission.command.decide(self.world)
        except GatelogError as error:
            self.outcomes.append((submission, error))
            return
        for event in decision.events:
            self.events.append(event)
            self._encoded.append(submission.encoded(event))
            self.world.apply(event, self.head + len(self.events), submission.trace)
        for beside in decision.beside:
            beside.enter(self.world)
            self.beside = True
        position = self.head + len(self.events)
        self.outcomes.append((submission, Recorded(position, decision.events)))

    def erasing(self) -> Writing | None:
        """What must run before the batch is written, if anything."""
        return erasing(self.world)

    def writing(self) -> Writing:
        """What writes the batch."""
        kinds = writing(self.world, _FIRST_OF_WRITING)
        own: tuple[object, ...] = (
            self.head,
            self.recorded_at,
            [event.event_id for event in self.events],
            [event.type for event in self.events],
            [event.v for event in self.events],
            [getattr(event, "session_id", None) for event in self.events],
            [event.subject_id for event in self.events],
            [entry for entry, _ in self._encoded],
            [leaf for _, leaf in self._encoded],
        )
        return Writing(kinds.statement, [*own, *kinds.arguments])

    def tell(self) -> None:
        """Answer everybody who waits; called when the commit has returned."""
        for submission, outcome in self.outcomes:
            if isinstance(outcome, GatelogError):
                submission.fail(outcome)
            else:
                submission.resolve(outcome)


async def load_batch(connection: Connection, batch: Sequence[Submission]) -> Batch:
    """The world for these commands, read under the lock: what they need of it."""
    needs = (need for submission in batch for need in submission.command.needs())
    wanted = reading(needs, _FIRST_OF_READING)
    event_ids = [submission.event_id for submission in batch]
    row = await connection.fetchrow(wanted.statement, event_ids, *wanted.arguments)
    if row is None:
        raise DatabaseUnavailable("The log has no head.")
    return Batch(row, wanted.world(tuple(row)[_HEAD_COLUMNS:]))


async def recall(
    connection: Connection, submission: Submission, position: int
) -> Recorded | GatelogError:
    """What an earlier try of this command recorded, from its first position on."""
    own: list[ev.Event] = []
    while True:
        stored = await read_events(connection, position - 1 + len(own), limit=2 * MAX_BATCH)
        if not own:
            if not stored or stored[0].position != position:
                return Purged("This was recorded long ago, and is not in the log any more.")
            if submission.prepared is not None and submission.leaf_hash != stored[0].leaf_hash:
                return EventIdConflict()
        for item in stored:
            event = item.event()
            if event.event_id != derived_event_id(submission.event_id, len(own)):
                return Recorded(position + len(own) - 1, tuple(own))
            own.append(event)
        if not stored:
            return Recorded(position + len(own) - 1, tuple(own))
