"""Clients that are slow, or go away without a word: what they get, and that nobody notices.

Real sockets, with short limits. What is slow here sends or takes next to nothing, for as long as it
is let.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from typing import Any

import msgspec
import pytest
from aiohttp import web
from gatelog import public
from gatelog.config import Config
from gatelog.hosting.app import create_app
from gatelog.hosting.server import OTHER_FILES, limits_of, raise_file_limit

from tests.conftest import Dsns
from tests.serving import Service, serving
from tests.waiting import until

LIMIT_S = 0.6
KIND_S = 15.0
BIG = 64 * 1024 * 1024
HEAD = b"GET /health/alive HTTP/1.1\r\nHost: x\r\n\r\n"
UPLOAD = b"POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
LOGIN = (
    b"POST /v1/login_user HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    b"Content-Length: 100\r\n\r\n"
)

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Handlers:
    """Public handlers that take and give much."""

    def __init__(self) -> None:
        self.may_read = asyncio.Event()
        self.may_read.set()
        self.waiting = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.ended: list[type[BaseException] | None] = []

    def routes(self) -> list[web.RouteDef]:
        @public
        async def upload(request: web.Request) -> web.Response:
            self.waiting.set()
            await self.may_read.wait()
            size = 0
            async for chunk in request.content.iter_any():
                size += len(chunk)
            return web.Response(text=str(size))

        @public
        async def download(_: web.Request) -> web.StreamResponse:
            return web.Response(body=bytes(BIG))

        @public
        async def pieces(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            try:
                while True:
                    await response.write(bytes(65_536))
            except BaseException as error:
                self.ended.append(type(error))
                raise

        @public
        async def slow(_: web.Request) -> web.Response:
            self.waiting.set()
            await self.may_answer.wait()
            return web.Response(text="at last")

        return [
            web.post("/upload", upload),
            web.get("/download", download),
            web.get("/pieces", pieces),
            web.get("/slow", slow),
        ]


@pytest.fixture
async def handlers() -> Handlers:
    return Handlers()


@pytest.fixture
def limited(config: Config) -> Config:
    return msgspec.structs.replace(
        config,
        header_timeout_s=LIMIT_S,
        body_timeout_s=LIMIT_S,
        send_timeout_s=LIMIT_S,
    )


@pytest.fixture
async def running(limited: Config, database: Dsns, handlers: Handlers) -> AsyncIterator[Service]:
    app = create_app(limited, database.app, handlers.routes())
    async with serving(app, limited) as service:
        yield service


@asynccontextmanager
async def connected(service: Service) -> AsyncIterator[Stream]:
    reader, writer = await asyncio.open_connection(service.host, service.port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def trickle(writer: asyncio.StreamWriter, text: bytes) -> None:
    """A byte now and then, without end."""
    while True:
        for byte in text:
            writer.write(bytes([byte]))
            await asyncio.sleep(0.05)


@asynccontextmanager
async def trickling(writer: asyncio.StreamWriter, text: bytes) -> AsyncIterator[None]:
    task = asyncio.create_task(trickle(writer, text))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def rest(reader: asyncio.StreamReader) -> bytes:
    """All that comes until the service closes."""
    async with asyncio.timeout(LIMIT_S + KIND_S):
        try:
            return await reader.read()
        except ConnectionResetError:  # it was still being sent to
            return b""


def open_connections(service: Service) -> int:
    assert service.runner.server is not None
    return len(service.runner.server.connections)


# --- heads


@pytest.mark.parametrize("sent", [b"", b"GET /health/alive HTTP/1.1\r\nX: "], ids=["none", "some"])
async def test_a_first_head_that_does_not_come(running: Service, sent: bytes) -> None:
    async with connected(running) as (reader, writer):
        writer.write(sent)
        began = time.monotonic()
        assert await rest(reader) == b""
        assert time.monotonic() - began > LIMIT_S / 2


@pytest.mark.parametrize("before", [b"", HEAD], ids=["first", "later"])
async def test_a_head_byte_by_byte(running: Service, before: bytes) -> None:
    async with connected(running) as (reader, writer):
        writer.write(before)
        if before:
            await reader.readuntil(b"}")
        async with trickling(writer, b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 1000):
            assert (await running.get("/health/alive")).status == 200
            assert await rest(reader) == b""
    assert (await running.get("/health/alive")).status == 200


async def test_who_waits_between_two_requests_is_left_alone(running: Service) -> None:
    async with connected(running) as (reader, writer):
        for _ in range(2):
            writer.write(HEAD)
            assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200")
            await asyncio.sleep(LIMIT_S * 2)
        for part in (HEAD[:9], HEAD[9:]):  # a head in two pieces, in time
            writer.write(part)
            await asyncio.sleep(LIMIT_S / 6)
        assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200")
        await asyncio.sleep(LIMIT_S * 2)
        writer.write(HEAD)
        assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200")


# --- bodies


@pytest.mark.parametrize("head", [LOGIN, UPLOAD % 100], ids=["own", "hosted"])
@pytest.mark.parametrize("sent", [b"", b'{"login": '], ids=["nothing", "some"])
async def test_a_body_that_does_not_come(running: Service, head: bytes, sent: bytes) -> None:
    async with connected(running) as (reader, writer):
        writer.write(head + sent)
        response = await rest(reader)
    assert response.startswith(b"HTTP/1.1 408 ")
    assert json.loads(response.partition(b"\r\n\r\n")[2])["code"] == "request_timeout"


@pytest.mark.parametrize("head", [LOGIN, UPLOAD % 1_000_000], ids=["own", "hosted"])
async def test_a_body_byte_by_byte(running: Service, head: bytes) -> None:
    async with connected(running) as (reader, writer):
        writer.write(head)
        async with trickling(writer, b'{"login": "alice"'):
            assert (await running.get("/health/alive")).status == 200
            response = await rest(reader)
    assert not response or response.startswith(b"HTTP/1.1 408 ")
    await until(lambda: open_connections(running) <= 1)  # that of the other client


async def test_a_body_that_goes_on_coming_may_take_long(running: Service) -> None:
    pieces = 12
    async with connected(running) as (reader, writer):
        writer.write(UPLOAD % (pieces * 1000))
        for _ in range(pieces):
            writer.write(bytes(1000))
            await asyncio.sleep(LIMIT_S / 4)
        response = await reader.readuntil(b"12000")
    assert response.startswith(b"HTTP/1.1 200 ")


async def test_a_handler_that_does_not_read_is_not_the_clients_fault(
    running: Service, handlers: Handlers
) -> None:
    handlers.may_read.clear()
    size = 32 * 1024 * 1024
    async with connected(running) as (reader, writer):
        writer.write(UPLOAD % size + bytes(size))
        await handlers.waiting.wait()
        await asyncio.sleep(LIMIT_S * 3)
        handlers.may_read.set()
        response = await reader.readuntil(str(size).encode())
    assert response.startswith(b"HTTP/1.1 200 ")


async def test_abandoned_uploads_leave_nothing(running: Service) -> None:
    async def abandon() -> None:
        async with connected(running) as (_, writer):
            writer.write(UPLOAD % BIG + bytes(100_000))
            await writer.drain()

    await asyncio.gather(*(abandon() for _ in range(50)))
    assert (await running.get("/health/alive")).status == 200
    await until(lambda: open_connections(running) <= 1)


# --- answers


@pytest.mark.parametrize("path", [b"/download", b"/pieces"])
async def test_a_reader_that_never_reads(running: Service, handlers: Handlers, path: bytes) -> None:
    with socket.create_connection((running.host, running.port)) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.sendall(b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % path)
        await until(lambda: open_connections(running) == 1)
        assert (await running.get("/health/alive")).status == 200
        await until(lambda: open_connections(running) <= 1, within_s=LIMIT_S + KIND_S)
    assert len(handlers.ended) == (path == b"/pieces")


async def test_answers_that_nobody_takes_and_a_connection_that_is_to_be_closed(
    running: Service,
) -> None:
    """What fits into the buffers keeps no handler, and must not keep the connection either."""
    with socket.create_connection((running.host, running.port)) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.sendall(b"GET /download HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        await until(lambda: open_connections(running) == 1)
        await until(lambda: open_connections(running) == 0, within_s=LIMIT_S + KIND_S)


# --- many


@pytest.fixture
async def small(limited: Config, database: Dsns, handlers: Handlers) -> AsyncIterator[Service]:
    """A service that has four connections at most, and patience."""
    four = msgspec.structs.replace(limited, connections=4, header_timeout_s=60, body_timeout_s=60)
    async with serving(create_app(four, database.app, handlers.routes()), four) as service:
        yield service


@contextmanager
def sockets(service: Service, number: int) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        yield [
            stack.enter_context(socket.create_connection((service.host, service.port)))
            for _ in range(number)
        ]


async def test_idle_connections_keep_nobody_out(small: Service) -> None:
    async with connected(small) as (reader, writer):
        writer.write(HEAD)
        await reader.readuntil(b"}")
        with sockets(small, 20):
            await until(lambda: open_connections(small) == 4)
            assert (await small.get("/health/alive")).status == 200
            # it has shown that it is somebody, so it goes after those who have not
            writer.write(HEAD)
            assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200")
        body = (await small.get("/metrics")).body
    assert b'gatelog_connections_cut_total{reason="crowded"}' in body


async def test_what_is_at_work_is_not_cut_and_one_more_is_refused(
    small: Service, handlers: Handlers
) -> None:
    busy = []
    for _ in range(4):
        handlers.waiting.clear()
        reader, writer = await asyncio.open_connection(small.host, small.port)
        writer.write(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        await handlers.waiting.wait()
        busy.append((reader, writer))
    async with connected(small) as (reader, writer):
        assert await rest(reader) == b""
    handlers.may_answer.set()
    for reader, writer in busy:
        assert (await reader.readuntil(b"at last")).startswith(b"HTTP/1.1 200 ")
        writer.transport.abort()
    assert (await small.get("/health/alive")).status == 200


def _connections(service: Service) -> list[Any]:
    assert service.runner.server is not None
    return list(service.runner.server.connections)


def _awaits_body(connection: Any) -> bool:
    return bool(connection.awaits_body())


async def test_slow_bodies_keep_nobody_out(small: Service, handlers: Handlers) -> None:
    """And who has sent most of a body goes last."""
    async with connected(small) as (reader, writer):
        writer.write(UPLOAD % 100_000 + bytes(90_000))
        await handlers.waiting.wait()
        with sockets(small, 12) as slow:
            for each in slow:
                each.sendall(LOGIN + b"{")
            await until(lambda: sum(map(_awaits_body, _connections(small))) == 4)
            answer = await small.get("/health/alive", headers={"Connection": "close"})
            assert answer.status == 200
            writer.write(bytes(10_000))
            assert (await reader.readuntil(b"100000")).startswith(b"HTTP/1.1 200 ")


def test_connections_are_no_more_than_files(limited: Config) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (600, before[1]))
        limits = limits_of(limited)
        assert 1 <= limits.connections <= 600 - OTHER_FILES
        raise_file_limit(limited)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])
        assert limits_of(limited).connections > limits.connections
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_few_files_are_told(limited: Config) -> None:
    program = (
        "import logging, resource, sys, msgspec\n"
        "from gatelog.config import Config\n"
        "from gatelog.hosting.server import raise_file_limit\n"
        "logging.basicConfig()\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))\n"
        "raise_file_limit(Config(connections=int(sys.argv[1])))\n"
    )
    for connections, told in ((20_000, True), (500, False)):
        done = subprocess.run(
            [sys.executable, "-c", program, str(connections)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        assert ("connections, not 20000: it may open 1024 files" in done.stderr) is told
