"""The event log, read in order: what is visible never has a gap.

How it is written stands in ``gatelog.log.store.appender``.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import asyncpg
import msgspec

from gatelog.errors import DatabaseUnavailable
from gatelog.log.rules import events as ev
from gatelog.log.store import sql

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection, PooledConnection


class StoredEvent(msgspec.Struct, frozen=True):
    """An event of the log as it is stored."""

    position: int
    recorded_at: datetime
    entry: bytes
    leaf_hash: bytes

    def event(self) -> ev.Event:
        return ev.decode(self.entry)


class Head(msgspec.Struct, frozen=True):
    position: int
    recorded_at: datetime
    epoch: int


async def read_head(connection: PooledConnection) -> Head:
    """The position of the last event; 0 for an empty log."""
    row = await connection.fetchrow(sql.READ_HEAD)
    if row is None:
        raise DatabaseUnavailable("The log has no head.")
    return Head(row["position"], row["recorded_at"], row["epoch"])


async def settle(connection: PooledConnection) -> None:
    """Return when all that could be read before this call is as durable as a commit gets.

    A commit whose wait for a standby was cut short is seen by everybody, and a failover would take
    it back. Raises DatabaseUnavailable when this wait was cut short, too.
    """
    warnings: list[str] = []

    def note(_: Any, message: asyncpg.PostgresLogMessage) -> None:
        if message.severity_en == "WARNING":
            warnings.append(message.message)

    connection.add_log_listener(note)
    try:
        await connection.fetch(sql.SETTLE)
    finally:
        connection.remove_log_listener(note)
    if warnings:
        raise DatabaseUnavailable("The wait for a standby was cut short.")


async def next_epoch(connection: Connection) -> int:
    """Begin a new epoch, as the owner: positions may mean other events than before."""
    return int(await connection.fetchval(sql.BUMP_EPOCH))


async def read_events(
    connection: PooledConnection, after: int, limit: int = 1000
) -> list[StoredEvent]:
    """The events after this position, in order. What is visible never has a gap."""
    rows = await connection.fetch(sql.READ_EVENTS, after, limit)
    return [
        StoredEvent(row["position"], row["recorded_at"], row["entry"], row["leaf_hash"])
        for row in rows
    ]
