"""What is done before a service starts: the schema is brought up to date, the keys are looked at.

A process of its own that ends when it is done (``host.nursery``), so that what only a migration
needs stays in nobody's memory.
"""

from __future__ import annotations

import asyncio
import logging
from uuid import UUID

from gatelog.config import Config
from gatelog.errors import ConfigError
from gatelog.host.database import Dsns, dsns, named_errors, setting_of
from gatelog.host.logs import configure_logging
from gatelog.log.store.database import connect, refuse_shared_sessions
from gatelog.log.store.schema import check_schema, read_schema

logger = logging.getLogger(__name__)

OLDEST_POSTGRES = 15


def run(config: Config) -> None:
    """Prepare everything. Raises GatelogError with one line that says what to do."""
    configure_logging(config)
    asyncio.run(_prepare(config))


async def _prepare(config: Config) -> None:
    from gatelog.host.sealer import signing_key
    from gatelog.privacy.service.keyring import check_keys

    await prepare_schema(config)
    if config.sealer == "on":
        signing_key(config)
    with named_errors(config):
        await check_keys(config, dsns(config).app)
        await _tell_setup_code(config)


async def _tell_setup_code(config: Config) -> None:
    """While nobody has an account, say how the first one is made."""
    from gatelog.accounts.service.first_run import setup_code
    from gatelog.accounts.store.users import Users
    from gatelog.log.store.database import Database
    from gatelog.privacy.service.keyring import Keyring
    from gatelog.privacy.store.keys import KeyStore

    if config.pages == "off":
        return
    database = Database(dsns(config).app, timeout_s=config.database_timeout_s, pool_size=1)
    try:
        if not await Users(database).page(UUID(int=0), 1):
            code = await setup_code(Keyring(config, KeyStore(database)))
            logger.warning(
                "nobody has an account yet: make the first one, which administers, on the page"
                " /first; not on this machine, it takes the setup code %s",
                code,
            )
    finally:
        await database.close()


async def prepare_schema(config: Config) -> None:
    """Migrate where this process is given the owner's URL; else see that the schema fits.

    Raises ConfigError or SchemaMismatch with one line that says what to do.
    """
    urls = dsns(config)
    with named_errors(config):
        await check_server(config, urls)
        if config.embedded or config.owner_database_url:
            await _migrate(urls.owner)
        await check_schema(urls.app)


async def _migrate(owner_dsn: str) -> None:
    if (await read_schema(owner_dsn, role=None)).is_newest:
        return
    from gatelog.log.store.migrate import migrate

    for revision in await migrate(owner_dsn):
        logger.info("migrated to %s", revision)


async def check_server(config: Config, urls: Dsns) -> None:
    """Raises ConfigError for a database that cannot do what is needed."""
    await refuse_shared_sessions(urls.app)
    connection = await connect(urls.app, role=None)
    try:
        major = connection.get_server_version().major
    finally:
        await connection.close()
    if major < OLDEST_POSTGRES:
        raise ConfigError(
            setting_of(config), f"this is PostgreSQL {major}; {OLDEST_POSTGRES} or later is needed"
        )
