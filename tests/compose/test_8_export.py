"""What nginx hands on, and what it keeps to itself: exports that break off, and who has asked."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection, HTTPResponse, IncompleteRead
from urllib.parse import urlencode

import pytest

from tests.compose.stack import Stack
from tests.compose.test_1_up import ask, log_in
from tests.proofs.sealing import append

EXPORT = "/v1/audit/export?format=ndjson"
EVENTS = 120_000  # 23 MB: more than all buffers between the service and a client can hold
EVENTS_AT_ONCE = 2000
PIECE = 1 << 20
LOGIN = "ziegenpeter-fleischhauer"
ADDRESS = "203.0.113.77"
AGENT = "Peculiar-Browser/47.11 (Amiga; Kickstart)"


@contextmanager
def stopped(stack: Stack, service: str) -> Iterator[None]:
    """Without this service; afterwards all is well again."""
    stack.compose("stop", service)
    try:
        yield
    finally:
        stack.compose("start", service)
        stack.wait_until_healthy(service)
        stack.wait_until_healthy("api")


def auditor(stack: Stack) -> dict[str, str]:
    """The header that carries the session of an auditor."""
    log_in(stack, "audrey")
    stack.containers("api")[0].exec("gatelog", "user", "grant", "audrey", "auditor")
    return log_in(stack, "audrey")


async def append_many(dsn: str) -> None:
    for _ in range(EVENTS // EVENTS_AT_ONCE):
        await append(dsn, EVENTS_AT_ONCE)


def events_of(answer: HTTPResponse) -> int:
    """How many events follow in a body that is complete. Raises IncompleteRead when it is not."""
    events = 0
    while piece := answer.read(PIECE):
        events += piece.count(b"\n")
    return events


@pytest.mark.timeout(600)
def test_an_export_that_breaks_off_does_not_look_complete(stack: Stack) -> None:
    asyncio.run(append_many(stack.owner_dsn()))
    session = auditor(stack)
    address = stack.container("nginx").address("_edge")  # nothing in between has buffers, too
    with closing(HTTPConnection(address, 8080, timeout=120)) as connection:
        connection.request("GET", EXPORT, headers=session)
        answer = connection.getresponse()
        assert answer.status == 200
        assert answer.read(PIECE)
        with stopped(stack, "api"), pytest.raises((IncompleteRead, ConnectionError)):
            events_of(answer)
    with closing(HTTPConnection(address, 8080, timeout=120)) as connection:
        connection.request("GET", f"{EXPORT}&before=20001", headers=session)
        assert events_of(connection.getresponse()) == 20_000


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_container_logs_who_asked_for_what(stack: Stack) -> None:
    """Errors are what nginx would write lines about: with the address, and with the parameters."""
    session = auditor(stack) | {"User-Agent": AGENT}
    query = urlencode({"address": ADDRESS})
    statuses: set[int] = set()

    def ask_everything() -> None:
        for method, path, password in (
            ("GET", f"/v1/audit/events?{query}", None),
            ("GET", f"/example/?{query}", None),  # it does not run
            ("POST", f"/v1/login_user?{query}", "not the right phrase"),
            ("POST", f"/v1/login_user?{query}", "x" * 100_000),
        ):
            body = {"login": LOGIN, "password": password} if password else None
            statuses.add(ask(method, path, port=stack.port, body=body, **session).status)

    ask_everything()
    with stopped(stack, "postgres"):
        ask_everything()
    assert {200, 401, 413, 503} <= statuses
    logged = stack.compose("logs").stdout
    assert "api-1 " in logged and "postgres-1 " in logged, "there is something to be read"
    for text in (LOGIN, ADDRESS, AGENT, "client: "):
        assert text not in logged, text
