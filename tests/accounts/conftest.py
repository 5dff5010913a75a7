"""A house: accounts on the test's database, with a clock that moves when told to, and its mail."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import msgspec
import pytest
from gatelog.accounts.service.accounts import Accounts
from gatelog.accounts.service.passwords import PasswordPool
from gatelog.config import Config
from gatelog.log.store.appender import Appender
from gatelog.log.store.database import Database
from gatelog.sessions.service.barrier import Barrier
from gatelog.testing.moving import MovedClock

from tests.accounts.house import House, Opened
from tests.builders import MASTER_KEY
from tests.conftest import Dsns
from tests.mail.server import Inbox, mail_server

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection


@pytest.fixture
async def inbox() -> AsyncIterator[Inbox]:
    async with mail_server() as inbox:
        yield inbox


@pytest.fixture
def opened(
    database: Dsns, appender: Appender, barrier: Barrier, gatelog_clock: MovedClock
) -> Opened:
    """Makes accounts on the test's database."""

    @asynccontextmanager
    async def accounts(config: Config) -> AsyncIterator[Accounts]:
        pool, passwords = Database(database.app, timeout_s=5, pool_size=4), PasswordPool(config)
        accounts = Accounts(
            msgspec.structs.replace(config, master_key=MASTER_KEY),
            database=pool,
            appender=appender,
            passwords=passwords,
            barrier=barrier,
            now=gatelog_clock,
        )
        yield accounts
        await accounts.close()
        passwords.close()
        await pool.close()

    return accounts


@pytest.fixture
async def house(
    config: Config, opened: Opened, inbox: Inbox, connection: Connection
) -> AsyncIterator[House]:
    async with opened(inbox.settings(config)) as accounts:
        yield House(accounts, inbox, connection)
