"""The active sessions of everybody, the newest first, by each of the ways to ask for them."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import msgspec

from gatelog.console.rules.paging import Key
from gatelog.console.store import sql
from gatelog.log.store.database import Database
from gatelog.sessions.rules.state import ActiveSession
from gatelog.sessions.store.kind import session_of


class StartedFrom(msgspec.Struct, frozen=True):
    """What an address has done at a position: the session that started then, if it is active."""

    position: int
    session: ActiveSession | None


class SessionsNow(msgspec.Struct, frozen=True):
    """Reads who is in."""

    database: Database

    async def newest(self, before: Key, limit: int, now: datetime) -> list[ActiveSession]:
        """Sessions that started before this one, the last first."""
        async with self.database.acquire() as connection:
            rows = await connection.fetch(sql.NEWEST_SESSIONS, before.at, before.id, limit, now)
        return [session_of(row) for row in rows]

    async def newest_of(
        self, subject_id: UUID, before: Key, limit: int, now: datetime
    ) -> list[ActiveSession]:
        """The same of one user."""
        async with self.database.acquire() as connection:
            rows = await connection.fetch(
                sql.NEWEST_SESSIONS_OF, before.at, before.id, limit, now, subject_id
            )
        return [session_of(row) for row in rows]

    async def oldest_start(self) -> datetime | None:
        """When the session started that is active for longest; None while there is none."""
        async with self.database.acquire() as connection:
            found: datetime | None = await connection.fetchval(sql.OLDEST_START)
        return found

    async def started_from(
        self, address_index: bytes, before: int, limit: int, now: datetime, since: datetime
    ) -> list[StartedFrom]:
        """What came from this address before a position and since a moment, the last first."""
        async with self.database.acquire() as connection:
            rows = await connection.fetch(
                sql.SESSIONS_FROM, address_index, before, limit, now, since
            )
        return [
            StartedFrom(row[0], session_of(row[1:]) if row[1] is not None else None) for row in rows
        ]
