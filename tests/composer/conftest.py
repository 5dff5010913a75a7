"""The house in which composing is tried."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
import pytest
from gatelog.config import Config

from tests.composer.house import House, housing
from tests.conftest import Dsns


@pytest.fixture
async def house(config: Config, database: Dsns) -> AsyncIterator[House]:
    """The whole service, with root who administers and ada who does not."""
    config = msgspec.structs.replace(config, roles='{"clerk": {}}')
    async with housing(config, database) as house:
        yield house
