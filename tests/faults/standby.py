"""A standby of an embedded PostgreSQL, from the same binaries, and its promotion."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import psutil
from gatelog.host.account import account_of
from gatelog.host.embedded import POSTGRES_BIN_PATH, SUPERUSER, EmbeddedPostgres
from gatelog.host.processes import running
from gatelog.log.store.database import connect

from tests.faults.cluster import Server
from tests.waiting import eventually, until

READY_WITHIN_S = 60.0


@asynccontextmanager
async def standby_of(primary: Server, directory: Path) -> AsyncIterator[Server]:
    """A streaming standby, caught up."""
    await primary.take(_allow_replication, primary)
    async with Server(directory / "standby", settings={"max_connections": "200"}) as standby:
        await standby.take(_copy, primary, standby)
        await standby.take(_start, standby)
        await until(lambda: _streams(primary), within_s=READY_WITHIN_S)
        yield standby


def _allow_replication(primary: EmbeddedPostgres) -> None:
    with (primary.cluster / "pg_hba.conf").open("a") as file:
        file.write(f"local replication {SUPERUSER} peer map=gatelog\n")
    primary._psql("SELECT pg_reload_conf();")


def _copy(primary: EmbeddedPostgres, standby: EmbeddedPostgres) -> None:
    account = account_of(standby.cluster)
    standby._make_directories(account)
    identity = {"user": account.pw_uid, "group": account.pw_gid} if account else {}
    subprocess.run(
        [
            str(POSTGRES_BIN_PATH / "pg_basebackup"),
            *("--checkpoint=fast", "--write-recovery-conf", "--no-sync"),
            *(f"--pgdata={standby.cluster}", f"--username={SUPERUSER}"),
            *(f"--host={primary.socket_dir}", "--port=5432"),
        ],
        check=True,
        cwd=standby.directory,
        env={"PATH": os.defpath, "LC_ALL": "C"},
        umask=0o077,
        **identity,  # type: ignore[call-overload]
    )


def _start(standby: EmbeddedPostgres) -> None:
    """Like its own start, without the roles and databases that it makes."""
    standby.prepare()
    with standby.spawn_options() as options:
        process = subprocess.Popen(standby.command(), **options)
    standby._process = process
    deadline = time.monotonic() + READY_WITHIN_S
    while not standby.is_ready(process.pid):
        assert process.poll() is None, standby.start_error()
        assert time.monotonic() < deadline, standby._pid_file()
        time.sleep(0.02)


async def _streams(primary: EmbeddedPostgres) -> bool:
    connection = await connect(primary.superuser_dsn(), role=None)
    try:
        return bool(
            await connection.fetchval(
                "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'"
            )
        )
    finally:
        await connection.close()


async def make_synchronous(primary: EmbeddedPostgres) -> None:
    """From here on a commit is answered when the standby has it."""
    connection = await connect(primary.superuser_dsn(), role=None)
    await connection.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
    await connection.execute("SELECT pg_reload_conf()")

    async def is_synchronous() -> bool:
        return bool(
            await connection.fetchval(
                "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"
            )
        )

    await until(is_synchronous, within_s=READY_WITHIN_S)
    await connection.close()


async def caught_up(primary: EmbeddedPostgres, standby: EmbeddedPostgres) -> None:
    """Return when the standby has all that is on the primary now."""
    here = await connect(primary.superuser_dsn(), role=None)
    position = await here.fetchval("SELECT pg_current_wal_lsn()")
    await here.close()
    there = await asyncpg.connect(standby.superuser_dsn())

    async def has_it() -> bool:
        return bool(await there.fetchval("SELECT pg_last_wal_replay_lsn() >= $1::pg_lsn", position))

    await until(has_it, within_s=READY_WITHIN_S)
    await there.close()


async def stop_replication(standby: EmbeddedPostgres) -> None:
    """From here on the standby hears nothing."""
    connection = await asyncpg.connect(standby.superuser_dsn())
    await connection.execute("ALTER SYSTEM SET primary_conninfo = 'host=/nowhere'")
    await connection.execute("SELECT pg_reload_conf()")

    async def is_cut() -> bool:
        return not await connection.fetchval("SELECT count(*) FROM pg_stat_wal_receiver")

    await until(is_cut, within_s=READY_WITHIN_S)
    await connection.close()


async def kill_at_once(postgres: Server) -> int:
    """kill -9 of all its processes, as when the machine is gone; returns when it was.

    In nanoseconds of CLOCK_MONOTONIC: what it has answered was asked before.
    """
    return await postgres.take(_kill_at_once, postgres)


def _kill_at_once(postgres: EmbeddedPostgres) -> int:
    pid = postgres.running_pid()
    assert pid is not None
    postmaster = psutil.Process(pid)
    postmaster.suspend()  # no child is born any more
    family = [postmaster, *postmaster.children(recursive=True)]
    for process in family:
        process.kill()
    killed_ns = time.monotonic_ns()
    postgres.stop()
    # whether they are reaped, too, is up to somebody else
    eventually(
        lambda: not any(running(process.pid) for process in family), READY_WITHIN_S, "its end"
    )
    return killed_ns


async def promote(standby: Server) -> None:
    """Make it the primary; returns when it takes writes."""
    await standby.take(standby._psql, "SELECT pg_promote();")
