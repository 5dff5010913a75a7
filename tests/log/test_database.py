"""Finding the primary among several servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from gatelog.errors import DatabaseUnavailable, OperatorError
from gatelog.host.embedded import PORT, EmbeddedPostgres
from gatelog.log.store import database as module
from gatelog.log.store.database import connect, translated_errors

from tests.conftest import Dsns
from tests.faults.proxy import proxying

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection


class OtherServer:
    """Something that takes connections and is no primary."""

    def __init__(self) -> None:
        self.port = 0
        self.asked = 0
        self.hangs = False
        self._writers: list[asyncio.StreamWriter] = []

    def answer(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked += 1
        self._writers.append(writer)
        if not self.hangs:
            writer.close()

    async def close(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
            with suppress(OSError):
                await writer.wait_closed()


@asynccontextmanager
async def other_server() -> AsyncIterator[OtherServer]:
    other = OtherServer()
    server = await asyncio.start_server(other.answer, "127.0.0.1", 0)
    other.port = server.sockets[0].getsockname()[1]
    yield other
    await other.close()
    server.close()
    await server.wait_closed()


@asynccontextmanager
async def servers(
    postgres: EmbeddedPostgres, database: Dsns
) -> AsyncIterator[tuple[str, OtherServer]]:
    """A URL that names the other server first, and the primary second."""
    url = urlsplit(database.app)
    socket = postgres.socket_dir / f".s.PGSQL.{PORT}"
    async with other_server() as other, proxying(socket) as proxy:
        hosts = f"127.0.0.1:{other.port},127.0.0.1:{proxy.port}"
        yield f"postgresql://{url.username}:{url.password}@{hosts}{url.path}?sslmode=disable", other


async def test_what_only_the_owner_may_do_names_the_owners_url(connection: Connection) -> None:
    told = pytest.raises(OperatorError, match=r"may not do this .* GATELOG_OWNER_DATABASE_URL")
    with told, translated_errors():
        await connection.execute("DROP TABLE credentials")


@pytest.mark.parametrize("hangs", [False, True], ids=["it hangs up", "it says nothing"])
async def test_the_primary_is_found_behind_a_server_that_fails(
    postgres: EmbeddedPostgres, database: Dsns, hangs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect_to = module._connect
    async with servers(postgres, database) as (url, other):
        other.hangs = hangs

        async def connect_in_time(
            server: str, timeout_s: float, settings: Mapping[str, str]
        ) -> Connection:
            limit_s = 0.5 if f":{other.port}/" in server else 30.0
            monkeypatch.setattr(module, "CONNECT_TIMEOUT_S", limit_s)
            return await connect_to(server, timeout_s, settings)

        monkeypatch.setattr(module, "_connect", connect_in_time)
        first = await connect(url)
        second = await connect(url)

        assert await second.fetchval("SELECT 1") == 1
        assert other.asked == 1, "the primary is remembered"
        await first.close()
        await second.close()


async def test_without_a_primary_the_database_is_unavailable() -> None:
    async with other_server() as one, other_server() as two:
        with pytest.raises(DatabaseUnavailable):
            await connect(f"postgresql://u:p@127.0.0.1:{one.port},127.0.0.1:{two.port}/x")
        assert one.asked >= 1
        assert two.asked >= 1
