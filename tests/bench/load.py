"""The load client: raw HTTP/1.1 over kept connections, one request in flight on each.

It is made to cost less than any server it measures: requests come as finished bytes, and a
response whose status line and length are those of the one before is not looked at any further.
Every response's status is checked; a wrong one ends the measurement.
"""

from __future__ import annotations

import asyncio
import re
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import NamedTuple

_content_length = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_HEAD_END = b"\r\n\r\n"
_TICK_S = 0.001  # timers of libuv are not finer
_ANSWER_TIMEOUT_S = 30.0


class WrongAnswer(Exception):
    """A response had another status than it must have."""


class Load(ABC):
    """Connections to one server, and what happens when one of them has its answer."""

    def __init__(self, port: int, requests: Iterator[bytes], status: int = 200) -> None:
        self.head = b"HTTP/1.1 %d " % status
        self.length = 0
        self.answered = 0
        self.requests = requests
        self._port = port
        self._connections: list[Connection] = []
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @abstractmethod
    def answer(self, connection: Connection) -> None:
        """One connection has its answer and is free."""

    async def connect(self, connections: int) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(connections):
            _, connection = await loop.create_connection(
                lambda: Connection(self), "127.0.0.1", self._port
            )
            self._connections.append(connection)

    async def wait(self, seconds: float) -> None:
        """Let the load run. Raises WrongAnswer."""
        await asyncio.wait({self._failure}, timeout=seconds)
        if self._failure.done():
            self._failure.result()

    def fail(self, error: Exception) -> None:
        if not self._failure.done():
            self._failure.set_exception(error)

    async def close(self) -> None:
        for connection in self._connections:
            connection.close()
        if not self._failure.done():
            self._failure.cancel()


class Connection(asyncio.Protocol):
    """One connection; it has a request in flight or it is free."""

    def __init__(self, load: Load) -> None:
        self.sent_ns = 0
        self._load = load
        self._partial = b""
        self._closing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self._transport = transport
        self.send = transport.write

    def data_received(self, data: bytes) -> None:
        load = self._load
        if (
            len(data) == load.length and data.startswith(load.head) and not self._partial
        ) or self._is_whole(data):
            load.answered += 1
            load.answer(self)

    def _is_whole(self, data: bytes) -> bool:
        """Whether a response is complete now; then its length is what to expect next."""
        load = self._load
        self._partial += data
        head, separator, body = self._partial.partition(_HEAD_END)
        if not separator:
            return False
        if not head.startswith(load.head):
            load.fail(WrongAnswer(f"{head[:200]!r} instead of {load.head!r}"))
            return False
        match = _content_length.search(head + b"\r\n")
        length = int(match[1]) if match else 0
        if len(body) < length:
            return False
        load.length = len(self._partial)
        self._partial = b""
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._closing:
            self._load.fail(WrongAnswer(f"the server closed a connection: {exc!r}"))

    def close(self) -> None:
        self._closing = True
        self._transport.close()


class Flood(Load):
    """As many requests as the server answers: the next one leaves as an answer comes."""

    _running = True

    async def start(self, connections: int) -> None:
        await self.connect(connections)
        for connection in self._connections:
            connection.send(next(self.requests))

    def answer(self, connection: Connection) -> None:
        if self._running:
            connection.send(next(self.requests))

    async def close(self) -> None:
        self._running = False
        await super().close()


class Paced(Load):
    """A fixed rate, whatever the server does; how long each answer takes is recorded.

    A request that finds no free connection waits for one, and that time counts.
    """

    def __init__(self, port: int, requests: Iterator[bytes], status: int = 200) -> None:
        super().__init__(port, requests, status)
        self.latencies_ms: list[float] = []
        self._free: deque[Connection] = deque()
        self._due_ns: deque[int] = deque()

    def answer(self, connection: Connection) -> None:
        now = time.perf_counter_ns()
        self.latencies_ms.append((now - connection.sent_ns) / 1e6)
        self._free.append(connection)
        if self._due_ns:
            self._send_due()

    def _send_due(self) -> None:
        while self._due_ns and self._free:
            connection = self._free.popleft()
            connection.sent_ns = self._due_ns.popleft()
            connection.send(next(self.requests))

    async def run(self, connections: int, rate: float, seconds: float) -> list[float]:
        """The latencies in ms of ``rate`` requests per second for so many seconds."""
        await self.connect(connections)
        self._free.extend(self._connections)
        began = time.perf_counter()
        total, due = int(rate * seconds), 0
        while due < total:
            now = time.perf_counter_ns()
            reached = min(int((time.perf_counter() - began) * rate) + 1, total)
            self._due_ns.extend([now] * (reached - due))
            due = reached
            self._send_due()
            await self.wait(_TICK_S)
        give_up = time.perf_counter() + _ANSWER_TIMEOUT_S
        while len(self.latencies_ms) < total:
            if time.perf_counter() > give_up:
                raise WrongAnswer(f"{total - len(self.latencies_ms)} requests were not answered")
            await self.wait(_TICK_S)
        return self.latencies_ms


class Answer(NamedTuple):
    """A response, read to its end, and when its last byte came (perf_counter, seconds)."""

    status: int
    body: bytes
    at_s: float


class Dialogue:
    """One request after the other on one kept connection, each with its own answer."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def ask(self, request: bytes) -> Answer:
        self._writer.write(request)
        head = await self._reader.readuntil(_HEAD_END)
        match = _content_length.search(head)
        body = await self._reader.readexactly(int(match[1]) if match else 0)
        return Answer(int(head.split(maxsplit=2)[1]), body, time.perf_counter())


@asynccontextmanager
async def dialogue(port: int) -> AsyncIterator[Dialogue]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Dialogue(reader, writer)
    finally:
        writer.close()
        await writer.wait_closed()
