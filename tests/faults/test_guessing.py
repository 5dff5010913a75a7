"""Guessing on several hosts at once: real processes, real hashes, the limits that are the default.

``python -m tests.bench.guessing`` does the same for longer, and prints figures.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import statistics
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from gatelog.log.store.database import connect

from tests.faults.cluster import Cluster, running_cluster
from tests.faults.guessing import (
    PASSWORD,
    SETTINGS,
    WRONG,
    Guessing,
    ks_distance,
    ks_p_value,
    let_through,
    most_within,
)
from tests.waiting import until

logger = logging.getLogger(__name__)

GUESSED_S = 8.0
CLIENTS = 50
STRANGERS = 100
LOGINS = 12
MOST_S, MOST_TIMES = 2.0, 8
SAMPLES = 60

pytestmark = pytest.mark.timeout(300)


@asynccontextmanager
async def guessing(
    directory: Path, *, hosts: int, **settings: str
) -> AsyncIterator[tuple[Cluster, Guessing]]:
    connector = aiohttp.TCPConnector(limit=0)
    async with (
        running_cluster(
            directory,
            hosts=hosts,
            workers=1,
            hesitant=0,
            settings=SETTINGS | settings,
            proxied=False,
        ) as cluster,
        aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as http,
    ):
        urls = [f"http://127.0.0.1:{port}" for host in cluster.hosts for port in host.ports]
        yield cluster, Guessing(urls, http)


async def test_many_clients_on_three_hosts_get_as_many_tries_as_one(directory: Path) -> None:
    async with guessing(directory, hosts=3) as (cluster, clients):
        await clients.register("alice")
        await clients.register("bob")
        device = (await clients.log_in("alice", PASSWORD, "203.0.113.1")).device
        serial = await clients.one_by_one("bob", "192.0.2.1", GUESSED_S)
        parallel, owner = await asyncio.gather(
            clients.all_at_once("alice", itertools.repeat("192.0.2.2"), GUESSED_S, CLIENTS),
            clients.log_in("alice", PASSWORD, "203.0.113.1", device),
        )
        connection = await connect(cluster.postgres.app_dsn("service"))
        failed = await connection.fetchval(
            "SELECT count(*) FROM events WHERE type = 'login_failed'"
        )
        await connection.close()
    one, many = let_through(serial), let_through(parallel)
    logger.info("one client %d, %d clients %d of %d tries", one, CLIENTS, many, len(parallel))
    assert owner.status == 200
    assert failed == one + many
    assert len(parallel) > 2 * CLIENTS
    span_s = max(tried.ended_s for tried in parallel) - min(tried.began_s for tried in parallel)
    assert many <= most_within(span_s)
    assert abs(many - one) <= 1  # who waits as told comes a little later


async def test_a_known_device_gets_in_while_strangers_flood(directory: Path) -> None:
    async with guessing(directory, hosts=1) as (_, clients):
        await clients.register("alice")
        device = (await clients.log_in("alice", PASSWORD, "203.0.113.1")).device
        alone = [
            await clients.log_in("alice", PASSWORD, "203.0.113.1", device) for _ in range(LOGINS)
        ]
        async with clients.flood(STRANGERS) as answers:
            logins = [
                await clients.log_in("alice", PASSWORD, "203.0.113.1", device)
                for _ in range(LOGINS)
            ]
            assert answers[503] > 0  # it was a flood
    alone_s = statistics.median(login.took_s for login in alone)
    longest_s = max(login.took_s for login in logins)
    logger.info("alone %.2f s, in the flood %.2f s at most", alone_s, longest_s)
    assert {login.status for login in logins} == {200}
    # one hash of a stranger's before one's own; on a machine that does much else, it takes longer
    assert longest_s <= max(MOST_S, MOST_TIMES * alone_s)


async def test_a_try_that_a_crash_cut_off_has_failed(directory: Path) -> None:
    """A worker is killed while it hashes: whoever makes workers crash gets no tries by it."""
    slow = {"GATELOG_LOGIN_TRIES": "1", "GATELOG_ARGON2_TIME_COST": "20"}
    async with guessing(directory, hosts=1, **slow) as (cluster, clients):
        connection = await connect(cluster.postgres.app_dsn("service"))
        trying = asyncio.create_task(clients.log_in("nobody", WRONG, "192.0.2.1"))

        async def admitted() -> bool:
            count: int = await connection.fetchval("SELECT count(*) FROM login_tries")
            return count > 0

        await until(admitted, within_s=60)
        (worker,) = cluster.hosts[0].workers
        worker.kill()
        with pytest.raises(aiohttp.ClientError):
            await trying
        assert await connection.fetchval("SELECT bool_or(settled) FROM login_tries") is False
        worker.start()
        # a start takes longer than the second that a failure costs
        await connection.execute("UPDATE login_tries SET at = at + interval '5 minutes'")
        await connection.close()
        assert (await clients.log_in("nobody", WRONG, "192.0.2.1")).status == 429
        assert (await clients.log_in("somebody", WRONG, "192.0.2.1")).status == 401


async def test_time_does_not_tell_who_exists(directory: Path) -> None:
    """A name that nobody has against a wrong password, in turns, at a chance of one in a thousand.

    What is found here is work that is done for one of them only, a hash above all.
    """
    many = {"GATELOG_LOGIN_TRIES": "100000", "GATELOG_PASSWORD_FAILURES": "100"}
    async with guessing(directory, hosts=1, **many) as (_, clients):
        await clients.register("alice")
        times: dict[str, list[float]] = {"alice": [], "nobody": []}
        for _ in range(SAMPLES):
            for login, found in times.items():
                tried = await clients.log_in(login, WRONG, "192.0.2.1")
                assert tried.status == 401
                found.append(tried.took_s)
    distance = ks_distance(times["alice"], times["nobody"])
    p_value = ks_p_value(distance, SAMPLES, SAMPLES)
    logger.info("distance %.3f, p %.4f", distance, p_value)
    assert p_value > 0.001


def test_the_statistic() -> None:
    """Against the textbooks' figures: distances reached by chance once in 20, and in 1000."""
    assert ks_distance([1, 2, 3], [1, 2, 3]) == 0
    assert ks_distance([1, 2], [3, 4]) == 1
    assert ks_distance([1, 3, 5, 7], [2, 4, 6, 8]) == 0.25
    size = 1000
    assert ks_p_value(1.358 / (size / 2) ** 0.5, size, size) == pytest.approx(0.05, rel=0.05)
    assert ks_p_value(1.949 / (size / 2) ** 0.5, size, size) == pytest.approx(0.001, rel=0.15)
    assert ks_p_value(0, size, size) == 1
