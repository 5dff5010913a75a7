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
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg
import msgspec

from gatelog.accounts.rules.commands import (
    Command,
    Decision,
    Erasure,
    NewCredential,
    NewPassword,
    RecordLoginFailure,
    RecordRead,
    RegisterUser,
    StartSession,
    command_actor,
    command_event_id,
    command_subject,
    decide,
)
from gatelog.accounts.store.users import user_of
from gatelog.errors import DatabaseUnavailable, EventIdConflict, GatelogError, Purged
from gatelog.ids import derived_event_id
from gatelog.log.rules import events as ev
from gatelog.log.rules.state import ActiveSession, DropSession, PutSession, User, World
from gatelog.log.store import sql
from gatelog.log.store.reading import read_events
from gatelog.privacy.rules import person_of

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection

MAX_BATCH = 256
MAX_SESSIONS = 1000  # of one user, whatever is configured
MAX_ADMINS = MAX_BATCH + 2  # read where one must stay: more than a batch can take away


class Recorded(msgspec.Struct, frozen=True):
    """What came of a command.

    ``position`` is that of its last event; of a command without events, that of the head when it
    was decided: everything that it saw lies at or before it.
    """

    position: int
    events: tuple[ev.AnyEvent, ...] = ()

    @property
    def ended(self) -> int:
        """How many sessions the command ended."""
        return sum(isinstance(event, ev.SessionEnded) for event in self.events)


class Submission:
    """A command on its way: what was made of it before the lock, and who waits for it."""

    __slots__ = (
        "address_index",
        "command",
        "entry",
        "event_id",
        "in_flight",
        "leaf_hash",
        "prepared",
        "waiter",
    )

    def __init__(
        self, command: Command, waiter: asyncio.Future[Recorded], address_index: bytes | None
    ) -> None:
        self.command = command
        self.address_index = address_index
        self.event_id = command_event_id(command)
        self.waiter = waiter
        self.in_flight = False
        self.prepared: ev.Event | None = getattr(command, "event", None)
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

    def __init__(self, row: asyncpg.Record) -> None:
        self.head: int = row["position"]
        self.partitioned_to: int = row["partitioned_to"]
        self.recorded_at: datetime = row["recorded_at"]
        self.recorded: dict[UUID, int] = dict(row["recorded"])
        self.world = World(
            populated=row["populated"],
            users=[user_of(user) for user in row["users"]],
            sessions=[_session(session) for session in row["sessions"]],
            logins=dict(row["logins"]),
            admins=row["admins"],
            master_key_id=row["master_key_id"],
        )
        self.events: list[ev.AnyEvent] = []
        self.outcomes: list[tuple[Submission, Recorded | GatelogError]] = []
        self.found: list[tuple[Submission, int]] = []
        self._encoded: list[tuple[bytes, bytes]] = []
        self._put: dict[bytes, ActiveSession] = {}
        self._dropped: list[bytes] = []
        self._users: dict[UUID, User] = {}
        self.erased: list[UUID] = []
        self._credentials: dict[UUID, NewCredential] = {}
        self._passwords: dict[UUID, str] = {}
        self._addresses: list[tuple[bytes, int, UUID | None]] = []

    def decide(self, submission: Submission) -> None:
        """Decide one command on the world as the earlier ones of the batch left it."""
        if (position := self.recorded.get(submission.event_id)) is not None:
            self.found.append((submission, position))
            return
        try:
            decision = decide(self.world, submission.command)
        except GatelogError as error:
            self.outcomes.append((submission, error))
            return
        for event in decision.events:
            self._encoded.append(submission.encoded(event))
            self._apply(event)
            if event.sealed is not None and submission.address_index is not None:
                position = self.head + len(self.events)
                self._addresses.append((submission.address_index, position, person_of(event)))
        self._beside(decision)
        position = self.head + len(self.events)
        self.outcomes.append((submission, Recorded(position, decision.events)))

    def _apply(self, event: ev.AnyEvent) -> None:
        self.events.append(event)
        known = self.world.users.get(event.subject_id) if event.subject_id else None
        for change in self.world.apply(event):
            if isinstance(change, PutSession):
                self._put[change.session.token_digest] = change.session
            elif isinstance(change, DropSession) and not self._put.pop(change.token_digest, None):
                self._dropped.append(change.token_digest)
        if event.subject_id and self.world.users.get(event.subject_id) is not known:
            self._users[event.subject_id] = self.world.users[event.subject_id]

    def _beside(self, decision: Decision) -> None:
        match decision.beside:
            case NewCredential() as new:
                self._credentials[new.subject_id] = new
                self.world.logins[new.login] = new.subject_id
            case NewPassword() as new:
                self._passwords[new.subject_id] = new.password_hash
            case Erasure(subject_id):
                self._erase(subject_id)

    def _erase(self, subject_id: UUID) -> None:
        """Forget the user; also what earlier commands of this batch wanted to write."""
        self.erased.append(subject_id)
        self._credentials.pop(subject_id, None)
        self._passwords.pop(subject_id, None)
        self._addresses = [item for item in self._addresses if item[2] != subject_id]

    def arguments(self) -> tuple[object, ...]:
        """The parameters of ``sql.WRITE_BATCH``."""
        put = self._put.values()
        users = self._users.values()
        new = self._credentials.values()
        return (
            self.head,
            self.recorded_at,
            [event.event_id for event in self.events],
            [event.type for event in self.events],
            [event.v for event in self.events],
            [getattr(event, "session_id", None) for event in self.events],
            [event.subject_id for event in self.events],
            [entry for entry, _ in self._encoded],
            [leaf for _, leaf in self._encoded],
            [s.token_digest for s in put],
            [s.session_id for s in put],
            [s.subject_id for s in put],
            [s.started_at for s in put],
            [s.expires_at for s in put],
            [",".join(s.roles) for s in put],
            self._dropped,
            [u.subject_id for u in users],
            [u.registered_at for u in users],
            [u.disabled for u in users],
            [u.credential_version for u in users],
            [",".join(u.roles) for u in users],
            [u.erased for u in users],
            [c.subject_id for c in new],
            [c.login for c in new],
            [c.password_hash for c in new],
            [c.key.wrapped for c in new],
            [c.key.master_key_id for c in new],
            list(self._passwords),
            list(self._passwords.values()),
            [index for index, _, _ in self._addresses],
            [position for _, position, _ in self._addresses],
            [person for _, _, person in self._addresses],
        )

    def tell(self) -> None:
        """Answer everybody who waits; called when the commit has returned."""
        for submission, outcome in self.outcomes:
            if isinstance(outcome, GatelogError):
                submission.fail(outcome)
            else:
                submission.resolve(outcome)


def _session(row: Sequence[Any]) -> ActiveSession:
    session_id, subject_id, token_digest, started_at, expires_at, roles = row
    return ActiveSession(
        session_id=session_id,
        subject_id=subject_id,
        token_digest=token_digest,
        started_at=started_at,
        expires_at=expires_at,
        roles=tuple(roles),
    )


async def load_batch(connection: Connection, batch: Sequence[Submission]) -> Batch:
    """The world for these commands, read under the lock.

    Of who only logs in, sessions are read when there may be too many of them.
    """
    users: set[UUID] = set()
    with_sessions: set[UUID] = set()
    logins: list[str] = []
    starting: Counter[UUID] = Counter()
    max_sessions = MAX_SESSIONS
    max_admins = 0
    for submission in batch:
        command = submission.command
        subject_id = command_subject(command)
        if subject_id is None:
            continue
        users.add(subject_id)
        if (actor_id := command_actor(command)) is not None:
            users.add(actor_id)
        if getattr(command, "keep_an_admin", False):
            max_admins = MAX_ADMINS
        if isinstance(command, RecordLoginFailure | RecordRead):
            continue
        if isinstance(command, RegisterUser):
            logins.append(command.login)
        elif isinstance(command, StartSession):
            starting[subject_id] += 1
            max_sessions = min(max_sessions, command.max_sessions)
        else:
            with_sessions.add(subject_id)
    row = await connection.fetchrow(
        sql.LOAD_WORLD,
        list(users),
        list(with_sessions),
        list(starting),
        max_sessions - max(starting.values(), default=0),
        logins,
        [submission.event_id for submission in batch],
        max_admins,
    )
    if row is None:
        raise DatabaseUnavailable("The log has no head.")
    return Batch(row)


async def recall(
    connection: Connection, submission: Submission, position: int
) -> Recorded | GatelogError:
    """What an earlier try of this command recorded, from its first position on."""
    stored = await read_events(connection, position - 1, limit=2 * MAX_BATCH)
    if not stored or stored[0].position != position:
        return Purged("This was recorded long ago, and is not in the log any more.")
    first = stored[0]
    if submission.prepared is not None and submission.leaf_hash != first.leaf_hash:
        return EventIdConflict()
    own: list[ev.AnyEvent] = []
    for index, item in enumerate(stored):
        event = item.event()
        if event.event_id != derived_event_id(submission.event_id, index):
            break
        own.append(event)
    return Recorded(position + len(own) - 1, tuple(own))
