"""Sealed logs for tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from gatelog.log.store.appender import Appender
from gatelog.log.store.database import connect
from gatelog.proofs.rules.notes import Signer
from gatelog.proofs.service.sealer import LastNote, Sealer
from gatelog.proofs.store.tiles import take_sealer_lock

from tests.builders import NOON, failure
from tests.conftest import HELD_OPEN, Dsns
from tests.waiting import until

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection

SIGNER = Signer("gatelog.local/test", b"\x07" * 32)
OTHER_SIGNER = Signer("gatelog.local/test", b"\x08" * 32)


async def append(dsn: str, count: int) -> None:
    """Append so many events."""
    async with Appender(lambda: connect(dsn), timeout_s=30) as appender:
        await asyncio.gather(*(appender.submit(failure()) for _ in range(count)))


@asynccontextmanager
async def sealing(dsn: str, note: Path, signer: Signer = SIGNER) -> AsyncIterator[Sealer]:
    """A sealer that has the lock and has taken up the tree."""
    connection = await connect(dsn)
    try:
        await until(lambda: take_sealer_lock(connection))  # who had it may still be going
        sealer = Sealer(connection, signer, LastNote(note), lambda: NOON)
        await sealer.load()
        yield sealer
    finally:
        await connection.close()


async def seal(dsn: str, note: Path, *sizes: int) -> None:
    """Sign trees of these sizes, then one of all that is there."""
    async with sealing(dsn, note) as sealer:
        for size in sizes:
            await sealer.seal_next(size - sealer.size)
        while await sealer.seal_next():
            pass


@asynccontextmanager
async def tampering(database: Dsns) -> AsyncIterator[Connection]:
    """All rights over the database, and no trigger in the way."""
    connection = await connect(database.superuser, role=None, settings=HELD_OPEN)
    try:
        await connection.execute("SET session_replication_role = replica")
        yield connection
    finally:
        await connection.close()
