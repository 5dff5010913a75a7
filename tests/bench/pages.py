"""How long pages take until their first byte, on loopback: ``python -m tests.bench.pages``."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time

import msgspec
from gatelog.config import Config
from gatelog.kinds import register_all
from gatelog.testing.postgres import Dsns, make_database, template_postgres

from tests.builders import CHEAP_CONFIG
from tests.pages.site import HTML, Site, serving_site

TIMES = 200
PAGES = ("/", "/login", "/account", "/account/factors", "/account/tokens", "/account/history")
GOAL_MS = 200.0
PERCENTILES = 100


async def measured(site: Site, path: str, token: str) -> list[float]:
    """How long each of so many answers took, in milliseconds."""
    found = []
    for _ in range(TIMES):
        began = time.perf_counter()
        answer = await site.get(path, headers=HTML, cookie=token)
        found.append((time.perf_counter() - began) * 1000)
        assert answer.status in {200, 303}, (path, answer.status)
    return found


async def measure(config: Config, urls: Dsns) -> None:
    async with serving_site(config, urls) as site:
        token = await site.token()
        print(f"{'page':20} {'p50':>8} {'p99':>8}   (ms; goal: {GOAL_MS:.0f})")
        for path in PAGES:
            times = await measured(site, path, token)
            p99 = statistics.quantiles(times, n=PERCENTILES)[-1]
            print(f"{path:20} {statistics.median(times):8.1f} {p99:8.1f}")


def main() -> None:
    register_all()
    with template_postgres() as server, tempfile.TemporaryDirectory() as directory:
        _, urls = make_database(server)
        config = msgspec.structs.replace(CHEAP_CONFIG, data_dir=directory, registration="open")
        asyncio.run(measure(config, urls))


if __name__ == "__main__":
    main()
