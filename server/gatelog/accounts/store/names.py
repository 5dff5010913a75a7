"""What people see of their sessions, in PostgreSQL: how these have started, and their names.

A name goes with its session, by a foreign key, in the transaction that ends it.
"""

from __future__ import annotations

from collections.abc import Collection
from uuid import UUID

import asyncpg

from gatelog.accounts.store import sql
from gatelog.log.rules import events as ev
from gatelog.log.store.database import Database


class SessionNames:
    """Names of sessions, and the events that started them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(self, session_ids: Collection[UUID]) -> dict[UUID, bytes]:
        """The sealed names of these sessions, of those that have one."""
        async with self._database.acquire() as connection:
            rows = await connection.fetch(sql.READ_NAMES, list(session_ids))
        return {session_id: sealed for session_id, sealed in rows}

    async def starts(self, session_ids: Collection[UUID]) -> dict[UUID, ev.Event]:
        """The events that have started these sessions, as far as the log reaches back."""
        async with self._database.acquire() as connection:
            rows = await connection.fetch(sql.READ_STARTS, list(session_ids))
        return {session_id: ev.decode(entry) for session_id, entry in rows}

    async def write(self, session_id: UUID, sealed: bytes | None) -> bool:
        """Give the session this name, or none; False when it is over."""
        async with self._database.acquire() as connection:
            if sealed is None:
                await connection.execute(sql.FORGET_NAME, session_id)
                return True
            try:
                found = await connection.fetchval(sql.WRITE_NAME, session_id, sealed)
            except asyncpg.ForeignKeyViolationError:  # it ended between the look and the write
                return False
        return found is not None
