"""``run.py projector``: a host's replica, kept without ``serve``."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from contextlib import closing
from pathlib import Path

from gatelog.accounts.rules.login import StartSession
from gatelog.config import load_config
from gatelog.log.rules.kinds import Command
from gatelog.log.store.appender import Appender
from gatelog.log.store.database import connect
from gatelog.sessions.rules.record import Session
from gatelog.sessions.store.replica import ReplicaReader
from gatelog.sessions.store.replica_place import ReplicaPlace

from tests.builders import end, registration, start
from tests.conftest import Dsns
from tests.stack.service import RUN, START_TIMEOUT_S, STOP_TIMEOUT_S, environment
from tests.waiting import eventually

TTL_S = "60"  # a lease that is over before has been ended


async def submit(database: Dsns, *commands: Command) -> None:
    async with Appender(lambda: connect(database.app), timeout_s=60) as appender:
        for command in commands:
            await appender.submit(command)


def logged_in(database: Dsns) -> StartSession:
    user = registration("ada")
    command = start(user.event.subject_id)
    asyncio.run(submit(database, user, command))
    return command


def test_the_projector_alone(data_dir: Path, database: Dsns) -> None:
    variables = environment(
        data_dir, {"GATELOG_DATABASE_URL": database.app, "GATELOG_LEASE_TTL_S": TTL_S}
    )
    own = {name: value for name, value in variables.items() if name.startswith("GATELOG_")}
    command = logged_in(database)
    digest = command.event.token_digest
    process = subprocess.Popen([*RUN, "projector"], env=variables)
    with closing(ReplicaReader(ReplicaPlace(load_config(own)))) as reader:
        try:
            eventually(
                lambda: isinstance(reader.peek(digest), Session), START_TIMEOUT_S, "the session"
            )
            asyncio.run(submit(database, end(command)))
            eventually(lambda: reader.peek(digest) is False, START_TIMEOUT_S, "its end")
            assert process.poll() is None
            process.send_signal(signal.SIGTERM)
            assert process.wait(STOP_TIMEOUT_S) == 0
            assert reader.peek(digest) is None, "the lease ends with its projector"
        finally:
            process.kill()
            process.wait()
