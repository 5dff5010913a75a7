"""The log read forward, in pages: for exports of any size, and for whoever has to catch up.

Rules:

- A page is read by one short query; no transaction and no connection is held while somebody takes
  what was read. The pages of an export end at a position that was the log's end when it began, so
  they show one state of an append-only log without any snapshot.
- A page never has a gap: when what comes right after the last one was purged meanwhile, it is no
  page but an error. What was purged before an export began is not part of it.
- While a page is encoded and taken the next one is being read, and no more than that: a slow
  reader slows the reading down.
- Work is cut into turns of less than a millisecond, and others run in between: threads would not
  help, because they would hold the interpreter.
- What is left sealed is not decoded any further than its fields are needed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, TypeVar
from uuid import UUID

import msgspec

from gatelog.audit.rules.formats import CSV_HEADER, AnyShown, csv_rows, ndjson
from gatelog.audit.rules.sealed import sealed_event
from gatelog.audit.rules.shown import AuditFilter, ShownEvent, shown
from gatelog.audit.service.seeking import seek
from gatelog.audit.store.queries import read_page
from gatelog.config import Config
from gatelog.errors import Overloaded, Purged
from gatelog.log.rules import events as ev
from gatelog.log.store.database import Database
from gatelog.log.store.follow import read_edges
from gatelog.log.store.reading import StoredEvent, read_head
from gatelog.privacy.rules import Personal, person_of
from gatelog.privacy.service.personal import PersonalData

PAGE = 1000  # events, in one query
PIECE = 250  # events, opened and sent at once
TURN = 100  # opened events, before others get a turn
COME_AGAIN_S = 10

T = TypeVar("T")
ExportFormat = Literal["ndjson", "csv"]
_ENCODERS: dict[ExportFormat, tuple[bytes, Callable[[Sequence[AnyShown]], bytes]]] = {
    "ndjson": (b"", ndjson),
    "csv": (CSV_HEADER, csv_rows),
}


class ForwardPage(msgspec.Struct, frozen=True):
    """Events in order. There is nothing else that fits up to the position ``reached``."""

    events: list[StoredEvent]
    reached: int


class Opened(msgspec.Struct, frozen=True):
    """An event as it is shown; ``person`` is of whom something was opened, if there is anybody."""

    shown: ShownEvent
    person: UUID | None

    def sealed(self) -> ShownEvent:
        """The event with nothing opened."""
        return msgspec.structs.replace(
            self.shown, login=None, address=None, user_agent=None, trace_id=None
        )


class LogPages:
    """Reads the log forward, and opens what was read."""

    def __init__(self, database: Database, personal: PersonalData) -> None:
        self._database = database
        self._personal = personal

    async def head(self) -> int:
        """The position of the last event."""
        async with self._database.acquire() as connection:
            return (await read_head(connection)).position

    async def beginning(self) -> int:
        """The position that the log begins after: the last one that was purged, or 0."""
        async with self._database.acquire() as connection:
            first, _ = await read_edges(connection)
        return first - 1

    async def read(self, wanted: AuditFilter, after: int, upto: int, limit: int) -> ForwardPage:
        """The first events that fit after one position and up to another.

        There may be none although there are some further on. Raises Purged when what comes
        right after that position is not in the log any more, Unavailable.
        """
        after = max(after, wanted.after or 0)
        before = upto + 1 if wanted.before is None else min(wanted.before, upto + 1)
        asked = msgspec.structs.replace(
            wanted,
            order="asc",
            after=after,
            before=before,
            cursor=None,
            limit=limit,
        )
        sought = await seek(self._personal, wanted)
        async with self._database.acquire() as connection:
            page = await read_page(connection, asked, sought)
            first, _ = await read_edges(connection)  # after the page: it may have gone meanwhile
        if after + 1 < first:
            raise Purged(f"The log begins with position {first}.")
        return ForwardPage(page.events, page.next.position if page.next is not None else upto)

    async def opened(self, rows: Sequence[StoredEvent]) -> list[Opened]:
        """These events, with what is personal opened. Raises KeysUnavailable."""
        events: list[ev.Event] = []
        for turn in _parts(rows, TURN):
            events += [row.event() for row in turn]
            await asyncio.sleep(0)
        found = await self._personal.open_personal(events)
        opened: list[Opened] = []
        together = list(zip(rows, events, found, strict=True))
        for some in _parts(together, TURN):
            opened += [_opened(*each) for each in some]
            await asyncio.sleep(0)
        return opened


class Exports:
    """Makes exports, a limited number at a time."""

    def __init__(self, config: Config, pages: LogPages) -> None:
        self._pages = pages
        self._limit = config.exports
        self._running = 0

    @contextmanager
    def place(self) -> Iterator[None]:
        """Room for one export. Raises Overloaded when there is none."""
        if self._running >= self._limit:
            raise Overloaded("Too many exports at once.", retry_after_s=COME_AGAIN_S)
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1

    async def head(self) -> int:
        """Where an export that begins now ends."""
        return await self._pages.head()

    async def export(
        self, wanted: AuditFilter, upto: int, form: ExportFormat, *, opened: bool
    ) -> AsyncGenerator[bytes, None]:
        """All events that fit up to a position, in order, in pieces of text.

        Raises Unavailable, and Purged when a purge overtakes it, with the export unfinished.
        Close it when it is not read to its end.
        """
        header, encode = _ENCODERS[form]
        turn_size = TURN if opened else PIECE  # what is sealed has less work in it
        if header:
            yield header
        beginning = await self._pages.beginning()
        reading = asyncio.create_task(self._pages.read(wanted, beginning, upto, PAGE))
        try:
            while True:
                page = await reading
                more = page.reached < upto
                if more:
                    reading = asyncio.create_task(
                        self._pages.read(wanted, page.reached, upto, PAGE)
                    )
                for piece in _parts(page.events, PIECE):
                    events = await self._shown(piece, opened=opened)
                    for turn in _parts(events, turn_size):
                        yield encode(turn)
                        await asyncio.sleep(0)
                if not more:
                    return
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _shown(self, rows: Sequence[StoredEvent], *, opened: bool) -> Sequence[AnyShown]:
        if opened:
            return [each.shown for each in await self._pages.opened(rows)]
        return [sealed_event(row.position, row.recorded_at, row.entry) for row in rows]


def _opened(row: StoredEvent, event: ev.Event, personal: Personal | None) -> Opened:
    person = None if personal is None else person_of(event)
    return Opened(shown(row.position, row.recorded_at, event, personal), person)


def _parts(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
