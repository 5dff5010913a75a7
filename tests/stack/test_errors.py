"""What cannot work: one clear line that names the setting, an exit code, no traceback."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from gatelog.host.embedded import EmbeddedPostgres
from gatelog.log.store.database import connect
from gatelog.log.store.schema import newest_revision

from tests.conftest import Dsns
from tests.stack.service import Service, run_command, serving
from tests.waiting import eventually

NOBODY = "postgresql://gatelog:hunter2@127.0.0.1:1/gatelog"


def refused(data_dir: Path, *arguments: str, **settings: str) -> str:
    """The one line on standard error with which the command refuses to work."""
    done = run_command(data_dir, *arguments, **settings)
    assert done.returncode == 1, done.stderr
    lines = [line for line in done.stderr.splitlines() if not re.match(r"\d{4}-", line)]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "hunter2" not in done.stderr
    assert lines[0].startswith("gatelog: ")
    return lines[0].removeprefix("gatelog: ")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GATELOG_PORT", "many"),
        ("GATELOG_HOST", "no such host"),
        ("GATELOG_HOST", "192.0.2.1"),  # nobody's address (RFC 5737)
        ("GATELOG_NO_SUCH_SETTING", "1"),
        ("GATELOG_DATABASE_URL", "mysql://db.example"),
        ("GATELOG_DATABASE_URL_FILE", "/no/such/file"),
        ("GATELOG_DATABASE_URL", NOBODY),
        ("GATELOG_APP", "no_such_module:app"),
        ("GATELOG_APP", "json:nothing"),
        ("GATELOG_MOUNT", "/"),
    ],
)
def test_a_setting_that_does_not_work(data_dir: Path, name: str, value: str) -> None:
    assert refused(data_dir, "serve", **{name: value}).startswith(f"{name}: ")


def test_the_port_is_taken(data_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        line = refused(data_dir, "serve", GATELOG_PORT=port)
    assert line == f"GATELOG_PORT: port {port} on 127.0.0.1 is taken by another program"


def test_a_second_copy_on_the_same_directory(shared_service: Service) -> None:
    line = refused(shared_service.data_dir, "serve")
    assert line.startswith("GATELOG_DATA_DIR: ")
    assert f"process {shared_service.process.pid} (serve)" in line
    eventually(shared_service.is_ready, 60, "the first copy, which goes on")


def test_the_directory_cannot_be_made(data_dir: Path) -> None:
    (data_dir).write_text("a file")
    assert refused(data_dir, "serve").startswith("GATELOG_DATA_DIR: ")


@pytest.mark.parametrize("name", ["database_password", "master_key", "log_signing_key"])
@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", None])
def test_an_unreadable_secret(data_dir: Path, name: str, content: bytes | None) -> None:
    secret = data_dir / "secrets" / name
    secret.parent.mkdir(parents=True)
    if content is None:
        secret.mkdir()
    else:
        secret.write_bytes(content)
    line = refused(data_dir, "serve")
    assert line.startswith("GATELOG_DATA_DIR: ")
    assert str(secret) in line


@pytest.mark.parametrize("name", ["master_key", "log_signing_key"])
def test_a_secret_that_is_no_key(data_dir: Path, name: str) -> None:
    secret = data_dir / "secrets" / name
    secret.parent.mkdir(parents=True)
    secret.write_text("hunter2")
    assert re.match(r"GATELOG_[A-Z_]+: ", refused(data_dir, "serve"))


def test_a_cluster_that_is_not_postgresql(data_dir: Path) -> None:
    cluster = data_dir / "postgres" / "data"
    cluster.mkdir(parents=True)
    (cluster / "PG_VERSION").write_text("9\n")
    assert "PostgreSQL did not start" in refused(data_dir, "serve")


@pytest.fixture
def unmigrated(postgres: EmbeddedPostgres) -> Iterator[str]:
    """A database elsewhere in which nothing is."""
    postgres.create_database("unmigrated")
    yield postgres.owner_dsn("unmigrated")
    postgres.drop_database("unmigrated")


def test_an_unmigrated_database_elsewhere(data_dir: Path, unmigrated: str) -> None:
    line = refused(data_dir, "serve", GATELOG_DATABASE_URL=unmigrated)
    assert line.startswith("GATELOG_DATABASE_URL: ")
    assert "Run 'migrate'" in line


def test_one_command_migrates_a_database_elsewhere(data_dir: Path, unmigrated: str) -> None:
    done = run_command(data_dir, "migrate", GATELOG_DATABASE_URL=unmigrated)
    assert done.returncode == 0, done.stderr
    with serving(data_dir, GATELOG_DATABASE_URL=unmigrated) as service:
        assert service.register() == 201
        assert not (service.data_dir / "postgres").exists()


def test_with_the_owners_url_the_service_migrates(data_dir: Path, unmigrated: str) -> None:
    urls = {"GATELOG_DATABASE_URL": unmigrated, "GATELOG_OWNER_DATABASE_URL": unmigrated}
    with serving(data_dir, **urls) as service:
        assert service.register() == 201


async def outdate(database: Dsns, oldest_served: str) -> None:
    """Make the schema that of a newer version, which serves programs from this schema on."""
    connection = await connect(database.owner, role=None)
    try:
        await connection.execute("UPDATE gatelog_schema SET version_num = '9999'")
        await connection.execute(f"COMMENT ON TABLE gatelog_schema IS '{oldest_served}'")
    finally:
        await connection.close()


def test_a_newer_schema_that_still_serves_the_program(data_dir: Path, database: Dsns) -> None:
    asyncio.run(outdate(database, newest_revision()))
    urls = {"GATELOG_DATABASE_URL": database.app, "GATELOG_OWNER_DATABASE_URL": database.owner}
    with serving(data_dir, **urls) as service:
        assert service.register() == 201
    assert "nothing to do" in run_command(data_dir, "migrate", **urls).stdout


def test_a_schema_too_new_for_the_program(data_dir: Path, database: Dsns) -> None:
    asyncio.run(outdate(database, "9998"))
    for command in ("serve", "check", "migrate"):
        line = refused(data_dir, command, GATELOG_DATABASE_URL=database.app)
        assert line.startswith("GATELOG_DATABASE_URL: ")
        assert "9999" in line


BREAK_WORKERS = """\
import sys
if "gatelog.host.nursery" in sys.orig_argv:
    import uvloop
    uvloop.EventLoopPolicy = None
"""


def test_workers_that_do_not_boot(tmp_path: Path, data_dir: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(BREAK_WORKERS)
    done = run_command(data_dir, "serve", PYTHONPATH=str(tmp_path), GATELOG_WORKERS="6")
    assert done.returncode == 1
    assert "TypeError: 'NoneType' object is not callable" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("gatelog: the workers do not start")


@pytest.mark.parametrize("command", [["user", "list"], ["check"], ["rebuild"], ["log", "show"]])
def test_commands_without_a_database(data_dir: Path, command: list[str]) -> None:
    line = refused(data_dir, *command, GATELOG_DATABASE_URL=NOBODY)
    assert line.startswith("GATELOG_DATABASE_URL: ")
