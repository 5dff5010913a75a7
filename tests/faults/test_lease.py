"""The guarantee under faults: when a logout has been answered, nobody accepts that session again.

Real projectors and workers on three hosts, clients that note what they were told, and a nemesis.
``FAULTS=long`` makes it go on for ten minutes, ``FAULTS_S`` for as many seconds, and in any case
until every harm has been done, clients have gone on without PostgreSQL, and a projector has joined
while a session was being ended. The history is written to the path in ``FAULTS_HISTORY``, for an
outside checker. The same checker must find every broken variant.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.faults.cluster import Cluster, running_cluster
from tests.faults.guessing import most_within
from tests.faults.history import Check, End
from tests.faults.load import Load
from tests.faults.nemesis import POSTGRES_IS_BACK, POSTGRES_IS_KILLED, Nemesis
from tests.faults.variants import BROKEN, CONTROLS, VARIANTS
from tests.waiting import until

logger = logging.getLogger(__name__)

FAULTS_S = float(os.environ.get("FAULTS_S") or (600 if os.environ.get("FAULTS") == "long" else 40))
HISTORY = os.environ.get("FAULTS_HISTORY")
TTL_S = 1.0
IDLE_S = 5
CAP = 3  # sessions of a user
SETTINGS = {
    "GATELOG_MAX_SESSIONS_PER_USER": str(CAP),
    "GATELOG_LOGIN_TRIES": "5",
    "GATELOG_TRUSTED_PROXIES": "127.0.0.0/8",
}
EVERYTHING_WITHIN_S = 150.0  # beyond that: one round of all harms, on a busy machine
SHORT_TTL_S = 0.5
CONTROL_S = 15.0  # and until so many logouts have been answered
CONTROL_WITHIN_S = 90.0
BROKEN_WITHIN_S = 90.0
LOOK_EVERY_S = 1.0
CALM_S, CALMER_S, LONGEST_CALM_S = 3.0, 0.1, 12.0  # between rounds of harm; more with each look
START_S = 150.0  # processes and a database, on a busy machine
OUTLIVED = "accepted after its end"


def rules(load: Load) -> set[str]:
    """The rules that have been broken so far."""
    return {violation.rule for violation in load.history.violations()}


def words(cluster: Cluster) -> str:
    return "\n".join(f"--- {host.name}\n{host.log()[-3000:]}" for host in cluster.hosts)


async def do_harm(nemesis: Nemesis, missing: Callable[[], list[str]]) -> None:
    """For as long as it shall be, and until nothing is missing."""
    harms = [
        asyncio.create_task(nemesis.harm_processes()),
        asyncio.create_task(nemesis.harm_connections()),
    ]

    def is_over() -> bool:  # a harm that ends has failed
        return any(harm.done() for harm in harms) or not missing()

    try:
        await asyncio.wait(harms, timeout=FAULTS_S, return_when=asyncio.FIRST_COMPLETED)
        late_s = time.monotonic() + EVERYTHING_WITHIN_S
        # What takes many steps needs a while in which they get done: the slower, the longer.
        nemesis.calm_s = CALM_S
        while not is_over():  # to look takes time that clients need
            assert time.monotonic() < late_s, f"{missing()} missing after {nemesis.done}"
            await asyncio.sleep(LOOK_EVERY_S)
            nemesis.calm_s = min(nemesis.calm_s + CALMER_S, LONGEST_CALM_S)
    finally:
        for harm in harms:
            harm.cancel()
        results = await asyncio.gather(*harms, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result


@pytest.mark.timeout(FAULTS_S + EVERYTHING_WITHIN_S + 2 * START_S)
async def test_no_session_outlives_its_logout(directory: Path) -> None:
    seed = random.randrange(1 << 32)
    async with running_cluster(
        directory, lease_ttl_s=TTL_S, idle_s=IDLE_S, settings=SETTINGS
    ) as cluster:
        load = Load(cluster.workers, lease_ttl_s=TTL_S, seed=seed, idle_s=IDLE_S, cap=CAP)
        history = load.history
        nemesis = Nemesis(cluster, load, lease_ttl_s=TTL_S, seed=seed)

        def missing() -> list[str]:
            seen: dict[str, object] = {
                "replaced": any(isinstance(r, End) and r.started for r in history.records),
                "away": history.checks_between(POSTGRES_IS_KILLED, POSTGRES_IS_BACK),
                "joined while ending": history.joined_while_ending(cluster.joins()),
                "lingered": history.lingered(),
                "idled": history.idled(),
                "crowded out": load.crowded_out,
                **{f"tokens, {scope}": n for scope, n in history.tokens_ended().items()},
                "throttled": sum(status == 429 for _, status in load.guesses),
            }
            return [*nemesis.missing, *(what for what, times in seen.items() if not times)]

        try:
            began_s = time.monotonic()
            async with load.running(clients=10):
                await do_harm(nemesis, missing)
            guessed_s = time.monotonic() - began_s
        finally:
            if HISTORY:
                history.write(Path(HISTORY))
        violations = history.violations()
        away = history.checks_between(POSTGRES_IS_KILLED, POSTGRES_IS_BACK)
        report = (
            f"seed {seed}, {history.counts()}, {nemesis.done}, {away} checks without PostgreSQL, "
            f"{history.joined_while_ending(cluster.joins())} joins while a session was being ended,"
            f" {history.lingered()} sessions kept by use, {history.idled()} that idled too long,"
            f" tokens ended: {history.tokens_ended()}"
        )
        assert not violations, f"{report}\n{violations[0]}\n{words(cluster)}"
        assert not load.refused_logins, f"{report}\n{words(cluster)}"

    logger.info("%s", report)
    told = Counter(status for _, status in load.guesses)
    logger.info("guesses at one account in %.0f s: %s", guessed_s, told)
    assert 5 <= told[401] <= most_within(guessed_s) and told[429] and not told[200], told
    checks = [r for r in history.records if isinstance(r, Check)]
    ends = [r for r in history.records if isinstance(r, End)]
    assert sum(c.status == 200 for c in checks) > FAULTS_S, report
    assert sum(c.status == 401 for c in checks) > FAULTS_S, report
    assert sum(e.status == 200 for e in ends) > FAULTS_S / 6, report


@asynccontextmanager
async def small_cluster(directory: Path, variant: str) -> AsyncIterator[Load]:
    """Two hosts with one worker each, under load; only the first projector hesitates, or logouts
    would never be answered while it is behind."""
    async with running_cluster(
        directory,
        hosts=2,
        workers=1,
        variant=variant,
        hesitant=1,
        lease_ttl_s=SHORT_TTL_S,
        projectors=VARIANTS[variant].needs_projectors,
    ) as cluster:
        load = Load(cluster.workers, lease_ttl_s=SHORT_TTL_S, seed=random.randrange(1 << 32))
        async with load.running(clients=5):
            yield load


@pytest.mark.timeout(BROKEN_WITHIN_S + START_S)
@pytest.mark.parametrize("variant", sorted(BROKEN))
async def test_the_checker_finds_the_broken_variant(directory: Path, variant: str) -> None:
    async with small_cluster(directory, variant) as load:
        began = time.monotonic()
        while time.monotonic() < began + BROKEN_WITHIN_S:
            await asyncio.sleep(LOOK_EVERY_S)
            if OUTLIVED in rules(load):  # of the others some are open until all is noted
                break
        logger.info("found within %.0f s", time.monotonic() - began)

    assert rules(load) == {OUTLIVED}, load.history.counts()


@pytest.mark.timeout(CONTROL_S + CONTROL_WITHIN_S + START_S)
@pytest.mark.parametrize("variant", sorted(CONTROLS))
async def test_hesitation_alone_breaks_nothing(directory: Path, variant: str) -> None:
    async with small_cluster(directory, variant) as load:
        await asyncio.sleep(CONTROL_S)
        await until(
            lambda: load.history.counts().get("end 200", 0) > CONTROL_S,
            within_s=CONTROL_WITHIN_S,
        )

    assert rules(load) == set(), load.history.violations()[0]
