"""Many auditors at once, and one who never reads: what it costs the worker, and who logs in."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import socket
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from http.client import HTTPConnection
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import psutil
import pytest
from gatelog.host.embedded import EmbeddedPostgres
from gatelog.log.store.appender import Appender
from gatelog.log.store.database import connect
from gatelog.log.store.reading import read_head

from tests.builders import failure
from tests.proofs.sealing import append
from tests.stack.service import PASSWORD, Service, run_command, serving
from tests.waiting import until

AUDITORS = 200
EVENTS = 5000
LOGINS = 200
HELD_UP, HELD_UP_S = 5, 0.05  # how much slower streams may make the median login
STEADY, STEADY_EVERY_S = 10, 0.02
STREAM = "/v1/audit/events/stream"
MIB = 2**20
TCP_CLOSE = 7  # of Linux' tcp_states.h

logger = logging.getLogger(__name__)

_ids = re.compile(rb"id: (\d+)\nevent: ")


@pytest.fixture
def one_worker(data_dir: Path) -> Iterator[Service]:
    settings = {"GATELOG_WORKERS": "1", "GATELOG_STREAM_BUFFER": "3000"}
    with serving(data_dir, **settings) as service:
        yield service


class Auditor:
    """Reads a stream, and keeps nothing of it but the positions."""

    def __init__(self) -> None:
        self.positions: list[int] = []  # of events
        self.begun = asyncio.Event()

    async def follow(self, service: Service, cookie: str) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        try:
            writer.write(request(cookie))
            rest = b""
            while data := await reader.read(65_536):
                self.begun.set()
                rest += data
                end = rest.rfind(b"\n\n") + 1
                self.positions += map(int, _ids.findall(rest, 0, end))
                rest = rest[end:]
        finally:
            writer.close()


def request(cookie: str) -> bytes:
    return f"GET {STREAM} HTTP/1.1\r\nHost: localhost\r\nCookie: {cookie}\r\n\r\n".encode()


@asynccontextmanager
async def never_reading(service: Service, cookie: str) -> AsyncIterator[socket.socket]:
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(connection, ("127.0.0.1", service.port))
        await loop.sock_sendall(connection, request(cookie))
        yield connection


def log_in_often(port: int) -> list[float]:
    """Log in again and again; returns how long each took, in seconds."""
    taken = []
    body = json.dumps({"login": "ada", "password": PASSWORD, "token": "bearer"})
    client = HTTPConnection("127.0.0.1", port, timeout=30)
    for _ in range(LOGINS):
        start = time.perf_counter()
        client.request("POST", "/v1/login_user", body, {"Content-Type": "application/json"})
        answer = client.getresponse()
        answer.read()
        assert answer.status == 200
        taken.append(time.perf_counter() - start)
    client.close()
    return taken


async def logins_while_events_come(service: Service, dsn: str) -> list[float]:
    """From a process of its own: what this one has to read must not be counted."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as processes:
        loop = asyncio.get_running_loop()
        logging_in = loop.run_in_executor(processes, log_in_often, service.port)
        async with Appender(lambda: connect(dsn), timeout_s=30) as appender:
            while not logging_in.done():
                await asyncio.gather(*(appender.submit(failure()) for _ in range(STEADY)))
                await asyncio.sleep(STEADY_EVERY_S)
        return await logging_in


def told(what: str, taken: list[float]) -> str:
    ms = sorted(1000 * each for each in taken)
    return f"{what}: p50 {ms[len(ms) // 2]:.1f} ms, p99 {ms[len(ms) * 99 // 100]:.1f} ms"


@pytest.mark.timeout(480)
async def test_two_hundred_auditors_and_one_who_never_reads(one_worker: Service) -> None:
    service = one_worker
    assert service.register("ada") == 201
    added = run_command(
        service.data_dir,
        *("user", "add", "audrey", "--role", "auditor", "--password-file", "-"),
        stdin=PASSWORD,
    )
    assert added.returncode == 0, added.stderr
    cookie = service.log_in("audrey").cookie
    (worker,) = service.workers()
    dsn = EmbeddedPostgres(service.data_dir).app_dsn()

    alone = await logins_while_events_come(service, dsn)
    before = psutil.Process(worker.pid).memory_info().rss
    async with AsyncExitStack() as stack:
        auditors = [Auditor() for _ in range(AUDITORS)]
        tasks = [asyncio.create_task(a.follow(service, cookie)) for a in auditors]
        stack.push_async_callback(ended, tasks)
        await asyncio.gather(*(auditor.begun.wait() for auditor in auditors))
        begun = await head(dsn)
        stuck = await stack.enter_async_context(never_reading(service, cookie))
        together = await logins_while_events_come(service, dsn)
        for _ in range(EVENTS // 500):
            await append(dsn, 500)
        last = await head(dsn)
        await until(lambda: all(a.positions[-1:] >= [last] for a in auditors), within_s=240)
        grown = psutil.Process(worker.pid).memory_info().rss - before
        # whatever it had still to read: the connection is closed
        await until(lambda: tcp_state(stuck) == TCP_CLOSE)

    for auditor in auditors:
        first = auditor.positions[0]  # who began before a full minute sees who read after it
        assert first <= begun + 1
        end = auditor.positions[-1]  # that they read is recorded in each minute
        assert auditor.positions == list(range(first, end + 1))
    assert last - begun >= EVENTS + LOGINS
    logger.info("logins %s; %s", told("alone", alone), told("with streams", together))
    logger.info("memory %.1f MiB for %d streams", grown / MIB, AUDITORS)
    assert grown < 120 * MIB, f"{grown / MIB:.1f} MiB"
    assert median(together) < HELD_UP * median(alone) + HELD_UP_S


def tcp_state(connection: socket.socket) -> int:
    return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]


async def head(dsn: str) -> int:
    connection = await connect(dsn)
    try:
        return (await read_head(connection)).position
    finally:
        await connection.close()


async def ended(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
