"""Auditors for tests, and a client that reads a stream of events as the standard says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import aiohttp
import msgspec
from gatelog.clock import utc_now
from gatelog.config import Config
from gatelog.hosting.services import open_services
from hypothesis import strategies as st

from tests.conftest import Dsns
from tests.proofs.sealing import append
from tests.serving import PASSWORD, Service
from tests.waiting import until

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection

STREAM = "/v1/audit/events/stream"
WITHIN_S = 60.0
APPENDED_AT_ONCE = 2000


class Received(msgspec.Struct, frozen=True):
    """An event as it arrived."""

    position: int
    type: str
    shown: dict[str, Any]


async def add_auditor(config: Config, database: Dsns, login: str = "audrey") -> None:
    async with open_services(config, database.app) as services:
        await services.accounts.logins.add_user(login, PASSWORD, ("auditor",))


_values = st.one_of(
    st.text(max_size=30),
    st.integers().map(str),
    st.uuids().map(str),
    st.datetimes().map(lambda moment: moment.isoformat() + "Z"),
    st.ip_addresses().map(str),
    st.sampled_from(
        ["asc", "session_ended", "before-5", "after-0", "csv", "ndjson", "open", "sealed", ""]
    ),
)


def any_query(*names: str) -> st.SearchStrategy[str]:
    """Questions with these parameters, and others; with values that fit, and others."""
    pair = st.tuples(st.sampled_from(names) | st.text(max_size=10), _values)
    return st.lists(pair, max_size=4).map(
        lambda pairs: "&".join(f"{_spelt(name)}={_spelt(value)}" for name, value in pairs)
    )


def _spelt(text: str) -> str:
    return quote(text.encode("utf-8", "surrogatepass"), safe="")


def ragged(raw: bytes) -> list[str]:
    """Questions in which these bytes stand, which are no text perhaps."""
    odd = "".join(f"%{byte:02x}" for byte in raw)
    return [f"{odd}=1", f"user={odd}", f"address={odd}", odd, f"%{odd}"]


async def append_many(database: Dsns, count: int) -> None:
    """Append so many events, as quickly as it goes."""
    for start in range(0, count, APPENDED_AT_ONCE):
        await append(database.app, min(APPENDED_AT_ONCE, count - start))


async def count_reads(connection: Connection) -> int:
    """How often it is recorded that somebody read about others."""
    count = await connection.fetchval("SELECT count(*) FROM events WHERE type = 'audit_read'")
    return int(count or 0)


async def next_second() -> None:
    """Wait until the clock shows another second."""
    now = int(utc_now().timestamp())
    await until(lambda: int(utc_now().timestamp()) > now)


class Reader:
    """Reads a stream; knows what to resume with."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response
        self.last_id: str | None = None
        self.retry_ms: int | None = None
        self.comments = 0

    async def events(self) -> AsyncIterator[Received]:
        """What arrives, to the end of the stream (WHATWG HTML, 9.2.6)."""
        kind, data = "", list[str]()
        async for raw in self.response.content:
            line = raw.decode().rstrip("\n")
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if line == "":
                if data:
                    assert self.last_id is not None
                    yield Received(int(self.last_id), kind, json.loads("\n".join(data)))
                kind, data = "", []
            elif field == "":
                self.comments += 1
            elif field == "id":
                self.last_id = value
            elif field == "event":
                kind = value
            elif field == "data":
                data.append(value)
            elif field == "retry":
                self.retry_ms = int(value)
            else:
                raise AssertionError(line)

    async def take(self, count: int) -> list[Received]:
        """The next events. Fails when they do not come in time."""
        taken: list[Received] = []
        async with asyncio.timeout(WITHIN_S):
            async for event in self.events():
                taken.append(event)
                if len(taken) == count:
                    return taken
        raise AssertionError(f"the stream ended after {taken}")

    async def rest(self) -> list[Received]:
        """What comes until the stream ends."""
        async with asyncio.timeout(WITHIN_S):
            return [event async for event in self.events()]

    async def begun(self) -> int:
        """Wait until the stream has said where it begins; returns that position."""
        async with asyncio.timeout(WITHIN_S):
            while self.last_id is None:
                raw = await self.response.content.readline()
                assert raw, "the stream ended"
                field, _, value = raw.decode().strip().partition(": ")
                if field == "id":
                    self.last_id = value
                elif field == "retry":
                    self.retry_ms = int(value)
        assert await self.response.content.readline() == b"\n"
        return int(self.last_id)


@asynccontextmanager
async def following(
    service: Service, token: str, query: str = "", *, last: str | None = None
) -> AsyncIterator[Reader]:
    """A stream that is being read."""
    headers = {"Cookie": f"gatelog={token}"} | ({"Last-Event-ID": last} if last else {})
    timeout = aiohttp.ClientTimeout(total=None, sock_read=WITHIN_S)
    url = f"http://{service.host}:{service.port}{STREAM}{query}"
    async with (
        aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as client,
        client.get(url, headers=headers, timeout=timeout) as response,
    ):
        assert response.status == 200, await response.read()
        yield Reader(response)
