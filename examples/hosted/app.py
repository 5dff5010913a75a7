"""A shop that knows nothing of logging in but who is there: Gatelog hosts it, and checks first.

    GATELOG_APP=examples.hosted.app:make_app gatelog serve

It answers under /api, on all workers. Everything here is protected but ``prices``.
"""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler
from gatelog import SESSION, public, requires

PRICES = {"apple": 1, "melon": 3}
MAX_UPLOAD_BYTES = 64 * 1024 * 1024
MAX_UNREAD = 100  # orders that a reader of the feed may lag behind
FILES = Path(__file__).parent / "files"

FEEDS: Final = web.AppKey("feeds", set[asyncio.Queue[str]])


@web.middleware
async def name_the_user(request: web.Request, handler: Handler) -> web.StreamResponse:
    """A middleware of the shop's own: it sees the session, where there is one."""
    response = await handler(request)
    session = request.get(SESSION)
    if session is not None and not response.prepared:
        response.headers["X-Shop-User"] = str(session.subject_id)
    return response


@public
async def prices(_: web.Request) -> web.Response:
    return web.json_response(PRICES)


@requires("admin")
async def report(request: web.Request) -> web.Response:
    return web.json_response({"readers": len(request.app[FEEDS])})


async def order(request: web.Request) -> web.Response:
    """In a sub-application: tell everybody who reads the feed in this process."""
    fruit = request.match_info["fruit"]
    if fruit not in PRICES:
        raise web.HTTPNotFound(text=f"no {fruit} here")
    for feed in request.config_dict[FEEDS]:
        if not feed.full():
            feed.put_nowait(fruit)
    return web.json_response({"ordered": fruit, "by": str(request[SESSION].subject_id)})


async def feed(request: web.Request) -> web.StreamResponse:
    """Orders as they come in: server-sent events. It is closed within a second of the logout."""
    response = web.StreamResponse(
        headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"}
    )
    await response.prepare(request)
    queue: asyncio.Queue[str] = asyncio.Queue(MAX_UNREAD)
    request.app[FEEDS].add(queue)
    try:
        await response.write(b": here they come\n\n")
        while True:
            await response.write(f"data: {await queue.get()}\n\n".encode())
    finally:
        request.app[FEEDS].discard(queue)


async def haggle(request: web.Request) -> web.WebSocketResponse:
    """Tells prices over a WebSocket, which is closed with code 4401 when the session ends."""
    socket = web.WebSocketResponse(heartbeat=30)
    await socket.prepare(request)
    async for message in socket:
        await socket.send_json({message.data: PRICES.get(message.data)})
    return socket


async def upload(request: web.Request) -> web.Response:
    """A large body, taken piece by piece: its size and digest, with none of it kept."""
    digest, size = hashlib.sha256(), 0
    async for piece in request.content.iter_any():
        size += len(piece)
        if size > MAX_UPLOAD_BYTES:
            raise web.HTTPRequestEntityTooLarge(MAX_UPLOAD_BYTES, size)
        digest.update(piece)
    return web.json_response({"bytes": size, "sha256": digest.hexdigest()})


def make_app() -> web.Application:
    """The shop; each worker makes its own."""
    orders = web.Application()
    orders.add_routes([web.post("/{fruit}", order)])
    app = web.Application(middlewares=[name_the_user])
    app[FEEDS] = set()
    app.add_routes(
        [
            web.get("/prices", prices),
            web.get("/report", report),
            web.get("/feed", feed),
            web.get("/haggle", haggle),
            web.put("/upload", upload),
            web.static("/files", FILES),
        ]
    )
    app.add_subapp("/orders", orders)
    return app
