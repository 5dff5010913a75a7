"""What applications keep in sessions, in PostgreSQL: read and written on the primary.

Rules: the row goes with the session, by a foreign key, in the transaction that ends it. A write
says which revision it was made from, and does nothing when another one is there by now.
"""

from __future__ import annotations

from uuid import UUID

import asyncpg
import msgspec

from gatelog.log.store.database import Database
from gatelog.privacy.rules import WrappedKey
from gatelog.session_data.store import sql


class Stored(msgspec.Struct, frozen=True):
    """What there is of an active session: before the first write revision 0 and nothing sealed."""

    key: WrappedKey
    revision: int
    sealed: bytes | None


class DataStore:
    """The table of session data."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.reads = 0

    async def read(self, session_id: UUID) -> Stored | None:
        """What is kept in this session; None when it is over. Raises DatabaseUnavailable."""
        self.reads += 1
        async with self._database.acquire() as connection:
            row = await connection.fetchrow(sql.READ_DATA, session_id)
        if row is None:
            return None
        wrapped, master_key_id, revision, sealed = row
        return Stored(WrappedKey(wrapped, master_key_id), revision, sealed)

    async def write(self, session_id: UUID, revision: int, sealed: bytes) -> bool:
        """Replace this revision; False if it is another one by now, or the session is over."""
        async with self._database.acquire() as connection:
            try:
                found = await connection.fetchval(sql.WRITE_DATA, session_id, revision, sealed)
            except asyncpg.ForeignKeyViolationError:  # it ended between the look and the write
                return False
        return found is not None
