"""Where the HTTP benchmarks take place: a filled PostgreSQL, Redis, and the client's tokens.

The calling process, which is the client, and all that is started here keep to the cores that are
not the measured server's.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import subprocess
import tempfile
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec
import redis.asyncio
from gatelog.config import Config
from gatelog.host.embedded import EmbeddedPostgres
from gatelog.log.store.database import connect
from gatelog.log.store.migrate import migrate
from gatelog.sessions.store.replica import ReplicaReader
from gatelog.sessions.store.replica_place import ReplicaPlace
from rich.console import Console

from tests.bench.contestants import Setting
from tests.bench.machine import Cores, ServerProcess, server_process, split_cores
from tests.bench.population import Tokens, fill_postgres, fill_redis, fill_tokens
from tests.builders import UNLIMITED

CONTESTANTS = "tests.bench.contestants"
PROJECTOR = "tests.bench.projector"
_START_S = 60.0
_POLL_S = 0.02
_MEMORY = Path("/dev/shm")  # noqa: S108


class Stage(msgspec.Struct, frozen=True):
    """What is set up. ``redis_socket`` is None on a machine without a Redis server.

    ``hosts`` are the configurations of several hosts on one database; ``host`` is the first.
    """

    postgres: EmbeddedPostgres
    redis_socket: Path | None
    hosts: list[Config]
    tokens: Tokens
    other_sessions: int
    cores: Cores
    console: Console

    @property
    def host(self) -> Config:
        return self.hosts[0]

    @contextmanager
    def server(
        self, name: str, config: Config | None = None, *, pinned: bool = True
    ) -> Iterator[ServerProcess]:
        """A contestant as a process."""
        setting = Setting(
            name, self.postgres.app_dsn(), config or self.host, str(self.redis_socket or "")
        )
        cores = self.cores.server if pinned else self.cores.all
        with server_process(CONTESTANTS, [_json(setting)], cores) as running:
            yield running

    @contextmanager
    def projector(self, config: Config | None = None) -> Iterator[ServerProcess]:
        """A host's projector as a process, with its replica filled and leased."""
        config = config or self.host
        arguments = [self.postgres.app_dsn(), _json(config)]
        with server_process(PROJECTOR, arguments, self.cores.others) as running:
            wait_for_lease(config)
            yield running


def _json(content: msgspec.Struct) -> str:
    return msgspec.json.encode(content).decode()


def wait_for_lease(config: Config) -> None:
    """Wait until the workers of this host may answer from memory."""
    _wait_for_longer_lease(config, 0)


def wait_for_renewal(config: Config) -> None:
    """Wait until this host's lease, which is there, has only just been renewed."""
    _wait_for_longer_lease(config, None)


def _wait_for_longer_lease(config: Config, than_ns: int | None) -> None:
    """Wait until more is left of the lease than this, or than there was a moment before."""
    reader = ReplicaReader(ReplicaPlace(config))
    give_up = time.monotonic() + _START_S
    while True:
        status = reader.status()
        left_ns = status.lease_ns if status else 0
        if than_ns is not None and left_ns > than_ns:
            break
        if time.monotonic() > give_up:
            raise RuntimeError("the replica has no lease")
        than_ns = max(left_ns, 0)
        time.sleep(_POLL_S)
    reader.close()


@contextmanager
def open_stage(
    console: Console, sessions: int, other_sessions: int, *, hosts: int = 3
) -> Iterator[Stage]:
    """Set everything up, with so many sessions in PostgreSQL, and so many in Redis."""
    cores = split_cores()
    os.sched_setaffinity(0, cores.others)
    began = time.perf_counter()
    with ExitStack() as stack:
        directory = _temporary(stack, None)
        memory = _temporary(stack, _MEMORY if _MEMORY.is_dir() else None)
        postgres = EmbeddedPostgres(directory / "pg", settings={"shared_buffers": "512MB"})
        postgres.start()
        stack.callback(postgres.stop)
        socket = stack.enter_context(redis_server(directory))
        asyncio.run(_fill(postgres, socket, sessions, other_sessions))
        stage = Stage(
            postgres,
            socket,
            _configurations(directory, memory, hosts),
            Tokens(sessions),
            other_sessions,
            cores,
            console,
        )
        console.print(
            f"{sessions:,} sessions in PostgreSQL, "
            + (f"{other_sessions:,} in Redis" if socket else "no Redis on this machine")
            + f", made in {time.perf_counter() - began:.1f} s;"
            f" server on core {sorted(cores.server)}, everything else on {sorted(cores.others)}"
        )
        yield stage


def _temporary(stack: ExitStack, below: Path | None) -> Path:
    return Path(
        stack.enter_context(
            tempfile.TemporaryDirectory(
                prefix="gatelog-bench-", dir=below, ignore_cleanup_errors=True
            )
        )
    )


def _configurations(directory: Path, memory: Path, hosts: int) -> list[Config]:
    master_key = b64encode(secrets.token_bytes(32)).decode()
    return [
        Config(
            data_dir=str(directory / f"host{number}"),
            replica_dir=str(memory / f"host{number}"),
            master_key=master_key,
            registration="open",
            identity_issuer="https://gatelog.example",
            trusted_proxies="127.0.0.1",
            login_tries=UNLIMITED,
            registration_tries=UNLIMITED,
        )
        for number in range(hosts)
    ]


async def _fill(
    postgres: EmbeddedPostgres, socket: Path | None, sessions: int, other_sessions: int
) -> None:
    await migrate(postgres.owner_dsn())
    owner = await connect(postgres.owner_dsn(), role=None)
    await fill_postgres(owner, sessions)
    await fill_tokens(owner)
    await owner.close()
    if socket is not None:
        async with redis.asyncio.Redis(unix_socket_path=str(socket)) as client:
            await _answers(client)
            await fill_redis(client, other_sessions)


@contextmanager
def redis_server(directory: Path) -> Iterator[Path | None]:
    """A Redis of the benchmark's own, on a socket; None when the machine has none."""
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        yield None
        return
    socket = directory / "redis.sock"
    options = ["--port", "0", "--unixsocket", str(socket), "--save", "", "--appendonly", "no"]
    command = [program, *options, "--dir", str(directory)]
    with (
        (directory / "redis.log").open("wb") as log,
        subprocess.Popen(command, stdout=log) as process,
    ):
        try:
            yield socket
        finally:
            process.terminate()


async def _answers(client: redis.asyncio.Redis) -> None:
    give_up = time.monotonic() + _START_S
    while True:
        try:
            await client.ping()
        except redis.ConnectionError:
            if time.monotonic() > give_up:
                raise
            await asyncio.sleep(_POLL_S)
        else:
            return
