"""Brings the schema to the version that this program needs, and says whether it is there.

Migrations run as the database's owner, in one transaction, one process at a time.
"""

from __future__ import annotations

from pathlib import Path

import asyncpg
from alembic import command
from alembic.config import Config as AlembicConfig
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

import migrations
from server.core.errors import SchemaMismatch
from server.store import sql
from server.store.database import connect, translated_errors

VERSION_TABLE = "gatelog_schema"
_MIGRATION_LOCK = 0x6761746C6F67  # an arbitrary constant: "gatlog"


def _alembic() -> AlembicConfig:
    config = AlembicConfig()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    return config


def newest_revision() -> str:
    """The schema version that this program needs."""
    head = ScriptDirectory.from_config(_alembic()).get_current_head()
    if head is None:
        raise SchemaMismatch("The program has no migrations.")
    return head


async def migrate(owner_dsn: str) -> list[str]:
    """Apply what is missing, as the owner; returns the revisions applied, oldest first.

    Raises SchemaMismatch for a database newer than this program, DatabaseUnavailable without one.
    """

    async def creator() -> asyncpg.Connection:
        return await connect(owner_dsn, role=None)

    engine = create_async_engine("postgresql+asyncpg://", async_creator=creator, poolclass=NullPool)
    try:
        with translated_errors():
            async with engine.begin() as connection:
                return await connection.run_sync(_upgrade)
    finally:
        await engine.dispose()


def _upgrade(connection: Connection) -> list[str]:
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
    before = _current(connection)
    missing = _missing(before)
    if missing:
        config = _alembic()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    return missing


def _current(connection: Connection) -> str | None:
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    return context.get_current_revision()


def _missing(current: str | None) -> list[str]:
    script = ScriptDirectory.from_config(_alembic())
    known = [revision.revision for revision in script.walk_revisions()]
    if current is not None and current not in known:
        raise SchemaMismatch(
            f"The database has schema {current}, which is newer than this program"
            f" (its newest is {newest_revision()}). Run the newer program."
        )
    older = known.index(current) if current else len(known)
    return list(reversed(known[:older]))


async def check_schema(dsn: str) -> None:
    """Raises SchemaMismatch unless the database has exactly the schema of this program."""
    connection = await connect(dsn)
    try:
        with translated_errors():
            try:
                current = await connection.fetchval(sql.SCHEMA_VERSION)
            except (asyncpg.UndefinedTableError, asyncpg.InsufficientPrivilegeError):
                current = None
    finally:
        await connection.close()
    if current is None:
        raise SchemaMismatch("The database is not migrated. Run 'run.py migrate'.")
    if missing := _missing(current):
        raise SchemaMismatch(
            f"The database has schema {current}; this program needs {missing[-1]}."
            " Run 'run.py migrate'."
        )
