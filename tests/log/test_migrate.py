"""What breaks while the schema is brought up to date."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory
from gatelog import migrations
from gatelog.errors import DatabaseUnavailable
from gatelog.host.embedded import EmbeddedPostgres
from gatelog.log.store.appender import Appender
from gatelog.log.store.database import connect
from gatelog.log.store.migrate import _MIGRATION_LOCK, alembic_config, migrate
from gatelog.log.store.reading import read_head
from gatelog.log.store.schema import (
    Schema,
    check_schema,
    newest_revision,
    read_schema,
    revisions,
)

from tests.builders import failure
from tests.conftest import HELD_OPEN, Dsns
from tests.older import appending_without_origins
from tests.waiting import until

BEFORE_THE_INDEXES = "0004"

WAITING = (
    "SELECT pid FROM pg_stat_activity"
    " WHERE datname = current_database() AND wait_event_type = 'Lock' AND wait_event = 'advisory'"
)
WAITING_FOR_TABLES = (
    "SELECT count(*) FROM pg_stat_activity"
    " WHERE datname = current_database() AND wait_event_type = 'Lock' AND wait_event = 'relation'"
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


def test_the_names_of_the_files_are_the_revisions() -> None:
    script = ScriptDirectory.from_config(alembic_config())
    walked = [revision.revision for revision in script.walk_revisions()]
    assert list(revisions()) == walked[::-1]
    assert newest_revision() == script.get_current_head()


async def test_whether_a_migration_would_change_anything(
    postgres: EmbeddedPostgres, database: Dsns, older_database: Dsns
) -> None:
    assert (await read_schema(database.owner, role=None)).is_newest
    assert not (await read_schema(older_database.owner, role=None)).is_newest
    assert await read_schema(postgres.superuser_dsn(), role=None) == Schema(None, None)


async def test_what_a_newer_program_has_left_is_not_taken_for_ours(database: Dsns) -> None:
    owner = await connect(database.owner, role=None)
    await owner.execute("COMMENT ON TABLE gatelog_schema IS '0001'")
    await owner.close()
    schema = await read_schema(database.owner, role=None)
    assert (schema.served, schema.is_newest) == ("0001", False)
    assert await migrate(database.owner) == []
    assert (await read_schema(database.owner, role=None)).is_newest


@pytest.fixture
def older_database(
    postgres: EmbeddedPostgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Dsns]:
    """A database as a program has migrated it that knew fewer revisions."""
    directory = Path(migrations.__file__).parent
    shutil.copytree(directory, tmp_path, dirs_exist_ok=True)
    for path in (tmp_path / "versions").glob("[0-9]*.py"):
        if path.name[:4] > BEFORE_THE_INDEXES:
            path.unlink()
    name = "older"
    postgres.create_database(name)
    with monkeypatch.context() as patch:
        patch.setattr(migrations, "__file__", str(tmp_path / "__init__.py"))
        revisions = asyncio.run(migrate(postgres.owner_dsn(name)))
    assert revisions[-1] == BEFORE_THE_INDEXES
    yield Dsns(postgres.app_dsn(name), postgres.owner_dsn(name), postgres.superuser_dsn(name))
    postgres.drop_database(name)


async def test_appends_and_the_migration_of_the_log_do_not_wait_for_each_other(
    older_database: Dsns,
) -> None:
    """Another transaction holds both back until the one waits behind the other."""
    watcher = await connect(older_database.superuser, role=None)
    other = await connect(older_database.superuser, role=None, settings=HELD_OPEN)

    async def wait_for_tables(count: int) -> None:
        async def waits() -> bool:
            return bool(await watcher.fetchval(WAITING_FOR_TABLES) == count)

        await until(waits)

    async with AsyncExitStack() as stack:
        stack.enter_context(appending_without_origins())
        appender = Appender(lambda: connect(older_database.app), timeout_s=10)
        await stack.enter_async_context(appender)
        await appender.submit(failure())
        await other.execute("BEGIN")
        await other.execute("LOCK TABLE events IN ROW EXCLUSIVE MODE")
        migrating = asyncio.create_task(migrate(older_database.owner))
        await wait_for_tables(1)
        appended = appender.submit(failure())
        await wait_for_tables(2)
        await other.execute("COMMIT")
        assert (await migrating)[0] > BEFORE_THE_INDEXES
        await appended
    deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    assert await watcher.fetchval(deadlocks) == 0
    assert (await read_head(watcher)).position == 2
    await other.close()
    await watcher.close()
