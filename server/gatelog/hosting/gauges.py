"""How things stand: on this host, read when somebody fetches the metrics, and in this process.

What cannot be known, because there is no replica or no database, is left out: no number is made up.
A process tells how it stands whenever it tells what it counted: after requests, and at once when it
is asked. Prometheus gets the sum of all that live.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping

from prometheus_client import Gauge
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from gatelog.errors import GatelogError
from gatelog.log.store import sql
from gatelog.log.store.database import Database
from gatelog.mail.store.outbox import OutboxStore
from gatelog.proofs.store.tiles import read_last_checkpoint
from gatelog.sessions.store.replica import ReplicaReader
from gatelog.sessions.store.replica_place import ReplicaStatus

logger = logging.getLogger(__name__)

PATIENCE_S = 1.0  # for the database; the rest of the metrics must not wait for it
_NS = 1_000_000_000


HASHING_QUEUE = Gauge(
    "gatelog_password_hashing_queue",
    "Passwords that wait for a thread.",
    multiprocess_mode="livesum",
)
POOLED = Gauge(
    "gatelog_database_connections",
    "Pooled connections to the database, by pool and by what they do (used, idle).",
    ["pool", "state"],
    multiprocess_mode="livesum",
)
POOL_WAITING = Gauge(
    "gatelog_database_waiting",
    "How many wait for a pooled connection to the database, by pool.",
    ["pool"],
    multiprocess_mode="livesum",
)


class ProcessGauges:
    """Gauges of this process: its pools of connections, by name, and its queue of passwords."""

    def __init__(self, pools: Mapping[str, Database], hashing_queue: Callable[[], int]) -> None:
        self._hashing_queue = hashing_queue
        self._pools = [
            (
                pool,
                POOLED.labels(name, "used"),
                POOLED.labels(name, "idle"),
                POOL_WAITING.labels(name),
            )
            for name, pool in pools.items()
        ]

    def tell(self) -> None:
        """Say how things stand now."""
        HASHING_QUEUE.set(self._hashing_queue())
        for pool, in_use, at_rest, waiting in self._pools:
            used, idle = pool.connections
            in_use.set(used)
            at_rest.set(idle)
            waiting.set(pool.waiting)


class HostGauges:
    """Gauges of the replica, if sessions are checked there, and of the log."""

    def __init__(
        self,
        database: Database,
        replica: ReplicaReader | None,
        outbox: OutboxStore | None = None,
    ) -> None:
        self._database = database
        self._replica = replica
        self._outbox = outbox

    async def read(self) -> Iterable[Metric]:
        """All that can be known now."""
        status = self._replica.status() if self._replica is not None else None
        return [*self._of_replica(status), *await self._of_log(status), *await self._of_mails()]

    async def _of_mails(self) -> list[Metric]:
        if self._outbox is None:
            return []
        try:
            async with asyncio.timeout(PATIENCE_S):
                counts = await self._outbox.counts()
        except (GatelogError, TimeoutError) as error:
            logger.debug("metrics without the outbox: %s", error)
            return []
        gauge = GaugeMetricFamily("gatelog_mails", "Mails in the outbox.", labels=["state"])
        for state in counts.__struct_fields__:
            gauge.add_metric([state], getattr(counts, state))
        return [gauge]

    def _of_replica(self, status: ReplicaStatus | None) -> list[Metric]:
        if self._replica is None:
            return []
        lease_s = max(0.0, status.lease_ns / _NS) if status is not None else 0.0
        gauges: list[Metric] = [
            _gauge("lease_valid", "Whether sessions are checked in memory: 1 or 0.", lease_s > 0),
            _gauge("lease_remaining_seconds", "How long the lease lasts, unless renewed.", lease_s),
        ]
        if status is not None:
            gauges += [
                _gauge("active_sessions", "Sessions in the replica.", status.state.active),
                _gauge("replica_position", "How far the replica is.", status.state.position),
                _gauge("replica_bytes", "Memory that the replica takes.", status.bytes_used),
            ]
        return gauges

    async def _of_log(self, status: ReplicaStatus | None) -> list[Metric]:
        """``status`` is older than what is read here: a lag is never told too small."""
        replica = status.state.position if status is not None else None
        try:
            async with asyncio.timeout(PATIENCE_S), self._database.acquire() as connection:
                checkpoint = await read_last_checkpoint(connection)
                sealed = checkpoint.size if checkpoint is not None else 0
                head = await connection.fetchval(sql.LAST_POSITION)
                first_missing = [at + 1 for at in (sealed, replica) if at is not None]
                aged = await connection.fetch(sql.AGES, first_missing)
        except (GatelogError, TimeoutError) as error:
            logger.debug("metrics without the log: %s", error)
            return []
        ages = {row["position"]: row["age_s"] for row in aged}
        behind = _lag("seal", "not under a checkpoint yet", sealed, head, ages)
        if replica is not None:
            behind += _lag("replica", "not in the replica", replica, head, ages)
        return [
            _gauge("log_position", "Position of the log's last event.", head),
            _gauge("sealed_position", "Position of the last event under a checkpoint.", sealed),
            *behind,
        ]


def _lag(name: str, which: str, at: int, head: int, ages: Mapping[int, float]) -> list[Metric]:
    """How many events come after this position, and how old the first of them is."""
    age_s = max(0.0, ages.get(at + 1, 0.0))
    return [
        _gauge(f"{name}_lag_events", f"Events that are {which}.", max(0, head - at)),
        _gauge(f"{name}_lag_seconds", f"Age of the oldest event that is {which}.", age_s),
    ]


def _gauge(name: str, meaning: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"gatelog_{name}", meaning, value=float(value))
