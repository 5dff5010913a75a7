"""A standby of an embedded PostgreSQL, from the same binaries, and its promotion."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil

from server.embedded import POSTGRES_BIN_PATH, SUPERUSER, EmbeddedPostgres
from server.store.database import connect
from tests.waiting import until

READY_WITHIN_S = 60.0


@asynccontextmanager
async def standby_of(primary: EmbeddedPostgres, directory: Path) -> AsyncIterator[EmbeddedPostgres]:
    """A streaming standby, caught up."""
    _allow_replication(primary)
    standby = EmbeddedPostgres(directory / "standby", settings={"max_connections": "200"})
    _copy(primary, standby)
    try:
        _start(standby)
        await until(lambda: _streams(primary), within_s=READY_WITHIN_S)
        yield standby
    finally:
        standby.stop()


def _allow_replication(primary: EmbeddedPostgres) -> None:
    with (primary.cluster / "pg_hba.conf").open("a") as file:
        file.write(f"local replication {SUPERUSER} peer map=gatelog\n")
    primary._psql("SELECT pg_reload_conf();")


def _copy(primary: EmbeddedPostgres, standby: EmbeddedPostgres) -> None:
    account = standby._account()
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


def kill_at_once(postgres: EmbeddedPostgres) -> None:
    """kill -9 of all its processes, as when the machine is gone."""
    pid = postgres.running_pid()
    assert pid is not None
    postmaster = psutil.Process(pid)
    family = [postmaster, *postmaster.children(recursive=True)]
    for process in family:
        process.kill()
    postgres.stop()
    psutil.wait_procs(family, timeout=READY_WITHIN_S)


def promote(standby: EmbeddedPostgres) -> None:
    """Make it the primary; returns when it takes writes."""
    standby._psql("SELECT pg_promote();")
