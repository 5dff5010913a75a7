"""What breaks while the schema is brought up to date."""

from __future__ import annotations

import asyncio

import pytest

from server.core.errors import DatabaseUnavailable
from server.store.database import connect
from server.store.migrate import _MIGRATION_LOCK, check_schema, migrate
from tests.conftest import HELD_OPEN, Dsns
from tests.waiting import until

WAITING = (
    "SELECT pid FROM pg_stat_activity"
    " WHERE datname = current_database() AND wait_event_type = 'Lock' AND wait_event = 'advisory'"
)


async def test_a_lost_database_is_told_as_that(database: Dsns) -> None:
    """The migration waits for another one when its connection is cut."""
    other = await connect(database.superuser, role=None, settings=HELD_OPEN)
    await other.execute("SELECT pg_advisory_lock($1::bigint)", _MIGRATION_LOCK)
    migrating = asyncio.create_task(migrate(database.owner))

    async def is_cut() -> bool:
        pid = await other.fetchval(WAITING)
        return pid is not None and bool(
            await other.fetchval("SELECT pg_terminate_backend($1)", pid)
        )

    await until(is_cut)
    with pytest.raises(DatabaseUnavailable):
        await migrating
    await other.close()
    assert await migrate(database.owner) == []
    await check_schema(database.app)
