"""Hesitation: pauses between the steps of the protocol, where a stopped process rarely stands.

A SIGSTOP hits the few microseconds between two steps once in a million times; these pauses hit
them all the time. They change no step and no order, so the guarantee must hold with them. Only
processes of the fault tests hesitate.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import msgspec
from gatelog.log.store.appender import Appender
from gatelog.sessions.service.projector import Projector
from gatelog.sessions.store.feed import Page
from gatelog.sessions.store.lookup import PrimaryLookup

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection
    from gatelog.sessions.rules.record import Session
    from gatelog.sessions.store.replica_place import ReplicaState
    from gatelog.sessions.store.replica_writer import ReplicaWriter


class Pause(msgspec.Struct, frozen=True):
    """How often there is a pause, and how long it is."""

    probability: float = 0.0
    longest_s: float = 0.0
    shortest_s: float = 0.0

    async def __call__(self) -> None:
        if random.random() < self.probability:
            await asyncio.sleep(random.uniform(self.shortest_s, self.longest_s))


class Hesitation(msgspec.Struct, frozen=True):
    """Where a process hesitates."""

    following: Pause = Pause()  # before a page of the log is applied
    renewing: Pause = Pause()  # between any two steps of a renewal
    resting: Pause = Pause()  # before a renewal
    committing: Pause = Pause()  # before a commit begins
    answering: Pause = Pause()  # before the answer of the primary is handed on


class HesitantProjector(Projector):
    hesitation = Hesitation()

    async def _read_page(self, tail: Connection, state: ReplicaState) -> Page | None:
        page = await super()._read_page(tail, state)
        if page is not None:
            await self.hesitation.following()
        return page

    async def _renew(self, lease: Connection, writer: ReplicaWriter) -> None:
        await self.hesitation.resting()
        await super()._renew(lease, writer)

    async def _write_row(
        self, lease: Connection, writer: ReplicaWriter, state: ReplicaState, t0_ns: int
    ) -> None:
        await self.hesitation.renewing()
        await super()._write_row(lease, writer, state, t0_ns)
        await self.hesitation.renewing()

    async def _catch_up(self, writer: ReplicaWriter, position: int) -> None:
        await self.hesitation.renewing()
        await super()._catch_up(writer, position)
        await self.hesitation.renewing()


class AimedProjector(HesitantProjector):
    """Hesitates only where a lease could be granted on old news.

    Between the head and the grant, while nothing up to that head is missing; and what is read of
    the log then, is applied late. In any other time the log is followed at once, so that replicas
    know the sessions that end.
    """

    _aimed = False

    async def _read_page(self, tail: Connection, state: ReplicaState) -> Page | None:
        page = await Projector._read_page(self, tail, state)
        if page is not None and self._aimed:
            await self.hesitation.following()
        return page

    async def _renew(self, lease: Connection, writer: ReplicaWriter) -> None:
        try:
            await super()._renew(lease, writer)
        finally:
            self._aimed = False

    async def _write_row(
        self, lease: Connection, writer: ReplicaWriter, state: ReplicaState, t0_ns: int
    ) -> None:
        await Projector._write_row(self, lease, writer, state, t0_ns)

    async def _catch_up(self, writer: ReplicaWriter, position: int) -> None:
        await Projector._catch_up(self, writer, position)
        self._aimed = writer.state.position >= position
        await self.hesitation.renewing()


class HesitantAppender(Appender):
    hesitation = Hesitation()

    async def _attempt(self, batch: list) -> None:  # type: ignore[type-arg]
        await self.hesitation.committing()
        await super()._attempt(batch)


class HesitantLookup(PrimaryLookup):
    hesitation = Hesitation()

    async def _ask(self, digests: list[bytes]) -> dict[bytes, Session]:
        found = await super()._ask(digests)
        await self.hesitation.answering()
        return found
