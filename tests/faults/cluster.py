"""Some hosts around one PostgreSQL: each has a projector and workers, processes of their own.

Every host reaches PostgreSQL through a proxy of its own and has a data directory of its own, so
it has its own replica; they differ from real hosts only in sharing a machine.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Self, TypeVar, TypeVarTuple, Unpack
from urllib.parse import urlsplit

import aiohttp
import psutil
from gatelog.host.embedded import PORT, EmbeddedPostgres
from gatelog.host.processes import child_options
from gatelog.log.store.migrate import migrate

from tests.faults.proxy import Proxy, proxying
from tests.waiting import until

ROOT = Path(__file__).parents[2]
START_WITHIN_S = 120.0

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")

_joined = re.compile(r"^(\S+) .*: replica \S+ has joined at position", re.MULTILINE)


class Server(EmbeddedPostgres):
    """A PostgreSQL whose steps are taken in a thread: clients and proxies go on meanwhile.

    It ends with the thread that has started it; so one thread takes all steps, in their order,
    and lives as long as the context.
    """

    def __init__(self, data_dir: Path, *, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(data_dir, settings=settings)
        self._thread = ThreadPoolExecutor(1, "postgres")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            await self.take(self.stop)
        finally:
            self._thread.shutdown()

    async def take(self, step: Callable[[Unpack[Arguments]], T], *arguments: *Arguments) -> T:
        """Take this step; once begun it is finished, even if nobody waits for it any more."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, step, *arguments)

    async def kill(self) -> None:
        """kill -9 of the postmaster; its children find out."""
        await self.take(self._kill)

    def _kill(self) -> None:
        pid = self.running_pid()
        if pid is not None:
            psutil.Process(pid).kill()
        self.stop()


class Process:
    """A process that can be stopped, continued, killed and started again."""

    def __init__(self, name: str, arguments: list[str], environ: dict[str, str], log: Path) -> None:
        self.name = name
        self._arguments = arguments
        self._environ = environ
        self._log = log
        self._fds: tuple[int, ...] = ()
        self._popen: subprocess.Popen[bytes] | None = None

    def start(self, *fds: int) -> None:
        self._fds = fds or self._fds
        with self._log.open("ab") as log:
            self._popen = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.host_process", *self._arguments],
                env=self._environ,
                cwd=ROOT,
                pass_fds=self._fds,
                stdout=log,
                stderr=log,
                **child_options(signal.SIGKILL),
            )

    @property
    def running(self) -> bool:
        return self._popen is not None and self._popen.poll() is None

    def send(self, number: signal.Signals) -> None:
        if self._popen is not None and self.running:
            self._popen.send_signal(number)

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        if self._popen is not None:
            self._popen.kill()
            self._popen.wait()

    def log(self) -> str:
        return self._log.read_text()


class Host:
    """A projector and its workers, and their way to the database, or to several servers of it."""

    def __init__(
        self,
        name: str,
        proxies: list[Proxy],
        config: dict[str, str],
        directory: Path,
        *,
        variant: str,
        temper: str,
    ) -> None:
        self.name = name
        self.proxies = proxies
        self.proxy = proxies[0]
        self._config = config | {"GATELOG_DATA_DIR": str(directory / name)}
        self._log = directory / f"{name}.log"
        self._variant = variant
        (directory / name).mkdir()
        self.projector = self._process("projector", temper)
        self.workers: list[Process] = []
        self.ports: list[int] = []

    def _process(self, role: str, *arguments: str) -> Process:
        environ = {k: v for k, v in os.environ.items() if not k.startswith("GATELOG_")}
        return Process(
            f"{role} of {self.name}",
            [role, self._variant, *arguments],
            environ | self._config,
            self._log,
        )

    def add_worker(self) -> socket.socket:
        """Start a worker; the socket stays open here, so that a new worker can take it over."""
        listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        worker = self._process("worker", str(listener.fileno()))
        worker.start(listener.fileno())
        self.workers.append(worker)
        self.ports.append(listener.getsockname()[1])
        return listener

    @property
    def processes(self) -> list[Process]:
        return [self.projector, *self.workers]

    def log(self) -> str:
        return self._log.read_text()

    def joins(self) -> list[int]:
        """When its replica has joined: nanoseconds of CLOCK_MONOTONIC, exact to a millisecond."""
        ahead_ns = time.time_ns() - time.monotonic_ns()
        times = [datetime.fromisoformat(found).timestamp() for found in _joined.findall(self.log())]
        return [int(at * 1e9) - ahead_ns for at in times]


class Cluster:
    """The database and the hosts."""

    def __init__(self, postgres: Server, hosts: list[Host]) -> None:
        self.postgres = postgres
        self.hosts = hosts

    @property
    def workers(self) -> dict[str, str]:
        """The base URL of every worker, by its name."""
        return {
            f"{host.name}:{number}": f"http://127.0.0.1:{port}"
            for host in self.hosts
            for number, port in enumerate(host.ports)
        }

    def joins(self) -> list[int]:
        """When replicas have joined."""
        return [at for host in self.hosts for at in host.joins()]


@asynccontextmanager
async def fresh_postgres(directory: Path, **settings: str) -> AsyncIterator[Server]:
    """A migrated database server of the test's own."""
    async with Server(
        directory / "pg", settings={"max_connections": "200", **settings}
    ) as postgres:
        await postgres.take(postgres.start)
        await postgres.take(postgres.create_database, "service")
        await migrate(postgres.owner_dsn("service"))
        yield postgres


def app_url(postgres: EmbeddedPostgres, proxies: list[Proxy]) -> str:
    """The application's URL of the database behind these proxies."""
    url = urlsplit(postgres.app_dsn("service"))
    hosts = ",".join(f"127.0.0.1:{proxy.port}" for proxy in proxies)
    return f"postgresql://{url.username}:{url.password}@{hosts}/service?sslmode=disable"


@asynccontextmanager
async def running_cluster(
    directory: Path,
    *,
    hosts: int = 3,
    workers: int = 2,
    variant: str = "faithful",
    hesitant: int = 1000,
    lease_ttl_s: float = 1.0,
    idle_s: int | None = None,
    projectors: bool = True,
    postgres: Server | None = None,
    standby: Server | None = None,
    settings: Mapping[str, str] | None = None,
    proxied: bool = True,
) -> AsyncIterator[Cluster]:
    """The whole service in many processes, all of them up, on a server of its own unless given.

    ``settings``: variables of every host, beside those that all clusters have. ``proxied``: reach
    the database through the proxies, which take time of this very process.
    The first ``hesitant`` projectors hesitate as the variant has it. Every host knows the standby,
    if there is one.
    """
    async with AsyncExitStack() as stack:
        if postgres is None:
            postgres = await stack.enter_async_context(fresh_postgres(directory, fsync="off"))
        cluster = Cluster(postgres, [])
        resources = stack.enter_context(ExitStack())
        servers = [postgres] if standby is None else [postgres, standby]
        for number in range(hosts):
            proxies = [
                await stack.enter_async_context(proxying(server.socket_dir / f".s.PGSQL.{PORT}"))
                for server in servers
            ]
            host = Host(
                f"host{number}",
                proxies,
                _config(
                    app_url(postgres, proxies) if proxied else postgres.app_dsn("service"),
                    lease_ttl_s,
                    idle_s,
                )
                | dict(settings or {}),
                directory,
                variant=variant,
                temper="hesitant" if number < hesitant else "calm",
            )
            cluster.hosts.append(host)
            stack.callback(_kill, host)
            if projectors:
                host.projector.start()
            for _ in range(workers):
                resources.enter_context(host.add_worker())
        await _all_ready(cluster)
        yield cluster


def _config(dsn: str, lease_ttl_s: float, idle_s: int | None) -> dict[str, str]:
    idle = {} if idle_s is None else {"GATELOG_SESSION_IDLE_S": str(idle_s)}
    return idle | {
        "GATELOG_DATABASE_URL": dsn,
        "GATELOG_LEASE_TTL_S": str(lease_ttl_s),
        "GATELOG_REGISTRATION": "open",
        "GATELOG_MASTER_KEY": b64encode(bytes(32)).decode(),
        "GATELOG_ARGON2_MEMORY_KIB": "8",
        "GATELOG_ARGON2_TIME_COST": "1",
        "GATELOG_LOGIN_TRIES": "100000",
        "GATELOG_REGISTRATION_TRIES": "100000",
        "GATELOG_HASHING_QUEUE": "1000",
        "GATELOG_DATABASE_TIMEOUT_S": "2",
        "GATELOG_DATABASE_POOL": "2",
        "GATELOG_MAX_SESSIONS_PER_USER": "1000",
        "GATELOG_REPLICA_MAX_MIB": "64",
    }


def _kill(host: Host) -> None:
    for process in host.processes:
        process.kill()


async def _all_ready(cluster: Cluster) -> None:
    async with aiohttp.ClientSession() as client:
        for base in cluster.workers.values():

            async def is_ready(base: str = base) -> bool:
                try:
                    async with client.get(f"{base}/health/ready") as answer:
                        return answer.status == 200
                except aiohttp.ClientError:
                    return False

            try:
                await until(is_ready, within_s=START_WITHIN_S)
            except AssertionError:
                words = "\n".join(host.log() for host in cluster.hosts)
                raise AssertionError(f"not ready: {base}\n{words}") from None
