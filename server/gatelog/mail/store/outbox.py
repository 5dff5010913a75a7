"""Mails that must go out, in PostgreSQL: as a kind of state, and for who sends them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec

from gatelog.log.store.database import Database, translated_errors
from gatelog.log.store.kinds import Kind, Write
from gatelog.mail.rules.outbox import Outbox
from gatelog.mail.store import sql

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection, PooledConnection

_SENDING_LOCK = 0x6761746C6D61  # an arbitrary constant: "gatlma"
DEAD_FOR = timedelta(days=30)

OUTBOX = Kind(
    state=Outbox,
    writes=(
        Write(
            name="mails_erased",
            statement=sql.ERASE_MAILS,
            arguments=lambda state: (state.erased,),
            before=True,
        ),
        Write(
            name="mails_new",
            statement=sql.INSERT_MAILS,
            arguments=lambda state: (
                list(state.new),
                [mail.subject_id for mail in state.new.values()],
                [mail.sealed for mail in state.new.values()],
                [mail.written_at for mail in state.new.values()],
                [mail.link_digest for mail in state.new.values()],
            ),
        ),
    ),
    faults=(sql.LEFT_MAILS,),
)


class DueMail(msgspec.Struct, frozen=True):
    """A mail whose time has come; ``tries``: that have failed."""

    mail_id: UUID
    subject_id: UUID
    sealed: bytes
    written_at: datetime
    tries: int
    link_digest: bytes | None


class MailCounts(msgspec.Struct, frozen=True):
    """How many mails wait, how many of these have failed before, and how many were given up."""

    waiting: int
    delayed: int
    dead: int


class Turn:
    """Somebody's turn, while nobody else has one."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def lasts(self) -> bool:
        """See that the lock is still held. Raises DatabaseUnavailable when it is not known."""
        with translated_errors():
            return bool(await self._connection.fetchval(sql.STILL_THERE))


class OutboxStore:
    """The outbox, for who sends."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[Turn | None]:
        """A turn at sending, for as long as the context lasts; None while somebody has it.

        It has a connection of its own: with it goes the lock.
        """
        with translated_errors():
            connection = await self._database.connect()
            try:
                sole = await connection.fetchval(sql.LOCK_SENDING, _SENDING_LOCK)
                yield Turn(connection) if sole else None
            finally:
                await connection.close()

    async def due(self, now: datetime, limit: int) -> list[DueMail]:
        """Mails whose time has come, the oldest first."""
        async with self._database.acquire() as connection:
            return [DueMail(*row) for row in await connection.fetch(sql.DUE_MAILS, now, limit)]

    async def forget(self, mail_id: UUID) -> None:
        """It is sent, or not to be sent any more."""
        async with self._database.acquire() as connection:
            await connection.execute(sql.FORGET_MAIL, mail_id)

    async def postpone(self, mail_id: UUID, until: datetime) -> None:
        """It failed."""
        async with self._database.acquire() as connection:
            await connection.execute(sql.POSTPONE_MAIL, mail_id, until)

    async def bury(self, mail_id: UUID, now: datetime) -> None:
        """It is given up."""
        async with self._database.acquire() as connection:
            await connection.execute(sql.BURY_MAIL, mail_id, now)

    async def sweep(self, now: datetime) -> None:
        """Forget what was given up long ago."""
        async with self._database.acquire() as connection:
            await connection.execute(sql.SWEEP_DEAD, now - DEAD_FOR)

    async def counts(self) -> MailCounts:
        async with self._database.acquire() as connection:
            return await read_counts(connection)


async def read_counts(connection: PooledConnection) -> MailCounts:
    """How many mails there are, by how they stand."""
    row = await connection.fetchrow(sql.COUNT_MAILS)
    return MailCounts(*row) if row is not None else MailCounts(0, 0, 0)
