"""Fixtures for tests of pages."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from gatelog.config import Config

from tests.conftest import Dsns
from tests.pages.site import Site, serving_site


@pytest.fixture
async def site(config: Config, database: Dsns) -> AsyncIterator[Site]:
    """The service, with alice, olga the auditor and ada the admin."""
    async with serving_site(config, database) as running:
        yield running
