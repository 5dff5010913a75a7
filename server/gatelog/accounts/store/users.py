"""Users and their credentials, to read; what changes users goes through the log."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
import msgspec

from gatelog.accounts.store import sql
from gatelog.log.rules.state import User
from gatelog.log.store.database import Database
from gatelog.privacy.rules import WrappedKey


class Credential(msgspec.Struct, frozen=True):
    """What a login is verified against."""

    subject_id: UUID
    login: str
    password_hash: str
    disabled: bool
    credential_version: int
    roles: tuple[str, ...]
    key: WrappedKey | None = None


class ListedUser(msgspec.Struct, frozen=True):
    """A user as an operator sees one."""

    subject_id: UUID
    login: str | None
    registered_at: datetime
    disabled: bool
    roles: tuple[str, ...]
    erased: bool


def user_of(row: asyncpg.Record | Sequence[Any]) -> User:
    """The user in a row of the table, in the order of its columns."""
    subject_id, registered_at, disabled, credential_version, roles, erased = row
    return User(
        subject_id=subject_id,
        registered_at=registered_at,
        disabled=disabled,
        credential_version=credential_version,
        roles=tuple(roles),
        erased=erased,
    )


class Users:
    """Reads users and credentials from the primary."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def by_login(self, login: str) -> Credential | None:
        """The credential of this (normalised) login."""
        return await self._credential(sql.FIND_CREDENTIAL, login)

    async def by_id(self, subject_id: UUID) -> Credential | None:
        return await self._credential(sql.FIND_CREDENTIAL_OF, subject_id)

    async def _credential(self, statement: str, key: str | UUID) -> Credential | None:
        async with self._database.acquire() as connection:
            row = await connection.fetchrow(statement, key)
        if row is None:
            return None
        subject_id, name, password_hash, disabled, version, roles, *wrapped = row
        own = WrappedKey(*wrapped) if wrapped[0] is not None else None
        return Credential(subject_id, name, password_hash, disabled, version, tuple(roles), own)

    async def state(self, subject_id: UUID) -> User | None:
        """The user as the log tells, erased or not; None when there never was one."""
        async with self._database.acquire() as connection:
            row = await connection.fetchrow(sql.FIND_USER, subject_id)
        return user_of(row) if row is not None else None

    async def replace_hash(self, subject_id: UUID, old: str, new: str) -> None:
        """Store the same password's hash under new parameters, unless it changed meanwhile."""
        async with self._database.acquire() as connection:
            await connection.execute(sql.REPLACE_HASH, subject_id, old, new)

    async def page(self, after: UUID, limit: int) -> list[ListedUser]:
        """Users by id. Start with the nil UUID."""
        async with self._database.acquire() as connection:
            rows = await connection.fetch(sql.LIST_USERS, after, limit)
        return [
            ListedUser(subject_id, login, registered_at, disabled, tuple(roles), erased)
            for subject_id, login, registered_at, disabled, roles, erased in rows
        ]
