"""How things stand on this host, read when somebody fetches the metrics.

What cannot be known, because there is no replica or no database, is left out: no number is made up.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from gatelog.errors import GatelogError
from gatelog.log.store import sql
from gatelog.log.store.database import Database
from gatelog.proofs.store.tiles import read_last_checkpoint
from gatelog.sessions.store.replica import ReplicaReader

logger = logging.getLogger(__name__)

PATIENCE_S = 1.0  # for the database; the rest of the metrics must not wait for it
_NS = 1_000_000_000


class HostGauges:
    """Gauges of the replica, if sessions are checked there, and of the log."""

    def __init__(self, database: Database, replica: ReplicaReader | None) -> None:
        self._database = database
        self._replica = replica

    async def read(self) -> Iterable[Metric]:
        """All that can be known now."""
        return [*self._of_replica(), *await self._of_log()]

    def _of_replica(self) -> list[Metric]:
        if self._replica is None:
            return []
        status = self._replica.status()
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

    async def _of_log(self) -> list[Metric]:
        try:
            async with asyncio.timeout(PATIENCE_S), self._database.acquire() as connection:
                head = await connection.fetchval(sql.LAST_POSITION)
                checkpoint = await read_last_checkpoint(connection)
        except (GatelogError, TimeoutError) as error:
            logger.debug("metrics without the log: %s", error)
            return []
        sealed = checkpoint.size if checkpoint is not None else 0
        return [
            _gauge("log_position", "Position of the log's last event.", head),
            _gauge("sealed_position", "Position of the last event under a checkpoint.", sealed),
        ]


def _gauge(name: str, meaning: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"gatelog_{name}", meaning, value=float(value))
