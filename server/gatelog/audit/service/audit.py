"""Reading the log: for auditors and administrators everything, for users what is about them.

Rules:

- Who reads about others leaves an event, ``audit_read``: at most one for each caller and clock
  minute, whatever worker or host was asked; who reads for longer leaves one in each. Its id
  derives from both, so the log itself refuses the second one.
- The event is durable before anything is shown; where it cannot be recorded, nothing is.
- To an auditor or administrator everything personal is opened that has a key left. To a user only
  what they sealed themselves: where somebody else acted on them, not from where.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime
from uuid import UUID

import msgspec

from gatelog.audit.rules.commands import RecordRead
from gatelog.audit.rules.events import AuditedRead, AuditRead
from gatelog.audit.rules.shown import AuditFilter, Cursor, ShownEvent, shown
from gatelog.audit.service.seeking import seek
from gatelog.audit.store.queries import EventPage, is_about, read_page
from gatelog.clock import utc_now
from gatelog.config import Config
from gatelog.errors import EventIdConflict, NotFound
from gatelog.ids import audit_read_id
from gatelog.log.rules import events as ev
from gatelog.log.store.appender import Appender
from gatelog.log.store.database import Database
from gatelog.log.store.follow import read_edges
from gatelog.log.store.reading import StoredEvent
from gatelog.privacy.rules import Client, Personal, person_of
from gatelog.privacy.service.personal import PersonalData

RECORDED_EVERY_S = 60  # a clock minute; the same in every process


class ShownPage(msgspec.Struct, frozen=True):
    """Events as they may be shown, and where the pages beside them lie."""

    events: list[ShownEvent]
    next: Cursor | None
    prev: Cursor | None


class Audit:
    """The use cases of who reads the log."""

    def __init__(
        self,
        config: Config,
        *,
        database: Database,
        appender: Appender,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self.database = database
        self.personal = PersonalData(config, database, now)
        self._appender = appender
        self._now = now
        self._minute = 0
        self._recording: dict[UUID, asyncio.Task[None]] = {}

    # --- reading

    async def page(self, wanted: AuditFilter) -> ShownPage:
        """A page for an auditor or administrator, with everything opened that has a key.

        Raises KeysUnavailable, also when an address is asked for and its key is not there, and
        SearchIncomplete.
        """
        page = await self.stored(wanted)
        return ShownPage(await self.opened(page.events), page.next, page.prev)

    async def page_of_own(self, user: UUID, wanted: AuditFilter) -> ShownPage:
        """A page of what is about a user, for that user."""
        page = await self.stored(msgspec.structs.replace(wanted, user=user))
        return ShownPage(await self.opened(page.events, only_of=user), page.next, page.prev)

    async def stored(self, wanted: AuditFilter) -> EventPage:
        """A page as it is stored. Raises KeysUnavailable, SearchIncomplete."""
        sought = await seek(self.personal, wanted)
        async with self.database.acquire() as connection:
            return await read_page(connection, wanted, sought)

    async def edges(self) -> tuple[int, int]:
        """The positions of the first event that is there and of the last one."""
        async with self.database.acquire() as connection:
            return await read_edges(connection)

    async def opened(
        self, stored: Sequence[StoredEvent], *, only_of: UUID | None = None
    ) -> list[ShownEvent]:
        """These events as they are shown. ``only_of``: open what this person sealed, no more."""
        events = [item.event() for item in stored]
        readable = [
            event if only_of is None or person_of(event) == only_of else _closed(event)
            for event in events
        ]
        personal = await self.personal.open_personal(readable)
        return [
            shown(item.position, item.recorded_at, event, data)
            for item, event, data in zip(stored, events, personal, strict=True)
        ]

    async def check_own(self, user: UUID, position: int) -> None:
        """Raises NotFound unless there is an event at this position that is about the user."""
        async with self.database.acquire() as connection:
            if not await is_about(connection, position, user):
                raise NotFound("Nothing about you is recorded at this position.")

    # --- being seen to read

    async def recorded_read(self, caller: UUID, what: str, client: Client) -> None:
        """Returns when the log says that the caller reads about others in this minute.

        Raises Unavailable when it cannot be recorded, NotAuthenticated when the caller has lost
        the role for it.
        """
        minute = int(self._now().timestamp()) // RECORDED_EVERY_S
        if minute != self._minute:
            self._minute, self._recording = minute, {}
        recording = self._recording
        task = recording.get(caller)
        if task is None:
            task = asyncio.create_task(
                self._record(caller, minute, msgspec.convert(what, AuditedRead), client)
            )
            recording[caller] = task
            task.add_done_callback(lambda done: _forget_failure(recording, caller, done))
        await asyncio.shield(task)

    async def _record(self, caller: UUID, minute: int, what: AuditedRead, client: Client) -> None:
        event = AuditRead(
            event_id=audit_read_id(caller, minute),
            occurred_at=self._now(),
            subject_id=caller,
            what=what,
        )
        personal = Personal(None, client.address, client.agent)
        event = await self.personal.sealed_for_person(event, personal)
        origin = await self.personal.origin_of(client)
        try:
            await self._appender.submit(RecordRead(event=event), origin)
        except EventIdConflict:
            return  # another process was first


def _closed(event: ev.Event) -> ev.Event:
    """The event without what is sealed in it."""
    return msgspec.structs.replace(event, sealed=None)


def _forget_failure(
    recording: dict[UUID, asyncio.Task[None]], caller: UUID, task: asyncio.Task[None]
) -> None:
    """The next one tries again."""
    if task.cancelled() or task.exception() is not None:
        recording.pop(caller, None)
