"""Projectors are told of new sessions, now and then, and at nobody's expense."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from gatelog.hosting.services import open_services
from gatelog.log.store.database import Database
from gatelog.sessions.service.herald import Herald
from gatelog.sessions.store.leases import LOG_CHANNEL

from tests.builders import CHEAP_CONFIG
from tests.conftest import Dsns
from tests.serving import PASSWORD
from tests.waiting import until

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection


class Ear:
    """Counts what projectors hear."""

    def __init__(self) -> None:
        self.heard = 0

    def __call__(self, *_: object) -> None:
        self.heard += 1


@pytest.fixture
async def ear(connection: Connection) -> Ear:
    ear = Ear()
    await connection.add_listener(LOG_CHANNEL, ear)
    return ear


@pytest.fixture
async def pool(database: Dsns) -> AsyncIterator[Database]:
    pool = Database(database.app, timeout_s=10, pool_size=1)
    yield pool
    await pool.close()


@pytest.fixture
async def herald(pool: Database) -> AsyncIterator[Herald]:
    herald = Herald(pool)
    yield herald
    await herald.close()


async def done(herald: Herald) -> None:
    assert herald._task is not None
    await herald._task


async def test_many_sessions_at_once_are_told_once(herald: Herald, ear: Ear) -> None:
    for _ in range(100):
        herald.tell()
    await done(herald)
    await until(lambda: ear.heard == 1)


async def test_what_comes_while_something_is_told_is_told_afterwards(
    herald: Herald, ear: Ear
) -> None:
    herald.tell()
    await until(lambda: ear.heard == 1)
    for _ in range(100):
        herald.tell()
    await done(herald)
    await until(lambda: ear.heard == 2)


async def test_its_commits_do_not_wait_and_all_others_do(
    herald: Herald, pool: Database, ear: Ear
) -> None:
    async with pool.acquire() as connection:
        before = await connection.fetchval("SHOW synchronous_commit")
    herald.tell()
    await done(herald)
    async with pool.acquire() as connection:
        assert await connection.fetchval("SHOW synchronous_commit") == before == "on"


async def test_without_a_database_nothing_happens() -> None:
    pool = Database("postgresql:///nowhere?host=/nowhere", timeout_s=1, pool_size=1)
    herald = Herald(pool)
    herald.tell()
    await done(herald)
    herald.tell()
    await herald.close()
    await pool.close()


async def test_a_login_is_told(database: Dsns, tmp_path: Path, ear: Ear) -> None:
    config = msgspec.structs.replace(
        CHEAP_CONFIG, data_dir=str(tmp_path), replica_dir=str(tmp_path / "memory")
    )
    async with open_services(config, database.app) as services:
        await services.accounts.logins.add_user("ada", PASSWORD)
        assert ear.heard == 0
        await services.accounts.logins.log_in("ada", PASSWORD)
        await until(lambda: ear.heard == 1)
