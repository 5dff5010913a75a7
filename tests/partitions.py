"""Logs of many small partitions, so that a test can fill and purge some."""

from __future__ import annotations

import pytest
from gatelog.audit.store.marks import Spacing
from gatelog.log.store import appender
from gatelog.log.store.database import connect

from tests.conftest import Dsns

SIZE = 64  # positions in a partition
SPACING = Spacing(every=16, partition=SIZE)
MADE = 20


async def small_partitions(database: Dsns, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give an empty log partitions of 64 positions, enough of them for any test."""
    monkeypatch.setattr(appender, "PARTITION_RESERVE", 0)
    owner = await connect(database.owner, role=None)
    for table in ("events", "event_addresses", "event_origins"):
        for first in (1, 1 + (1 << 20)):
            await owner.execute(f"DROP TABLE {table}_{first}")
    function = await owner.fetchval("SELECT pg_get_functiondef('add_event_partition'::regproc)")
    await owner.execute(function.replace(str(1 << 20), str(SIZE)))
    await owner.execute("UPDATE log_head SET partitioned_to = 1")
    for _ in range(MADE):
        await owner.execute("SELECT add_event_partition()")
    await owner.close()
