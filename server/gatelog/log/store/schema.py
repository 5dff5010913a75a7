"""Which version the schema has, and whether it serves this program; in plain SQL.

What brings it to the newest version is ``gatelog.log.store.migrate``; only who migrates imports
that, with all that it needs. A schema that is newer than a program still serves it, as long as no
migration has removed what the program needs: the database says which one is the oldest that it
serves (``migrations.OLDEST_SERVED``), so that two versions can run side by side during an upgrade.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import msgspec

from gatelog import migrations
from gatelog.errors import SchemaMismatch
from gatelog.log.store import sql
from gatelog.log.store.database import APP_ROLE, connect, translated_errors
from gatelog.migrations import OLDEST_SERVED

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection


class Schema(msgspec.Struct, frozen=True):
    """What a database says of its schema.

    ``current``: its revision, None before the first. ``served``: the oldest revision whose programs
    it serves, None where nothing is known of it.
    """

    current: str | None
    served: str | None

    @property
    def is_newest(self) -> bool:
        """Whether a migration by this program would change nothing."""
        return self.current == newest_revision() and self.served == OLDEST_SERVED


def revisions() -> Sequence[str]:
    """The schema versions that this program knows, oldest first.

    They are told by the names of the files, ``NNNN_what.py``.
    """
    directory = Path(migrations.__file__).parent / "versions"
    return sorted(path.name.partition("_")[0] for path in directory.glob("[0-9]*_*.py"))


def newest_revision() -> str:
    """The schema version that this program needs."""
    return revisions()[-1]


def missing_revisions(schema: Schema) -> list[str]:
    """The revisions that the database lacks, oldest first.

    Raises SchemaMismatch for a database that is too new.
    """
    known = list(revisions())
    if schema.current is None:
        return known
    if schema.current in known:
        return known[known.index(schema.current) + 1 :]
    if schema.served in known:
        return []
    raise SchemaMismatch(
        f"The database has schema {schema.current}, which is too new for this program"
        f" (its newest is {known[-1]}). Run the newer program."
    )


async def read_schema(dsn: str, *, role: str | None = APP_ROLE) -> Schema:
    """The schema of this database; ``role``: see ``connect``.

    Raises SchemaMismatch where the role does not exist yet, DatabaseUnavailable without a database.
    """
    connection = await connect(dsn, role=role)
    try:
        with translated_errors():
            return await _read(connection)
    finally:
        await connection.close()


async def _read(connection: Connection) -> Schema:
    try:
        current = await connection.fetchval(sql.SCHEMA_VERSION)
        return Schema(current, await connection.fetchval(sql.OLDEST_SERVED))
    except (asyncpg.UndefinedTableError, asyncpg.InsufficientPrivilegeError):
        return Schema(None, None)


async def check_schema(dsn: str) -> None:
    """Raises SchemaMismatch unless the database's schema serves this program."""
    schema = await read_schema(dsn)
    if schema.current is None:
        raise SchemaMismatch("The database is not migrated. Run 'migrate'.")
    if missing := missing_revisions(schema):
        raise SchemaMismatch(
            f"The database has schema {schema.current}; this program needs {missing[-1]}."
            " Run 'migrate'."
        )
