"""How far each host has got with the log, as its row in the database tells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    from gatelog.sessions.store.leases import HostLease, Look


class HostStatus(msgspec.Struct, frozen=True):
    """One host's replica, as its row in the database tells.

    ``mode``: "memory" while its lease is renewed in time and it knows this log, else "primary":
    then its workers ask the database. It is the replica's: workers with GATELOG_CHECK=strict ask
    the database in any case. ``sessions``: active ones at the last renewal. ``renewed_s_ago`` is by
    the database's clock. ``lag``: in events.
    """

    host: str
    replica: str
    mode: Literal["memory", "primary"]
    renewed_s_ago: float
    lease_s: float
    applied: int
    lag: int
    sessions: int | None


def host_status(lease: HostLease, look: Look) -> HostStatus:
    """What this lease says, beside the log of the same moment."""
    row = lease.row
    age_s = lease.age.total_seconds()
    lease_s = row.ttl_ns / 1e9
    memory = row.epoch == look.epoch and age_s < lease_s
    return HostStatus(
        host=lease.host,
        replica=row.replica_id,
        mode="memory" if memory else "primary",
        renewed_s_ago=round(age_s, 2),
        lease_s=lease_s,
        applied=row.applied_position,
        lag=max(0, look.head - row.applied_position),
        sessions=lease.sessions,
    )
