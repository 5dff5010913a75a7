"""Fixtures for all tests: one real PostgreSQL per run, a fresh migrated database per test."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from gatelog.config import Config
from gatelog.host.embedded import EmbeddedPostgres
from gatelog.hosting.app import create_app
from gatelog.kinds import register_all
from gatelog.log.store import database as database_module
from gatelog.log.store.appender import Appender
from gatelog.log.store.database import connect
from gatelog.sessions.rules.lease import lease_terms
from gatelog.sessions.service.barrier import Barrier
from gatelog.testing.postgres import TEMPLATE, Dsns, template_postgres
from gatelog.testing.postgres import make_database as make_one
from hypothesis import settings

from tests.builders import CHEAP_CONFIG
from tests.serving import Service, serving

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection

    from tests.browser import Browser

__all__ = ["TEMPLATE", "Dsns"]

register_all()

SHORT_TTL_S = 0.1
# Of a connection that a test keeps in a transaction on purpose: however long the test is held up,
# the transaction stays.
HELD_OPEN = {"idle_in_transaction_session_timeout": "0"}

# Several tests at once, with servers, hosts and browsers of their own, hold a small machine up for
# longer than any host is: what waits for a connection waits. Who tests that limit sets its own.
database_module.CONNECT_TIMEOUT_S = 30.0

# A shell starts what it runs in the background with SIGINT ignored, and children inherit that;
# some tests stop processes as Ctrl-C does.
signal.signal(signal.SIGINT, signal.default_int_handler)

# An example may take long because the machine is busy; the limit is that of the whole test.
settings.register_profile("gatelog", deadline=None)
settings.load_profile("gatelog")


# These look for what happens rarely: once is too often, and nothing of it is tried again.
SEARCHING = (
    "tests/faults/",
    "tests/compose/",
    "tests/composer/test_everywhere.py",
    "tests/openapi/test_fuzz.py",
    "tests/sessions/",
)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The fault tests first, on one of the processes that share the work: they last longest.

    A test that fails is tried once more, at once: the machine may have been held up by the others.
    The summary names it (RERUN), and it is looked at like a failure.
    """
    items.sort(key=lambda item: "tests/faults/" not in item.nodeid)
    for item in items:
        if not item.nodeid.startswith(SEARCHING):
            item.add_marker(pytest.mark.flaky(reruns=1))


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL server for this run, with the migrated template database."""
    with template_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A browser for this run, started for who asks for it first."""
    from tests.browser import Browser

    browser = Browser()
    yield browser
    browser.close()


@pytest.fixture
def make_database(postgres: EmbeddedPostgres) -> Iterator[Callable[[], Dsns]]:
    """Makes migrated databases, which are gone after the test."""
    names: list[str] = []

    def make() -> Dsns:
        name, urls = make_one(postgres)
        names.append(name)
        return urls

    yield make
    for name in names:
        postgres.drop_database(name)


@pytest.fixture
def database(make_database: Callable[[], Dsns]) -> Dsns:
    """A migrated database of this test's own."""
    return make_database()


@pytest.fixture
async def connection(database: Dsns) -> AsyncIterator[Connection]:
    """A connection to the test's database, with the application's rights."""
    connection = await connect(database.app)
    yield connection
    await connection.close()


@pytest.fixture
async def appender(database: Dsns) -> AsyncIterator[Appender]:
    """An appender on the test's database."""
    async with Appender(lambda: connect(database.app), timeout_s=10) as appender:
        yield appender


@pytest.fixture
async def barrier(database: Dsns) -> AsyncIterator[Barrier]:
    """The wait before the end of a session is told, with a short lease: there is no replica."""
    async with Barrier(lambda: connect(database.app), terms=lease_terms(SHORT_TTL_S)) as barrier:
        yield barrier


class Clock:
    """A wall clock that moves when it is told to; it begins at noon of today.

    What the log's clock decides on, it does not move (``gatelog_clock`` does).
    """

    def __init__(self) -> None:
        self.now = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Open registration, the cheapest hashing there is, and short leases."""
    return msgspec.structs.replace(
        CHEAP_CONFIG,
        data_dir=str(tmp_path),
        lease_ttl_s=SHORT_TTL_S,
        registration="open",
        hashing_threads=1,
        database_timeout_s=5,
        shutdown_timeout_s=1,
    )


@pytest.fixture
async def service(config: Config, database: Dsns) -> AsyncIterator[Service]:
    """The service, with nobody registered."""
    async with serving(create_app(config, database.app), config) as running:
        yield running


@pytest.fixture
async def alice(service: Service) -> Service:
    """The service, with alice registered."""
    assert (await service.register()).status == 201
    return service
