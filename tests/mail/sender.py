"""Sends what is due, in a process that kills itself at a step: ``STEP N PORT URL DIRECTORY``."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import msgspec
from gatelog.accounts.store.links import LinkStore
from gatelog.kinds import register_all
from gatelog.log.store.database import Database
from gatelog.mail.service.mailer import Mailer
from gatelog.mail.store.outbox import OutboxStore
from gatelog.privacy.service.personal import PersonalData

from tests.builders import CHEAP_CONFIG
from tests.mail.server import Inbox


async def nothing() -> None:
    """No requests to answer."""


async def main(last: str, nth: int, port: int, url: str, directory: str) -> None:
    seen = 0

    def on_step(step: str) -> None:
        nonlocal seen
        seen += step == last
        if seen == nth:
            os.kill(os.getpid(), signal.SIGKILL)

    register_all()
    inbox = Inbox()
    inbox.port = port
    config = inbox.settings(msgspec.structs.replace(CHEAP_CONFIG, data_dir=directory))
    database = Database(url, timeout_s=10, pool_size=2)
    mailer = Mailer(
        config,
        store=OutboxStore(database),
        personal=PersonalData(config, database),
        start_link=LinkStore(database).sent_at,
        prepare=nothing,
        device_of=str,
        on_step=on_step,
    )
    await mailer.look()
    await database.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5]))
