"""Who takes part: users with roles, and a real service of several processes."""

from __future__ import annotations

import os
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


# An application that logs what its clients say.
SHOP = """
import logging
from aiohttp import web
from gatelog import public

@public
async def order(request):
    logging.getLogger("shop").warning("an order of %s", request.query["of"])
    return web.Response()

routes = [web.get("/order", order)]
"""


@pytest.fixture(scope="package")
def processes() -> Iterator[Processes]:
    """The service as it is run, with an application: a supervisor, two workers, a PostgreSQL."""
    with in_temporary_directory() as directory:
        (Path(directory) / "shop.py").write_text(SHOP)
        with serving_processes(
            Path(directory) / "var",
            GATELOG_WORKERS="2",
            GATELOG_REGISTRATION="open",
            GATELOG_ACCESS_LOG="true",
            GATELOG_APP="shop:routes",
            PYTHONPATH=os.pathsep.join([directory, *os.environ.get("PYTHONPATH", "").split()]),
        ) as started:
            yield started
