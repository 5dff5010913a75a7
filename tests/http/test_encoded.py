"""Answers put together as bytes: nobody who reads them can tell."""

from __future__ import annotations

import asyncio
import re
import socket

import pytest
from aiohttp import web
from aiohttp.typedefs import Handler
from gatelog.config import Config
from gatelog.hosting.app import create_app

from tests.conftest import Dsns
from tests.serving import Service, serving
from tests.waiting import until

PATHS = ["/v1/me", "/v1/auth", "/v1/me?", "/v1/auth?login=header"]
MOST_UNSENT = 128 * 1024


async def raw(service: Service, request: str, token: str) -> bytes:
    """What is answered to this request on a connection of its own, byte by byte."""
    reader, writer = await asyncio.open_connection(service.host, service.port)
    writer.write(f"{request}Authorization: Bearer {token}\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"\r\nContent-Length: (\d+)\r\n", head)
    assert length is not None
    body = await reader.readexactly(int(length[1]))
    writer.close()
    await writer.wait_closed()
    return re.sub(rb"\r\nDate: [^\r]+ GMT\r\n", b"\r\nDate: now\r\n", head) + body


async def mark(_: web.Request, response: web.StreamResponse) -> None:
    response.headers["X-Seen"] = "yes"


@web.middleware
async def marking(request: web.Request, handler: Handler) -> web.StreamResponse:
    response = await handler(request)
    await mark(request, response)
    return response


@pytest.mark.parametrize("by", ["signal", "middleware"])
@pytest.mark.parametrize("path", PATHS)
async def test_an_application_sees_every_response_if_it_wants_to(
    config: Config, database: Dsns, path: str, by: str
) -> None:
    app = create_app(config, database.app)
    if by == "signal":
        app.on_response_prepare.append(mark)
    else:
        app.middlewares.append(marking)
    async with serving(app, config) as service:
        await service.register()
        answer = await service.get(path, cookie=await service.token())
    assert (answer.status, answer.headers["X-Seen"]) == (200, "yes")


@pytest.mark.parametrize("path", PATHS)
async def test_the_same_bytes_as_an_ordinary_response(alice: Service, path: str) -> None:
    token = await alice.token()
    encoded = await raw(alice, f"GET {path} HTTP/1.1\r\nHost: x\r\n", token)
    closing = await raw(alice, f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n", token)
    older = await raw(alice, f"GET {path} HTTP/1.0\r\nConnection: keep-alive\r\n", token)
    assert b"Date: now" in encoded
    assert closing == encoded.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    assert older == encoded.replace(b"\r\n\r\n", b"\r\nConnection: keep-alive\r\n\r\n").replace(
        b"HTTP/1.1", b"HTTP/1.0"
    )


async def test_the_connection_stays_open(alice: Service) -> None:
    token = await alice.token()
    reader, writer = await asyncio.open_connection(alice.host, alice.port)
    one = f"GET /v1/auth HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
    writer.write(one * 3)
    heads = [await reader.readuntil(b"\r\n\r\n") for _ in range(3)]
    assert all(head.startswith(b"HTTP/1.1 200 OK\r\n") for head in heads)
    writer.close()
    await writer.wait_closed()


async def test_who_does_not_read_is_not_answered_on_and_on(alice: Service) -> None:
    token = await alice.token()
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(connection, (alice.host, alice.port))
    one = f"GET /v1/me HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n".encode()

    async def send() -> None:
        while True:
            await loop.sock_sendall(connection, one * 100)
            await asyncio.sleep(0)

    def unsent() -> int:
        assert alice.runner.server is not None
        transports = [each.transport for each in alice.runner.server.connections]
        return sum(each.get_write_buffer_size() for each in transports if each is not None)

    async def looks_on() -> int:
        """The most that lies in the service's memory while it goes on being asked."""
        return max([unsent() for _ in range(1000) if await asyncio.sleep(0.002, result=True)])

    sending = asyncio.create_task(send())
    try:
        await until(lambda: unsent() > 0, within_s=120)  # where each check asks the database
        assert await looks_on() < MOST_UNSENT
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        connection.close()
    assert (await alice.get("/v1/me", cookie=token)).status == 200
