"""The primary is lost under load and a standby takes over.

With a synchronous standby nothing that was acknowledged is lost, and no session outlives its
logout. With an asynchronous one events are lost; then this is said, and no replica goes on with
what the log does not hold any more: until its lease of before is over, at most, a lost login is
accepted. What is not lost is kept as ever, the logouts too.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Set
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import msgspec
import pytest
from gatelog.config import Config
from gatelog.host.embedded import EmbeddedPostgres
from gatelog.log.store.database import connect
from gatelog.log.store.reading import read_head
from gatelog.sessions.rules.record import Session
from gatelog.sessions.store import sql
from gatelog.sessions.store.leases import Look, read_leases
from gatelog.sessions.store.replica import ReplicaReader
from gatelog.sessions.store.replica_place import ReplicaPlace

from tests.faults.cluster import Cluster, Server, fresh_postgres, running_cluster
from tests.faults.history import Check, End, History, Login, Record
from tests.faults.load import Load
from tests.faults.standby import (
    kill_at_once,
    make_synchronous,
    promote,
    standby_of,
    stop_replication,
)
from tests.waiting import until

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection

logger = logging.getLogger(__name__)

TTL_S = 1.0
BEFORE_S, AFTER_S = 5.0, 5.0
BACK_WITHIN_S = 60.0
NEW_TIMELINE = "00000002"
TRIED = 20  # checks
LOGOUTS = 20
HELD = 5  # sessions that nobody ends
# Longer than it takes to promote a standby, on a machine that pauses.
LONG_TTL_S = 6.0
STARTS = {"session_started", "token_created"}
KILLED, PROMOTED = "kill the primary", "the standby is promoted"


async def on(postgres: EmbeddedPostgres) -> Connection:
    return await connect(postgres.superuser_dsn("service"), role=None)


def logins(load: Load) -> list[Login]:
    return [record for record in load.history.records if isinstance(record, Login)]


async def all_replicas_are_new(connection: Connection, hosts: int) -> bool:
    look: Look = await read_leases(connection)
    new = [row for row in look.rows if row.epoch == look.epoch]
    return len(new) == hosts and all(row.applied_position > 0 for row in new)


@pytest.mark.timeout(480)
async def test_with_a_synchronous_standby_nothing_is_lost(directory: Path) -> None:
    async with (
        fresh_postgres(directory) as primary,
        standby_of(primary, directory) as standby,
        running_cluster(
            directory, hosts=2, workers=1, lease_ttl_s=TTL_S, postgres=primary, standby=standby
        ) as cluster,
    ):
        await make_synchronous(primary)
        load = Load(cluster.workers, lease_ttl_s=TTL_S, seed=random.randrange(1 << 32))
        async with load.running(clients=6):
            await asyncio.sleep(BEFORE_S)
            await fail_over(load, primary, standby)
            connection = await on(standby)
            epoch = await connection.fetchval(sql.READ_EPOCH)
            before = len(logins(load))
            await until(lambda: len(logins(load)) > before + 20, within_s=BACK_WITHIN_S)
            await until(lambda: all_replicas_are_new(connection, 2), within_s=BACK_WITHIN_S)
            await asyncio.sleep(AFTER_S)

        assert epoch.split(".")[1] == NEW_TIMELINE, "the new timeline is seen at once"
        violations = load.history.violations()
        assert not violations, f"{load.history.counts()}\n{violations[0]}"
        assert not load.refused_logins
        assert load.history.checks_between(KILLED, PROMOTED) >= TRIED
        await nothing_acknowledged_is_missing(load, connection)
        await connection.close()


async def fail_over(
    load: Load, primary: Server, standby: Server, held: Set[str] = frozenset()
) -> int:
    """Lose the primary, and promote the standby when clients have met that; returns when it died.

    They have tried each of those sessions then. What leases there were may still be valid.
    """
    killed_ns = await kill_at_once(primary)
    load.note(KILLED)
    noted_ns = time.monotonic_ns()

    def is_met() -> bool:
        tried = [c.session for c in checks(load, noted_ns) if c.status is not None]
        return len(tried) >= TRIED and held <= {*tried}

    await until(is_met, within_s=BACK_WITHIN_S)
    await promote(standby)
    load.note(PROMOTED)
    return killed_ns


def has_ended(load: Load, count: int) -> bool:
    return load.history.counts().get("end 200", 0) >= count


def checks(load: Load, since_ns: int) -> list[Check]:
    """The checks that were sent after this time."""
    return [r for r in load.history.records if isinstance(r, Check) and r.began > since_ns]


async def nothing_acknowledged_is_missing(load: Load, connection: Connection) -> None:
    rows = await connection.fetch("SELECT type, session_id FROM events")
    started = {str(row["session_id"]) for row in rows if row["type"] in STARTS}
    ended = {str(row["session_id"]) for row in rows if row["type"] == "session_ended"}
    missing = [login for login in logins(load) if login.session not in started]
    assert not missing, f"{len(missing)} logins are lost"
    ends = [r for r in load.history.records if isinstance(r, End)]
    revived = [
        login
        for login in logins(load)
        if login.session not in ended and any(end.must_end(login) for end in ends)
    ]
    assert not revived, f"{len(revived)} logouts are lost"


@pytest.mark.timeout(480)
async def test_with_an_asynchronous_standby_the_loss_is_told_and_no_replica_keeps_it(
    directory: Path,
) -> None:
    async with (
        fresh_postgres(directory) as primary,
        standby_of(primary, directory) as standby,
        running_cluster(
            directory,
            hosts=2,
            workers=1,
            hesitant=1,  # the other one surely holds a lease
            lease_ttl_s=LONG_TTL_S,
            postgres=primary,
            standby=standby,
        ) as cluster,
    ):
        load = Load(cluster.workers, lease_ttl_s=LONG_TTL_S, seed=random.randrange(1 << 32))
        async with load.running(clients=6):
            await until(lambda: has_ended(load, LOGOUTS), within_s=BACK_WITHIN_S)
            await stop_replication(standby)
            before = len(logins(load))
            await until(lambda: len(logins(load)) > before + 20, within_s=BACK_WITHIN_S)
            held = await load.hold("held", HELD)
            await until_all_replicas_know_it(primary, hosts=2)
            old_log = await read_log(primary)
            killed_ns = await fail_over(load, primary, standby, held)
            over_ns = killed_ns + int(LONG_TTL_S * 1e9)  # all leases of before are, by then
            connection = await on(standby)
            await until(lambda: all_replicas_are_new(connection, 2), within_s=BACK_WITHIN_S)
            await until(
                lambda: held <= {c.session for c in checks(load, over_ns) if c.status == 401},
                within_s=BACK_WITHIN_S,
            )
            ended = load.history.counts()["end 200"]
            await until(lambda: has_ended(load, ended + LOGOUTS), within_s=BACK_WITHIN_S)

        lost = await lost_logins(load, connection)
        assert held <= lost, "what was held is not lost; the test shows nothing"
        late = [c for c in checks(load, over_ns) if c.session in lost and c.status == 200]
        assert not late, f"a lost login is accepted {(late[0].began - killed_ns) / 1e6} ms later"
        in_time = [c for c in checks(load, killed_ns) if c.session in held and c.status == 200]
        assert in_time, "no lost login was in memory; the test shows nothing"
        latest_ms = (in_time[-1].began - killed_ns) / 1e6
        logger.info("%d logins lost, accepted for %.0f ms", len(lost), latest_ms)
        kept = what_is_kept(load.history, old_log, await read_log(standby), killed_ns)
        violations = kept.violations()
        assert not violations, f"{kept.counts()}\n{violations[0]}"

        for host in cluster.hosts:
            assert "events that were acknowledged may be lost" in host.log()
        await memory_is_what_the_log_says(cluster, directory, connection)
        await refused_everywhere(cluster, load, lost)
        await connection.close()


class LoggedEvent(msgspec.Struct, frozen=True):
    position: int
    leaf_hash: bytes
    type: str
    session: str | None


async def read_log(postgres: EmbeddedPostgres) -> list[LoggedEvent]:
    connection = await on(postgres)
    rows = await connection.fetch(
        "SELECT position, leaf_hash, type, session_id::text FROM events ORDER BY position"
    )
    await connection.close()
    return [LoggedEvent(*row) for row in rows]


def what_is_kept(
    history: History, old: list[LoggedEvent], new: list[LoggedEvent], killed_ns: int
) -> History:
    """The history without the lost logins, and with every lost end as one that may have been.

    What was sent before the primary died is kept if it is in what both logs begin with.
    """
    differ = (a.leaf_hash != b.leaf_hash for a, b in zip(old, new, strict=False))
    fork = next(position for position, differs in enumerate(differ) if differs)
    started = {event.session for event in new if event.type in STARTS}
    ended = {event.session for event in new[:fork] if event.type == "session_ended"}
    kept = [r for r in history.records if isinstance(r, Login) and r.session in started]

    def seen(record: Record) -> Record:
        if not isinstance(record, End) or record.began > killed_ns:
            return record
        if {login.session for login in kept if record.must_end(login)} <= ended:
            return record
        return msgspec.structs.replace(record, status=None)

    others = (record for record in history.records if not isinstance(record, Login))
    return History([*kept, *map(seen, others)])


async def until_all_replicas_know_it(primary: EmbeddedPostgres, hosts: int) -> None:
    """Wait until every replica has applied what the log holds now."""
    connection = await on(primary)
    head = (await read_head(connection)).position

    async def all_applied() -> bool:
        rows = (await read_leases(connection)).rows
        return len(rows) == hosts and all(row.applied_position >= head for row in rows)

    await until(all_applied, within_s=BACK_WITHIN_S)
    await connection.close()


async def lost_logins(load: Load, connection: Connection) -> set[str]:
    statement = "SELECT session_id FROM events WHERE type = ANY($1)"
    rows = await connection.fetch(statement, list(STARTS))
    kept = {str(row["session_id"]) for row in rows}
    return {login.session for login in logins(load)} - kept


async def memory_is_what_the_log_says(
    cluster: Cluster, directory: Path, connection: Connection
) -> None:
    """Every replica gets to hold what the table holds: commands in flight are still repeated."""
    for host in cluster.hosts:
        reader = ReplicaReader(ReplicaPlace(Config(data_dir=str(directory / host.name))))

        async def is_the_same(reader: ReplicaReader = reader) -> bool:
            rows = await connection.fetch("SELECT token_digest FROM active_sessions")
            known = [reader.peek(row["token_digest"]) for row in rows]
            status = reader.status()
            all_known = all(isinstance(session, Session) for session in known)
            return all_known and status is not None and status.state.active == len(rows)

        await until(is_the_same, within_s=BACK_WITHIN_S)
        reader.close()


async def refused_everywhere(cluster: Cluster, load: Load, sessions: set[str]) -> None:
    async with aiohttp.ClientSession() as client:

        async def is_refused(base: str, token: str) -> bool:
            headers = {"Authorization": f"Bearer {token}"}
            async with client.get(f"{base}/v1/me", headers=headers) as answer:
                assert answer.status in (401, 503)  # 503: it could not ask
                return answer.status == 401

        for session in sessions:
            for base in cluster.workers.values():
                await until(partial(is_refused, base, load.tokens[session]), within_s=BACK_WITHIN_S)
