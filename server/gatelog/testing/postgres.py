"""A PostgreSQL for a run of tests, and databases of each test's own as copies of a template."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from gatelog.host.embedded import EmbeddedPostgres
from gatelog.kinds import register_all
from gatelog.log.store.migrate import migrate
from gatelog.testing.scratch import in_temporary_directory

TEMPLATE = "template_gatelog"
# Nothing of this server outlives the run.
HASTY = {
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "checkpoint_timeout": "1h",
    "max_wal_size": "4GB",
}
_numbers = itertools.count(1)


class Dsns(msgspec.Struct, frozen=True):
    """A test's own database: how the application, its owner and the superuser reach it."""

    app: str
    owner: str
    superuser: str


@contextmanager
def template_postgres() -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL server with the migrated template, until the context ends.

    It is a child of this process and ends with it, whatever happens. Call it from the main thread,
    outside of any event loop. Raises OperatorError with PostgreSQL's reason when it cannot start.
    """
    register_all()
    with in_temporary_directory() as directory:
        server = EmbeddedPostgres(Path(directory) / "pg", settings=HASTY)
        server.start()
        try:
            server.create_database(TEMPLATE)
            asyncio.run(migrate(server.owner_dsn(TEMPLATE)))
            yield server
        finally:
            server.stop()


def make_database(server: EmbeddedPostgres) -> tuple[str, Dsns]:
    """A migrated database of a name of its own; drop it by this name."""
    name = f"test_{next(_numbers)}"
    server.create_database(name, template=TEMPLATE)
    return name, Dsns(server.app_dsn(name), server.owner_dsn(name), server.superuser_dsn(name))
