"""Brings the schema to the version that this program needs (``gatelog.log.store.schema``).

Migrations run as the database's owner, in one transaction, one process at a time. Import this
where something is to be migrated, and nowhere else: Alembic and SQLAlchemy take longer to import
than all the rest of the program.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
from alembic import command
from alembic.config import Config as AlembicConfig
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from gatelog import migrations
from gatelog.log.store import sql
from gatelog.log.store.database import PATIENT, connect, translated_errors
from gatelog.log.store.schema import Schema, missing_revisions, newest_revision
from gatelog.migrations import OLDEST_SERVED

VERSION_TABLE = "gatelog_schema"
_MIGRATION_LOCK = 0x6761746C6F67  # an arbitrary constant: "gatlog"


def alembic_config() -> AlembicConfig:
    """Alembic, told where the revisions are."""
    config = AlembicConfig()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    return config


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
    missing = missing_revisions(Schema(before, _served(connection) if before else None))
    if missing:
        config = alembic_config()
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
