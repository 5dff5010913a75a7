"""Eight processes append at once while a reader tails: no hole, no disorder, nothing lost.

``FAULTS=long`` makes it go on for longer.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import time
from multiprocessing.queues import Queue

import asyncpg
import pytest
from gatelog.log.store.appender import Appender
from gatelog.log.store.database import connect
from gatelog.log.store.reading import read_events, read_head
from gatelog.log.store.rebuild import check

from tests.builders import failure, registration, start
from tests.conftest import Dsns

logger = logging.getLogger(__name__)

PROCESSES = 8
SECONDS = 20.0 if os.environ.get("FAULTS") == "long" else 8.0


def append(dsn: str, seconds: float, results: Queue[list[tuple[str, int]]]) -> None:
    """A process: appends from 16 tasks; tells what was acknowledged (event id, position)."""
    acknowledged: list[tuple[str, int]] = []

    async def client(appender: Appender, until: float) -> None:
        user = registration(str(time.monotonic_ns()) + str(id(object())))
        recorded = await appender.submit(user)
        acknowledged.append((str(user.event.event_id), recorded.position))
        while time.monotonic() < until:
            for command in (failure(), start(user.event.subject_id, max_sessions=5)):
                recorded = await appender.submit(command)
                position = recorded.position - len(recorded.events) + 1
                acknowledged.append((str(command.event.event_id), position))

    async def run() -> None:
        until = time.monotonic() + seconds
        async with Appender(lambda: connect(dsn), timeout_s=30) as appender:
            await asyncio.gather(*(client(appender, until) for _ in range(16)))

    asyncio.run(run())
    results.put(acknowledged)


@pytest.mark.timeout(180)
async def test_a_tailing_reader_sees_every_position_in_order(
    database: Dsns, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    context = multiprocessing.get_context("spawn")
    results: Queue[list[tuple[str, int]]] = context.Queue()
    processes = [
        context.Process(target=append, args=(database.app, SECONDS, results))
        for _ in range(PROCESSES)
    ]
    for process in processes:
        process.start()
    collected = [asyncio.to_thread(results.get) for _ in processes]
    pending = asyncio.gather(*collected)
    seen: dict[str, int] = {}
    position = 0
    reads = 0
    while not pending.done() or position < (await read_head(connection)).position:
        page = await read_events(connection, position)
        for stored in page:
            assert stored.position == position + 1
            position = stored.position
            seen[str(stored.event().event_id)] = position
        reads += bool(page)
    for process in processes:
        process.join()
    acknowledged = dict(item for part in pending.result() for item in part)
    assert len(acknowledged) > 1000
    assert reads > 100
    assert {key: seen.get(key) for key in acknowledged} == acknowledged
    superseded = position - len(acknowledged)  # the only events that nobody asked for
    assert superseded >= 0
    assert (
        await connection.fetchval("SELECT count(*) FROM events WHERE type = 'session_ended'")
        == superseded
    )
    assert (await check(database.app)).differences == []
    logger.info("%d events, %d reads, %d processes", position, reads, PROCESSES)
