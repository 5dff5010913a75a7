"""Paths that are found by something else than aiohttp's router: what requests are counted by."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler
from yarl import URL

from gatelog.http.guard import expected


class Templated(web.AbstractResource):
    """The resource of routes that are found elsewhere; ``template``: of their paths.

    It finds nothing by itself. Each of its routes is for one method.
    """

    def __init__(self, template: str) -> None:
        super().__init__()
        self._template = template
        self._routes: dict[str, web.ResourceRoute] = {}

    def route(self, method: str, handler: Handler) -> web.ResourceRoute:
        """The route of this method, always the same one."""
        known = self._routes.get(method)
        if known is None:
            known = web.ResourceRoute(method, handler, self, expect_handler=expected)
            self._routes[method] = known
        return known

    async def resolve(
        self, request: web.Request
    ) -> tuple[web.UrlMappingMatchInfo | None, set[str]]:
        return None, set()

    @property
    def canonical(self) -> str:
        return self._template

    def url_for(self, **kwargs: str) -> URL:
        raise RuntimeError("this path is not one of aiohttp's router")

    def add_prefix(self, prefix: str) -> None:
        raise RuntimeError("this path is of the outermost application")

    def get_info(self) -> Any:
        return {}

    def raw_match(self, path: str) -> bool:
        return False

    def __len__(self) -> int:
        return len(self._routes)

    def __iter__(self) -> Iterator[web.AbstractRoute]:
        return iter(tuple(self._routes.values()))
