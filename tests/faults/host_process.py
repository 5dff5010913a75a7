"""A projector or a worker of a host in the fault tests: the real thing, made to hesitate.

``python -m tests.faults.host_process projector VARIANT hesitant`` (or ``calm``) or
``… worker VARIANT FD``, with the configuration in the usual variables; FD is the socket to listen
on.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys

import gatelog.host.projector
import gatelog.hosting.services
import uvloop
from aiohttp import web
from gatelog.config import Config, load_config
from gatelog.host.logs import configure_logging
from gatelog.hosting.app import create_app, make_runner

from tests.faults.hesitation import Hesitation
from tests.faults.variants import VARIANTS, Variant


def install(variant: Variant, *, calm: bool) -> None:
    """Put this variant's classes in the place of the real ones."""
    for cls in (variant.projector, variant.appender, variant.lookup):
        cls.hesitation = Hesitation() if calm else variant.hesitation
    vars(gatelog.host.projector).update(Projector=variant.projector)
    vars(gatelog.hosting.services).update(
        Appender=variant.appender, PrimaryLookup=variant.lookup, Barrier=variant.barrier
    )


async def work(config: Config, listener: int) -> None:
    """Serve until SIGTERM."""
    runner = make_runner(create_app(config, config.database_url), config)
    await runner.setup()
    await web.SockSite(runner, socket.socket(fileno=listener)).start()
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()
    await runner.cleanup()


def main() -> None:
    role, name, *rest = sys.argv[1:]
    config = load_config(os.environ)
    install(VARIANTS[name], calm=rest == ["calm"])
    if role == "projector":
        gatelog.host.projector.run(config)
    else:
        configure_logging(config)
        uvloop.run(work(config, int(rest[0])))


if __name__ == "__main__":
    main()
