"""Whether who sent a request may still have its answer, for answers that take long.

The check before a handler is of that moment; what goes on for minutes is checked again all the way.
That is no use of the session: an answer that goes on keeps nobody logged in.

- The product's own streams ask by themselves (``Asker``), between two pieces.
- Handlers of others need not know of it: a WebSocket, or a body that is sent piece by piece, is
  ended from outside (``Lasting``) when its session is over, within a second of the end on every
  host: ``LOOK_S``, one question to the primary where memory does not know, and the closing.
- A WebSocket is closed with 4401, in the range for private use (RFC 6455, section 7.4.2); a handler
  that goes on after ``CLOSE_S`` is cancelled. Any other is cancelled at once, its connection cut.
- Where nobody can tell, it ends as well, a WebSocket with 1013: the client comes again, and a
  request is answered 503 then.
- However many responses go on, their questions are asked some at a time (``ASKED_AT_A_TIME``): new
  requests wait for the primary in the same queue, and must find room there. What could not be asked
  within ``ASK_S`` nobody can tell.
- A stop does not wait for what has no end of its own: WebSockets (1001) and event streams.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import msgspec
from aiohttp import WSCloseCode, web
from aiohttp.payload import Payload

from gatelog.errors import GatelogError, Overloaded
from gatelog.http.caller import caller_of
from gatelog.http.credentials import read_token
from gatelog.http.guard import SESSION
from gatelog.sessions.rules.tokens import token_digest
from gatelog.sessions.service.gate import Gate

logger = logging.getLogger(__name__)

GATE: Final = web.AppKey("gate", Gate)

SESSION_ENDED = 4401
LOOK_S = 0.2
ASK_S = 0.4  # how long the primary may take to tell
ASKED_AT_A_TIME = 1000  # as many as the primary is asked for in one query
REST_S = 0.02  # before the primary is asked again, where too much waited for it
CLOSE_S = 0.3  # how long a client, or a handler, may take to agree

_ASKS_ITSELF: Final = web.RequestKey("asks_itself", bool)
_EVENT_STREAM = "text/event-stream"


class Asker:
    """Whoever sent the request, as long as their session is active."""

    def __init__(self, request: web.Request) -> None:
        self._digest = caller_of(request).digest or b""
        self._gate = request.app[GATE]
        request[_ASKS_ITSELF] = True

    async def is_there(self) -> bool:
        """Whether the session is still active. Raises Unavailable when nobody can tell."""
        session = self._gate.look(self._digest)
        if session is None:
            session = await self._gate.look_up(self._digest)
        return bool(session)


class _Answer(msgspec.Struct, frozen=True, eq=False):
    """A response that goes on."""

    digest: bytes
    request: web.Request
    response: web.StreamResponse
    task: asyncio.Task[Any]

    @property
    def over(self) -> bool:
        """Whether the request was answered to its end; its connection may serve another by now."""
        return self.request.task is None or self.request.transport is None  # aiohttp forgets both


class Lasting:
    """The responses of a process that go on, and their end with their sessions.

    ``asked_at_a_time``: of how many sessions the primary is asked together, at most.
    """

    def __init__(self, asked_at_a_time: int = ASKED_AT_A_TIME) -> None:
        self._asked_at_a_time = asked_at_a_time
        self._answers: set[_Answer] = set()
        self._endings: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._answers)

    async def note(self, request: web.Request, response: web.StreamResponse) -> None:
        """Keep the response in view, if it may go on. For ``on_response_prepare``."""
        if isinstance(response, web.Response) and not isinstance(response.body, Payload):
            return
        task = asyncio.current_task()
        if SESSION not in request or _ASKS_ITSELF in request or task is None:
            return
        digest = token_digest(read_token(request) or "")
        self._answers.add(_Answer(digest, request, response, task))

    @asynccontextmanager
    async def watching(self, gate: Gate) -> AsyncIterator[None]:
        """Meanwhile, end each response whose session is over."""
        task = asyncio.create_task(self._watch(gate), name="lasting")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, *self._endings, return_exceptions=True)

    async def leave(self, _: web.Application) -> None:
        """End what has no end of its own. For ``on_shutdown``."""
        for answer in list(self._answers):
            socket = isinstance(answer.response, web.WebSocketResponse)
            if socket or answer.response.content_type == _EVENT_STREAM:
                self._end(answer, WSCloseCode.GOING_AWAY, b"the service stops")
        if self._endings:
            await asyncio.wait(self._endings)

    async def _watch(self, gate: Gate) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await self._look(gate)
            except Exception as error:  # whatever it is: the next look must come
                logger.exception("a look at responses that go on: %s", type(error).__name__)

    async def _look(self, gate: Gate) -> None:
        self._answers = {answer for answer in self._answers if not answer.over}
        unclear: dict[bytes, list[_Answer]] = {}
        for answer in list(self._answers):
            known = gate.look(answer.digest)
            if known is None:
                unclear.setdefault(answer.digest, []).append(answer)
            elif not known:
                self._end(answer, SESSION_ENDED, b"the session has ended")
        digests, until_s = list(unclear), asyncio.get_running_loop().time() + ASK_S
        for first in range(0, len(digests), self._asked_at_a_time):
            asked = digests[first : first + self._asked_at_a_time]
            await asyncio.gather(*(self._ask(gate, each, unclear[each], until_s) for each in asked))

    async def _ask(
        self, gate: Gate, digest: bytes, answers: Iterable[_Answer], until_s: float
    ) -> None:
        code, reason = SESSION_ENDED, b"the session has ended"
        try:
            async with asyncio.timeout_at(until_s):
                if await _find(gate, digest):
                    return
        except (GatelogError, TimeoutError):
            code, reason = WSCloseCode.TRY_AGAIN_LATER, b"nobody can tell about the session now"
        for answer in answers:
            self._end(answer, code, reason)

    def _end(self, answer: _Answer, code: int, reason: bytes) -> None:
        self._answers.discard(answer)
        if not answer.over:
            task = asyncio.create_task(_end(answer, code, reason))
            self._endings.add(task)
            task.add_done_callback(self._endings.discard)


LASTING: Final = web.AppKey("lasting", Lasting)


async def _find(gate: Gate, digest: bytes) -> bool:
    """Ask the primary, again and again while too much waits for it."""
    while True:
        try:
            return bool(await gate.look_up(digest))
        except Overloaded:
            await asyncio.sleep(REST_S)


async def _end(answer: _Answer, code: int, reason: bytes) -> None:
    """Close politely, then for good."""
    connection = answer.request.transport
    if isinstance(answer.response, web.WebSocketResponse):
        with suppress(Exception):
            async with asyncio.timeout(CLOSE_S):
                await answer.response.close(code=code, message=reason)
    else:
        answer.task.cancel()
    await asyncio.wait({answer.task}, timeout=CLOSE_S)
    if not answer.task.done():
        answer.task.cancel()
        if connection is not None:
            connection.abort()
