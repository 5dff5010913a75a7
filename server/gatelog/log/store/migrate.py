"""Brings the schema to the version that this program needs, and says whether it is there.

Migrations run as the database's owner, in one transaction, one process at a time. A schema that is
newer than a program still serves it, as long as no migration has removed what the program needs:
the database says which one is the oldest that it serves (``migrations.OLDEST_SERVED``), so that two
versions can run side by side during an upgrade.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
from alembic import command
from alembic.config import Config as AlembicConfig
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from gatelog import migrations
from gatelog.errors import SchemaMismatch
from gatelog.log.store import sql
from gatelog.log.store.database import PATIENT, connect, translated_errors
from gatelog.migrations import OLDEST_SERVED

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

    Raises SchemaMismatch for a database that is too new, DatabaseUnavailable without one.
    """

    async def creator() -> asyncpg.Connection:
        return await connect(owner_dsn, role=None, settings=PATIENT)

    engine = create_async_engine("postgresql+asyncpg://", async_creator=creator, poolclass=NullPool)
    try:
        with translated_errors(), _errors_of_the_driver():
            async with engine.begin() as connection:
                return await connection.run_sync(_upgrade)
    finally:
        await engine.dispose()


@contextmanager
def _errors_of_the_driver() -> Iterator[None]:
    """SQLAlchemy's errors become those that they were made of."""
    try:
        yield
    except DBAPIError as error:
        cause = error.orig.__cause__ if error.orig is not None else None
        if isinstance(cause, Exception):
            raise cause from error
        raise


def _upgrade(connection: Connection) -> list[str]:
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
    before = _current(connection)
    missing = _missing(before, _served(connection) if before else None)
    if missing:
        config = _alembic()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    if _current(connection) == newest_revision() and _served(connection) != OLDEST_SERVED:
        connection.execute(text(f"COMMENT ON TABLE {VERSION_TABLE} IS '{OLDEST_SERVED}'"))
    return missing


def _current(connection: Connection) -> str | None:
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    return context.get_current_revision()


def _served(connection: Connection) -> str | None:
    served: str | None = connection.execute(text(sql.OLDEST_SERVED)).scalar()
    return served


def _missing(current: str | None, served: str | None) -> list[str]:
    """The revisions that the database lacks, where the oldest one that it serves is this."""
    script = ScriptDirectory.from_config(_alembic())
    known = [revision.revision for revision in script.walk_revisions()]
    if current is not None and current not in known:
        if served in known:
            return []
        raise SchemaMismatch(
            f"The database has schema {current}, which is too new for this program"
            f" (its newest is {newest_revision()}). Run the newer program."
        )
    older = known.index(current) if current else len(known)
    return list(reversed(known[:older]))


async def check_schema(dsn: str) -> None:
    """Raises SchemaMismatch unless the database's schema serves this program."""
    connection = await connect(dsn)
    try:
        with translated_errors():
            try:
                current = await connection.fetchval(sql.SCHEMA_VERSION)
                served = await connection.fetchval(sql.OLDEST_SERVED)
            except (asyncpg.UndefinedTableError, asyncpg.InsufficientPrivilegeError):
                current = None
    finally:
        await connection.close()
    if current is None:
        raise SchemaMismatch("The database is not migrated. Run 'migrate'.")
    if missing := _missing(current, served):
        raise SchemaMismatch(
            f"The database has schema {current}; this program needs {missing[-1]}. Run 'migrate'."
        )
