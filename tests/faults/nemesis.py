"""Who does all the harm: stops, kills, cuts and restarts, one thing after the other.

Everything has its turn, in another order each time, and for a while of another length.
"""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from gatelog.errors import DatabaseUnavailable
from gatelog.log.store.database import connect

from tests.faults.cluster import Cluster, Host, Process
from tests.faults.load import Load

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection

Harm = Callable[[], Coroutine[Any, Any, None]]

POSTGRES_IS_KILLED, POSTGRES_IS_BACK = "kill PostgreSQL", "PostgreSQL is back"
TERMINATE = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE pid <> pg_backend_pid() AND datname = current_database() AND random() < 0.5
"""


class Nemesis:
    """Harms the cluster, and lets it recover from each harm before the next of its kind."""

    def __init__(self, cluster: Cluster, load: Load, *, lease_ttl_s: float, seed: int) -> None:
        self._cluster = cluster
        self._load = load
        self._ttl_s = lease_ttl_s
        self._random = random.Random(seed)
        self._to_processes: list[Harm] = [
            self._stop_projector,
            self._stop_worker,
            self._kill_projector,
            self._kill_worker,
            self._restart_projector,
        ]
        self._to_connections: list[Harm] = [
            self._drop,
            self._refuse,
            self._freeze,
            self._freeze,
            self._terminate,
            self._kill_postgres,
        ]
        self.done = {_name(harm): 0 for harm in self._to_processes + self._to_connections}
        self.calm_s = 0.0  # between one round of all harms and the next

    @property
    def missing(self) -> list[str]:
        """What has not been done to the end so far."""
        return [name for name, times in self.done.items() if not times]

    async def harm_processes(self) -> None:
        """Stop, kill and restart projectors and workers, until cancelled."""
        await self._forever(self._to_processes)

    async def harm_connections(self) -> None:
        """Cut, refuse, freeze and terminate connections, and kill PostgreSQL."""
        await self._forever(self._to_connections)

    async def _forever(self, harms: list[Harm]) -> None:
        while True:
            for harm in self._random.sample(harms, len(harms)):
                await asyncio.sleep(self._random.uniform(0, 0.5 * self._ttl_s))
                await harm()
                self.done[_name(harm)] += 1
            await asyncio.sleep(self.calm_s)

    async def _a_while(self) -> None:
        await asyncio.sleep(self._random.uniform(0, 2.5 * self._ttl_s))

    def _host(self) -> Host:
        return self._random.choice(self._cluster.hosts)

    async def _stop(self, process: Process) -> None:
        self._load.note(f"stop {process.name}")
        process.send(signal.SIGSTOP)
        try:
            await self._a_while()
        finally:
            self._load.note(f"continue {process.name}")
            process.send(signal.SIGCONT)

    async def _stop_projector(self) -> None:
        await self._stop(self._host().projector)

    async def _stop_worker(self) -> None:
        await self._stop(self._random.choice(self._host().workers))

    async def _kill(self, process: Process) -> None:
        self._load.note(f"kill {process.name}")
        process.kill()
        try:
            await self._a_while()
        finally:
            self._load.note(f"start {process.name}")
            process.start()

    async def _kill_projector(self) -> None:
        await self._kill(self._host().projector)

    async def _kill_worker(self) -> None:
        await self._kill(self._random.choice(self._host().workers))

    async def _restart_projector(self) -> None:
        """An orderly end, and a join in the middle of everything."""
        projector = self._host().projector
        self._load.note(f"end {projector.name}")
        projector.send(signal.SIGTERM)
        await self._a_while()
        projector.kill()
        self._load.note(f"start {projector.name}")
        projector.start()

    async def _drop(self) -> None:
        host = self._host()
        self._load.note(f"drop connections of {host.name}")
        host.proxy.drop()

    async def _refuse(self) -> None:
        host = self._host()
        self._load.note(f"refuse connections of {host.name}")
        host.proxy.refuse(True)
        try:
            await self._a_while()
        finally:
            self._load.note(f"take connections of {host.name}")
            host.proxy.refuse(False)

    async def _freeze(self) -> None:
        host = self._host()
        self._load.note(f"freeze connections of {host.name}")
        host.proxy.freeze()
        try:
            await self._a_while()
        finally:
            self._load.note(f"thaw connections of {host.name}")
            host.proxy.thaw()

    async def _terminate(self) -> None:
        self._load.note("terminate backends")
        connection = await self._connect()
        try:
            await connection.execute(TERMINATE)
        finally:
            await connection.close()

    async def _connect(self) -> Connection:
        while True:
            try:
                return await connect(self._cluster.postgres.superuser_dsn("service"), role=None)
            except DatabaseUnavailable:  # a busy machine
                await self._a_while()

    async def _kill_postgres(self) -> None:
        """What was committed synchronously is still there afterwards."""
        postgres = self._cluster.postgres
        self._load.note(POSTGRES_IS_KILLED)
        await postgres.kill()
        await self._a_while()
        await postgres.take(postgres.start)
        self._load.note(POSTGRES_IS_BACK)


def _name(harm: Harm) -> str:
    return harm.__name__.strip("_")
