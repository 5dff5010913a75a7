"""What no route is for: 404, or 405 where the path is there and the method is not.

A resource that stands behind all others and matches everything, so that these answers are problem
documents like all errors, and cost no look-up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler
from yarl import URL

from gatelog.http.guard import AROUND, Door, expected, guarded, public

Around = Callable[[Door, Handler], Handler]


class Nowhere(web.AbstractResource):
    """Register it last. ``complete`` is called when no other resource can come any more.

    ``around``: what wraps the handler, to tell people in another way (``http.guard.AROUND``).
    """

    def __init__(
        self, door: Door, complete: Callable[[], None], around: Around | None = None
    ) -> None:
        super().__init__()
        self._complete = complete
        handler = self._handler()
        if around is not None:
            setattr(handler, AROUND, around)
        self._route = web.ResourceRoute(
            hdrs.METH_ANY, guarded(door, handler), self, expect_handler=expected
        )

    def _handler(self) -> Handler:
        @public
        async def nowhere(request: web.Request) -> NoReturn:
            allowed: set[str] = set()
            for resource in request.app.router.resources():
                if resource is not self:
                    allowed |= (await resource.resolve(request))[1]
            if allowed:
                raise web.HTTPMethodNotAllowed(request.method, allowed)
            raise web.HTTPNotFound()

        return nowhere

    async def resolve(
        self, request: web.Request
    ) -> tuple[web.UrlMappingMatchInfo | None, set[str]]:
        return web.UrlMappingMatchInfo({}, self._route), set()

    def freeze(self) -> None:
        self._complete()

    @property
    def canonical(self) -> str:
        return "/"

    def url_for(self, **kwargs: str) -> URL:
        raise RuntimeError("nowhere has no URL")

    def add_prefix(self, prefix: str) -> None:
        raise RuntimeError("nowhere is of the outermost application")

    def get_info(self) -> Any:
        return {}

    def raw_match(self, path: str) -> bool:
        return False

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[web.AbstractRoute]:
        yield self._route
