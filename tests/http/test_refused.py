"""A database that does not take the service's password any more."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from gatelog.config import Config
from gatelog.hosting.app import create_app
from gatelog.log.store.database import connect

from tests.conftest import Dsns
from tests.serving import serving
from tests.waiting import until

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection

ROLE = "refused_now_and_then"


@pytest.fixture
async def superuser(database: Dsns) -> AsyncIterator[Connection]:
    connection = await connect(database.superuser, role=None)
    await connection.execute(f"CREATE ROLE {ROLE} LOGIN PASSWORD 'right' IN ROLE gatelog_app")
    yield connection
    await connection.execute(f"DROP ROLE {ROLE}")
    await connection.close()


async def test_nobody_is_let_in_until_it_takes_us_again(
    superuser: Connection, config: Config, database: Dsns
) -> None:
    place = urlsplit(database.app)
    host = place.netloc.rpartition("@")[2]
    dsn = place._replace(netloc=f"{ROLE}:right@{host}").geturl()
    async with serving(create_app(config, dsn), config) as service:
        await service.register()
        token = await service.token()
        assert (await service.get("/v1/me", cookie=token)).status == 200

        await superuser.execute(f"ALTER ROLE {ROLE} PASSWORD 'another'")
        await superuser.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = $1", ROLE
        )
        for answer in (await service.get("/v1/me", cookie=token), await service.log_in()):
            assert answer.status == 503
            assert int(answer.headers["Retry-After"]) > 0
            assert ROLE not in answer.body.decode()

        await superuser.execute(f"ALTER ROLE {ROLE} PASSWORD 'right'")

        async def is_back() -> bool:
            return (await service.get("/v1/me", cookie=token)).status == 200

        await until(is_back)
        assert (await service.log_in()).status == 200
