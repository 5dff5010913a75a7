"""The export: all of it or visibly not, in little memory, at the client's own pace."""

from __future__ import annotations

import asyncio
import csv
import gc
import io
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import msgspec
import psutil
import pytest
from gatelog.audit.rules.formats import COLUMNS
from gatelog.audit.rules.shown import AuditFilter, ShownEvent
from gatelog.audit.service import audit as audit_module
from gatelog.audit.service.export import PIECE
from gatelog.audit.web import export
from gatelog.audit.web.events import FILTERS
from gatelog.config import Config
from gatelog.hosting.app import create_app
from gatelog.hosting.services import open_services
from gatelog.privacy.rules import Client
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.audit.auditing import (
    add_auditor,
    any_query,
    append_many,
    count_reads,
    next_second,
    ragged,
)
from tests.conftest import Dsns
from tests.proofs.sealing import tampering
from tests.serving import PASSWORD, Service, serving
from tests.waiting import until

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection

EXPORT = "/v1/audit/export"
MIB = 2**20
WHILE_S = 0.4


@pytest.fixture
async def auditor(service: Service, config: Config, database: Dsns) -> str:
    """A token of somebody with the role auditor."""
    await add_auditor(config, database)
    return await service.token("audrey")


def lines(body: bytes) -> list[dict[str, Any]]:
    assert body == b"" or body.endswith(b"\n")
    return [json.loads(line) for line in body.splitlines()]


# --- what it holds


@pytest.mark.parametrize("personal", ["open", "sealed"])
async def test_both_formats_hold_the_same(service: Service, auditor: str, personal: str) -> None:
    await service.register("=bob,\"'")
    await service.log_in("=bob,\"'", "not the right phrase", headers={"User-Agent": "-1+1"})
    await service.log_in("nobody", "not the right phrase", headers={"User-Agent": "-1+1"})
    query = f"&personal={personal}&before=1000"
    ndjson = await service.get(f"{EXPORT}?format=ndjson{query}", cookie=auditor)
    text = await service.get(f"{EXPORT}?format=csv{query}", cookie=auditor)
    assert (ndjson.status, text.status) == (200, 200)
    events = lines(ndjson.body)
    head = int(ndjson.headers["X-Gatelog-Position"])
    assert [event["position"] for event in events] == list(range(1, head + 1))
    rows = list(csv.DictReader(io.StringIO(text.body.decode(), newline=""), strict=True))
    assert list(rows[0]) == list(COLUMNS)
    for event, row in zip(events, rows, strict=False):
        msgspec.convert(event, ShownEvent)
        told = {name: cell.removeprefix("'") for name, cell in row.items() if cell}
        assert told == {name: str(value) for name, value in event.items()}
    failed = [event for event in events if event["type"] == "login_failed"]
    logins = ["=bob,\"'", "nobody"] if personal == "open" else [None, None]
    assert [event.get("login") for event in failed] == logins
    assert {event.get("user_agent") for event in failed} == (
        {"-1+1"} if personal == "open" else {None}
    )
    assert b"\n=" not in text.body and b",=" not in text.body and b",-" not in text.body


async def test_the_headers(service: Service, auditor: str) -> None:
    for form, kind in (("ndjson", "application/x-ndjson"), ("csv", "text/csv; charset=utf-8")):
        path = f"{EXPORT}?format={form}"
        head = await service.send("HEAD", path, cookie=auditor)
        assert (head.status, head.body) == (200, b"")
        answer = await service.get(path, cookie=auditor)
        for each in (head, answer):
            assert each.headers["Content-Type"].startswith(kind)
            assert each.headers["Cache-Control"] == "no-store"
            position = each.headers["X-Gatelog-Position"]
            name = f'attachment; filename="gatelog-events-{position}.{form}"'
            assert each.headers["Content-Disposition"] == name
        assert answer.headers["Transfer-Encoding"] == "chunked"


async def test_an_export_of_nothing(service: Service, auditor: str) -> None:
    query = "&user=00000000-0000-4000-8000-000000000000"
    empty = await service.get(f"{EXPORT}?format=ndjson{query}", cookie=auditor)
    assert (empty.status, empty.body) == (200, b"")
    empty = await service.get(f"{EXPORT}?format=csv{query}", cookie=auditor)
    assert empty.body == ",".join(COLUMNS).encode() + b"\r\n"


async def test_filters_and_parts(service: Service, auditor: str, database: Dsns) -> None:
    """Longer than a page of the database's; parts go together."""
    await append_many(database, 5000)
    whole = lines((await service.get(f"{EXPORT}?format=ndjson", cookie=auditor)).body)
    parts = []
    for after, before in ((0, 2001), (2000, 4001), (4000, 10**6)):
        query = f"format=ndjson&after={after}&before={before}"
        parts += lines((await service.get(f"{EXPORT}?{query}", cookie=auditor)).body)
    assert parts[: len(whole)] == whole
    assert [event["position"] for event in whole] == list(range(1, len(whole) + 1))
    query = "format=ndjson&type=login_failed"
    failed = lines((await service.get(f"{EXPORT}?{query}", cookie=auditor)).body)
    assert failed == [event for event in whole if event["type"] == "login_failed"]
    query = "format=ndjson&address=127.0.0.1"
    local = lines((await service.get(f"{EXPORT}?{query}", cookie=auditor)).body)
    assert {"session_started", "audit_read"} == {event["type"] for event in local}


# --- who may, and what may be asked


async def test_only_who_may(service: Service, auditor: str) -> None:
    await service.register("bob")
    path = f"{EXPORT}?format=csv"
    assert (await service.get(path)).status == 401
    nobody = await service.get(path, cookie=await service.token("bob"))
    assert (nobody.status, nobody.code) == (403, "forbidden")
    assert (await service.post(path, cookie=auditor)).status == 405


@pytest.mark.parametrize(
    "query",
    [
        *("", "format=xml", "format=csv&format=csv", "format=csv&personal=no", "format=csv&x=1"),
        *("format=csv&order=asc", "format=csv&user=bob", "format=csv&cursor=after-1"),
        "format=csv&limit=3",
    ],
)
async def test_questions_that_are_none(service: Service, auditor: str, query: str) -> None:
    answer = await service.get(f"{EXPORT}?{query}", cookie=auditor)
    assert (answer.status, answer.code) == (422, "invalid_input")


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(query=any_query("format", "personal", "order", *FILTERS), raw=st.binary(max_size=6))
async def test_no_question_is_an_error_of_ours(
    service: Service, auditor: str, query: str, raw: bytes
) -> None:
    for asked in (query, f"format=csv&{query}", *(f"format=ndjson&{each}" for each in ragged(raw))):
        answer = await service.get(f"{EXPORT}?{asked}", cookie=auditor)
        assert answer.status == 200 or (answer.status, answer.code) == (422, "invalid_input"), asked


async def test_reading_is_recorded_before_anything_is_shown(service: Service, auditor: str) -> None:
    answer = await service.get(f"{EXPORT}?format=ndjson", cookie=auditor)
    again = await service.get(f"{EXPORT}?format=ndjson&type=audit_read", cookie=auditor)
    assert "export" in {event["what"] for event in lines(again.body)}
    assert answer.status == 200


# --- at the client's pace


@asynccontextmanager
async def slowly(
    service: Service, token: str, query: str, *, version: str = "1.1"
) -> AsyncIterator[asyncio.StreamReader]:
    """An export that nobody reads yet; little of it fits between the two sides."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(connection, (service.host, service.port))
    reader, writer = await asyncio.open_connection(sock=connection, limit=4096)
    asked = f"GET {EXPORT}?{query} HTTP/{version}"
    writer.write(f"{asked}\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
    status = await reader.readline()
    assert status == f"HTTP/{version} 200 OK\r\n".encode(), await reader.read(1000)
    while await reader.readline() != b"\r\n":
        pass
    try:
        yield reader
    finally:
        writer.close()


async def chunked(reader: asyncio.StreamReader) -> bytes:
    """A chunked body to its end (RFC 9112, 7.1). Raises IncompleteReadError without one."""
    body = bytearray()
    while True:
        size = int(await reader.readuntil(b"\r\n"), 16)
        body += (await reader.readexactly(size + 2))[:size]
        if size == 0:
            return bytes(body)


@pytest.mark.parametrize("personal", ["open", "sealed"])
async def test_a_slow_reader_costs_neither_memory_nor_connections(
    service: Service, auditor: str, database: Dsns, personal: str
) -> None:
    """The export is 19 MiB; while nobody reads, hardly any of it is there."""
    await append_many(database, 100_000)
    process = psutil.Process()
    gc.collect()
    before = process.memory_info().rss
    async with slowly(service, auditor, f"format=ndjson&personal={personal}") as reader:
        await until(lambda: waits_for_nothing(database), within_s=30)
        grown = process.memory_info().rss - before
        assert grown < 12 * MIB, f"{grown / MIB:.1f} MiB"
        body = await chunked(reader)
    assert len(body) > 18 * MIB
    assert [json.loads(line)["position"] for line in body.splitlines()] == list(
        range(1, body.count(b"\n") + 1)
    )


async def queries(owner: Connection) -> int:
    """How many of the service's connections are in a query or a transaction.

    But for the barrier's, which looks at the leases all the time.
    """
    count: int = await owner.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND state <> 'idle' AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        " AND query NOT LIKE '%replica_lease%'"
    )
    return count


async def waits_for_nothing(database: Dsns) -> bool:
    """Nothing is asked of the database, and nothing held, for a while: the buffers are full."""
    async with tampering(database) as owner:
        for _ in range(20):
            if await queries(owner):
                return False
            await asyncio.sleep(WHILE_S / 20)
    return True


async def test_it_is_recorded_as_long_as_it_takes(
    service: Service,
    auditor: str,
    database: Dsns,
    connection: Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who takes their time leaves a second audit read, in a minute that is as short as can be."""
    await append_many(database, 30_000)
    monkeypatch.setattr(audit_module, "RECORDED_EVERY_S", 1)
    async with slowly(service, auditor, "format=ndjson") as reader:
        await until(lambda: waits_for_nothing(database), within_s=60)
        reads = await count_reads(connection)
        assert reads >= 1
        await next_second()
        assert len(await chunked(reader)) > 5 * MIB
    assert await count_reads(connection) > reads


async def test_no_more_exports_than_the_limit(
    service: Service, auditor: str, database: Dsns
) -> None:
    await append_many(database, 20_000)
    async with (
        slowly(service, auditor, "format=csv"),
        slowly(service, auditor, "format=csv"),
    ):
        full = await service.get(f"{EXPORT}?format=csv", cookie=auditor)
        assert (full.status, full.code) == (503, "overloaded")
        assert int(full.headers["Retry-After"]) > 0

    async def is_free() -> bool:
        head = await service.send("HEAD", f"{EXPORT}?format=csv", cookie=auditor)
        return head.status == 200

    await until(is_free)


# --- ended early


async def broken(reader: asyncio.StreamReader) -> None:
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await chunked(reader)


async def test_it_ends_with_the_session_and_looks_broken(
    service: Service, auditor: str, database: Dsns
) -> None:
    await append_many(database, 50_000)
    async with slowly(service, auditor, "format=ndjson") as reader:
        await service.post("/v1/logout_user", cookie=auditor)
        await broken(reader)


async def test_without_the_database_it_looks_broken(config: Config, database: Dsns) -> None:
    config = msgspec.structs.replace(config, database_timeout_s=3)
    await add_auditor(config, database)
    await append_many(database, 50_000)
    async with serving(create_app(config, database.app), config) as service:
        token = await service.token("audrey")
        async with (
            slowly(service, token, "format=csv") as reader,
            tampering(database) as owner,
            owner.transaction(),
        ):
            await owner.execute("LOCK TABLE events IN ACCESS EXCLUSIVE MODE")
            await broken(reader)


async def test_a_damaged_entry_breaks_it(service: Service, auditor: str, database: Dsns) -> None:
    await append_many(database, 1000)
    async with tampering(database) as owner:
        await owner.execute("UPDATE events SET entry = '{' WHERE position = 700")
    for personal in ("open", "sealed"):
        with pytest.raises(aiohttp.ClientError):
            await service.get(f"{EXPORT}?format=ndjson&personal={personal}", cookie=auditor)


async def test_an_export_over_http_1_0_is_reset_too(
    service: Service, auditor: str, database: Dsns
) -> None:
    """There the end of the connection is the end of the body: it must not look like one."""
    await append_many(database, 1000)
    async with tampering(database) as owner:
        await owner.execute("UPDATE events SET entry = '{' WHERE position = 900")
    reader, writer = await asyncio.open_connection(service.host, service.port)
    head = f"GET {EXPORT}?format=csv HTTP/1.0\r\nAuthorization: Bearer {auditor}\r\n\r\n"
    writer.write(head.encode())
    with pytest.raises(ConnectionResetError):
        await reader.read(-1)
    writer.close()


@pytest.mark.parametrize("told", [True, False])
async def test_a_stop_of_the_service_breaks_it(
    config: Config,
    database: Dsns,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    told: bool,
) -> None:
    """Told to end before all others, or cancelled like them.

    In HTTP/1.0, which nginx speaks unless told otherwise, a plain close would be the end.
    """
    if not told:
        monkeypatch.setattr(export, "STOP_SHARE", 1000)
    await add_auditor(config, database)
    await append_many(database, 50_000)
    async with serving(create_app(config, database.app), config) as service:
        token = await service.token("audrey")
        async with slowly(service, token, "format=csv", version="1.0") as reader:
            await service.runner.cleanup()
            assert ("an export is broken off: out of time" in caplog.text) == told
            with pytest.raises(ConnectionResetError):
                await reader.read(-1)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_a_complete_one_ends_like_any_other_answer(
    service: Service, auditor: str, database: Dsns, version: str
) -> None:
    await append_many(database, 1000)
    async with slowly(service, auditor, "format=csv&before=1001", version=version) as reader:
        if version == "1.0":
            assert (await reader.read(-1)).count(b"\r\n") == 1001
        else:
            assert (await chunked(reader)).count(b"\r\n") == 1001


async def test_nothing_of_an_erased_person_is_exported(config: Config, database: Dsns) -> None:
    """Erased when the event has been read, but nobody has taken it yet."""
    async with open_services(config, database.app) as services:
        bob = await services.accounts.logins.add_user("bob", PASSWORD)
        await append_many(database, PIECE)
        await services.accounts.logins.log_in("bob", PASSWORD, Client("192.0.2.7", "Netscape"))
        upto = await services.exports.head()
        wanted = AuditFilter()
        whole = services.exports.export(wanted, upto, "ndjson", opened=True)
        assert b"Netscape" in b"".join([piece async for piece in whole])
        pieces = services.exports.export(wanted, upto, "ndjson", opened=True)
        first = await anext(pieces)
        await services.accounts.users.erase(bob)
        rest = b"".join([piece async for piece in pieces])
    assert 0 < len(lines(first)) < PIECE
    assert str(bob).encode() in rest
    assert b"Netscape" not in rest and b"192.0.2.7" not in rest
