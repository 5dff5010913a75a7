"""A build is everywhere when it has been answered: on real processes, under load, with harm done.

Two hosts with two workers each; clients that ask all of them all the time, and note when they
began and what they were told. ``BUILDS=1000`` makes it as many builds. No request that began after
a build was answered may show one from before; what cannot be known may be a 503.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from gatelog.composer.rules.composition import Composition, Respond

from tests.builders import CHEAP_CONFIG
from tests.composer.compositions import WALK, both, one
from tests.composer.house import ADMIN, people
from tests.faults.cluster import Cluster, running_cluster
from tests.faults.variants import NOBODY_WAITS
from tests.serving import PASSWORD
from tests.waiting import until

logger = logging.getLogger(__name__)

BUILDS = int(os.environ.get("BUILDS") or 120)
CLIENTS_A_WORKER = 2
TTL_S = 1.0
MASTER_KEY = "A" * 43 + "="  # of all clusters of tests
WITHIN_S = 20.0


def numbered(number: int) -> Composition:
    """A composition that says which one it is."""
    told = one(Respond(json=f'{{"build": {number}}}'), access="public", path="/v2/build")
    return both(WALK, told)


class History:
    """What was answered, and when it was asked for."""

    def __init__(self) -> None:
        self.built: list[tuple[float, int]] = []
        self.seen: list[tuple[float, str, int]] = []
        self.statuses: Counter[int] = Counter()

    def violations(self) -> list[str]:
        """Every request that saw an older build than one that had been answered when it began."""
        found, newest, builds = [], 0, sorted(self.built)
        at = 0
        for began, worker, seen in sorted(self.seen):
            while at < len(builds) and builds[at][0] < began:
                newest = max(newest, builds[at][1])
                at += 1
            if seen < newest:
                found.append(f"{worker} showed {seen} after {newest}")
        return found


def test_the_checker_finds_an_old_build() -> None:
    history = History()
    history.built = [(1.0, 1), (3.0, 2)]
    history.seen = [(0.5, "a", 0), (1.5, "a", 1), (2.9, "a", 2), (3.0, "a", 1), (3.5, "a", 2)]
    assert history.violations() == []
    history.seen.append((3.1, "b", 1))
    assert history.violations() == ["b showed 1 after 2"]


class Load:
    """Clients, and somebody who builds."""

    def __init__(self, cluster: Cluster, client: aiohttp.ClientSession) -> None:
        self.cluster = cluster
        self.history = History()
        self.harmed: Counter[str] = Counter()
        self._client = client
        self._cookie = ""

    async def log_in(self) -> None:
        base = next(iter(self.cluster.workers.values()))
        body = {"login": ADMIN, "password": PASSWORD}
        async with self._client.post(f"{base}/v1/login_user", json=body) as answer:
            assert answer.status == 200, await answer.text()
            self._cookie = f"gatelog={answer.cookies['gatelog'].value}"

    async def send(self, base: str, method: str, path: str, json: Any) -> tuple[int, Any]:
        async with self._client.request(
            method, f"{base}/v1/compose{path}", json=json, headers={"Cookie": self._cookie}
        ) as answer:
            return answer.status, await answer.json(content_type=None)

    async def build(self, number: int, bases: list[str]) -> None:
        """Make it live by any worker; a worker that is stopped answers later, and another one is
        asked then."""
        base = random.choice(bases)
        composition = msgspec.to_builtins(numbered(number))
        status, drafted = await self.send(base, "PUT", "/draft", {"composition": composition})
        assert status == 200, drafted
        status, built = await self.send(base, "POST", "/build", {"seen": drafted["digest"]})
        assert status == 200, built
        self.history.built.append((time.monotonic(), number))

    async def watch(self, worker: str, base: str) -> None:
        while True:
            began = time.monotonic()
            async with self._client.get(f"{base}/v2/build") as answer:
                self.history.statuses[answer.status] += 1
                if answer.status == 200:
                    content = await answer.json()
                    self.history.seen.append((began, worker, content["build"]))
                else:
                    assert answer.status in {404, 503}, answer
            await asyncio.sleep(0.002)

    async def harm(self) -> None:
        """Stop projectors and workers, one at a time, and let them go on."""
        host = self.cluster.hosts[1]
        while True:
            for process in (host.projector, host.workers[1]):
                await asyncio.sleep(0.5)
                process.send(signal.SIGSTOP)
                await asyncio.sleep(random.uniform(0.2, 2.5 * TTL_S))
                process.send(signal.SIGCONT)
                self.harmed[process.name] += 1


@asynccontextmanager
async def loaded(cluster: Cluster) -> AsyncIterator[Load]:
    timeout = aiohttp.ClientTimeout(total=60)
    connector = aiohttp.TCPConnector(limit=0)
    jar = aiohttp.DummyCookieJar()
    async with aiohttp.ClientSession(
        timeout=timeout, connector=connector, cookie_jar=jar
    ) as client:
        load = Load(cluster, client)
        await load.log_in()
        yield load


@asynccontextmanager
async def under_load(tmp_path: Path, variant: str) -> AsyncIterator[tuple[Load, list[str]]]:
    """Two hosts, clients that watch, and harm being done; with the workers that are never stopped.

    A watcher that ends has failed.
    """
    async with running_cluster(
        tmp_path,
        hosts=2,
        workers=2,
        variant=variant,
        hesitant=0,
        lease_ttl_s=TTL_S,
        proxied=False,
    ) as cluster:
        config = msgspec.structs.replace(
            CHEAP_CONFIG, data_dir=str(tmp_path / "own"), master_key=MASTER_KEY
        )
        await people(config, cluster.postgres.app_dsn("service"))
        async with loaded(cluster) as load:
            steady = list(cluster.workers.values())[:3]
            await load.build(1, steady)
            tasks = [
                asyncio.create_task(load.watch(worker, base))
                for worker, base in cluster.workers.items()
                for _ in range(CLIENTS_A_WORKER)
            ]
            tasks.append(asyncio.create_task(load.harm()))
            try:
                yield load, steady
                assert not any(task.done() for task in tasks), tasks
            finally:
                for process in cluster.hosts[1].processes:
                    process.send(signal.SIGCONT)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.timeout(900)
async def test_no_request_sees_an_old_build_after_the_answer(tmp_path: Path) -> None:
    async with under_load(tmp_path, "plain") as (load, steady):
        began = time.monotonic()
        for number in range(2, BUILDS + 1):
            await load.build(number, steady)
        took_s = time.monotonic() - began
        await until(lambda: sum(load.harmed.values()) >= 4, within_s=60)
        history = load.history
        await until(lambda: history.seen[-1][2] == BUILDS, within_s=WITHIN_S)
        logger.info(
            "%d builds in %.1f s, %d answers seen, statuses %s, harm %s",
            BUILDS,
            took_s,
            len(history.seen),
            dict(history.statuses),
            dict(load.harmed),
        )
        assert history.violations() == []
        assert len(history.seen) > BUILDS
        await _joins_late(tmp_path, load.cluster)


@pytest.mark.timeout(300)
async def test_a_build_that_nobody_waits_for_is_found(tmp_path: Path) -> None:
    """The same with a service that answers a build as soon as it is recorded."""
    async with under_load(tmp_path, NOBODY_WAITS) as (load, steady):
        late = time.monotonic() + 120
        number = 1
        while not load.history.violations():
            assert time.monotonic() < late, "the checker finds nothing"
            number += 1
            await load.build(number, steady)


async def _joins_late(tmp_path: Path, cluster: Cluster) -> None:
    """A host that joins now serves the newest from its first answer on."""
    (tmp_path / "late").mkdir()
    async with (
        running_cluster(
            tmp_path / "late",
            hosts=1,
            workers=1,
            hesitant=0,
            lease_ttl_s=TTL_S,
            postgres=cluster.postgres,
            proxied=False,
        ) as late,
        aiohttp.ClientSession() as client,
    ):
        (base,) = late.workers.values()
        async with client.get(f"{base}/v2/build") as answer:
            assert (await answer.json())["build"] == BUILDS


@pytest.mark.timeout(300)
async def test_without_a_database_nobody_guesses(tmp_path: Path) -> None:
    """Memory answers while it has a lease; then it is a 503, and no old build."""
    async with running_cluster(
        tmp_path, hosts=1, workers=1, hesitant=0, lease_ttl_s=TTL_S
    ) as cluster:
        config = msgspec.structs.replace(
            CHEAP_CONFIG, data_dir=str(tmp_path / "own"), master_key=MASTER_KEY
        )
        await people(config, cluster.postgres.app_dsn("service"))
        async with loaded(cluster) as load:
            (base,) = cluster.workers.values()
            await load.build(1, [base])
            await cluster.postgres.take(cluster.postgres.stop)
            late = time.monotonic() + WITHIN_S
            statuses: list[int] = []
            while statuses[-1:] != [503]:
                assert time.monotonic() < late, statuses
                async with load._client.get(f"{base}/v2/build") as answer:
                    statuses.append(answer.status)
                    if answer.status == 200:
                        assert (await answer.json())["build"] == 1
            assert set(statuses) <= {200, 503}
            async with load._client.get(f"{base}/v2/nowhere") as answer:
                assert answer.status == 503  # nobody can tell
            await cluster.postgres.take(cluster.postgres.start)
            while True:
                assert time.monotonic() < late + WITHIN_S
                async with load._client.get(f"{base}/v2/build") as answer:
                    if answer.status == 200:
                        break
                await asyncio.sleep(0.1)
