"""The projector as a process: keeps this host's replica (``sessions.service.projector``)."""

from __future__ import annotations

import asyncio
import contextlib
import signal

import uvloop

from gatelog.config import Config
from gatelog.host.database import dsns
from gatelog.host.logs import configure_logging
from gatelog.host.processes import child_main
from gatelog.kinds import register_all
from gatelog.proofs.service.history import history_guard
from gatelog.sessions.service.projector import Projector


def run(config: Config) -> None:
    """Be this host's projector until SIGTERM or SIGINT."""
    configure_logging(config)
    register_all()
    projector = Projector.configured(config, dsns(config).app, history_guard(config))
    uvloop.run(_run_until_stopped(projector))


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
