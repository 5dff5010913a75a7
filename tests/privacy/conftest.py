"""The use cases on a database of their own, and somebody else's process, who reads."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from gatelog.accounts.service.accounts import Accounts
from gatelog.accounts.service.passwords import PasswordPool
from gatelog.config import Config
from gatelog.log.store.appender import Appender
from gatelog.log.store.database import Database
from gatelog.privacy.service.personal import PersonalData
from gatelog.sessions.service.barrier import Barrier

from tests.conftest import Clock, Dsns
from tests.privacy.people import CONFIG, MakeAccounts


@pytest.fixture
async def pool(database: Dsns) -> AsyncIterator[Database]:
    pool = Database(database.app, timeout_s=5, pool_size=4)
    yield pool
    await pool.close()


@pytest.fixture
async def make_accounts(
    pool: Database, appender: Appender, barrier: Barrier, clock: Clock
) -> AsyncIterator[MakeAccounts]:
    """The use cases of one more process, with this configuration."""
    passwords = PasswordPool(CONFIG)

    def make(config: Config) -> Accounts:
        return Accounts(
            config,
            database=pool,
            appender=appender,
            passwords=passwords,
            barrier=barrier,
            now=clock,
        )

    yield make
    passwords.close()


@pytest.fixture
def accounts(make_accounts: MakeAccounts) -> Accounts:
    return make_accounts(CONFIG)


@pytest.fixture
def personal(pool: Database, clock: Clock) -> PersonalData:
    """Somebody else's process, who reads."""
    return PersonalData(CONFIG, pool, clock)
