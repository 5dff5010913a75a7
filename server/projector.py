"""The projector as a process: keeps this host's replica (``server.service.projector``)."""

from __future__ import annotations

import asyncio
import contextlib
import signal

import uvloop

from server.config import Config
from server.database import dsns
from server.logs import configure_logging
from server.processes import child_main
from server.service.projector import Projector


def run(config: Config) -> None:
    """Be this host's projector until SIGTERM or SIGINT."""
    configure_logging(config)
    uvloop.run(_run_until_stopped(Projector.configured(config, dsns(config).app)))


async def _run_until_stopped(projector: Projector) -> None:
    task = asyncio.ensure_future(projector.run())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task


def main() -> None:
    """The entry of the child process."""
    child_main(run)


if __name__ == "__main__":
    main()
