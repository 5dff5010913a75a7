"""The projector: keeps this host's replica up to date and holds its lease.

One process per host, beside the workers (``host.projector``); or a task inside a single worker
(``projecting``).
Rules (the protocol itself stands in ``sessions.rules.lease``):

- A change is in the replica before its position is acknowledged, and all changes up to the head
  are in it before the lease is granted.
- Polling carries correctness. A NOTIFY only shortens the wait. What changes sessions is told by a
  NOTIFY; where such news was found by a poll, nobody may be heard here (a proxy in between, say),
  and polls are quick until one is, or for a while.
- Any doubt about the log (another epoch, shorter, a gap, another event at the position that was
  applied last) or about the replica itself: end the lease, start a new replica from a new load.
  Until that is complete, workers ask the primary.
- What an event means that this version does not know (a newer one runs beside it) is not guessed:
  the lease ends and its row goes, so that no logout waits for this replica, and workers ask the
  primary. A while later a new load goes past that event: what it changed is in the sessions then.
- Losing the database is no doubt: the lease runs out by itself, and the same replica goes on when
  the database is back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Self

import asyncpg
import lmdb

from gatelog.config import Config
from gatelog.errors import DatabaseUnavailable, EventsLost, GatelogError, LogDiffers, NotUnderstood
from gatelog.log.store.database import connect_if, translated_errors
from gatelog.sessions.rules.lease import (
    NO_LEASE,
    LeaseRow,
    LeaseTerms,
    Sighting,
    lease_deadline,
    lease_terms,
    lease_valid,
    may_grant,
    may_reap,
    sighted,
)
from gatelog.sessions.service.upkeep import ConnectWithin, check_same_log, load_replica, tidy
from gatelog.sessions.store.feed import Page, read_page
from gatelog.sessions.store.leases import (
    LOG_CHANNEL,
    EpochHead,
    acknowledge,
    leave,
    read_epoch_head,
    read_leases,
    reap,
    reports_lazily,
    write_lease,
    written_ttl_ns,
)
from gatelog.sessions.store.replica_place import (
    ReplicaError,
    ReplicaFull,
    ReplicaPlace,
    ReplicaState,
    ReplicaUnwritable,
    boottime_ns,
)
from gatelog.sessions.store.replica_writer import ReplicaWriter, drop_environment
from gatelog.tasks import first_failure

if TYPE_CHECKING:
    from gatelog.log.store.database import Accept, Connection

logger = logging.getLogger(__name__)

PAGE = 1000  # events in one transaction of the replica
LAZY_ACKNOWLEDGEMENT_NS = 50_000_000  # of positions at which no session ended
LOCK_POLL_S = 0.2
QUICK_POLL_S = 0.025
QUICK_FOR_NS = 10_000_000_000  # after news that nobody told
FIRST_RETRY_S = 0.1
LAST_RETRY_S = 2.0
NOT_UNDERSTOOD_RETRY_S = 30.0  # more such events may follow, and each costs a load
NO_ROOM_RETRY_S = 30.0  # a load that comes to nothing is work for the database
LEAVE_TIMEOUT_S = 1.0
TIDY_EVERY = 3  # renewals
_NS = 1_000_000_000

# What means that the replica, and not the database, is at fault.
_DOUBT = (LogDiffers, ReplicaError, lmdb.Error)


class Projector:
    """Keeps the replica of one host."""

    def __init__(
        self,
        place: ReplicaPlace,
        connect_within: ConnectWithin,
        *,
        terms: LeaseTerms,
        poll_s: float = 5.0,
        host: str = "",
        clock_ns: Callable[[], int] = boottime_ns,
    ) -> None:
        """``connect_within`` opens a connection whose statements have this limit, in seconds."""
        self.place = place
        self.terms = terms
        self.rebuilds = 0
        self._connect_within = connect_within
        self._poll_s = poll_s
        self._host = host or socket.gethostname()
        self._clock_ns = clock_ns
        self._writer: ReplicaWriter | None = None
        self._doubt: str | None = None
        self._woken = asyncio.Event()
        self._told = False
        self._waiting = False
        self._quick_until_ns = 0
        self._advanced = asyncio.Condition()
        self._warned = False
        self._sightings: dict[str, Sighting] = {}
        self._renewals = 0

    @classmethod
    def configured(cls, config: Config, dsn: str, accept: Accept | None) -> Self:
        """The projector of this configuration; ``accept`` refuses a database by raising."""

        async def connect_within(timeout_s: float) -> Connection:
            return await connect_if(accept, dsn, timeout_s=timeout_s)

        return cls(
            ReplicaPlace(config),
            connect_within,
            terms=lease_terms(config.lease_ttl_s),
            poll_s=config.projector_poll_s,
        )

    async def run(self) -> None:
        """Work until cancelled. A second projector for the same place waits for the first."""
        told = False
        while True:
            with self.place.writer_lock() as mine:
                if mine:
                    await self._run_alone()
                    return
            if not told:
                logger.info("another projector writes %s; waiting", self.place.root)
                told = True
            await asyncio.sleep(LOCK_POLL_S)

    @property
    def position(self) -> int:
        """How far the replica has got; 0 before there is one."""
        return self._writer.state.position if self._writer else 0

    @property
    def waiting(self) -> bool:
        """Whether it has all that it knows of and waits to be told of more."""
        return self._waiting

    @property
    def polls_quickly(self) -> bool:
        """Whether something was not told lately that should have been."""
        return self._clock_ns() < self._quick_until_ns

    async def _run_alone(self) -> None:
        self._writer = ReplicaWriter.open_current(self.place)
        self.place.remove_others(self._writer.path if self._writer else None)
        delay_s = FIRST_RETRY_S
        try:
            while True:
                started_ns = self._clock_ns()
                least_s = await self._until_trouble()
                if self._clock_ns() - started_ns > self.terms.ttl_ns:
                    delay_s = FIRST_RETRY_S
                await asyncio.sleep(max(delay_s, least_s))
                delay_s = min(delay_s * 2, LAST_RETRY_S)
        finally:
            await self._stop()

    async def _until_trouble(self) -> float:
        """Follow the log until that fails; returns for how long at least to wait, in seconds."""
        try:
            await self._follow()
        except ReplicaUnwritable as error:
            self._note_doubt(error)
            return 0.0 if self.place.fall_back() else self._no_room()
        except ReplicaFull as error:
            self._note_doubt(error)
            # a new load leaves the tombstones out; if it is the load that failed, nothing helps
            return 0.0 if self._writer is not None else self._no_room()
        except _DOUBT as error:
            self._note_doubt(error)
        except NotUnderstood as error:
            return await self._retire(error)
        except GatelogError as error:
            logger.warning("projector: %s", error)
        except Exception:
            logger.exception("projector: a defect")
            return LAST_RETRY_S
        return 0.0

    async def _retire(self, error: NotUnderstood) -> float:
        """End the lease and remove its row, so that no logout waits; memory answers no more."""
        logger.error("memory is not used for a while, every check asks the database: %s", error)
        self._doubt = f"{type(error).__name__}: {error}"
        with contextlib.suppress(GatelogError, TimeoutError):
            async with asyncio.timeout(LEAVE_TIMEOUT_S):
                with translated_errors():
                    async with self._connection() as connection:
                        await self._discard_replica(connection)
        return NOT_UNDERSTOOD_RETRY_S

    def _no_room(self) -> float:
        logger.error("no room for the replica, every check asks the database: %s", self._doubt)
        return NO_ROOM_RETRY_S

    def _note_doubt(self, error: Exception) -> None:
        self._doubt = f"{type(error).__name__}: {error}"
        if isinstance(error, EventsLost):
            logger.error("events that were acknowledged may be lost: %s", error)

    async def _follow(self) -> None:
        """Load if need be, then follow the log and renew the lease; ends with an error only."""
        with translated_errors():
            async with self._connection() as tail, self._connection() as lease:
                await reports_lazily(tail)
                lease.add_log_listener(self._on_notice)
                await tail.add_listener(LOG_CHANNEL, self._on_wake)
                writer = self._writer
                if writer is None or self._doubt or await self._has_other_log(lease, writer):
                    writer = await self._rebuild(lease)
                else:
                    await self._end_longer_lease(lease, writer)
                await first_failure(self._keep_up(tail, writer), self._keep_lease(lease, writer))

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        connection = await self._connect_within(self.terms.ttl_ns / _NS)
        try:
            yield connection
        finally:
            connection.terminate()

    def _on_wake(self, *_: object) -> None:
        self._told = True
        self._quick_until_ns = 0
        self._woken.set()

    def _on_notice(self, _: object, message: asyncpg.PostgresLogMessage) -> None:
        """A warning at a commit says that it is not on the standby that should have it."""
        self._warned = self._warned or message.severity_en == "WARNING"

    async def _has_other_log(self, lease: Connection, writer: ReplicaWriter) -> bool:
        try:
            check_same_log(writer.state, await read_epoch_head(lease, writer.state.position))
        except LogDiffers as error:
            self._note_doubt(error)
            return True
        return False

    async def _rebuild(self, lease: Connection) -> ReplicaWriter:
        """End the old replica and load a new one."""
        await self._discard_replica(lease)
        started_ns = self._clock_ns()
        writer = await load_replica(self.place, self._connect_within)
        self.place.make_current(writer.path)
        self._writer, self._doubt = writer, None
        self.rebuilds += 1
        logger.info(
            "replica %s: %d sessions at position %d, loaded in %.2f s",
            writer.replica_id,
            writer.state.active,
            writer.state.position,
            (self._clock_ns() - started_ns) / _NS,
        )
        return writer

    async def _discard_replica(self, lease: Connection) -> None:
        """End the lease where workers read it; only then may its row go.

        If it cannot be ended, the row stays: it stands for the old replica until that is over.
        """
        old, self._writer = self._writer, None
        if old is None:
            return
        logger.warning("replica %s is given up: %s", old.replica_id, self._doubt)
        try:
            old.set_deadline(NO_LEASE)
        except (ReplicaError, lmdb.Error):
            logger.warning("replica %s cannot be told; its lease runs out", old.replica_id)
        else:
            await leave(lease, old.replica_id)
        finally:
            drop_environment(old)

    async def _keep_up(self, tail: Connection, writer: ReplicaWriter) -> None:
        """Apply the log as it grows, and acknowledge."""
        acknowledged, acknowledged_ns, told = 0, 0, True
        while True:
            self._woken.clear()
            self._told = False
            page = await self._read_page(tail, writer.state)
            now_ns = self._clock_ns()
            if page is not None:
                await self._apply(writer, page)
                if page.changes and not told:
                    self._quick_until_ns = now_ns + QUICK_FOR_NS
            urgent = page is None or page.ends
            if writer.state.position > acknowledged and (
                urgent or now_ns - acknowledged_ns >= LAZY_ACKNOWLEDGEMENT_NS
            ):
                acknowledged, acknowledged_ns = writer.state.position, now_ns
                await self._acknowledge(tail, writer)
            if page is None:
                told = await self._wait_for_news()

    async def _read_page(self, tail: Connection, state: ReplicaState) -> Page | None:
        return await read_page(tail, position=state.position, leaf_hash=state.leaf_hash, limit=PAGE)

    async def _apply(self, writer: ReplicaWriter, page: Page) -> None:
        writer.apply(page.changes, page.position, page.leaf_hash, page.announced)
        async with self._advanced:
            self._advanced.notify_all()

    async def _acknowledge(self, tail: Connection, writer: ReplicaWriter) -> None:
        state = writer.state
        await acknowledge(tail, writer.replica_id, epoch=state.epoch, position=state.position)

    async def _wait_for_news(self) -> bool:
        """Wait for a NOTIFY or the next poll; whether it was the former."""
        poll_s = min(self._poll_s, QUICK_POLL_S) if self.polls_quickly else self._poll_s
        self._waiting = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(poll_s):
                await self._woken.wait()
        self._waiting = False
        return self._told

    # Its lease

    async def _end_longer_lease(self, lease: Connection, writer: ReplicaWriter) -> None:
        """End what a projector that was killed has granted for longer than this one would.

        The row says how long logouts wait for this replica, and is about to say less. How much of
        that lease is left does not matter: a logout may have waited for as long as the row will
        say already, and would be answered at once.
        """
        own_ns = written_ttl_ns(self.terms.ttl_ns)
        for row in (await read_leases(lease)).rows:
            if row.replica_id == writer.replica_id and row.ttl_ns > own_ns:
                logger.info("the lease of %s was longer than now; it ends", row.replica_id)
                writer.set_deadline(NO_LEASE)

    async def _keep_lease(self, lease: Connection, writer: ReplicaWriter) -> None:
        while True:
            started_ns = self._clock_ns()
            await self._renew(lease, writer)
            if self._renewals % TIDY_EVERY == 0:
                await self._reap(lease)
                tidy(self.place, writer, self._renewals)
            self._renewals += 1
            left_ns = self.terms.renewal_ns - (self._clock_ns() - started_ns)
            await asyncio.sleep(max(0.0, left_ns / _NS))

    async def _renew(self, lease: Connection, writer: ReplicaWriter) -> None:
        """Join or renew: the order of these steps is the protocol."""
        t0_ns = self._clock_ns()
        state = writer.state
        await self._write_row(lease, writer, state, t0_ns)
        head = await read_epoch_head(lease, state.position)
        check_same_log(state, head)
        await self._catch_up(writer, head.position)
        self._grant(writer, head, t0_ns)

    async def _write_row(
        self, lease: Connection, writer: ReplicaWriter, state: ReplicaState, t0_ns: int
    ) -> None:
        row = LeaseRow(writer.replica_id, t0_ns, state.position, state.epoch, self.terms.ttl_ns)
        self._warned = False
        joined = await write_lease(lease, row, host=self._host, sessions=state.active)
        if self._warned:
            raise DatabaseUnavailable("The renewal's wait for a standby was cut short.")
        if joined:
            logger.info("replica %s has joined at position %d", row.replica_id, state.position)

    async def _catch_up(self, writer: ReplicaWriter, position: int) -> None:
        """Wait until this much is applied; give up when the next renewal is due."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.terms.renewal_ns / _NS), self._advanced:
                if writer.state.position < position:
                    self._woken.set()
                await self._advanced.wait_for(lambda: writer.state.position >= position)

    def _grant(self, writer: ReplicaWriter, head: EpochHead, t0_ns: int) -> None:
        deadline_ns = lease_deadline(t0_ns, self.terms)
        granted = may_grant(
            applied_position=writer.state.position,
            replica_epoch=writer.state.epoch,
            head_position=head.position,
            head_epoch=head.epoch,
        )
        if granted and lease_valid(deadline_ns, self._clock_ns()):
            writer.set_deadline(deadline_ns)

    async def _reap(self, lease: Connection) -> None:
        """Remove rows of replicas whose leases are surely over, lest logouts wait for them."""
        look = await read_leases(lease)
        now_ns = self._clock_ns()
        self._sightings = sighted(self._sightings, look.rows, now_ns)
        dead = [item for item in self._sightings.items() if may_reap(item[1], now_ns, self.terms)]
        for replica_id in await reap(lease, dead):
            logger.warning("replica %s has not renewed its lease; its row is removed", replica_id)

    async def _stop(self) -> None:
        """End the lease, so that no logout waits for a replica that has stopped."""
        writer, self._writer = self._writer, None
        if writer is None:
            return
        try:
            writer.set_deadline(NO_LEASE)
        except (ReplicaError, lmdb.Error) as error:
            logger.warning("the lease could not be ended: %s", error)
            return
        finally:
            writer.close()
        with contextlib.suppress(TimeoutError, GatelogError):
            async with asyncio.timeout(LEAVE_TIMEOUT_S):
                await self._leave(writer.replica_id)

    async def _leave(self, replica_id: str) -> None:
        with translated_errors():
            async with self._connection() as connection:
                await leave(connection, replica_id)


@contextlib.asynccontextmanager
async def projecting(config: Config, dsn: str, accept: Accept | None) -> AsyncIterator[Projector]:
    """A projector as a task inside this process, until the context ends."""
    projector = Projector.configured(config, dsn, accept)
    task = asyncio.create_task(projector.run(), name="projector")
    try:
        yield projector
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
