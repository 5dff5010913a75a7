"""A replica holds a lease whose row is lost, and a session that it knows is ended.

The row is lost with a primary whose standby had not got it, or because an older copy of the data is
put back. The logout is that of a process that has just started in the one case, and of one that has
been up for long in the other; neither may take the rows that are left for all there are. The
replica's projector stands still, so that it is only the end of its lease that stops it.

In both cases a process that does take them for all shows that the harm was there to be done.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import msgspec
import pytest
from gatelog.config import Config
from gatelog.host.embedded import EmbeddedPostgres
from gatelog.log.store.database import connect
from gatelog.sessions.rules.lease import Evidence, lease_terms
from gatelog.sessions.store.leases import Look, read_leases
from gatelog.sessions.store.replica import ReplicaReader
from gatelog.sessions.store.replica_place import ReplicaPlace

from tests.faults.cluster import Cluster, Server, fresh_postgres, running_cluster
from tests.faults.load import PASSWORDS
from tests.faults.standby import caught_up, kill_at_once, promote, standby_of, stop_replication
from tests.faults.variants import INCARNATION_IS_THE_EPOCH, PLAIN, ROWS_ARE_ALWAYS_COMPLETE
from tests.waiting import until

logger = logging.getLogger(__name__)

# Longer than it takes to lose a database, get another one, and start a worker, on a busy machine.
TTL_S = 6.0
WITHIN_S = 60.0
START_S = 150.0
LOOK_EVERY_S = 0.02


class Outcome(msgspec.Struct, frozen=True):
    """When the logout was sent and answered, and when it was that the session was tried the last
    time that it was accepted by the host that had not heard of its end."""

    sent_ns: int
    answered_ns: int
    accepted_ns: int

    def __str__(self) -> str:
        took_ms, late_ms = self.answered_ns - self.sent_ns, self.accepted_ns - self.answered_ns
        return f"answered after {took_ms / 1e6:.0f} ms, accepted until {late_ms / 1e6:.0f} ms later"


class Trial:
    """A session that is ended on the first host, and remembered by the second."""

    def __init__(self, cluster: Cluster, directory: Path, http: aiohttp.ClientSession) -> None:
        self._hosts = cluster.hosts
        self._directory = directory
        self._http = http
        self._headers: dict[str, str] = {}

    async def log_in(self) -> None:
        body = {"login": "ada", "password": PASSWORDS[0]}
        async with self._http.post(self._url(0, "register_user"), json=body) as answer:
            assert answer.status == 201, await answer.text()
        body["token"] = "bearer"
        async with self._http.post(self._url(0, "login_user"), json=body) as answer:
            token = (await answer.json())["token"]
        self._headers = {"Authorization": f"Bearer {token}"}

    def _url(self, host: int, what: str) -> str:
        return f"http://127.0.0.1:{self._hosts[host].ports[0]}/v1/{what}"

    async def let_it_be_remembered(self) -> None:
        """Let the second host's replica join, and stop its projector when its lease is fresh."""
        host = self._hosts[1]
        host.projector.start()
        place = ReplicaPlace(Config(data_dir=str(self._directory / host.name)))
        with contextlib.closing(ReplicaReader(place)) as reader:
            await until(lambda: reader.leased, within_s=WITHIN_S)
            status = reader.status()
            least_ns = status.lease_ns if status else 0

            def is_renewed() -> bool:
                now = reader.status()
                return now is not None and now.lease_ns > least_ns

            await until(is_renewed, within_s=WITHIN_S)
        host.projector.send(signal.SIGSTOP)

    def start_first_host_anew(self) -> None:
        (worker,) = self._hosts[0].workers
        worker.kill()
        worker.start()

    async def end(self) -> Outcome:
        """End the session, and try it on the second host until it is refused or was too late."""
        accepted_ns = 0
        ending = asyncio.create_task(self._log_out())
        while True:
            tried_ns = time.monotonic_ns()
            async with self._http.get(self._url(1, "me"), headers=self._headers) as answer:
                if answer.status == 200:
                    accepted_ns = tried_ns
                elif ending.done():
                    break
            if ending.done() and accepted_ns > ending.result()[1]:
                break
            await asyncio.sleep(LOOK_EVERY_S)
        return Outcome(*ending.result(), accepted_ns)

    async def _log_out(self) -> tuple[int, int]:
        """End the session as soon as that is possible."""
        while True:
            sent_ns = time.monotonic_ns()
            with contextlib.suppress(aiohttp.ClientError):
                url = self._url(0, "logout_user")
                async with self._http.post(url, headers=self._headers) as answer:
                    if answer.status == 200:
                        assert (await answer.json())["ended"] == 1
                        return sent_ns, time.monotonic_ns()
            await asyncio.sleep(LOOK_EVERY_S)


@asynccontextmanager
async def two_hosts(
    directory: Path, variant: str, postgres: Server, standby: Server | None = None
) -> AsyncIterator[Trial]:
    """Their workers; the projectors are the trial's to start."""
    async with (
        running_cluster(
            directory,
            hosts=2,
            workers=1,
            variant=variant,
            lease_ttl_s=TTL_S,
            projectors=False,
            postgres=postgres,
            standby=standby,
        ) as cluster,
        aiohttp.ClientSession() as http,
    ):
        yield Trial(cluster, directory, http)


async def look_at(postgres: EmbeddedPostgres) -> Look:
    connection = await connect(postgres.superuser_dsn("service"), role=None)
    look = await read_leases(connection)
    await connection.close()
    return look


def judge(outcome: Outcome, variant: str) -> None:
    logger.info("%s: %s", variant, outcome)
    assert outcome.accepted_ns > outcome.sent_ns, "memory had no say in it; the test shows nothing"
    if variant == PLAIN:
        assert outcome.accepted_ns < outcome.answered_ns, f"it outlived its logout: {outcome}"
    else:
        assert outcome.accepted_ns > outcome.answered_ns, f"the harm is not found: {outcome}"


@pytest.mark.timeout(START_S + 2 * WITHIN_S)
@pytest.mark.parametrize("variant", [PLAIN, ROWS_ARE_ALWAYS_COMPLETE])
async def test_a_new_process_on_a_promoted_standby(directory: Path, variant: str) -> None:
    async with (
        fresh_postgres(directory) as primary,
        standby_of(primary, directory) as standby,
        two_hosts(directory, variant, primary, standby) as trial,
    ):
        await trial.log_in()
        await caught_up(primary, standby)
        await stop_replication(standby)
        await trial.let_it_be_remembered()
        assert len((await look_at(primary)).rows) == 1
        await kill_at_once(primary)
        trial.start_first_host_anew()
        await promote(standby)
        outcome = await trial.end()
        after = await look_at(standby)

    judge(outcome, variant)
    assert after.rows == (), "the row was not lost; the test shows nothing"


@pytest.mark.timeout(START_S + 3 * WITHIN_S)
@pytest.mark.parametrize("variant", [PLAIN, INCARNATION_IS_THE_EPOCH])
async def test_a_running_process_when_an_older_copy_is_put_back(
    directory: Path, variant: str
) -> None:
    async with (
        fresh_postgres(directory) as postgres,
        two_hosts(directory, variant, postgres) as trial,
    ):
        await trial.log_in()
        older = directory / "older"
        await postgres.take(postgres.stop)
        await postgres.take(copy, postgres.cluster, older)
        await postgres.take(postgres.start)
        await until(lambda: has_lasted(postgres), within_s=WITHIN_S)
        before = await look_at(postgres)
        await trial.let_it_be_remembered()
        await kill_at_once(postgres)
        await postgres.take(put_back, postgres.cluster, older)
        await postgres.take(postgres.start)
        outcome = await trial.end()
        after = await look_at(postgres)

    judge(outcome, variant)
    assert after.epoch == before.epoch, "the epoch tells; the test shows nothing"
    assert after.rows == (), "the row was not lost; the test shows nothing"


async def has_lasted(postgres: EmbeddedPostgres) -> bool:
    """Whether the workers have known the incarnation, or the epoch, for long enough."""
    noted: Evidence = (await look_at(postgres)).noted
    return noted.age_ns >= lease_terms(TTL_S).wait_ns


def copy(cluster: Path, to: Path) -> None:
    """A copy of a stopped server's files."""
    subprocess.run(["cp", "--archive", cluster, to], check=True)


def put_back(cluster: Path, older: Path) -> None:
    shutil.rmtree(cluster)
    older.rename(cluster)
