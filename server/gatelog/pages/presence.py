"""Tells an open page when its session has ended, within a second, wherever it was ended.

Rules:

- It is a stream of server-sent events without any, until the page should look: the session is over,
  the service stops, or nobody can tell. The page then asks, and tells its reader (``presence.js``).
- Whoever watches lasting responses ends it (``http.recheck``); an open page is no use of a session,
  and keeps nobody signed in.
- A page that nobody sees holds no stream: browsers have few connections to a host.
- A worker holds as many as ``GATELOG_STREAMS`` says; beyond them 503.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

from aiohttp import hdrs, web

from gatelog.errors import Overloaded
from gatelog.http.answers import keep_private
from gatelog.http.guard import no_tokens
from gatelog.http.recheck import LASTING
from gatelog.http.settings import CONFIG
from gatelog.pages.headers import secure

PATH: Final = "/account/presence"
OPEN: Final = web.AppKey("gatelog_presences", set[object])
_BEGIN = b"retry: 1000\n: here\n\n"
_ALIVE = b": here\n\n"
_LOOK = b"event: look\ndata:\n\n"


@no_tokens
async def presence(request: web.Request) -> web.StreamResponse:
    """Lasts as long as the session; ends with the event ``look``."""
    response = web.StreamResponse(
        headers={
            hdrs.CONTENT_TYPE: "text/event-stream",
            hdrs.CACHE_CONTROL: "no-store",
            "X-Accel-Buffering": "no",
        }
    )
    keep_private(response)
    secure(request, response)
    if request.method == hdrs.METH_HEAD:
        return response
    there, config = request.app[OPEN], request.app[CONFIG]
    if len(there) >= config.streams:
        raise Overloaded()
    place = object()
    there.add(place)
    try:
        await _last(request, response, config.stream_heartbeat_s)
    finally:
        there.discard(place)
    return response


async def _last(request: web.Request, response: web.StreamResponse, heartbeat_s: float) -> None:
    lasting = request.app[LASTING]
    await response.prepare(request)
    if lasting.note not in request.app.on_response_prepare:  # else it is noted by that
        await lasting.note(request, response)
    with suppress(ConnectionError):  # the page is closed
        try:
            await response.write(_BEGIN)
            while True:
                await asyncio.sleep(heartbeat_s)
                await response.write(_ALIVE)
        except asyncio.CancelledError:
            await response.write(_LOOK)  # who cancels waits a little
            await response.write_eof()
            raise


def presence_routes() -> list[web.RouteDef]:
    """The route of the stream."""
    return [web.get(PATH, presence, allow_head=False)]
