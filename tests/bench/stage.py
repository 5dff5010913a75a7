"""Where the HTTP benchmarks take place: a filled PostgreSQL, Redis, and the client's tokens.

The calling process, which is the client, and all that is started here keep to the cores that are
not the measured server's.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import redis.asyncio
from rich.console import Console

from server.embedded import EmbeddedPostgres
from server.store.database import connect
from server.store.migrate import migrate
from tests.bench.machine import Cores, ServerProcess, server_process, split_cores
from tests.bench.population import Tokens, fill_postgres, fill_redis

CONTESTANTS = "tests.bench.contestants"
_REDIS_START_S = 10.0
_POLL_S = 0.02


class Stage(msgspec.Struct, frozen=True):
    """What is set up. ``redis_socket`` is None on a machine without a Redis server."""

    postgres: EmbeddedPostgres
    redis_socket: Path | None
    tokens: Tokens
    other_sessions: int
    cores: Cores
    console: Console

    @contextmanager
    def server(self, name: str, *, pinned: bool = True) -> Iterator[ServerProcess]:
        """A contestant as a process."""
        arguments = [name, self.postgres.app_dsn(), str(self.redis_socket)]
        with server_process(
            CONTESTANTS, arguments, self.cores.server if pinned else self.cores.all
        ) as running:
            yield running


@contextmanager
def open_stage(console: Console, sessions: int, other_sessions: int) -> Iterator[Stage]:
    """Set everything up, with so many sessions in PostgreSQL, and so many in Redis."""
    cores = split_cores()
    os.sched_setaffinity(0, cores.others)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="gatelog-bench-") as name:
        directory = Path(name)
        postgres = EmbeddedPostgres(directory / "pg", settings={"shared_buffers": "512MB"})
        postgres.start()
        try:
            with redis_server(directory) as socket:
                asyncio.run(_fill(postgres, socket, sessions, other_sessions))
                tokens = Tokens(sessions)
                seconds = time.perf_counter() - began
                console.print(
                    f"{sessions:,} sessions in PostgreSQL, "
                    + (f"{other_sessions:,} in Redis" if socket else "no Redis on this machine")
                    + f", made in {seconds:.1f} s; server on core {sorted(cores.server)},"
                    f" everything else on {sorted(cores.others)}"
                )
                yield Stage(postgres, socket, tokens, other_sessions, cores, console)
        finally:
            postgres.stop()


async def _fill(
    postgres: EmbeddedPostgres, socket: Path | None, sessions: int, other_sessions: int
) -> None:
    await migrate(postgres.owner_dsn())
    owner = await connect(postgres.owner_dsn(), role=None)
    await fill_postgres(owner, sessions)
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
    give_up = time.monotonic() + _REDIS_START_S
    while True:
        try:
            await client.ping()
        except redis.ConnectionError:
            if time.monotonic() > give_up:
                raise
            await asyncio.sleep(_POLL_S)
        else:
            return
