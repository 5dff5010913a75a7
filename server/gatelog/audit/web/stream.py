"""The stream of events: server-sent events (WHATWG HTML, section 9.2) of what is recorded.

Rules:

- The id of an event is its position; ``Last-Event-ID``, which a browser sends by itself when it
  connects again, or ``after`` resumes right behind it. Without one the stream begins at the end of
  the log. While nothing that is wanted happens, heartbeats move the id on.
- The session of who reads is checked again before anything is shown and every ``RECHECK_S``; the
  stream ends with it.
- Who reads is recorded at the beginning, and again in every minute in which something is sent. An
  audit read alone does not count: two auditors would keep each other going on an idle log.
- A client that does not read is cut off: when too much waits for it, or after ``PATIENCE_S``.
- When the service stops, streams end at once; a browser connects again by itself.
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import time
from typing import Annotated, Final

import msgspec
from aiohttp import hdrs, web
from msgspec import Meta

from gatelog.audit.rules.shown import MAX_POSITION, AuditFilter, ShownEvent
from gatelog.audit.service.follow import Follower, Stream
from gatelog.audit.web.events import parameters, parse_filter
from gatelog.audit.web.export import reset
from gatelog.errors import GatelogError, InvalidInput, Purged
from gatelog.http.answers import keep_private
from gatelog.http.described import Lines, Reply, describes
from gatelog.http.guard import SESSION
from gatelog.http.recheck import Asker
from gatelog.http.roles import record_read, requires
from gatelog.http.settings import CONFIG

logger = logging.getLogger(__name__)

FOLLOWER: Final = web.AppKey("follower", Follower)

LAST_EVENT_ID = "Last-Event-ID"
EVENT_STREAM = "text/event-stream"
RECHECK_S = 1.0
PATIENCE_S = 30.0
SEND_BUFFER_BYTES = 128 * 1024  # of the kernel's for one client: else it takes megabytes
RETRY_MS = 2000  # how long a browser waits before it connects again
FILTERS = ("user", "login", "session", "type", "address", "network", "after")

_position = re.compile(r"[0-9]{1,19}", re.ASCII).fullmatch


@requires("auditor", "admin")
@describes(
    query=lambda: parameters(FILTERS),
    headers={
        LAST_EVENT_ID: Annotated[
            str,
            Meta(
                description="Resume behind this position; counts before `after`.",
                extra_json_schema={"pattern": "^[0-9]{1,18}$"},
            ),
        ]
    },
    returns={
        200: Reply(
            says="Server-sent events without an end; an event's id is its position, its data this.",
            content={EVENT_STREAM: Lines(ShownEvent)},
        )
    },
    raises=(Purged,),
)
async def stream(request: web.Request) -> web.StreamResponse:
    """The events that fit, as they are recorded."""
    wanted, after = _asked(request)
    response = _response()
    if request.method == hdrs.METH_HEAD:
        return response
    await record_read(request, "stream")
    stream = await request.app[FOLLOWER].open(wanted, after, request[SESSION].session_id)
    try:
        await response.prepare(request)
        _bound_buffer(request)
        await _Sender(request, response, stream).run()
    finally:
        stream.close()
    return response


class _Sender:
    """Writes a stream to its client until one of them ends."""

    def __init__(self, request: web.Request, response: web.StreamResponse, stream: Stream) -> None:
        self._request = request
        self._response = response
        self._stream = stream
        self._asker = Asker(request)
        self._heartbeat_s = request.app[CONFIG].stream_heartbeat_s
        self._writing = False

    async def run(self) -> None:
        self._stream.on_end = self._interrupt
        try:
            await self._write(b"retry: %d\n%b" % (RETRY_MS, self._progress()))
            await self._send_all()
        except (GatelogError, TimeoutError) as error:
            logger.info("a stream of events is broken off: %s", str(error) or "nobody reads")
            reset(self._request)
        except ConnectionError:
            pass  # the client has gone

    async def _send_all(self) -> None:
        spoke = time.monotonic()
        while True:
            frames = await self._stream.next(min(RECHECK_S, self._heartbeat_s))
            if self._request.transport is None or not await self._asker.is_there():
                return
            if not all(frame.is_read for frame in frames):
                await record_read(self._request, "stream")
            if self._stream.ended:
                return
            silent_s = time.monotonic() - spoke
            if frames:
                await self._write(b"".join([frame.data for frame in frames]))
            elif silent_s >= self._heartbeat_s:
                await self._write(b": alive\n" + self._progress())
            else:
                continue
            spoke = time.monotonic()

    def _progress(self) -> bytes:
        """No event, but where to resume: all that is wanted up to here has been sent."""
        return b"id: %d\n\n" % self._stream.position

    async def _write(self, data: bytes) -> None:
        self._writing = True
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._response.write(data)
        finally:
            self._writing = False

    def _interrupt(self) -> None:
        """The stream has ended: do not wait for a client that does not read."""
        if self._writing:
            reset(self._request)


def _bound_buffer(request: web.Request) -> None:
    transport = request.transport
    connection = transport.get_extra_info("socket") if transport is not None else None
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)


def _asked(request: web.Request) -> tuple[AuditFilter, int | None]:
    """What is wanted, and after which position: ``Last-Event-ID`` counts before ``after``."""
    wanted = parse_filter(request.query, names=FILTERS)
    last = request.headers.get(LAST_EVENT_ID)
    if last is None:
        return wanted, wanted.after
    if not _position(last) or int(last) > MAX_POSITION:
        raise InvalidInput("Last-Event-ID must be the position of an event.")
    return msgspec.structs.replace(wanted, after=None), int(last)


def _response() -> web.StreamResponse:
    response = web.StreamResponse(
        headers={
            hdrs.CONTENT_TYPE: EVENT_STREAM,
            hdrs.CACHE_CONTROL: "no-store",
            hdrs.X_CONTENT_TYPE_OPTIONS: "nosniff",
            "X-Accel-Buffering": "no",
        }
    )
    keep_private(response)
    return response


def stream_routes() -> list[web.RouteDef]:
    return [web.get("/v1/audit/events/stream", stream)]
