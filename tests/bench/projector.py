"""A projector as the benchmarks start it: ``python -m tests.bench.projector DSN CONFIG``."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys

import msgspec
import uvloop
from gatelog.config import Config
from gatelog.proofs.service.history import history_guard
from gatelog.sessions.service.projector import projecting


async def run(config: Config, dsn: str) -> None:
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    async with projecting(config, dsn, history_guard(config)):
        print(0, flush=True)  # it serves nobody; there is no port
        await stopped.wait()


def main() -> None:
    dsn, text = sys.argv[1:]
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(run(msgspec.json.decode(text, type=Config), dsn))


if __name__ == "__main__":
    main()
