"""What accepts connections: each bounded in time, all together in number, errors as documents.

Clients that are slow, by mischance or on purpose, hold nothing up. Rules:

- A connection's first request must have come as far as the end of its head within
  ``GATELOG_HEADER_TIMEOUT_S`` of the connection, a later one within that time of its first byte;
  aiohttp bounds both by the keep-alive time alone. Then it is closed without a word, as by others.
- A body must go on coming: ``LEAST_BYTES_PER_S`` in each ``GATELOG_BODY_TIMEOUT_S``, else who reads
  it gets ``SlowBody``. While a handler does not take what has come, the client is not to blame.
- What was sent must be taken: TCP itself ends a connection on which nothing was acknowledged, or
  whose client has made no room, for ``GATELOG_SEND_TIMEOUT_S`` (TCP_USER_TIMEOUT in tcp(7)). That
  holds when the answer is long written and the connection is about to be closed, too.
- A process has ``GATELOG_CONNECTIONS`` at most, and leaves files for all else that it opens. Beyond
  them those go that wait for a request: first who never sent one, the longest waiting first. Then
  those whose bodies are still to come, of whom least has come first. So many idle or slow
  connections keep nobody out; where all are at work, the new one is closed.
- What breaks before a handler is found (a malformed request line, 10 MB of headers) is answered
  with a problem document, too, and the client gets to read it: the connection is drained for a
  bounded time and then closed. Nothing of such a request is logged, only that there was one.

A request that comes in one piece pays for two looks at what is in memory anyway.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import resource
import socket
from contextlib import suppress
from typing import Any, Final, cast

import msgspec
from aiohttp import web
from aiohttp.http import WebSocketReader
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from prometheus_client import Counter, Gauge

from gatelog.config import Config
from gatelog.errors import BadRequest
from gatelog.hosting.connections import connections_of_services
from gatelog.http.bodies import SlowBody
from gatelog.http.problems import internal_error, log_unexpected, problem
from gatelog.http.refusals import refusals_here

logger = logging.getLogger(__name__)

DRAIN_S = 5.0
DRAIN_BYTES = 64 * 1024 * 1024
LEAST_BYTES_PER_S = 500
OTHER_FILES = 100  # of a worker, beside connections: libraries, the replica, metrics, the log
FEW_CONNECTIONS = 4096  # of a process; fewer are told at the start
_GO_AT_ONCE = 20  # beyond the limit, one in so many: looking at all of them takes milliseconds
_LOOK_AGAIN_S = 0.1  # after a look that found no room
_USER_TIMEOUT: Final = getattr(socket, "TCP_USER_TIMEOUT", None)  # Linux has it

CUT = Counter(
    "gatelog_connections_cut_total",
    "Connections closed by the service: a slow head or body, made room, or no room (see the docs).",
    ["reason"],
)
for _reason in ("head", "body", "crowded", "full"):
    CUT.labels(_reason)  # a rate begins at 0

CONNECTIONS = Gauge(
    "gatelog_connections", "Connections that are open.", multiprocess_mode="livesum"
)


class Limits(msgspec.Struct, frozen=True):
    """What connections are held to: times in seconds, and how many a process has at most."""

    head_s: float
    body_s: float
    send_s: float
    connections: int


def limits_of(config: Config) -> Limits:
    """The configured limits; fewer connections where this process may not open as many files."""
    others = OTHER_FILES + connections_of_services(config)
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return Limits(
        config.header_timeout_s,
        config.body_timeout_s,
        config.send_timeout_s,
        config.connections
        if files == resource.RLIM_INFINITY
        else max(1, min(config.connections, files - others)),
    )


def raise_file_limit(config: Config) -> None:
    """Let this process, and those that it forks, open as many files as it may, and tell if few.

    The soft limit is 1024 nearly everywhere, for the sake of programs that use select(2).
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(OSError, ValueError):  # macOS says unlimited, and does not mean it
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    possible = limits_of(config).connections
    if possible < min(config.connections, FEW_CONNECTIONS):
        logger.warning(
            "a process can have %d connections, not %d: it may open %d files (RLIMIT_NOFILE)",
            possible,
            config.connections,
            resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        )


class BoundedServer(web.Server):
    """aiohttp's server, with connections that are held to these limits."""

    def __init__(self, handler: Any, limits: Limits, **options: Any) -> None:
        super().__init__(handler, **options)
        self.limits = limits
        self._counted: set[_Connection] = set()
        self._full_until = 0.0

    def __call__(self) -> web.RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)

    def admit(self, connection: _Connection) -> bool:
        """Count the connection, if there is room for it or room can be made."""
        if len(self._counted) >= self.limits.connections:
            self._make_room()
            if len(self._counted) >= self.limits.connections:
                return False
        self._counted.add(connection)
        CONNECTIONS.inc()
        return True

    def forget(self, connection: _Connection) -> None:
        """It is about to be closed, or is."""
        if connection in self._counted:
            self._counted.remove(connection)
            CONNECTIONS.dec()

    def _make_room(self) -> None:
        now = self._loop.time()
        if now < self._full_until:
            return
        share = max(1, self.limits.connections // _GO_AT_ONCE)
        idle = [connection for connection in self._counted if connection.is_idle()]
        going = heapq.nsmallest(share, idle, key=_Connection.waiting_since)
        if not going:
            sending = [connection for connection in self._counted if connection.awaits_body()]
            going = heapq.nsmallest(share, sending, key=_Connection.received)
        for connection in going:
            connection.cut("crowded")
        if not going:
            self._full_until = now + _LOOK_AGAIN_S


class _Connection(web.RequestHandler):
    __slots__ = ("_body", "_body_seen", "_body_timer", "_head_timer", "_held", "_server")

    def __init__(self, server: BoundedServer, **options: Any) -> None:
        super().__init__(server, **options)
        self._server = server
        self._head_timer: asyncio.TimerHandle | None = None
        self._body_timer: asyncio.TimerHandle | None = None
        self._body: StreamReader = EMPTY_PAYLOAD
        self._body_seen = 0
        self._held = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if not self._server.admit(self):
            CUT.labels("full").inc()
            self.force_close()
            return
        limits = self._server.limits
        _bound_sending(transport, limits.send_s)
        self._head_timer = self._loop.call_later(limits.head_s, self._head_is_late)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._server.forget(self)
        for timer in (self._head_timer, self._body_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._messages:
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None
            payload = self._messages[-1][1]
            if payload is not EMPTY_PAYLOAD and not payload.is_eof():
                self._watch_body(payload)
        elif self._waiter is not None and self._head_timer is None and not self._force_close:
            self._head_timer = self._loop.call_later(self._server.limits.head_s, self._head_is_late)

    # --- who waits for a request

    def is_idle(self) -> bool:
        """Whether no request is on its way through the service."""
        waiter = self._waiter
        if waiter is None:
            return not self._request_count  # it has only just been made
        return not waiter.done() and not self._messages

    def waiting_since(self) -> tuple[bool, float]:
        """The order in which idle connections go: who never sent a request, then the longest."""
        return self._request_count > 0, self._next_keepalive_close_time

    def cut(self, reason: str) -> None:
        """Close it, and count why."""
        CUT.labels(reason).inc()
        self._server.forget(self)
        self.force_close()

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self.is_idle():
            self.cut("head")

    # --- who sends a body

    def awaits_body(self) -> bool:
        """Whether all that is to be done waits for the client to go on with its body."""
        body = self._body
        return body is not EMPTY_PAYLOAD and not body.is_eof() and not self._reading_paused

    def received(self) -> int:
        """How much of its body has come."""
        return self._body.total_raw_bytes

    def _watch_body(self, payload: StreamReader) -> None:
        """See to it that this body, which is the last one to arrive, goes on coming."""
        if self._body is payload:
            return
        if self._body_timer is not None:
            self._body_timer.cancel()
        self._body, self._body_seen, self._held = payload, 0, False
        self._body_timer = self._loop.call_later(self._server.limits.body_s, self._look_at_body)

    def _look_at_body(self) -> None:
        body, self._body_timer = self._body, None
        if body.is_eof() or body.exception() is not None:
            self._body = EMPTY_PAYLOAD
            return
        wanted = LEAST_BYTES_PER_S * self._server.limits.body_s
        if self._held or body.total_raw_bytes - self._body_seen >= wanted:
            self._body_seen, self._held = body.total_raw_bytes, self._reading_paused
            self._body_timer = self._loop.call_later(self._server.limits.body_s, self._look_at_body)
            return
        CUT.labels("body").inc()
        self._body = EMPTY_PAYLOAD
        body.set_exception(SlowBody("the body does not go on coming"))

    def pause_reading(self) -> None:
        self._held = True
        super().pause_reading()

    # --- what comes before any handler

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to what went wrong outside of all handlers. The connection ends with it."""
        if isinstance(exc, HttpProcessingError):
            detail = "The request is not well-formed HTTP, or its headers are too large."
            refusals_here.note_malformed()
            return _LastResponse(self, problem(BadRequest(detail)))
        if isinstance(exc, ConnectionError):
            raise exc  # the client is gone
        if request.writer.output_size > 0:
            log_unexpected(exc or RuntimeError())
            raise ConnectionResetError("the response has begun already")
        response = internal_error(exc or RuntimeError())
        response.force_close()
        return response


def _bound_sending(transport: asyncio.BaseTransport, seconds: float) -> None:
    connection = transport.get_extra_info("socket")
    if connection is not None and _USER_TIMEOUT is not None:
        with suppress(OSError):  # it is gone, or is no TCP
            connection.setsockopt(socket.IPPROTO_TCP, _USER_TIMEOUT, max(1, int(seconds * 1000)))


class _LastResponse(web.Response):
    """A response after which the connection is drained, so that the client gets to read it.

    Closing while the client still sends would reset the connection, and with it the answer.
    """

    def __init__(self, connection: web.RequestHandler, like: web.Response) -> None:
        super().__init__(status=like.status, body=like.body, headers=like.headers)
        self.force_close()
        self._transport = connection.transport
        self._drain = _Drain()
        connection.set_parser(cast(WebSocketReader, self._drain))

    async def write_eof(self, data: bytes = b"") -> None:
        await super().write_eof(data)
        if self._transport is not None and self._transport.can_write_eof():
            self._transport.write_eof()
            await asyncio.wait({self._drain.over}, timeout=DRAIN_S)


class _Drain:
    """Takes what still arrives, in place of the HTTP parser, and forgets it."""

    def __init__(self) -> None:
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._left = DRAIN_BYTES

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self._left -= len(data)
        if self._left < 0:
            self.feed_eof()
        return False, b""

    def feed_eof(self) -> None:
        if not self.over.done():
            self.over.set_result(None)
