"""Drafts and builds as they are stored, read outside of a batch."""

from __future__ import annotations

from datetime import datetime
from hashlib import sha256
from uuid import UUID

import asyncpg
import msgspec

from gatelog.composer.rules.composition import EMPTY, Composition, decode
from gatelog.composer.store import sql
from gatelog.errors import DatabaseUnavailable, GatelogError, Unavailable
from gatelog.log.store.database import Database
from gatelog.sessions.store.leases import hosts_without_announcements

LAST = 2**63 - 1


class StoredDraft(msgspec.Struct, frozen=True):
    """The draft; ``live``: the number of the build that is, 0 before the first.

    ``digest``: its SHA-256, by which who changes it says what they have seen; empty before the
    first one. ``changed_by``: None where an operator did it.
    """

    digest: bytes
    composition: Composition
    changed_at: datetime | None
    changed_by: UUID | None
    live: int


class StoredBuild(msgspec.Struct, frozen=True):
    """A build, without its composition. ``position``: where the log says so."""

    build: int
    digest: bytes
    position: int
    built_at: datetime
    built_by: UUID | None
    restored: int | None


class BuildStore:
    """What there is of drafts and builds. Raises DatabaseUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def draft(self) -> StoredDraft:
        """The draft."""
        async with self._database.acquire() as connection:
            row = await connection.fetchrow(sql.READ_DRAFT)
        if row is None:
            raise DatabaseUnavailable("There is no composer in the database.")
        digest, content, changed_at, changed_by, live = row
        composition = _content(content, digest) if digest else EMPTY
        return StoredDraft(digest, composition, changed_at, changed_by, live or 0)

    async def hosts_too_old(self) -> list[str]:
        """The hosts that take part and whose version knows nothing of compositions."""
        async with self._database.acquire() as connection:
            return await hosts_without_announcements(connection)

    async def build(self, number: int) -> tuple[StoredBuild, Composition] | None:
        """One build with its composition; None if there is none of this number."""
        async with self._database.acquire() as connection:
            row = await connection.fetchrow(sql.READ_BUILD, number)
        return None if row is None else (_build(row), _content(row["content"], row["digest"]))

    async def builds(self, before: int, limit: int) -> list[StoredBuild]:
        """Some builds before this one, the newest first."""
        async with self._database.acquire() as connection:
            rows = await connection.fetch(sql.LIST_BUILDS, before, limit)
        return [_build(row) for row in rows]


def _build(row: asyncpg.Record) -> StoredBuild:
    return StoredBuild(
        row["build"],
        row["digest"],
        row["position"],
        row["built_at"],
        row["built_by"],
        row["restored"],
    )


def _content(content: bytes, digest: bytes) -> Composition:
    """The composition, if it is what the log says it is: nothing else is served.

    Raises Unavailable for one that was changed in the database, or that a newer version wrote.
    """
    if sha256(content).digest() != digest:
        raise Unavailable("A composition in the database is not what the log says.")
    try:
        return decode(content)
    except GatelogError as error:
        raise Unavailable(f"A composition cannot be read by this version: {error}") from error
