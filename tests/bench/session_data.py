"""Session data: ours against aiohttp-session on Redis, in one run.

``python -m tests.bench.session_data``: one client over one connection asks a handler that reads
its session, and one that writes to it. Ours is durable (PostgreSQL syncs each write) and checks who
asks; Redis keeps it in memory and does neither.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median

import msgspec
from gatelog.host.embedded import EmbeddedPostgres
from gatelog.kinds import register_all
from gatelog.log.store.migrate import migrate

from tests.builders import CHEAP_CONFIG
from tests.session_data.storages import OURS, REDIS, Client, world_of

REQUESTS = 500
ROUNDS = 5


async def rate(client: Client, method: str, path: str) -> float:
    """Requests a second, one after the other."""
    began = time.perf_counter()
    for n in range(REQUESTS):
        body = {"n": n} if method == "POST" else None
        assert (await client.send(method, path, json=body)).status == 200
    return REQUESTS / (time.perf_counter() - began)


async def measure(directory: Path, dsn: str, rounds: int) -> dict[tuple[str, str], float]:
    """The median rate of each storage and kind of request, in turns."""
    config = msgspec.structs.replace(
        CHEAP_CONFIG, data_dir=str(directory / "data"), registration="open"
    )
    rates: dict[tuple[str, str], list[float]] = {}
    async with AsyncExitStack() as stack:
        clients = {}
        for name in (OURS, REDIS):
            folder = directory / name
            folder.mkdir()
            world = await stack.enter_async_context(
                world_of(name, config, dsn, folder, projector=True)
            )
            clients[name] = await world.client()
            await clients[name].post("/write", {"n": 0})
        await asyncio.sleep(1)  # the replica has the session then
        for _ in range(rounds):
            for name, client in clients.items():
                for method, path in (("GET", "/read"), ("POST", "/write")):
                    rates.setdefault((name, path), []).append(await rate(client, method, path))
    return {key: median(values) for key, values in rates.items()}


def main() -> None:
    register_all()
    # on a disk: in memory a write would cost no sync
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        directory = Path(name)
        server = EmbeddedPostgres(directory / "pg")
        server.start()
        try:
            server.create_database("bench")
            asyncio.run(migrate(server.owner_dsn("bench")))
            rates = asyncio.run(measure(directory, server.app_dsn("bench"), ROUNDS))
        finally:
            server.stop()
    for (storage, path), value in sorted(rates.items()):
        print(f"{storage:6} {path:7} {value:7.0f}/s")


if __name__ == "__main__":
    main()
