"""Runs a command's work against the use cases, whether a service runs or not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from gatelog.accounts.service.accounts import Accounts
from gatelog.config import Config
from gatelog.host.database import reachable_database
from gatelog.hosting.services import Services, open_services

T = TypeVar("T")


def with_accounts(config: Config, command: str, work: Callable[[Accounts], Awaitable[T]]) -> T:
    """Do the work with the accounts of the configured database; returns its result."""
    return with_services(config, command, lambda services: work(services.accounts))


def with_services(config: Config, command: str, work: Callable[[Services], Awaitable[T]]) -> T:
    """Do the work with all services on the configured database; returns its result."""

    async def run(dsn: str) -> T:
        async with open_services(config, dsn) as services:
            return await work(services)

    with reachable_database(config, command) as urls:
        return asyncio.run(run(urls.app))
