"""Who takes part: users with roles, and a real service of several processes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from gatelog.config import Config
from gatelog.hosting.app import create_app
from gatelog.hosting.services import open_services

from tests.conftest import Dsns
from tests.scratch import in_temporary_directory
from tests.serving import PASSWORD, Service, serving
from tests.stack.service import Service as Processes
from tests.stack.service import serving as serving_processes

AddUser = Callable[..., Awaitable[None]]


@pytest.fixture
def add_user(config: Config, database: Dsns) -> AddUser:
    """Makes users as an operator does, with roles."""

    async def add(login: str, *roles: str) -> None:
        async with open_services(config, database.app) as services:
            await services.accounts.logins.add_user(login, PASSWORD, roles)

    return add


@pytest.fixture
async def root(alice: Service, add_user: AddUser) -> str:
    """A token of an administrator, beside alice."""
    await add_user("root", "admin")
    return await alice.token("root")


@pytest.fixture
async def elsewhere(service: Service, config: Config, database: Dsns) -> AsyncIterator[Service]:
    """A second service on the same database, as on another host."""
    async with serving(create_app(config, database.app), config) as running:
        yield running


@pytest.fixture(scope="package")
def processes() -> Iterator[Processes]:
    """The service as it is run: a supervisor, two workers, and a PostgreSQL of its own."""
    with (
        in_temporary_directory() as directory,
        serving_processes(
            Path(directory) / "var",
            GATELOG_WORKERS="2",
            GATELOG_REGISTRATION="open",
            GATELOG_ACCESS_LOG="true",
        ) as started,
    ):
        yield started
