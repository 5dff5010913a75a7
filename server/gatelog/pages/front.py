"""The front page: what this is, and where to begin. Programs get their problem document there."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from gatelog.accounts.web import ACCOUNTS
from gatelog.http.guard import public
from gatelog.http.login_redirect import is_navigation
from gatelog.http.settings import CONFIG
from gatelog.pages.door import page
from gatelog.pages.layout import show, visitor

_SOMEBODY: Final = web.AppKey("gatelog_somebody", set[bool])  # filled once somebody was there


@public
@page
async def front(request: web.Request) -> web.StreamResponse:
    """Where a person begins. Raises HTTPNotFound for a program, as it always did."""
    if not is_navigation(request.headers):
        raise web.HTTPNotFound()
    reader = await visitor(request)
    first_run = reader is None and not await is_anybody_there(request)
    config = request.app[CONFIG]
    return show(
        request,
        "front.html",
        first_run=first_run,
        registration=config.registration == "open",
        docs=config.docs == "on",
    )


async def is_anybody_there(request: web.Request) -> bool:
    """Whether there is a user, or ever was one: once there was, nobody is asked any more."""
    known = request.app[_SOMEBODY]
    if not known and await request.app[ACCOUNTS].first_run.is_over():
        known.add(True)
    return bool(known)


def set_up(app: web.Application) -> None:
    """What the front page keeps in mind."""
    app[_SOMEBODY] = set()


def front_routes() -> list[web.RouteDef]:
    """The route of the front page."""
    return [web.get("/", front)]
