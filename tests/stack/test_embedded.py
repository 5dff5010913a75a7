"""The embedded database: who may in, and what a start makes good."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest
from gatelog.errors import ConfigError, OperatorError
from gatelog.host.embedded import MAX_LOG_BYTES, MAX_SOCKET_PATH_BYTES, EmbeddedPostgres
from gatelog.secrets import ensure_secret

from tests.stack.service import ROOT
from tests.waiting import eventually

UNSAFE = {"fsync": "off"}


@pytest.fixture
def started(data_dir: Path) -> Iterator[EmbeddedPostgres]:
    postgres = EmbeddedPostgres(data_dir, settings=UNSAFE)
    postgres.start()
    yield postgres
    postgres.stop()


async def value(dsn: str, query: str) -> object:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


async def test_three_roles_and_their_rights(started: EmbeddedPostgres) -> None:
    who = "SELECT current_user::text"
    assert await value(started.owner_dsn(), who) == "gatelog_owner"
    assert await value(started.app_dsn(), who) == "gatelog"
    assert await value(started.superuser_dsn(), who) == "postgres"
    rights = "SELECT string_agg(rolname, ' ') FROM pg_roles WHERE rolsuper"
    assert await value(started.app_dsn(), rights) == "postgres"
    member = "SELECT pg_has_role('gatelog', 'gatelog_app', 'MEMBER')"
    assert await value(started.app_dsn(), member) is True


async def test_nobody_gets_in_without_the_password(started: EmbeddedPostgres) -> None:
    for dsn in (started.app_dsn(), started.owner_dsn()):
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(dsn.replace("@/", "x@/"))


async def test_what_is_promised_about_the_data_is_switched_on(data_dir: Path) -> None:
    postgres = EmbeddedPostgres(data_dir)
    postgres.start()
    try:
        expected = {
            "fsync": "on",
            "full_page_writes": "on",
            "synchronous_commit": "on",
            "data_checksums": "on",
            "server_encoding": "UTF8",
            "lc_collate": "C",
            "password_encryption": "scram-sha-256",
            "listen_addresses": "",
        }
        for name, setting in expected.items():
            shown = await value(
                postgres.superuser_dsn("gatelog"),
                f"SELECT coalesce(current_setting('{name}', true), datcollate)"
                " FROM pg_database WHERE datname = 'gatelog'",
            )
            assert (name, shown) == (name, setting)
    finally:
        postgres.stop()


def test_nobody_else_sees_into_it(started: EmbeddedPostgres) -> None:
    for path in (started.directory, started.cluster, started.socket_dir):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert not stat.S_IMODE(started.data_dir.stat().st_mode) & 0o066


async def test_a_path_too_long_for_a_socket(data_dir: Path) -> None:
    deep = data_dir / ("d" * 100) / "e"
    postgres = EmbeddedPostgres(deep, settings=UNSAFE)
    postgres.start()
    try:
        assert len(os.fsencode(postgres.socket_dir)) < MAX_SOCKET_PATH_BYTES
        assert stat.S_IMODE(postgres.socket_dir.stat().st_mode) == 0o700
        assert EmbeddedPostgres(deep).app_dsn() == postgres.app_dsn()
        assert await value(postgres.app_dsn(), "SELECT 1") == 1
    finally:
        postgres.stop()
        postgres.socket_dir.rmdir()


def test_somebody_elses_socket_directory_is_refused(data_dir: Path, tmp_path: Path) -> None:
    postgres = EmbeddedPostgres(data_dir / ("d" * 100))
    postgres.socket_dir.symlink_to(tmp_path)
    try:
        with pytest.raises(ConfigError, match="belongs to somebody else"):
            postgres.start()
    finally:
        postgres.socket_dir.unlink()


async def test_an_interrupted_initdb_is_made_good(data_dir: Path) -> None:
    draft = data_dir / "postgres" / "data.new"
    draft.mkdir(parents=True)
    (draft / "half").write_text("a file")
    postgres = EmbeddedPostgres(data_dir, settings=UNSAFE)
    postgres.start()
    try:
        assert await value(postgres.app_dsn(), "SELECT 1") == 1
        assert not draft.exists()
    finally:
        postgres.stop()


def test_a_process_id_that_is_somebody_elses_by_now(data_dir: Path) -> None:
    postgres = EmbeddedPostgres(data_dir, settings=UNSAFE)
    postgres.start()
    postgres.stop()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        for path in (
            postgres.cluster / "postmaster.pid",
            postgres.socket_dir / ".s.PGSQL.5432.lock",
        ):
            path.write_text(f"{other.pid}\n{postgres.cluster}\n1\n5432\n\n\n\nready\n")
        postgres.start()
        postgres.stop()
        assert other.poll() is None
        other.communicate(b"\n")


def test_an_orphan_is_ended_and_its_data_kept(data_dir: Path) -> None:
    script = (
        "import sys, os, signal; from pathlib import Path;"
        "from gatelog.host.embedded import EmbeddedPostgres;"
        "p = EmbeddedPostgres(Path(sys.argv[1])); p.start();"
        "os.kill(p.running_pid(), signal.SIGSTOP); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", script, str(data_dir)], cwd=ROOT, check=False)
    postgres = EmbeddedPostgres(data_dir, settings=UNSAFE)
    orphan = postgres.running_pid()
    assert orphan is not None
    postgres.start()
    try:
        assert postgres.running_pid() != orphan
        assert asyncio.run(value(postgres.app_dsn(), "SELECT 1")) == 1
    finally:
        postgres.stop()


async def test_a_killed_postmaster_and_a_backend_at_work(data_dir: Path) -> None:
    """A backend that outlives its postmaster is ended before the next one touches the data."""
    postgres = EmbeddedPostgres(data_dir, settings=UNSAFE)
    postgres.start()
    connection = await asyncpg.connect(postgres.app_dsn())
    backend = psutil.Process(await connection.fetchval("SELECT pg_backend_pid()"))
    backend.suspend()
    postmaster = psutil.Process(postgres.running_pid())
    postmaster.send_signal(signal.SIGKILL)
    postgres.stop()
    assert backend.is_running()
    postgres.start()
    try:
        eventually(
            lambda: not backend.is_running() or backend.status() == psutil.STATUS_ZOMBIE,
            60,
            "the end of the backend",
        )
        assert await value(postgres.app_dsn(), "SELECT 1") == 1
    finally:
        postgres.stop()
        connection.terminate()


async def test_a_lost_secret_is_made_anew(data_dir: Path) -> None:
    postgres = EmbeddedPostgres(data_dir, settings=UNSAFE)
    postgres.start()
    before = postgres.app_dsn()
    postgres.stop()
    (data_dir / "secrets" / "database_password").unlink()
    postgres.start()
    try:
        assert postgres.app_dsn() != before
        assert await value(postgres.app_dsn(), "SELECT 1") == 1
    finally:
        postgres.stop()


def test_what_postgresql_says_is_passed_on(data_dir: Path) -> None:
    postgres = EmbeddedPostgres(data_dir, settings={"shared_buffers": "much"})
    with pytest.raises(OperatorError, match=r"PostgreSQL did not start: FATAL: .*postgresql\.conf"):
        postgres.start()
    postgres.stop()


def test_the_log_keeps_its_limit(started: EmbeddedPostgres) -> None:
    with started.log_path.open("ab") as log:
        log.write(b"x" * (MAX_LOG_BYTES + 1) + b"\nthe end\n")
    started.trim_log()
    kept = started.log_path.read_bytes()
    assert len(kept) <= MAX_LOG_BYTES // 2 + 1
    assert kept.endswith(b"the end\n")


def test_a_secret_is_made_once(data_dir: Path) -> None:
    path = data_dir / "secrets" / "one"
    first = ensure_secret(path)
    assert len(first) >= 43
    assert ensure_secret(path) == first
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["one"]
