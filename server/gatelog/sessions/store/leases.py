"""The leases of the replicas in PostgreSQL: the statements of the protocol, one function each.

What they mean and in which order they must run stands in ``sessions.rules.lease``. Rules: every
statement here runs in a transaction of its own, on the primary; a row is written durably, an
acknowledgement need not be.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import timedelta
from typing import TYPE_CHECKING

import msgspec

from gatelog.errors import DatabaseUnavailable
from gatelog.sessions.rules.lease import NO_EVIDENCE, Evidence, LeaseRow, Sighting
from gatelog.sessions.store import sql
from gatelog.sessions.store.replica_place import Announced

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection, PooledConnection

LOG_CHANNEL = sql.NOTIFY_LOG.removeprefix("NOTIFY ")
_NS_PER_MS = 1_000_000


class EpochHead(msgspec.Struct, frozen=True):
    """The head of the log, the epoch, and the hash of the event that was asked about, if any.

    ``announced``: what was until then, for who has asked for it.
    """

    position: int
    epoch: str
    leaf_hash: bytes
    announced: Announced = {}


class HostLease(msgspec.Struct, frozen=True):
    """A lease row with what only people look at.

    ``age``: since it was renewed, by the database's clock.
    """

    row: LeaseRow
    host: str
    age: timedelta
    sessions: int | None


class Look(msgspec.Struct, frozen=True):
    """All leases at one moment, and what is noted of the incarnation."""

    head: int
    epoch: str
    incarnation: str
    noted: Evidence
    leases: tuple[HostLease, ...]

    @property
    def rows(self) -> tuple[LeaseRow, ...]:
        return tuple(lease.row for lease in self.leases)


async def reports_lazily(connection: Connection) -> None:
    """Commits on this connection need not wait for the disk: acknowledgements, wake-ups."""
    await connection.execute(sql.COMMIT_WITHOUT_WAITING)


def written_ttl_ns(ttl_ns: int) -> int:
    """How long a lease lasts by its row, in whole milliseconds: never less than it does."""
    return math.ceil(ttl_ns / _NS_PER_MS) * _NS_PER_MS


async def write_lease(
    connection: Connection,
    row: LeaseRow,
    *,
    host: str,
    sessions: int | None = None,
) -> bool:
    """Insert or renew this row and commit; True if it was not there (any more).

    ``sessions``: how many active ones the replica holds, for who looks at all hosts.
    """
    joined = await connection.fetchval(
        sql.WRITE_LEASE,
        row.replica_id,
        host,
        row.renewal_seq,
        row.applied_position,
        row.epoch,
        written_ttl_ns(row.ttl_ns) // _NS_PER_MS,
        sessions,
    )
    return bool(joined)


async def read_epoch_head(connection: PooledConnection, position: int) -> EpochHead:
    """The head and the epoch now, with the hash of the event at ``position``."""
    row = await connection.fetchrow(sql.READ_HEAD_AND_EPOCH, position)
    if row is None:
        raise DatabaseUnavailable("The log has no head.")
    return EpochHead(row["position"], row["epoch"], row["leaf_hash"] or b"")


async def read_leases(connection: PooledConnection) -> Look:
    """All leases, with the head, the epoch and the incarnation of the same moment."""
    rows = await connection.fetch(sql.READ_LEASES)
    if not rows:
        raise DatabaseUnavailable("The log has no head.")
    leases = tuple(
        HostLease(
            LeaseRow(
                row["replica_id"],
                row["renewal_seq"],
                row["applied_position"],
                row["replica_epoch"],
                row["ttl_ms"] * _NS_PER_MS,
            ),
            row["host"],
            row["age"],
            row["sessions"],
        )
        for row in rows
        if row["replica_id"] is not None
    )
    first = rows[0]
    noted = NO_EVIDENCE
    if first["age_ms"] is not None:
        noted = Evidence(first["age_ms"] * _NS_PER_MS, first["empty"])
    return Look(first["head"], first["epoch"], first["incarnation"], noted, leases)


async def hosts_without_announcements(connection: PooledConnection) -> list[str]:
    """The hosts with a replica that does not keep what is announced, of an older version."""
    return [row[0] for row in await connection.fetch(sql.HOSTS_WITHOUT_ANNOUNCEMENTS)]


async def note_incarnation(connection: Connection, incarnation: str, known: Evidence) -> None:
    """Tell processes that start later what is known of this incarnation. It may be lost."""
    age_ms = max(0, known.age_ns) // _NS_PER_MS
    await connection.execute(sql.NOTE_INCARNATION, incarnation, age_ms, known.empty)


async def acknowledge(
    connection: Connection, replica_id: str, *, epoch: str, position: int
) -> None:
    """Tell logouts that this replica has applied the log up to ``position``."""
    await connection.execute(sql.ACKNOWLEDGE, replica_id, epoch, position)


async def reap(connection: Connection, dead: Iterable[tuple[str, Sighting]]) -> list[str]:
    """Remove these rows, each only if it has not moved since; returns those removed."""
    removed = []
    for replica_id, sighting in dead:
        status = await connection.execute(sql.REAP_LEASE, replica_id, sighting.renewal_seq)
        if status == "DELETE 1":
            removed.append(replica_id)
    return removed


async def leave(connection: Connection, replica_id: str) -> None:
    """Remove the own row. Call it when the lease has been ended in the replica."""
    await connection.execute(sql.LEAVE, replica_id)


async def wake_projectors(connection: PooledConnection) -> None:
    """Tell whoever follows the log that there is something new; it would find out by itself."""
    await connection.execute(sql.NOTIFY_LOG)


async def wake_projectors_lazily(connection: PooledConnection) -> None:
    """The same on a connection whose commits wait for the disk: this one does not."""
    await connection.execute(f"{sql.COMMIT_THIS_WITHOUT_WAITING}; {sql.NOTIFY_LOG}")
