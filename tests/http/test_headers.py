"""Headers with anything in them: an answer, never a server error, and nothing told of versions."""

from __future__ import annotations

import asyncio
import random

import pytest

from tests.serving import Service

NAMES = [
    "Accept",
    "Accept-Charset",
    "Accept-Encoding",
    "Accept-Language",
    "Access-Control-Request-Headers",
    "Access-Control-Request-Method",
    "Authorization",
    "Cache-Control",
    "Connection",
    "Content-Encoding",
    "Content-Length",
    "Content-Type",
    "Cookie",
    "Date",
    "DNT",
    "Expect",
    "Forwarded",
    "From",
    "Host",
    "If-Match",
    "If-Modified-Since",
    "If-None-Match",
    "If-Range",
    "If-Unmodified-Since",
    "Keep-Alive",
    "Last-Event-ID",
    "Max-Forwards",
    "Next-Router-Prefetch",
    "Origin",
    "Pragma",
    "Prefer",
    "Proxy-Authorization",
    "Purpose",
    "Range",
    "Referer",
    "Sec-Fetch-Mode",
    "Sec-Fetch-Site",
    "Sec-Purpose",
    "Sec-WebSocket-Key",
    "TE",
    "Traceparent",
    "Trailer",
    "Transfer-Encoding",
    "Upgrade",
    "User-Agent",
    "Via",
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "X-Forwarded-Proto",
    "X-Real-IP",
]
HOSTILE = [
    b"",
    b"\x80\xff\xfe",
    "\u00e9\u4e2d\U0001f600".encode(),
    b"\xed\xa0\x80",  # a surrogate in UTF-8
    b"\x7f",
    b"\x01\x02",
    b'"\\"\\',
    b";;;===,,,",
    b"%00%ff%zz",
    b"bytes=0-18446744073709551616",
    b"9" * 400,
    b"-1",
    b"nonsense",
    b"100-continue",
    b"websocket",
    b"a" * 4000,
]
SEED = 20261126
ANSWERED_WITHIN_S = 10


async def answer_to(service: Service, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the answer to exactly these bytes."""
    reader, writer = await asyncio.open_connection(service.host, service.port)
    try:
        writer.write(request)
        async with asyncio.timeout(ANSWERED_WITHIN_S):
            head = b"HTTP/1.1 100 Continue\r\n\r\n"
            while head == b"HTTP/1.1 100 Continue\r\n\r\n":
                head = await reader.readuntil(b"\r\n\r\n")
            first, *lines = head.decode("latin-1").rstrip().split("\r\n")
            headers = dict(line.split(": ", 1) for line in lines)
            body = await reader.readexactly(int(headers["Content-Length"]))
    finally:
        writer.close()
    return int(first.split()[1]), headers, body


def request_with(method: str, path: str, name: str, value: bytes) -> bytes:
    host = b"" if name == "Host" else b"Host: localhost\r\n"
    line = name.encode() + b": " + value + b"\r\n"
    return f"{method} {path} HTTP/1.1\r\n".encode() + host + line + b"\r\n"


@pytest.mark.parametrize("name", NAMES)
async def test_nothing_in_a_header_is_a_server_error(service: Service, name: str) -> None:
    seeded = random.Random(f"{SEED}{name}")
    mixed = [b"".join(seeded.sample(HOSTILE[1:9], 3)) for _ in range(4)]
    for value in [*HOSTILE, *mixed, bytes(seeded.randrange(128, 256) for _ in range(40))]:
        method, path = seeded.choice(
            [("GET", "/v1/me"), ("GET", "/v1/logout_user"), ("POST", "/v1/auth")]
        )
        status, headers, body = await answer_to(service, request_with(method, path, name, value))
        assert status < 500, (name, value, body)
        if status >= 400:
            assert headers["Content-Type"] == "application/problem+json", (name, value)
        assert headers["Server"] == "gatelog"


@pytest.mark.parametrize(
    "value", [b"nonsense", b"\xff", "\u00e9".encode(), b"100-continue, x", b" "]
)
@pytest.mark.parametrize("path", ["/v1/me", "/v1/login_user", "/nowhere", "/health/alive"])
async def test_an_expectation_that_cannot_be_met(service: Service, path: str, value: bytes) -> None:
    status, headers, body = await answer_to(service, request_with("GET", path, "Expect", value))
    if not value.strip():
        assert status != 417
        return
    assert (status, headers["Content-Type"]) == (417, "application/problem+json")
    assert b'"code":"expectation_failed"' in body


async def test_who_waits_before_sending_a_body_is_told_to_go_on(alice: Service) -> None:
    reader, writer = await asyncio.open_connection(alice.host, alice.port)
    body = b'{"login": "alice", "password": "a rather long phrase"}'
    writer.write(
        b"POST /v1/login_user HTTP/1.1\r\nHost: localhost\r\nExpect: 100-Continue\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    )
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(body)
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    writer.close()


@pytest.mark.parametrize(
    "request_line",
    [
        b"GET /health/alive HTTP/1.1",
        b"GET /v1/me HTTP/1.1",
        b"GET /nowhere HTTP/1.1",
        b"PUT /v1/me HTTP/1.1",
        b"GET /health/alive HTTP/1.0",
        b"nonsense",
        b"GET / HTTP/9.9",
    ],
)
async def test_no_answer_tells_versions(service: Service, request_line: bytes) -> None:
    _, headers, body = await answer_to(service, request_line + b"\r\nHost: localhost\r\n\r\n")
    assert headers["Server"] == "gatelog"
    for text in (str(headers), body.decode()):
        assert "aiohttp" not in text
        assert "Python" not in text


async def test_nor_does_an_answer_in_bytes(alice: Service) -> None:
    for path in ("/v1/me", "/v1/auth"):
        answer = await alice.get(path, cookie=await alice.token())
        assert answer.headers.getall("Server") == ["gatelog"]
