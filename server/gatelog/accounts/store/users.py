"""Users and their credentials, to read; what changes users goes through the log."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from uuid import UUID

import msgspec

from gatelog.accounts.rules.users import User
from gatelog.accounts.store import sql
from gatelog.accounts.store.kinds import user_of
from gatelog.log.store.database import Database
from gatelog.privacy.rules import WrappedKey


class Credential(msgspec.Struct, frozen=True):
    """What a login is verified against.

    ``failures``: wrong passwords in a row; ``factors``: how many the user has, of which it then
    takes one.
    """

    subject_id: UUID
    login: str
    password_hash: str
    disabled: bool
    credential_version: int
    roles: tuple[str, ...]
    key: WrappedKey | None = None
    failures: int = 0
    factors: int = 0


class ListedUser(msgspec.Struct, frozen=True):
    """A user as an operator sees one."""

    subject_id: UUID
    login: str | None
    registered_at: datetime
    disabled: bool
    roles: tuple[str, ...]
    erased: bool


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
        subject_id, name, password_hash, disabled, version, roles, failures, factors, *wrapped = row
        return Credential(
            subject_id,
            name,
            password_hash,
            disabled,
            version,
            tuple(roles),
            WrappedKey(*wrapped) if wrapped[0] is not None else None,
            failures,
            factors,
        )

    async def logins(self, subject_ids: Collection[UUID]) -> dict[UUID, str]:
        """The logins of these users; of who is erased, or never was, there is none."""
        async with self._database.acquire() as connection:
            rows = await connection.fetch(sql.LOGINS_OF, list(subject_ids))
        return {row["subject_id"]: row["login"] for row in rows}

    async def state(self, subject_id: UUID) -> User | None:
        """The user as the log tells, erased or not; None when there never was one."""
        async with self._database.acquire() as connection:
            row = await connection.fetchrow(sql.FIND_USER, subject_id)
        return user_of(row) if row is not None else None

    async def replace_hash(self, subject_id: UUID, old: str, new: str) -> None:
        """Store the same password's hash under new parameters, unless it changed meanwhile."""
        async with self._database.acquire() as connection:
            await connection.execute(sql.REPLACE_HASH, subject_id, old, new)

    async def costs(self) -> tuple[dict[str, int], int]:
        """How many imported hashes there are of each cost, and how many of all sorts."""
        async with self._database.acquire() as connection:
            costs = {cost: count for cost, count in await connection.fetch(sql.COUNT_COSTS)}
            total: int = await connection.fetchval(sql.COUNT_CREDENTIALS) if costs else 0
        return costs, total

    async def page(self, after: UUID, limit: int) -> list[ListedUser]:
        """Users by id. Start with the nil UUID."""
        async with self._database.acquire() as connection:
            rows = await connection.fetch(sql.LIST_USERS, after, limit)
        return [
            ListedUser(subject_id, login, registered_at, disabled, tuple(roles), erased)
            for subject_id, login, registered_at, disabled, roles, erased in rows
        ]
