"""The stream of events: everything, once, in order, and only while somebody may read it."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from random import Random
from typing import TYPE_CHECKING
from uuid import UUID

import aiohttp
import msgspec
import pytest
from gatelog.audit.rules.shown import ShownEvent
from gatelog.audit.service import audit as audit_module
from gatelog.audit.web.stream import FILTERS
from gatelog.clock import utc_now
from gatelog.config import Config
from gatelog.hosting.app import create_app
from gatelog.hosting.services import open_services
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from yarl import URL

from tests.audit.auditing import (
    STREAM,
    Reader,
    Received,
    add_auditor,
    any_query,
    append_many,
    count_reads,
    following,
    next_second,
    ragged,
)
from tests.conftest import Dsns
from tests.proofs.sealing import tampering
from tests.serving import Service, serving
from tests.waiting import until

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection

AT_ONCE_S = 10.0  # far less than what ends a stream otherwise; more than a pause of the machine
TCP_CLOSE = 7  # of Linux' tcp_states.h


@pytest.fixture(autouse=True)
def recorded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test goes from one minute to the next, which would record once more who reads."""
    monkeypatch.setattr(audit_module, "RECORDED_EVERY_S", 10**10)


@pytest.fixture
async def auditor(service: Service, config: Config, database: Dsns) -> str:
    """A token of somebody with the role auditor."""
    await add_auditor(config, database)
    return await service.token("audrey")


@pytest.fixture
async def quick(config: Config, database: Dsns) -> AsyncIterator[Service]:
    """The service with heartbeats that come often."""
    config = msgspec.structs.replace(config, stream_heartbeat_s=0.1)
    async with serving(create_app(config, database.app), config) as running:
        yield running


def positions(events: list[Received]) -> list[int]:
    return [event.position for event in events]


# --- what it shows


async def test_new_events_arrive_with_what_is_personal(service: Service, auditor: str) -> None:
    async with following(service, auditor) as reader:
        head = await reader.begun()
        await service.register("bob")
        await service.log_in("bob", headers={"User-Agent": "Netscape"})
        registered, granted = (await reader.take(2))[:2]
        if granted.type != "session_started":  # the first user is an administrator
            (granted,) = await reader.take(1)
        assert registered.position == head + 1
        assert registered.type == "user_registered"
        assert granted.shown["login"] == "bob"
        assert granted.shown["address"] == "127.0.0.1"
        assert granted.shown["user_agent"] == "Netscape"
        assert granted.shown["position"] == granted.position
        msgspec.convert(granted.shown, ShownEvent)
        assert reader.retry_ms


async def test_the_headers(service: Service, auditor: str) -> None:
    async with following(service, auditor) as reader:
        headers = reader.response.headers
        assert headers["Content-Type"] == "text/event-stream"
        assert headers["Cache-Control"] == "no-store"
        assert headers["X-Accel-Buffering"] == "no"
        assert headers["Vary"] == "Cookie, Authorization"
    head = await service.send("HEAD", STREAM, cookie=auditor)
    assert (head.status, head.body) == (200, b"")


async def test_from_a_position_on(service: Service, auditor: str, database: Dsns) -> None:
    await append_many(database, 900)
    async with following(service, auditor, "?after=0") as reader:
        everything = await reader.take(900)
    assert positions(everything) == list(range(1, 901))
    for after in (3, 893):  # what a browser resumes with counts more than the address it has
        async with following(service, auditor, f"?after={after}", last="890") as reader:
            assert positions(await reader.take(5)) == [891, 892, 893, 894, 895]


async def collect(reader: Reader, into: list[Received]) -> None:
    async for event in reader.events():
        into.append(event)


async def test_only_what_is_asked_for(quick: Service, auditor: str) -> None:
    """Live, and from the beginning; heartbeats tell when nothing else comes."""
    await quick.register("bob")
    bob = (await quick.log_in("bob")).json["user_id"]
    session = (await quick.get("/v1/me", cookie=auditor)).json["session_id"]
    failed, started, device = "login_failed", "session_started", "device_added"
    queries = {
        "?type=login_failed": ([failed, failed], [failed, failed]),
        "?type=login_failed&type=user_enabled": ([failed, failed], [failed, failed]),
        f"?user={bob}": (
            [failed, started, device],
            ["user_registered", started, failed, started, device],
        ),
        f"?user={bob}&type=login_failed": ([failed], [failed]),
        f"?session={session}": ([], [started]),
        "?address=127.0.0.1&type=login_failed": ([failed, failed], [failed, failed]),
        "?address=192.0.2.99": ([], []),
        "?network=127.0.0.0/8&type=login_failed": ([failed, failed], [failed, failed]),
        "?network=192.0.2.0/24": ([], []),
    }
    async with AsyncExitStack() as stack:
        seen: dict[str, list[Received]] = {}
        readers = []
        for query in queries:
            for asked in (query, f"{query}&after=0"):
                reader = await stack.enter_async_context(following(quick, auditor, asked))
                await reader.begun()
                seen[asked] = []
                stack.push_async_callback(
                    cancelled, asyncio.create_task(collect(reader, seen[asked]))
                )
                readers.append(reader)
        await quick.log_in("bob", "not the right phrase")
        await quick.log_in("nobody", "not the right phrase")
        last = (await quick.log_in("bob")).json["position"]
        await until(lambda: all(int(reader.last_id or 0) >= last for reader in readers))
    for query, (live, all_of_it) in queries.items():
        assert [event.type for event in seen[query]] == live, query
        assert [event.type for event in seen[f"{query}&after=0"]] == all_of_it, query
    logins = [event.shown["login"] for event in seen["?type=login_failed"]]
    assert logins == ["bob", "nobody"]


async def cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


# --- who may, and what may be asked


async def test_only_who_may(service: Service, auditor: str) -> None:
    await service.register("bob")
    assert (await service.get(STREAM)).status == 401
    nobody = await service.get(STREAM, cookie=await service.token("bob"))
    assert (nobody.status, nobody.code) == (403, "forbidden")
    assert (await service.post(STREAM, cookie=auditor)).status == 405


@pytest.mark.parametrize(
    "query",
    [
        *("after=-1", "after=x", "after=99999", "limit=3", "order=asc", "user=bob", "type=no"),
        *("address=home", "after=1&after=2", "from=2026-01-01T00:00:00Z", "before=3", "x=1"),
        "cursor=after-1",
    ],
)
async def test_questions_that_are_none(service: Service, auditor: str, query: str) -> None:
    answer = await service.get(f"{STREAM}?{query}", cookie=auditor)
    assert (answer.status, answer.code) == (422, "invalid_input")


@pytest.mark.parametrize("last", ["x", "-1", "1.5", "9" * 30, "99999", "\u0661", ""])
async def test_a_last_event_id_that_is_none(service: Service, auditor: str, last: str) -> None:
    answer = await service.get(STREAM, cookie=auditor, headers={"Last-Event-ID": last})
    assert (answer.status, answer.code) == (422, "invalid_input")


lasts = st.one_of(
    st.none(),
    st.integers(-1, 2**70).map(str),
    st.text(st.characters(min_codepoint=33, exclude_categories=["Cc", "Cs"]), max_size=25),
)


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(query=any_query(*FILTERS, "limit"), raw=st.binary(max_size=6), last=lasts)
async def test_no_question_is_an_error_of_ours(
    service: Service, auditor: str, query: str, raw: bytes, last: str | None
) -> None:
    headers = {"Cookie": f"gatelog={auditor}"} | ({"Last-Event-ID": last} if last else {})
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as client:
        for asked in (query, *ragged(raw)):
            url = URL(f"http://{service.host}:{service.port}{STREAM}?{asked}", encoded=True)
            async with client.head(url, headers=headers) as head:
                assert head.status in {200, 422}, asked
        url = URL(f"http://{service.host}:{service.port}{STREAM}?{query}", encoded=True)
        async with client.get(url, headers=headers) as answer:  # a stream is not read to an end
            assert answer.status in {200, 422}, query


async def test_reading_is_recorded(service: Service, auditor: str) -> None:
    async with following(service, auditor, "?after=0&type=audit_read") as reader:
        (read,) = await reader.take(1)
    assert read.shown["what"] == "stream"


async def take_next(reader: Reader, kind: str, by: str | None = None) -> None:
    """Read on to the next event of this type, and of this user if one is given."""
    while True:
        (event,) = await reader.take(1)
        if event.type == kind and (by is None or event.shown["user_id"] == by):
            return


async def test_who_goes_on_reading_is_recorded_again_and_again(
    service: Service,
    auditor: str,
    *,
    config: Config,
    database: Dsns,
    connection: Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two read, in minutes that are as short as can be. That others read is no reason."""
    for login in ("audra", "aude"):
        await add_auditor(config, database, login)
    other, third = await service.token("audra"), await service.log_in("aude")
    async with following(service, auditor) as reader, following(service, other) as too:
        await reader.begun()
        await too.begun()
        monkeypatch.setattr(audit_module, "RECORDED_EVERY_S", 1)
        reads = await count_reads(connection)
        for _ in range(3):
            await next_second()
            await append_many(database, 1)
            await take_next(reader, "login_failed")
            await take_next(too, "login_failed")
            reads += 2  # before it was shown
            assert await count_reads(connection) == reads
        await next_second()
        assert (await service.get("/v1/audit/events", cookie=third.token)).status == 200
        for each in (reader, too):
            await take_next(each, "audit_read", third.json["user_id"])
        assert await count_reads(connection) == reads + 1


async def test_what_was_purged_cannot_be_resumed(
    service: Service, auditor: str, database: Dsns
) -> None:
    await append_many(database, 20)
    async with tampering(database) as owner:
        await owner.execute("DELETE FROM events WHERE position <= 10")
    gone = await service.get(f"{STREAM}?after=9", cookie=auditor)
    assert (gone.status, gone.code) == (410, "purged")
    async with following(service, auditor, "?after=10") as reader:
        assert positions(await reader.take(3)) == [11, 12, 13]


# --- resumed


async def test_who_connects_again_and_again_gets_everything_once(
    service: Service, auditor: str, database: Dsns
) -> None:
    """Events come all the time; connections break at any moment, in the middle of an event too."""
    async with following(service, auditor) as reader:
        begun = await reader.begun()
    total = 6000
    readers = [
        asyncio.create_task(read_in_parts(service, auditor, begun, total, seed))
        for seed in range(8)
    ]
    for _ in range(total // 200):
        await append_many(database, 200)
    for seen, connections in await asyncio.gather(*readers):
        assert seen == list(range(begun + 1, begun + total + 1))
        assert connections > 3


async def read_in_parts(
    service: Service, token: str, begun: int, total: int, seed: int
) -> tuple[list[int], int]:
    """What a client gets that breaks off after so many events, and resumes after the last one."""
    random = Random(seed)
    seen: list[int] = []
    connections = 0
    last = str(begun)
    async with asyncio.timeout(60):
        while len(seen) < total:
            connections += 1
            count = min(random.randint(1, 1500), total - len(seen))
            async with following(service, token, last=last) as reader:
                seen += positions(await reader.take(count))
                last = str(seen[-1])
    return seen, connections


# --- when it ends


async def test_it_ends_with_the_session(service: Service, auditor: str) -> None:
    other = await service.token("audrey")
    async with following(service, auditor) as reader, following(service, other) as lasting:
        await reader.begun()
        await lasting.begun()
        await service.post("/v1/logout_user", cookie=auditor)
        start = time.monotonic()
        rest = await reader.rest()
        assert time.monotonic() - start < AT_ONCE_S
        assert "session_ended" not in {event.type for event in rest}
        (ended,) = await lasting.take(1)
        assert ended.type == "session_ended"


async def test_it_ends_when_the_role_is_taken_away(
    service: Service, auditor: str, config: Config, database: Dsns
) -> None:
    user = (await service.get("/v1/me", cookie=auditor)).json["user_id"]
    async with following(service, auditor) as reader:
        await reader.begun()
        async with open_services(config, database.app) as services:
            await services.accounts.users.revoke_role(UUID(user), "auditor")
        start = time.monotonic()
        await reader.rest()
        assert time.monotonic() - start < AT_ONCE_S


async def test_it_ends_when_the_session_expires(config: Config, database: Dsns) -> None:
    """Nothing is recorded then: the clock alone ends it."""
    config = msgspec.structs.replace(config, session_lifetime_s=4)
    await add_auditor(config, database)
    async with serving(create_app(config, database.app), config) as service:
        login = await service.log_in("audrey")
        expires_at = datetime.fromisoformat(login.json["expires_at"])
        async with following(service, login.token) as reader:
            await reader.rest()
        assert expires_at <= utc_now() < expires_at + timedelta(seconds=AT_ONCE_S)


async def test_a_stop_ends_it_at_once(config: Config, database: Dsns) -> None:
    config = msgspec.structs.replace(config, shutdown_timeout_s=30)
    await add_auditor(config, database)
    stack = AsyncExitStack()
    service = await stack.enter_async_context(serving(create_app(config, database.app), config))
    token = await service.token("audrey")
    await append_many(database, 5000)
    async with following(service, token) as reader:
        stuck = await never_reading(service, token, "?after=0")
        await reader.begun()
        start = time.monotonic()
        stopping = asyncio.create_task(stack.aclose())
        rest = await reader.rest()
        await stopping
        assert time.monotonic() - start < AT_ONCE_S
        # in another minute than the reader's the other one's reading is recorded, too
        assert {event.type for event in rest} <= {"audit_read"}
        stuck.close()


async def never_reading(service: Service, token: str, query: str = "") -> socket.socket:
    """A connection that asks for the stream and never reads a byte of it."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(connection, (service.host, service.port))
    request = f"GET {STREAM}{query} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n"
    await loop.sock_sendall(connection, request.encode())
    return connection


async def test_a_client_that_has_gone_leaves_its_place(config: Config, database: Dsns) -> None:
    config = msgspec.structs.replace(config, streams=1)
    await add_auditor(config, database)
    async with serving(create_app(config, database.app), config) as service:
        token = await service.token("audrey")
        async with following(service, token) as reader:
            await reader.begun()
            full = await service.get(STREAM, cookie=token)
            assert (full.status, full.code) == (503, "overloaded")
            assert int(full.headers["Retry-After"]) > 0

        async def is_free() -> bool:
            try:
                async with following(service, token):
                    return True
            except AssertionError:
                return False

        await until(is_free, within_s=AT_ONCE_S)


async def test_who_does_not_read_is_cut_off_and_can_resume(config: Config, database: Dsns) -> None:
    config = msgspec.structs.replace(config, stream_buffer=2000)
    await add_auditor(config, database)
    async with serving(create_app(config, database.app), config) as service:
        token = await service.token("audrey")
        async with following(service, token) as reader:
            begun = await reader.begun()
            stuck = await never_reading(service, token)
            events: list[Received] = []
            for _ in range(9):  # who reads never has more before them than they may
                await append_many(database, 1000)
                events += await reader.take(1000)
            assert positions(events) == list(range(begun + 1, begun + 9001))
            await until(lambda: is_reset(stuck))
            stuck.close()


def is_reset(connection: socket.socket) -> bool:
    """Whether the other side has cut the connection, however much of it nobody has read."""
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
    return info[0] == TCP_CLOSE


async def test_it_waits_out_a_lost_database(config: Config, database: Dsns) -> None:
    await add_auditor(config, database)
    async with serving(create_app(config, database.app), config) as service:
        token = await service.token("audrey")
        async with following(service, token) as reader:
            begun = await reader.begun()
            await kick(database)
            await append_many(database, 3)
            assert positions(await reader.take(3)) == [begun + 1, begun + 2, begun + 3]


async def kick(database: Dsns) -> None:
    """End all connections of others to the database."""
    async with tampering(database) as owner:
        await owner.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


async def test_a_log_that_is_another_one_ends_it(
    service: Service, auditor: str, database: Dsns
) -> None:
    async with following(service, auditor) as reader:
        await reader.begun()
        await append_many(database, 3)
        await reader.take(3)
        async with tampering(database) as owner:
            await owner.execute(
                "UPDATE events SET leaf_hash = sha256('') WHERE position = ("
                "SELECT max(position) FROM events)"
            )
        assert await reader.rest() == []
