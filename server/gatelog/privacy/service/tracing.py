"""Catching up: events that an older version appended are made findable by network and login name.

Rules:

- It runs beside the service, on one host at a time, and rests as long as it has worked: appends of
  others go first.
- What was opened to compute an origin is kept nowhere. Whoever is erased meanwhile is not found:
  origins are written under the lock of the log's head, and only while the key is there.
- Until it is done, searches by network and login name are refused, not answered with a part.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from gatelog.errors import GatelogError, LogDamaged
from gatelog.log.rules import events as ev
from gatelog.log.store.database import Database
from gatelog.log.store.reading import StoredEvent, read_events
from gatelog.privacy.rules import Client, Origin, day_of, origin_row, person_of
from gatelog.privacy.service.personal import PersonalData
from gatelog.privacy.store.tracing import Traced, read_traced, tracing, write_origins

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 5.0
AT_ONCE = 250  # events: some milliseconds under the lock of the head


def _readable(stored: Sequence[StoredEvent]) -> list[tuple[int, ev.Event]]:
    """These events with their positions, without those that are damaged: nothing is found by them,
    and they are no reason to find nothing by the others.
    """
    readable = []
    for row in stored:
        with suppress(LogDamaged):
            readable.append((row.position, row.event()))
    return readable


class Tracing:
    """Writes the origins that are missing."""

    def __init__(self, database: Database, personal: PersonalData) -> None:
        self._database = database
        self._personal = personal

    async def catch_up(self) -> int:
        """Trace what is not traced; returns how many events that were.

        0 when there are none, or while somebody else does it. Raises KeysUnavailable, Unavailable.
        """
        async with self._database.acquire() as connection:
            missing = (await read_traced(connection)).missing
        if not missing:
            return 0
        await self._personal.ready()
        done = 0
        async with tracing(self._database) as own:
            if own is not None:
                logger.info("%d events are to be made findable by network and login", missing)
            while own is not None and (traced := await read_traced(own)).missing:
                began = time.monotonic()
                count = await self._step(own, traced)
                if not count:
                    break
                done += count
                await asyncio.sleep(time.monotonic() - began)
        return done

    async def _step(self, connection: Connection, traced: Traced) -> int:
        stored = await read_events(connection, traced.reached, AT_ONCE)
        if not stored or stored[0].position != traced.reached + 1:
            return 0  # purged just now: the next look knows
        events = _readable(stored)
        rows = []
        personal = await self._personal.open_personal([event for _, event in events])
        for (position, event), known in zip(events, personal, strict=True):
            if known is None:
                continue
            origin = await self._personal.origin_of(Client(known.address), known.login)
            if origin is not None and origin != Origin(origin.address):
                rows.append((origin_row(position, person_of(event), origin), day_of(event)))
        await write_origins(connection, rows, traced, stored[-1].position)
        return len(stored)

    @asynccontextmanager
    async def going_on(self) -> AsyncIterator[None]:
        """Meanwhile, look now and then whether there is something to catch up with."""
        task = asyncio.create_task(self._run(), name="tracing")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                if done := await self.catch_up():
                    logger.info("%d events can be found by network and login name now", done)
            except GatelogError as error:
                logger.warning("search by network and login name: %s", error)
            await asyncio.sleep(LOOK_EVERY_S)
