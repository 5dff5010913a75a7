"""The keys to what is personal, as the database holds them: wrapped, and gone when destroyed.

Rules:

- A key is here only as ciphertext; the master key that opens it is never in the database.
- Nobody keeps what was read here: a key that is needed again is read again, so that a destroyed
  one is gone for every process at once. (The one exception is the key of the current day.)
- The blind indexes over addresses, networks and login names go with what they lead to.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import date
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec

from gatelog.log.store.database import Database
from gatelog.log.store.sql import LOCK_HEAD
from gatelog.privacy.rules import WrappedKey
from gatelog.privacy.store import sql

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection, PooledConnection

CLEARED_AT_ONCE = 5_000  # rows of the blind index, in one transaction
NOBODY = UUID(int=0)
_ROTATION_LOCK = 0x6761746B6579  # an arbitrary constant: "gatkey"


class KeyRing(msgspec.Struct, frozen=True):
    """Which master key is current, and the key of the blind index, wrapped with it."""

    master_key_id: bytes
    address_key: bytes


async def read_ring(connection: PooledConnection) -> KeyRing | None:
    row = await connection.fetchrow(sql.READ_KEY_RING)
    return KeyRing(*row) if row is not None else None


class KeyStore:
    """Reads, makes and destroys keys on the primary."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def ring(self) -> KeyRing | None:
        """The key ring; None before it is made."""
        async with self._database.acquire() as connection:
            return await read_ring(connection)

    async def create_ring(self, address_key: WrappedKey) -> None:
        """Make the ring, unless it is there."""
        async with self._database.acquire() as connection:
            await connection.execute(
                sql.CREATE_KEY_RING, address_key.master_key_id, address_key.wrapped
            )

    async def subject_keys(self, subject_ids: Collection[UUID]) -> dict[UUID, WrappedKey]:
        """The keys of these users; of who is erased, or never was, there is none."""
        async with self._database.acquire() as connection:
            rows = await connection.fetch(sql.READ_SUBJECT_KEYS, list(subject_ids))
        return {row[0]: WrappedKey(row[1], row[2]) for row in rows}

    async def day_keys(self, days: Collection[date]) -> dict[date, WrappedKey]:
        """The keys of these days that have not been destroyed."""
        async with self._database.acquire() as connection:
            rows = await connection.fetch(sql.READ_DAY_KEYS, list(days))
        return {row[0]: WrappedKey(row[1], row[2]) for row in rows}

    async def create_day_key(self, day: date, key: WrappedKey) -> None:
        """Make the key of a day, unless it is there or the master key is not the current one."""
        async with self._database.acquire() as connection:
            await connection.execute(sql.CREATE_DAY_KEY, day, key.wrapped, key.master_key_id)

    async def destroy_day_keys(self, before: date) -> int:
        """Destroy the keys of earlier days, and what leads to the events they sealed.

        Returns how many keys it destroyed. Many may call it, and what somebody left who was
        interrupted is cleared by the next one.
        """
        async with self._database.acquire() as connection:
            destroyed = _count(await connection.execute(sql.DESTROY_DAY_KEYS, before))
            last: int = await connection.fetchval(sql.LAST_SEALED_FOR_NOBODY, before)
            for statement in (sql.CLEAR_NOBODYS_ADDRESSES, sql.CLEAR_NOBODYS_ORIGINS):
                while _count(await connection.execute(statement, last, CLEARED_AT_ONCE)):
                    pass
        return destroyed

    async def clear_origins_of(self, subject_id: UUID) -> None:
        """Clear the blind indexes of a user, a bounded number of rows at a time.

        Erasing does so too, but under the lock of the log's head, where many rows are too many.
        """
        async with self._database.acquire() as connection:
            for statement in (sql.CLEAR_ADDRESSES_OF, sql.CLEAR_ORIGINS_OF):
                while _count(await connection.execute(statement, subject_id, CLEARED_AT_ONCE)):
                    pass


def _count(status: str) -> int:
    """The number of rows in PostgreSQL's word about a statement."""
    return int(status.rpartition(" ")[2])


async def vacuum_erased(owner: Connection) -> list[str]:
    """Take away the dead rows that erasures leave, as the owner; returns PostgreSQL's warnings."""
    warnings: list[str] = []
    owner.add_log_listener(lambda _, message: warnings.append(str(message)))
    for statement in sql.VACUUM_ERASED:
        await owner.execute(statement)
    return warnings


# --- rotation of the master key


async def lock_rotation(connection: Connection) -> bool:
    """Whether this connection may rotate; no other one can until it closes."""
    locked: bool = await connection.fetchval(sql.LOCK_ROTATION, _ROTATION_LOCK)
    return locked


async def any_old_key(connection: Connection) -> bool:
    """Whether any key is wrapped with another master key than the current one."""
    found: bool = await connection.fetchval(sql.ANY_OLD_KEY)
    return found


async def count_subject_keys(connection: Connection) -> int:
    count: int = await connection.fetchval(sql.COUNT_SUBJECT_KEYS)
    return count


async def change_master_key(connection: Connection, old_id: bytes, address_key: WrappedKey) -> None:
    """From the commit on, new keys are wrapped with this master key, or refused."""
    async with connection.transaction():
        await connection.execute(LOCK_HEAD)
        await connection.execute(
            sql.CHANGE_MASTER_KEY, address_key.master_key_id, address_key.wrapped, old_id
        )


async def page_of_subject_keys(
    connection: Connection, after: UUID, limit: int
) -> list[tuple[UUID, WrappedKey]]:
    """Keys of users by id. Start with the nil UUID."""
    rows = await connection.fetch(sql.PAGE_OF_SUBJECT_KEYS, after, limit)
    return [(row[0], WrappedKey(row[1], row[2])) for row in rows]


async def all_day_keys(connection: Connection) -> list[tuple[date, WrappedKey]]:
    rows = await connection.fetch(sql.ALL_DAY_KEYS)
    return [(row[0], WrappedKey(row[1], row[2])) for row in rows]


async def rewrap_subject_keys(
    connection: Connection, fresh: Sequence[tuple[UUID, WrappedKey]]
) -> None:
    """Replace the keys of users, unless they are gone. All fresh ones have one master key."""
    await _rewrap(connection, sql.REWRAP_SUBJECT_KEYS, fresh)


async def rewrap_day_keys(connection: Connection, fresh: Sequence[tuple[date, WrappedKey]]) -> None:
    """The same for the keys of days."""
    await _rewrap(connection, sql.REWRAP_DAY_KEYS, fresh)


async def _rewrap(
    connection: Connection,
    statement: str,
    fresh: Sequence[tuple[UUID, WrappedKey]] | Sequence[tuple[date, WrappedKey]],
) -> None:
    if fresh:
        await connection.execute(
            statement,
            [owner for owner, _ in fresh],
            [key.wrapped for _, key in fresh],
            fresh[0][1].master_key_id,
        )
