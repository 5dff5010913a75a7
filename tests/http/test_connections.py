"""What breaks before any handler: raw bytes on a socket."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.serving import Service

SECRET = b"S" * 43


async def exchange(service: Service, request: bytes) -> bytes:
    """All that comes back until the server closes."""
    reader, writer = await asyncio.open_connection(service.host, service.port)
    try:
        writer.write(request)
        await writer.drain()
        async with asyncio.timeout(20):
            return await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()


def parsed(response: bytes) -> tuple[int, bytes, Any]:
    """Status, head and JSON body of the only response in these bytes."""
    head, _, body = response.partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), head, json.loads(body)


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"FOO /v1/me HTTP/1.1\r\nHost: x\r\n\r\n",
        b"get /v1/me HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\r\n\r\n",
        b"GET /v1/me HTTP/9.9\r\nHost: x\r\n\r\n",
        b"GET /v1/me HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
        b"GET /v1/me HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"GET /v1/me HTTP/1.1\r\nHost: x\r\n"
        b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET /v1/me HTTP/1.1\r\nHost: x\r\nCookie: gatelog=\x01" + SECRET + b"\r\n\r\n",
        b"GET /v1/me HTTP/1.1\r\nHost: x\r\nno header at all " + SECRET + b"\r\n\r\n",
        b"GET http://[::1 HTTP/1.1\r\nHost: x\r\n\r\n",
        pytest.param(
            b"GET /" + b"x" * 9_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", id="long-request-line"
        ),
        pytest.param(
            b"GET /v1/me HTTP/1.1\r\nHost: x\r\nCookie: gatelog=" + SECRET * 300 + b"\r\n\r\n",
            id="long-header",
        ),
        pytest.param(
            b"GET /v1/me HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 1_000 + b"\r\n",
            id="many-headers",
        ),
        pytest.param(
            b"GET /v1/me HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 10_000_000 + b"\r\n\r\n",
            id="one-header-of-10-mb",
        ),
        pytest.param(
            b"GET /v1/me HTTP/1.1\r\nHost: x\r\n" + b"X: yyyyyyyy\r\n" * 800_000 + b"\r\n",
            id="10-mb-of-headers",
        ),
    ],
)
async def test_what_is_no_request(
    service: Service, request_bytes: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    status, head, body = parsed(await exchange(service, request_bytes))
    assert status == body["status"] == 400
    assert body["code"] == "bad_request"
    assert b"Content-Type: application/problem+json" in head
    assert SECRET.decode() not in caplog.text
    assert SECRET.decode() not in json.dumps(body)
    assert (await service.get("/health/alive")).status == 200


async def test_a_later_request_may_be_none(service: Service) -> None:
    reader, writer = await asyncio.open_connection(service.host, service.port)
    writer.write(b"GET /health/alive HTTP/1.1\r\nHost: x\r\n\r\n")
    first = await reader.readuntil(b"}")
    writer.write(b"FOO / HTTP/1.1\r\n\r\n")
    async with asyncio.timeout(20):
        second = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert first.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b'"code":"bad_request"' in second


async def test_bytes_that_are_no_text(service: Service) -> None:
    line = b"Cookie: __Host-gatelog=" + SECRET[:-1] + b"\xff"
    close = b"\r\nConnection: close\r\n\r\n"
    request = b"GET /v1/me HTTP/1.1\r\nHost: x\r\n" + line + close
    status, _, body = parsed(await exchange(service, request))
    assert (status, body["code"]) == (401, "not_authenticated")


async def test_a_broken_chunk(service: Service) -> None:
    request = (
        b"POST /v1/login_user HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n"
    )
    response = await exchange(service, request)
    assert b" 400 Bad Request\r\n" in response
    assert b'"code":"bad_request"' in response


async def test_a_client_that_goes_away_is_no_error(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    _, writer = await asyncio.open_connection(service.host, service.port)
    writer.write(
        b"POST /v1/login_user HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Content-Length: 100\r\n\r\n{"
    )
    await writer.drain()
    assert (await service.get("/health/alive")).status == 200
    writer.transport.abort()
    assert (await service.get("/health/alive")).status == 200
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_an_expectation(service: Service) -> None:
    request = (
        b"POST /v1/login_user HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Content-Length: 2\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n{}"
    )
    response = await exchange(service, request)
    assert response.startswith(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert b'"code":"invalid_input"' in response


async def test_pipelined_requests(service: Service) -> None:
    one = b"GET /v1/me HTTP/1.1\r\nHost: x\r\n\r\n"
    last = b"GET /v1/me HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    response = await exchange(service, one * 9 + last)
    assert response.count(b"HTTP/1.1 401 Unauthorized\r\n") == 10
