"""Logs in as an older version of the program would, with all of its code: started by a test.

Arguments: the database's URL, login, password. Says ``session``, or the code of the refusal.
"""

from __future__ import annotations

import asyncio
import sys

from gatelog.config import Config
from gatelog.errors import GatelogError
from gatelog.hosting.services import open_services

DSN, LOGIN, PASSWORD = sys.argv[1:]
CONFIG = Config(master_key="A" * 43, argon2_memory_kib=8, argon2_time_cost=1, lease_ttl_s=0.1)


async def main() -> None:
    async with open_services(CONFIG, DSN, guarded=False) as services:
        try:
            await services.accounts.logins.log_in(LOGIN, PASSWORD)
        except GatelogError as error:
            print(error.code)  # noqa: T201 - what it is started for
        else:
            print("session")  # noqa: T201


asyncio.run(main())
