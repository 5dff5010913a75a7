"""Users and their logins, as administrators and auditors find them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
import msgspec

from gatelog.console.rules.paging import Key
from gatelog.console.store import sql
from gatelog.log.store.database import Database


class UserRow(msgspec.Struct, frozen=True):
    """A user. ``login``: None for who is erased; ``factors``: how many are enrolled."""

    subject_id: UUID
    login: str | None
    registered_at: datetime
    disabled: bool
    roles: tuple[str, ...]
    erased: bool
    factors: int

    @property
    def key(self) -> Key:
        return Key(self.registered_at, self.subject_id)


class UserState(msgspec.Struct, frozen=True):
    """A user, wrong passwords in a row, and since when an address of mail is verified."""

    user: UserRow
    failures: int
    address_verified_at: datetime | None


class Directory:
    """Reads who there is."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def newest(self, before: Key, limit: int) -> list[UserRow]:
        """Users who are not erased, those that came last first."""
        async with self._database.acquire() as connection:
            rows = await connection.fetch(sql.NEWEST_USERS, before.at, before.id, limit)
        return [_user(row) for row in rows]

    async def by_id(self, subject_id: UUID) -> UserState | None:
        """The user with this id, erased or not."""
        async with self._database.acquire() as connection:
            row = await connection.fetchrow(sql.FIND_USER, subject_id)
        return UserState(_user(row[:-2]), row[-2], row[-1]) if row is not None else None

    async def by_login(self, login: str) -> UUID | None:
        """Who has this (normalised) login."""
        async with self._database.acquire() as connection:
            found: UUID | None = await connection.fetchval(sql.FIND_LOGIN, login)
        return found


def _user(row: asyncpg.Record | Sequence[Any]) -> UserRow:
    subject_id, login, registered_at, disabled, roles, erased, factors = row
    return UserRow(subject_id, login, registered_at, disabled, tuple(roles), erased, factors)
