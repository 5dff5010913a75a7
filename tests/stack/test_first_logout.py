"""How long the first logouts take after a start.

The lease is so long that a logout that waits for it is told from one that does not, however busy
the machine is. What was measured is logged.
"""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING

from gatelog.log.store.appender import Appender
from gatelog.log.store.database import connect
from gatelog.sessions.rules.lease import lease_terms
from gatelog.sessions.service.barrier import Barrier
from gatelog.sessions.store.leases import read_leases
from gatelog.sessions.store.replica_place import boottime_ns

from tests.builders import registration
from tests.conftest import Dsns
from tests.stack.service import CHEAP, START_TIMEOUT_S, Service, run_command, serving
from tests.waiting import eventually, until

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection

logger = logging.getLogger(__name__)

TTL_S = 20.0
LONG = {"GATELOG_LEASE_TTL_S": str(TTL_S), "GATELOG_WORKERS": "2"}
AT_ONCE_S = TTL_S / 4
LOGOUTS = 8  # on connections of their own, so that both workers are asked
SHORT_TTL_S = 2.0


def on(database: Dsns) -> dict[str, str]:
    return {"GATELOG_DATABASE_URL": database.app, "GATELOG_REGISTRATION": "open"}


def timed_logouts(service: Service, *, logouts: int = LOGOUTS) -> list[float]:
    """How many seconds each of these took, after as many logins."""
    assert service.register("grace") == 201
    cookies = [service.log_in("grace").cookie for _ in range(logouts)]
    return [timed_logout(service, cookie) for cookie in cookies]


def timed_logout(service: Service, cookie: str) -> float:
    began = time.monotonic()
    answer = service.request("POST", "/v1/logout_user", cookie=cookie)
    took_s = time.monotonic() - began
    assert (answer.status, answer.json["ended"]) == (200, 1)
    assert service.me(cookie) == 401
    return took_s


def told(where: str, took_s: list[float]) -> str:
    words = (
        f"{where}: the first logout {took_s[0] * 1e3:.1f} ms, the slowest {max(took_s) * 1e3:.1f}"
    )
    logger.info("%s", words)
    return words


def test_on_a_fresh_data_directory(data_dir: Path) -> None:
    with serving(data_dir, **LONG) as service:
        took_s = timed_logouts(service)

    assert max(took_s) < AT_ONCE_S, told("a fresh data directory", took_s)
    told("a fresh data directory", took_s)


def test_of_a_command_on_a_fresh_log(data_dir: Path, database: Dsns) -> None:
    """A process of its own, which has seen nothing before."""
    with serving(data_dir, **LONG, **on(database)) as service:
        assert service.register("grace") == 201
        session = service.log_in("grace").json["session_id"]
        began = time.monotonic()
        done = run_command(data_dir, "session", "end", session, **LONG, **on(database))
        took_s = time.monotonic() - began

    assert done.returncode == 0, done.stderr
    assert took_s < AT_ONCE_S, told("a command", [took_s])
    told("a command, with its start", [took_s])


async def begin_log(database: Dsns) -> None:
    """From here on the log is not empty, and nobody has seen it so."""
    async with Appender(lambda: connect(database.app), timeout_s=60) as appender:
        await appender.submit(registration("ada"))


async def be_up(database: Dsns) -> None:
    """What a service notes that has been up for longer than its leases last."""
    ahead_ns = 0
    terms = lease_terms(TTL_S)
    async with Barrier(
        lambda: connect(database.app), terms=terms, clock_ns=lambda: boottime_ns() + ahead_ns
    ) as barrier:
        await barrier.incarnation()
        ahead_ns = terms.wait_ns
        await barrier.wait(1, boottime_ns() + ahead_ns)
        connection = await connect(database.app)
        await until(lambda: noted(connection, terms.wait_ns))
        await connection.close()


async def noted(connection: Connection, age_ns: int) -> bool:
    return (await read_leases(connection)).noted.age_ns >= age_ns


def test_on_a_database_that_has_been_up_for_longer_than_a_lease(
    data_dir: Path, database: Dsns
) -> None:
    asyncio.run(begin_log(database))
    asyncio.run(be_up(database))
    with serving(data_dir, **LONG, **on(database)) as service:
        took_s = timed_logouts(service)

    assert max(took_s) < AT_ONCE_S, told("a database that has been up", took_s)
    told("a database that has been up", took_s)


def test_on_a_database_of_which_nothing_is_known_it_waits(data_dir: Path, database: Dsns) -> None:
    """The control: nobody knows for how long it has been there, so it is waited for."""
    asyncio.run(begin_log(database))
    began = time.monotonic()
    with serving(
        data_dir, **on(database), GATELOG_WORKERS="1", GATELOG_LEASE_TTL_S=str(SHORT_TTL_S)
    ) as service:
        took_s = timed_logouts(service, logouts=1)
        since_start_s = time.monotonic() - began

    assert since_start_s >= SHORT_TTL_S, told("a database of which nothing is known", took_s)
    told("a database of which nothing is known", took_s)


def test_a_service_that_has_been_up_notes_it(data_dir: Path, database: Dsns) -> None:
    asyncio.run(begin_log(database))
    ttl_s = float(CHEAP["GATELOG_LEASE_TTL_S"])

    async def is_noted() -> bool:
        connection = await connect(database.app)
        try:
            return await noted(connection, lease_terms(ttl_s).wait_ns)
        finally:
            await connection.close()

    with serving(data_dir, **on(database)):
        eventually(lambda: asyncio.run(is_noted()), START_TIMEOUT_S, "the note")
