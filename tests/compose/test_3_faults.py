"""What fails, by force, under load.

Each time: no session outlives the answer to its end, errors are 503 with Retry-After, nothing that
was acknowledged is lost, and all is well again by itself.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from gatelog.log.store.database import connect

from tests.compose.load import FrontLoad
from tests.compose.stack import Container, Stack, docker, running_stack
from tests.faults.test_failover import nothing_acknowledged_is_missing
from tests.waiting import eventually, until

logger = logging.getLogger(__name__)

CLIENTS = 4
FULL_S = 5.0
WELL_WITHIN_S = 120.0
SMALL_DISK = Path(__file__).parent / "small-disk.yaml"


@asynccontextmanager
async def harmed(stack: Stack) -> AsyncIterator[FrontLoad]:
    """Load on the stack while it is harmed; then everything must come back and have held."""
    load = FrontLoad(stack)
    async with load.running(CLIENTS):
        await load.grows()
        yield load
        ended = time.monotonic()
        await load.grows(20, within_s=WELL_WITHIN_S)
        await asyncio.to_thread(stack.wait_until_healthy, "api")
        await load.grows_undisturbed(10, within_s=WELL_WITHIN_S)
        logger.info("well again after %.1f s: %s", time.monotonic() - ended, dict(load.answers))
    load.assert_promise_kept()
    connection = await connect(stack.owner_dsn(), role=None)
    try:
        await nothing_acknowledged_is_missing(load, connection)
    finally:
        await connection.close()
    stack.containers("api")[0].exec("gatelog", "check")


def api_of(stack: Stack) -> Container:
    return stack.containers("api")[0]


def others_go_on_without(stack: Stack, victim: Container) -> None:
    """Wait until the row of its replica is removed: what it has in memory is over for long."""
    other = next(item for item in stack.containers("api") if item.id != victim.id)

    def is_removed() -> bool:
        shown = json.loads(other.exec("gatelog", "status", "--json"))
        return len(shown["hosts"]) == 1

    eventually(is_removed, WELL_WITHIN_S, "the lease removed")


@pytest.mark.timeout(600)
async def test_a_containers_process_is_killed(stack: Stack) -> None:
    async with harmed(stack):
        victim = api_of(stack)
        started = victim.state["StartedAt"]
        victim.crash()
        await asyncio.to_thread(
            eventually, lambda: victim.state["StartedAt"] != started, WELL_WITHIN_S, "a restart"
        )


@pytest.mark.timeout(600)
async def test_a_container_is_paused(stack: Stack) -> None:
    async with harmed(stack):
        victim = api_of(stack)
        docker("pause", victim.id)
        try:
            await asyncio.to_thread(others_go_on_without, stack, victim)
        finally:
            docker("unpause", victim.id)


@pytest.mark.timeout(600)
async def test_a_container_is_cut_off_from_the_database(stack: Stack) -> None:
    network = stack.network("database")
    async with harmed(stack) as load:
        victim = api_of(stack)
        docker("network", "disconnect", network, victim.id)
        try:
            await asyncio.to_thread(others_go_on_without, stack, victim)
            await until(lambda: bool(load.failed), within_s=WELL_WITHIN_S)  # it cannot go on
        finally:
            docker("network", "connect", "--alias", "api", network, victim.id)


@pytest.mark.timeout(600)
async def test_postgres_is_killed(stack: Stack) -> None:
    async with harmed(stack):
        postgres = stack.container("postgres")
        started = postgres.state["StartedAt"]
        postgres.crash()
        await asyncio.to_thread(
            eventually, lambda: postgres.state["StartedAt"] != started, WELL_WITHIN_S, "a restart"
        )


@pytest.mark.timeout(600)
async def test_postgres_is_paused(stack: Stack) -> None:
    async with harmed(stack) as load:
        postgres = stack.container("postgres")
        docker("pause", postgres.id)
        try:
            # memory answers for as long as the lease lasts, and then nobody
            await until(lambda: load.refused_checks() > 0, within_s=WELL_WITHIN_S)
        finally:
            docker("unpause", postgres.id)


@pytest.fixture
def small_disk(image: str) -> Iterator[Stack]:
    """A stack whose database has a small disk of its own."""
    with running_stack(more=(SMALL_DISK,), image=image) as stack:
        yield stack


@pytest.mark.timeout(600)
async def test_the_database_has_no_room_left(small_disk: Stack) -> None:
    stack, filler = small_disk, "/var/lib/postgresql/filler"
    keeper = stack.container("keeper")
    async with harmed(stack) as load:
        keeper.exec("sh", "-c", f"cat /dev/zero > {filler}", check=False)
        # files have room within them, so it takes a while until it hurts
        async with asyncio.timeout(WELL_WITHIN_S):
            while not load.failed:
                await asyncio.to_thread(grow_log, stack.container("postgres"))
        await asyncio.sleep(FULL_S)
        keeper.exec("rm", filler)


def grow_log(postgres: Container) -> None:
    """Have the write-ahead log want more room."""
    command = "SELECT pg_logical_emit_message(false, 'x', repeat('x', 1000000))"
    postgres.exec("psql", "--username=postgres", f"--command={command}", check=False)
