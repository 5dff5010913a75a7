"""The events that one request has appended, found by its trace."""

from __future__ import annotations

from gatelog.audit.rules.shown import ShownEvent, shown
from gatelog.log.store.database import Database
from gatelog.log.store.reading import read_events, read_head
from gatelog.privacy.service.personal import PersonalData

MAX_LOOKED_AT = 5_000
PAGE = 500


class Traced:
    """Looks through the end of the log.

    What is personal is opened to find the trace, and is not shown.
    """

    def __init__(self, database: Database, personal: PersonalData) -> None:
        self._database = database
        self._personal = personal

    async def head(self) -> int:
        """Where the log ends now."""
        async with self._database.acquire() as connection:
            return (await read_head(connection)).position

    async def since(self, position: int, trace_id: str) -> list[ShownEvent]:
        """The events after this position that were sealed in this trace.

        Not more than ``MAX_LOOKED_AT`` events are looked at.
        """
        found: list[ShownEvent] = []
        end = position + MAX_LOOKED_AT
        while position < end:
            async with self._database.acquire() as connection:
                page = await read_events(connection, position, PAGE)
            events = [stored.event() for stored in page]
            for stored, event, personal in zip(
                page, events, await self._personal.open_personal(events), strict=True
            ):
                if personal is not None and personal.trace_id == trace_id:
                    found.append(shown(stored.position, stored.recorded_at, event))
            if len(page) < PAGE:
                break
            position = page[-1].position
        return found
