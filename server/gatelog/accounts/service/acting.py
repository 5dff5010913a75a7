"""How every use case acts: its command goes to the log, and what it ended is waited for.

Rules:

- What is personal is sealed, and found by an index, before it comes here: from here on nobody
  needs to know who acted, or from where.
- Nothing is answered as done before the log has it, and no session as ended before no replica
  accepts it any more.
- Who acts on a user is an ``Actor`` over HTTP, the user or an administrator, or an operator at the
  command line (None). Over HTTP nobody can leave the service without an administrator.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from prometheus_client import Histogram

from gatelog.clock import new_event_id, utc_now
from gatelog.log.rules.kinds import Command, Trace
from gatelog.log.store.appender import Appender
from gatelog.log.store.batch import Recorded
from gatelog.log.store.database import Database
from gatelog.log.store.reading import settle
from gatelog.privacy.rules import UNKNOWN_CLIENT, Client, Personal
from gatelog.sessions.rules.events import SessionEnded
from gatelog.sessions.service.barrier import Barrier
from gatelog.sessions.store.replica_place import boottime_ns
from gatelog.spans import span

SESSION_ENDED = "session_ended"
NO_SUCH_USER = "There is no such user."

COMMAND_TIME = Histogram(
    "gatelog_command_seconds",
    "How long commands took until they were durable or refused.",
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5, 10),
)


class Actor(msgspec.Struct, frozen=True):
    """Who acts over HTTP, on themselves or as an administrator, and from where."""

    user_id: UUID
    client: Client


class Act(msgspec.Struct, frozen=True):
    """A command, and what its sealed events can be found by (``PersonalData.origin_of``)."""

    command: Command
    origin: Trace | None = None


class Ended(msgspec.Struct, frozen=True):
    """How many sessions a command ended, and the position that says so."""

    ended: int
    position: int


def client_of(actor: Actor | None) -> Client:
    """Where it is done from; nothing is known of an operator."""
    return actor.client if actor is not None else UNKNOWN_CLIENT


def who(login: str | None, client: Client) -> Personal:
    """What is sealed of somebody who acts: by name, and from where."""
    return Personal(login, client.address, client.agent)


def tell_nobody() -> None:
    """Replicas find out by themselves."""


class Acting:
    """Records what is done, and waits until it holds everywhere.

    ``tell`` is called when a session has started, so that replicas hear of it (``Herald.tell``).
    """

    def __init__(
        self,
        *,
        database: Database,
        appender: Appender,
        barrier: Barrier,
        tell: Callable[[], None] = tell_nobody,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self.now = now
        self._database = database
        self._appender = appender
        self._barrier = barrier
        self._tell = tell

    def about(self, subject_id: UUID, by: Actor | None) -> dict[str, Any]:
        """The fields of an event that is about a user and done by somebody, now."""
        actor_id = by.user_id if by is not None and by.user_id != subject_id else None
        return {
            "event_id": new_event_id(),
            "occurred_at": self.now(),
            "subject_id": subject_id,
            "actor_id": actor_id,
        }

    async def incarnation(self) -> str | None:
        """Of the database: for who ends with several acts, before the first (``Barrier.wait``)."""
        return await self._barrier.incarnation()

    async def end(self, act: Act) -> Ended:
        """Record the act; returns when no replica accepts any more what it ended."""
        incarnation = await self._barrier.incarnation()
        recorded = await self.record(act)
        if recorded.events:
            await self.wait_for_replicas(recorded.position, ended_in=incarnation)
        else:
            await self.wait_for_what_ended(recorded.position)
        return Ended(recorded.count(SessionEnded), recorded.position)

    async def start(self, act: Act) -> Recorded:
        """The same for an act that also starts a session, which needs no wait of its own."""
        incarnation = await self._barrier.incarnation()
        recorded = await self.record(act)
        if recorded.count(SessionEnded):
            await self.wait_for_replicas(recorded.position, ended_in=incarnation)
        else:
            self._tell()
        return recorded

    async def record(self, act: Act) -> Recorded:
        """Record the act. Raises what its decision raises, or Unavailable."""
        with COMMAND_TIME.time(), span("append", {"gatelog.command": type(act.command).__name__}):
            return await self._appender.submit(act.command, act.origin)

    async def wait_for_what_ended(self, position: int) -> None:
        """Before it is said that there is nothing to end: the end may be a millisecond old.

        Replicas may not know of it yet, and a failover could take it back.
        """
        async with self._database.acquire() as connection:
            await settle(connection)
        await self.wait_for_replicas(position)

    async def wait_for_replicas(self, position: int, *, ended_in: str | None = None) -> None:
        """Returns when no replica accepts any more what ended at or before this position.

        ``ended_in``: see ``Barrier.wait``.
        """
        await self._barrier.wait(position, boottime_ns(), ended_in=ended_in)
