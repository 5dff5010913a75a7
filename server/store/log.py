"""The event log: appending to it in groups, and reading it in order.

Rules:

- Positions are dense and in commit order, because every append locks the head's row first and
  keeps it until it has committed.
- One appender per process. What arrives while a commit is in flight goes into the next one: one
  lock and one fsync for up to ``append_batch`` commands.
- Commands are decided under the lock, on state read by a statement that is younger than the lock.
- A retry is idempotent by event id. When a commit's outcome is unknown (lost connection, timeout,
  cancelled wait for a standby), the batch is run again and finds its own events, or not; nothing
  is reported as done before that. Who cannot wait gets OutcomeUnknown.
- One refused command does not hurt the others of its batch; a defective one is found by running
  the batch's commands one by one.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg
import msgspec

from server.core import events as ev
from server.core.commands import (
    Command,
    Decision,
    Erasure,
    NewCredential,
    NewPassword,
    RecordLoginFailure,
    RegisterUser,
    StartSession,
    command_actor,
    command_event_id,
    command_subject,
    decide,
)
from server.core.errors import (
    ConfigError,
    DatabaseUnavailable,
    EventIdConflict,
    GatelogError,
    OutcomeUnknown,
    Overloaded,
    SchemaMismatch,
)
from server.core.ids import derived_event_id
from server.core.personal import person_of
from server.core.state import ActiveSession, DropSession, PutSession, User, World
from server.store import sql
from server.store.database import LOST
from server.store.users import user_of

if TYPE_CHECKING:
    from server.store.database import Connection, PooledConnection

logger = logging.getLogger(__name__)

MAX_BATCH = 256
MAX_SESSIONS = 1000  # of one user, whatever is configured
MAX_ADMINS = MAX_BATCH + 2  # read where one must stay: more than a batch can take away
PARTITION_RESERVE = 1 << 20  # positions that must have a partition beyond the head
# What passes, or is mended by an operator, while the commands wait for their time.
_RETRIED = (DatabaseUnavailable, ConfigError, SchemaMismatch, *LOST)
WATCH_INTERVAL_S = 0.1
FIRST_RETRY_S = 0.02
LAST_RETRY_S = 0.5


class StoredEvent(msgspec.Struct, frozen=True):
    """An event of the log as it is stored."""

    position: int
    recorded_at: datetime
    entry: bytes
    leaf_hash: bytes

    def event(self) -> ev.AnyEvent:
        return ev.decode(self.entry)


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


class Head(msgspec.Struct, frozen=True):
    position: int
    recorded_at: datetime
    epoch: int


async def read_head(connection: PooledConnection) -> Head:
    """The position of the last event; 0 for an empty log."""
    row = await connection.fetchrow(sql.READ_HEAD)
    if row is None:
        raise DatabaseUnavailable("The log has no head.")
    return Head(row["position"], row["recorded_at"], row["epoch"])


async def read_events(
    connection: PooledConnection, after: int, limit: int = 1000
) -> list[StoredEvent]:
    """The events after this position, in order. What is visible never has a gap."""
    rows = await connection.fetch(sql.READ_EVENTS, after, limit)
    return [
        StoredEvent(row["position"], row["recorded_at"], row["entry"], row["leaf_hash"])
        for row in rows
    ]


class _Submission:
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


class Appender:
    """Group commit: decides and appends what is submitted, one batch at a time."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[Connection]],
        *,
        timeout_s: float,
        max_batch: int = MAX_BATCH,
        max_queue: int = 4096,
    ) -> None:
        self._connect = connect
        self._timeout_s = timeout_s
        self._max_batch = max_batch
        self._max_queue = max_queue
        self._queue: deque[_Submission] = deque()
        self._arrived = asyncio.Event()
        self._connection: Connection | None = None
        self._warned = False
        self._waiting: deque[tuple[float, _Submission]] = deque()
        self._tasks: list[asyncio.Task[None]] = []
        self.commits = 0

    async def __aenter__(self) -> Appender:
        self._tasks = [
            asyncio.create_task(self._run(), name="appender"),
            asyncio.create_task(self._watch(), name="appender-watch"),
        ]
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Stop. Whoever still waits is told that the outcome is unknown."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for submission in self._queue:
            submission.fail(DatabaseUnavailable("The service stops."))
        await self._discard_connection()

    def submit(
        self, command: Command, address_index: bytes | None = None
    ) -> asyncio.Future[Recorded]:
        """Decide this command and append its events; the future is done when they are durable.

        ``address_index`` is what its sealed events can be found by (see ``core.personal``).
        It raises what ``decide`` raises, DatabaseUnavailable when the command was not tried in
        time, and OutcomeUnknown when it may have happened. Raises Overloaded when too many wait.
        """
        if len(self._queue) >= self._max_queue:
            raise Overloaded()
        loop = asyncio.get_running_loop()
        submission = _Submission(command, loop.create_future(), address_index)
        self._queue.append(submission)
        self._waiting.append((loop.time() + self._timeout_s, submission))
        self._arrived.set()
        return submission.waiter

    async def _watch(self) -> None:
        """Tell those whose time is over; one task for all of them, in the order of arrival."""
        while True:
            await asyncio.sleep(WATCH_INTERVAL_S)
            now = asyncio.get_running_loop().time()
            while self._waiting:
                deadline, submission = self._waiting[0]
                if deadline > now and not submission.waiter.done():
                    break
                self._waiting.popleft()
                submission.fail(OutcomeUnknown() if submission.in_flight else DatabaseUnavailable())

    async def _run(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while batch := self._take():
                await self._finish(batch)

    def _take(self) -> list[_Submission]:
        batch: list[_Submission] = []
        while self._queue and len(batch) < self._max_batch:
            submission = self._queue.popleft()
            if not submission.waiter.done():
                batch.append(submission)
        return batch

    async def _finish(self, batch: list[_Submission]) -> None:
        """Run the batch until its outcome is known or nobody waits for it any more."""
        delay_s = FIRST_RETRY_S
        try:
            while batch:
                try:
                    await self._attempt(batch)
                    return
                except _RETRIED as error:
                    logger.warning("append: %s: %s; trying again", type(error).__name__, error)
                    await self._discard_connection()
                    await asyncio.sleep(delay_s)
                    delay_s = min(delay_s * 2, LAST_RETRY_S)
                    batch = [s for s in batch if not s.waiter.done()]
        except asyncio.CancelledError:
            for submission in batch:
                submission.fail(OutcomeUnknown("The service stops."))
            raise

    async def _attempt(self, batch: list[_Submission]) -> None:
        try:
            await self._commit(batch)
        except _RETRIED:
            raise
        except Exception as error:
            await self._discard_connection()
            if len(batch) == 1:
                logger.exception("append: a defective command")
                batch[0].fail(error)
                return
            for submission in batch:
                await self._attempt([submission])

    async def _commit(self, batch: list[_Submission]) -> None:
        connection = await self._connected()
        for submission in batch:
            submission.in_flight = True
        await connection.execute(f"BEGIN; {sql.LOCK_HEAD}")
        writing = await _load(connection, batch)
        for submission in batch:
            writing.decide(submission)
        for submission, position in writing.found:
            writing.outcomes.append((submission, await _recall(connection, submission, position)))
        if writing.events or writing.found:
            # also without events, when some were found: the commit waits for standbys then
            await self._write(connection, writing)
        else:
            await connection.execute("ROLLBACK")
        writing.tell()

    async def _write(self, connection: Connection, writing: _Writing) -> None:
        if writing.head + len(writing.events) + PARTITION_RESERVE >= writing.partitioned_to:
            await connection.execute(sql.ADD_PARTITION)
        if writing.erased:
            await connection.execute(sql.ERASE, writing.erased)
        await connection.execute(sql.WRITE_BATCH, *writing.arguments())
        self._warned = False
        await connection.execute("COMMIT")
        if self._warned:  # committed here, but not on the standby that should have it
            raise DatabaseUnavailable("The commit's wait for a standby was cut short.")
        self.commits += 1

    async def _connected(self) -> Connection:
        if self._connection is None or self._connection.is_closed():
            self._connection = await self._connect()
            self._connection.add_log_listener(self._on_notice)
        return self._connection

    def _on_notice(self, connection: object, message: asyncpg.PostgresLogMessage) -> None:
        self._warned = self._warned or message.severity_en in {"WARNING", "FATAL", "PANIC"}

    async def _discard_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()


class _Writing:
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
        self.outcomes: list[tuple[_Submission, Recorded | GatelogError]] = []
        self.found: list[tuple[_Submission, int]] = []
        self._encoded: list[tuple[bytes, bytes]] = []
        self._put: dict[bytes, ActiveSession] = {}
        self._dropped: list[bytes] = []
        self._users: dict[UUID, User] = {}
        self.erased: list[UUID] = []
        self._credentials: dict[UUID, NewCredential] = {}
        self._passwords: dict[UUID, str] = {}
        self._addresses: list[tuple[bytes, int, UUID | None]] = []

    def decide(self, submission: _Submission) -> None:
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


async def _load(connection: Connection, batch: Sequence[_Submission]) -> _Writing:
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
        if isinstance(command, RecordLoginFailure):
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
    return _Writing(row)


async def _recall(
    connection: Connection, submission: _Submission, position: int
) -> Recorded | GatelogError:
    """What an earlier try of this command recorded, from its first position on."""
    stored = await read_events(connection, position - 1, limit=2 * MAX_BATCH)
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
