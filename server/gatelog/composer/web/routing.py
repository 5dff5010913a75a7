"""How a request finds the composed endpoint that it is for.

A resource that stands behind all routes of the product and of what is hosted, so that no composed
endpoint can take the place of one, whatever a build says; and before ``Nowhere``. Rules:

- It asks which build is live, for each request that nothing else answers
  (``composer.service.live``).
- Where nobody can tell, nobody can tell either whether there is an endpoint: 503, and no 404.
- A path's requests are counted under its template, as everywhere; templates that were never built
  are not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler
from yarl import URL

from gatelog.composer.rules.composition import MAX_ENDPOINTS, Composition
from gatelog.composer.rules.paths import Table
from gatelog.composer.service.live import Live
from gatelog.composer.web.endpoints import Compiler, Served, has_head, methods_of
from gatelog.errors import GatelogError, NotFound, Unavailable
from gatelog.http.guard import Door, guarded, public
from gatelog.http.templated import Templated

MAX_TEMPLATES = 4 * MAX_ENDPOINTS  # that a process tells apart in what it counts, of all builds
OTHER_TEMPLATE = "/{composed}"


class Serving:
    """A build as this process serves it."""

    __slots__ = ("build", "composition", "served", "table")

    def __init__(self, build: int, composition: Composition, served: tuple[Served, ...]) -> None:
        self.build = build
        self.composition = composition
        self.served = served
        self.table: Table[Served] = Table()
        for each in served:
            self.table.add(each.endpoint.path, each.endpoint.method, each)


class _Match(web.UrlMappingMatchInfo):
    """What was found; its handler is the build's, its route is that of all builds."""

    __slots__ = ("handler",)

    handler: Handler


class _Refused(_Match):
    """What cannot be known; the error is the handler's to raise."""

    __slots__ = ("error",)

    error: GatelogError


class Composed(web.AbstractResource):
    """Finds composed endpoints. ``open`` it when the application has started."""

    def __init__(self, door: Door) -> None:
        super().__init__()
        self._compiler = Compiler(door)
        self._live: Live[Serving] | None = None
        self._templates: dict[str, Templated] = {}
        self._other = Templated(OTHER_TEMPLATE)
        self._refusing = Templated(OTHER_TEMPLATE).route(hdrs.METH_ANY, guarded(door, _refuse))

    def open(self, live: Callable[[Callable[[int, Composition], Any]], Live[Serving]]) -> None:
        """From now on, answer what is live."""
        self._live = live(self._make)

    async def _make(self, build: int, composition: Composition) -> Serving:
        return Serving(build, composition, self._compiler.compile(composition))

    async def serving(self) -> Serving:
        """What is live. Raises Unavailable where nobody can tell."""
        if self._live is None:
            raise Unavailable("The application has not started.")
        return self._live.current() or await self._live.now()

    async def resolve(
        self, request: web.Request
    ) -> tuple[web.UrlMappingMatchInfo | None, set[str]]:
        live = self._live
        if live is None:
            return None, set()
        try:
            serving = live.current() or await live.now()
        except GatelogError as error:
            refused = _Refused({}, self._refusing)
            refused.handler, refused.error = self._refusing.handler, error
            return refused, set()
        found = serving.table.find(request.rel_url.path_safe)
        if found is None:
            return None, set()
        served = _answering(found.by_method, request.method)
        if served is None:
            return None, methods_of(found.by_method)
        route = served.routes.get(request.method) or self._route(served, request.method)
        match = _Match(found.values, route)
        match.handler = served.handler
        return match, set()

    def _route(self, served: Served, method: str) -> web.ResourceRoute:
        """The route that requests of this path and method are counted by, in all builds."""
        path = served.endpoint.path
        template = self._templates.get(path)
        if template is None:
            if len(self._templates) >= MAX_TEMPLATES:
                return self._other.route(method, served.handler)
            template = self._templates[path] = Templated(path)
        route = served.routes[method] = template.route(method, served.handler)
        return route

    # --- as a resource

    @property
    def canonical(self) -> str:
        return "/"

    def url_for(self, **kwargs: str) -> URL:
        raise RuntimeError("a composed endpoint has no route of aiohttp's")

    def add_prefix(self, prefix: str) -> None:
        raise RuntimeError("composed endpoints are of the outermost application")

    def get_info(self) -> Any:
        return {}

    def raw_match(self, path: str) -> bool:
        return False

    def __len__(self) -> int:
        return 0

    def __iter__(self) -> Iterator[web.AbstractRoute]:
        return iter(())


def _answering(by_method: dict[str, Served], method: str) -> Served | None:
    served = by_method.get(method)
    if served is None and method == hdrs.METH_HEAD:
        got = by_method.get(hdrs.METH_GET)
        return got if got is not None and has_head(got) else None
    return served


@public
async def _refuse(request: web.Request) -> NoReturn:
    match = request.match_info
    raise match.error if isinstance(match, _Refused) else NotFound()
