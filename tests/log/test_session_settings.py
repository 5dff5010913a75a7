"""Sessions of the database, whatever its defaults are and whoever is in between."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import socket
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import asyncpg
import pytest
from gatelog.errors import ConfigError, DatabaseUnavailable
from gatelog.host.embedded import PORT, EmbeddedPostgres
from gatelog.log.store.appender import Appender
from gatelog.log.store.database import connect, refuse_shared_sessions
from gatelog.log.store.migrate import migrate
from gatelog.log.store.reading import read_head
from gatelog.log.store.rebuild import check

from tests.builders import end, failure, registration, start
from tests.conftest import Dsns
from tests.scratch import in_temporary_directory
from tests.stack.service import complaints, run_command
from tests.waiting import eventually, free_port

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection

    Connect = Callable[[], Awaitable[Connection]]

HOSTILE = {
    "synchronous_commit": "off",
    "default_transaction_isolation": "serializable",
    "default_transaction_deferrable": "on",
    "search_path": "nowhere",
    "timezone": "Asia/Kathmandu",
    "datestyle": "SQL, DMY",
    "intervalstyle": "sql_standard",
    "bytea_output": "escape",
    "standard_conforming_strings": "off",
    "statement_timeout": "900",
    "lock_timeout": "800",
    "idle_session_timeout": "700",
    "idle_in_transaction_session_timeout": "600",
    "row_security": "off",
    "jit": "on",
    "client_encoding": "LATIN1",
}
WANTED = {
    "synchronous_commit": "on",
    "default_transaction_isolation": "read committed",
    "default_transaction_deferrable": "off",
    "search_path": "public",
    "timezone": "UTC",
    "datestyle": "ISO, MDY",
    "intervalstyle": "postgres",
    "bytea_output": "hex",
    "standard_conforming_strings": "on",
    "statement_timeout": "10s",
    "lock_timeout": "10s",
    "idle_session_timeout": "0",
    "idle_in_transaction_session_timeout": "2s",
    "row_security": "on",
    "jit": "off",
    "client_encoding": "UTF8",
}


async def run_as_superuser(dsn: str, *statements: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


def name_of(dsn: str) -> str:
    return urlsplit(dsn).path.removeprefix("/")


async def spoil(database: Dsns, defaults: dict[str, str]) -> None:
    """Make these the defaults, of the database and of the roles that are used."""
    name = name_of(database.app)
    roles = [urlsplit(dsn).username for dsn in (database.app, database.owner)]
    await run_as_superuser(
        database.superuser,
        *(
            f"ALTER {what} SET {setting} = '{value}'"
            for setting, value in defaults.items()
            for what in (
                f'DATABASE "{name}"',
                *(f'ROLE "{role}" IN DATABASE "{name}"' for role in roles),
            )
        ),
    )


@pytest.mark.parametrize("who", ["app", "owner"])
async def test_no_default_reaches_a_session(database: Dsns, who: str) -> None:
    await spoil(database, HOSTILE)
    role = None if who == "owner" else "gatelog_app"
    connection = await connect(getattr(database, who), role=role, timeout_s=10)
    try:
        found = {name: await connection.fetchval(f"SHOW {name}") for name in WANTED}
    finally:
        await connection.close()
    assert found == WANTED


async def test_the_log_works_whatever_the_defaults_are(database: Dsns) -> None:
    await spoil(database, HOSTILE)
    assert await migrate(database.owner) == []
    async with Appender(lambda: connect(database.app), timeout_s=10) as appender:
        user = registration("наташа")
        await appender.submit(user)
        started = [start(user.event.subject_id) for _ in range(20)]
        await asyncio.gather(*(appender.submit(each) for each in started))
        await asyncio.gather(*(appender.submit(end(each)) for each in started[:5]))
    assert (await check(database.app)).differences == []


@pytest.mark.parametrize("stricter", ["remote_apply", "remote_write"])
async def test_who_wants_more_than_this_disk_gets_it(database: Dsns, stricter: str) -> None:
    await spoil(database, {"synchronous_commit": stricter})
    connection = await connect(database.app)
    assert await connection.fetchval("SHOW synchronous_commit") == stricter
    await connection.close()


async def acknowledged(own: EmbeddedPostgres, connect_to: Connect) -> int:
    """How many events were acknowledged, as a head; then PostgreSQL is killed and starts again."""
    async with Appender(connect_to, timeout_s=20) as appender:
        position = 0
        for _ in range(13):
            position = (await appender.submit(failure())).position
        postmaster = int((own.cluster / "postmaster.pid").read_text().split()[0])
        os.kill(postmaster, signal.SIGKILL)
    return position


@pytest.mark.parametrize("lifted", [True, False])
async def test_what_was_acknowledged_survives_a_kill(lifted: bool) -> None:
    """``lifted`` False: the same on connections as the database would have them, to see that this
    test would find a loss."""
    with in_temporary_directory() as directory:
        # nobody writes the WAL but who waits for it
        own = EmbeddedPostgres(Path(directory) / "pg", settings={"wal_writer_delay": "10s"})
        own.start()
        try:
            await migrate(own.owner_dsn())
            name = name_of(own.app_dsn())
            await run_as_superuser(
                own.superuser_dsn(), f'ALTER DATABASE "{name}" SET synchronous_commit = off'
            )

            async def as_the_database_would() -> Connection:
                connection = await connect(own.app_dsn())
                await connection.execute("SET synchronous_commit = off")
                return connection

            async def as_it_is() -> Connection:
                return await connect(own.app_dsn())

            told = await acknowledged(own, as_it_is if lifted else as_the_database_would)
            own.stop()
            own.start()
            connection = await connect(own.app_dsn())
            head = (await read_head(connection)).position
            await connection.close()
            assert told == 13
            assert (head == told) == lifted
        finally:
            own.stop()


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
async def test_a_database_that_cannot_hold_every_name(
    postgres: EmbeddedPostgres, encoding: str
) -> None:
    name = f"other_{encoding.lower()}"
    await run_as_superuser(
        postgres.superuser_dsn(),
        f"CREATE DATABASE {name} OWNER gatelog_owner ENCODING {encoding} LOCALE 'C'"
        " TEMPLATE template0",
    )
    try:
        with pytest.raises(ConfigError, match=f"encoded in {encoding}; UTF8"):
            await migrate(postgres.owner_dsn(name))
    finally:
        postgres.drop_database(name)


@pytest.mark.parametrize("there", [True, False])
async def test_a_search_path_without_public(postgres: EmbeddedPostgres, there: bool) -> None:
    postgres.create_database("pathless")
    superuser = postgres.superuser_dsn("pathless")
    try:
        await run_as_superuser(superuser, "ALTER DATABASE pathless SET search_path = 'elsewhere'")
        if there:
            assert await migrate(postgres.owner_dsn("pathless")) != []
        else:
            await run_as_superuser(superuser, "DROP SCHEMA public CASCADE")
            with pytest.raises(ConfigError, match="there is no schema 'public'"):
                await migrate(postgres.owner_dsn("pathless"))
    finally:
        postgres.drop_database("pathless")


# --- a pooler in between


@contextmanager
def pgbouncer(postgres: EmbeddedPostgres, dsn: str, mode: str) -> Iterator[str]:
    """A real PgBouncer before this database; gives the URL through it."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    assert program, "install PgBouncer (apt-get install pgbouncer): it is tried for real here"
    parts, port = urlsplit(dsn), free_port()
    account = pwd.getpwuid(postgres.socket_dir.stat().st_uid)
    with in_temporary_directory() as directory:
        folder = Path(directory)
        users = folder / "users.txt"
        users.write_text(f'"{parts.username}" "{unquote(parts.password or "")}"\n')
        settings = folder / "pgbouncer.ini"
        settings.write_text(
            f"[databases]\n* = host={postgres.socket_dir} port={PORT}\n[pgbouncer]\n"
            f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
            f"auth_type = plain\nauth_file = {users}\npool_mode = {mode}\n"
            f"max_client_conn = 200\ndefault_pool_size = 50\n"
        )
        as_root = os.geteuid() == 0
        for path in (folder, users, settings):
            if as_root:
                os.chown(path, account.pw_uid, account.pw_gid)
        command = [program, "-q", str(settings)]
        process = subprocess.Popen(
            command,
            user=account.pw_uid if as_root else None,
            group=account.pw_gid if as_root else None,
            stderr=subprocess.DEVNULL,
        )
        host = f"{parts.username}:{parts.password}@127.0.0.1:{port}"
        through = f"postgresql://{host}{parts.path}"
        try:
            eventually(lambda: answers(port), 20, "PgBouncer")
            yield through
        finally:
            process.terminate()
            process.wait()


def answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


async def test_a_pooler_of_transactions_is_refused(
    postgres: EmbeddedPostgres, database: Dsns
) -> None:
    with pgbouncer(postgres, database.app, "transaction") as dsn:
        for _ in range(5):
            with pytest.raises(ConfigError, match="PgBouncer"):
                await refuse_shared_sessions(dsn)


async def test_a_pooler_of_sessions_is_not(postgres: EmbeddedPostgres, database: Dsns) -> None:
    await refuse_shared_sessions(database.app)
    with pgbouncer(postgres, database.app, "session") as dsn:
        for _ in range(5):
            await refuse_shared_sessions(dsn)
        connection = await connect(dsn, timeout_s=10)
        found = {name: await connection.fetchval(f"SHOW {name}") for name in WANTED}
        assert found == WANTED
        assert await connection.fetchval("SELECT current_user") == "gatelog_app"
        await connection.close()
        async with Appender(lambda: connect(dsn), timeout_s=10) as appender:
            assert (await appender.submit(registration("ada"))).position == 1


@pytest.mark.parametrize("command", [["serve"], ["migrate"], ["status"], ["user", "list"]])
def test_every_command_says_so_in_one_line(
    postgres: EmbeddedPostgres, database: Dsns, tmp_path: Path, command: list[str]
) -> None:
    with pgbouncer(postgres, database.app, "transaction") as dsn:
        done = run_command(tmp_path / "var", *command, GATELOG_DATABASE_URL=dsn)
    assert done.returncode == 1
    (line,) = complaints(done)
    assert "GATELOG_DATABASE_URL" in line
    assert "let it pool sessions" in line
    assert "Traceback" not in done.stderr


async def test_what_nobody_foresaw_is_503_and_logged(
    database: Dsns, caplog: pytest.LogCaptureFixture
) -> None:
    """A column that a rule of the database's owner refuses, as nobody could know."""
    await run_as_superuser(
        database.superuser,
        "ALTER TABLE public.events ADD CONSTRAINT odd CHECK (type <> 'login_failed')",
    )
    async with Appender(lambda: connect(database.app), timeout_s=10) as appender:
        with pytest.raises(DatabaseUnavailable):
            await appender.submit(failure())
    assert "a defective command" in caplog.text
    assert "odd" in caplog.text
