"""A small shop that was written for aiohttp-session with its sessions in a cookie.

What moved it behind Gatelog is the storage (and its import); before, the line was

    aiohttp_session.setup(app, EncryptedCookieStorage(os.environ["SHOP_KEY"]))

Its own login page is gone, too: Gatelog has one at /v1/login_user. Start it from the repository:

    GATELOG_APP=examples.moved.shop:app gatelog serve
"""

from __future__ import annotations

import aiohttp_session
from aiohttp import web
from gatelog import EventLogStorage, public


@public
async def look(request: web.Request) -> web.Response:
    """What is in the basket; for everybody."""
    session = await aiohttp_session.get_session(request)
    return web.json_response({"basket": session.get("basket", []), "notice": session.get("notice")})


@public
async def put(request: web.Request) -> web.Response:
    """Put something into the basket; for everybody."""
    session = await aiohttp_session.get_session(request)
    session["basket"] = [*session.get("basket", []), request.match_info["thing"]]
    raise web.HTTPSeeOther("./")


async def buy(request: web.Request) -> web.Response:
    """Buy what is in the basket; for who is logged in."""
    session = await aiohttp_session.get_session(request)
    bought = session.pop("basket", [])
    session["notice"] = f"{len(bought)} on their way"
    return web.json_response({"bought": bought})


async def leave(request: web.Request) -> web.Response:
    """Log out, everywhere, and say so on the next page."""
    session = await aiohttp_session.get_session(request)
    session.invalidate()
    session["notice"] = "You are logged out."
    return web.json_response({})


app = web.Application()
app.add_routes(
    [
        web.get("/", look),
        web.post("/put/{thing}", put),
        web.post("/buy", buy),
        web.post("/leave", leave),
    ]
)
aiohttp_session.setup(app, EventLogStorage())
