"""The handlers of how things stand: once, and live by server-sent events (WHATWG HTML, 9.2).

Rules:

- There is nobody's name in it, and nothing of anybody: it is no audit read.
- The stream sends a whole picture, once a second. Whoever connects again gets the newest: no event
  has an id, and none has to be made up for.
- The session of who watches is checked again before each; the stream ends with it. Where nothing
  can be known, it says so, and goes on.
- A client that takes nothing for ``PATIENCE_S`` is cut off.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

import msgspec
from aiohttp import hdrs, web

from gatelog.audit.web.export import reset
from gatelog.audit.web.stream import EVENT_STREAM, PATIENCE_S, RETRY_MS
from gatelog.console.service.overview import LOOK_EVERY_S, Looking, Overview
from gatelog.console.web import LOOKING
from gatelog.errors import GatelogError, Unavailable
from gatelog.http.answers import answer, encode, keep_private
from gatelog.http.described import Lines, Reply, describes
from gatelog.http.recheck import Asker
from gatelog.http.roles import requires

logger = logging.getLogger(__name__)

PATH: Final = "/v1/overview"
STREAM_PATH: Final = f"{PATH}/stream"


class Unknown(msgspec.Struct, frozen=True):
    """Why nothing can be told at the moment: the code of a problem, and what it is in words."""

    code: str
    title: str


@requires("auditor", "admin")
@describes(returns={200: Overview})
async def overview(request: web.Request) -> web.StreamResponse:
    """How things stand: sessions, logins a minute, hosts, the log, and what needs attention."""
    return answer(await request.app[LOOKING].now())


@requires("auditor", "admin")
@describes(
    returns={
        200: Reply(
            says="Server-sent events without an end: `overview`, whose data is this; or `unknown`, "
            "with the `code` and the `title` of a problem.",
            content={EVENT_STREAM: Lines(Overview)},
        )
    },
)
async def stream(request: web.Request) -> web.StreamResponse:
    """The same, once a second."""
    response = web.StreamResponse(
        headers={
            hdrs.CONTENT_TYPE: EVENT_STREAM,
            hdrs.CACHE_CONTROL: "no-store",
            hdrs.X_CONTENT_TYPE_OPTIONS: "nosniff",
            "X-Accel-Buffering": "no",
        }
    )
    keep_private(response)
    if request.method == hdrs.METH_HEAD:
        return response
    looking = request.app[LOOKING]
    looking.come()
    try:
        await response.prepare(request)
        await _send(request, response, looking)
    except (GatelogError, TimeoutError) as error:
        logger.info("a stream of the overview is broken off: %s", str(error) or "nobody reads")
        reset(request)
    except ConnectionError:
        pass  # the client has gone
    finally:
        looking.leave()
    return response


async def _send(request: web.Request, response: web.StreamResponse, looking: Looking) -> None:
    asker = Asker(request)
    frame = b"retry: %d\n" % RETRY_MS
    while True:
        frame += await _picture(looking)
        if request.transport is None or not await asker.is_there():
            return
        async with asyncio.timeout(PATIENCE_S):
            await response.write(frame)
        frame = b""
        if not await looking.rest(LOOK_EVERY_S):
            return


async def _picture(looking: Looking) -> bytes:
    try:
        return b"event: overview\ndata: %b\n\n" % encode(await looking.now())
    except Unavailable as error:
        return b"event: unknown\ndata: %b\n\n" % encode(Unknown(error.code, error.title))


def overview_routes() -> list[web.RouteDef]:
    """The routes of how things stand."""
    return [web.get(PATH, overview), web.get(STREAM_PATH, stream)]
