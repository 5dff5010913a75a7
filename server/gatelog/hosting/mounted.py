"""An application inside another one, with the check before everything that it answers.

``Application.add_subapp`` would freeze it when it is put there, and aiohttp would walk two lists of
middlewares for each request. Here it lives as it does by itself, and what a route has before its
handler is put together once: the check, the application's own middlewares, the handler.

Rules:

- Nothing inside is reached but through the check: it is put around whatever the application's
  router finds, routes that are added after the start and 404s of the application included.
- The application starts as with a runner of its own (``AppRunner``), when what it is inside of has
  started: its ``on_startup`` may still add routes, middlewares and hooks. Then it is frozen. It is
  cleaned up before what it is inside of, and also when a start fails half-way.
- Until the check is called, a match shows the outermost application a handler (all that is inside)
  and no application but itself, so that aiohttp does not run middlewares past the check. From then
  on it is what ``add_subapp`` would give: own handler, all applications.
- What is inside is found as ``add_subapp`` would find it. The outermost router knows each of its
  resources by its own path, so that it needs no second search, and asks for all else at the prefix.
- What was found for a route is kept, where nothing but path and method can decide it: at most each
  route of the application once for each method that HTTP registers.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial, update_wrapper, wraps
from typing import Any, NamedTuple, cast

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware
from yarl import URL

from gatelog.http.guard import Door, checked, expected

Noting = Callable[[web.Request, web.StreamResponse], Awaitable[None]]
_Found = tuple[web.UrlMappingMatchInfo | None, set[str]]


class _Match(web.UrlMappingMatchInfo):
    """What was found inside, seen from outside until the check is called."""

    __slots__ = ("exception", "handler", "inside")

    exception: web.HTTPException
    handler: Handler
    inside: bool

    @property
    def apps(self) -> tuple[web.Application, ...]:
        apps = super().apps
        return apps if self.inside else apps[:1]

    @property
    def expect_handler(self) -> Callable[[web.Request], Awaitable[web.StreamResponse | None]]:
        return expected


class _NoMatch(_Match):
    """What the application has no route for."""

    __slots__ = ()

    @property
    def http_exception(self) -> web.HTTPException:
        return self.exception


class _Place(NamedTuple):
    """Where requests go: the handler with the check before it; the outermost application first."""

    route: web.AbstractRoute
    bound: Handler
    inner: tuple[web.Application, ...]  # inside of the one that is mounted
    apps: tuple[web.Application, ...]

    def match(self, variables: dict[str, str], kind: type[_Match] = _Match) -> _Match:
        match = kind(variables, self.route)
        match.handler, match.inside = self.bound, False
        for app in reversed(self.apps):
            match.add_app(app)
        return match

    def match_of(self, found: web.UrlMappingMatchInfo) -> _Match:
        """The same as was found."""
        if found.http_exception is None:
            return self.match(found)
        match = self.match({}, _NoMatch)
        match.exception = found.http_exception
        return match


class _Within(web.AbstractResource):
    """A resource of the outermost application that stands for resources of another one."""

    def url_for(self, **kwargs: str) -> URL:
        raise RuntimeError("ask a resource of the hosted application for its URL")

    def add_prefix(self, prefix: str) -> None:
        raise RuntimeError("a hosted application is mounted in the outermost one")

    def get_info(self) -> Any:
        return {}

    def raw_match(self, path: str) -> bool:
        return False

    def __len__(self) -> int:
        return len(tuple(self))

    def __iter__(self) -> Iterator[web.AbstractRoute]:
        return iter(())


class Mounted(_Within):
    """The application ``hosted`` inside ``outer``, under a prefix that ``outer`` has no other use
    for."""

    def __init__(
        self, outer: web.Application, door: Door, hosted: web.Application, prefix: str
    ) -> None:
        super().__init__()
        self.hosted = hosted
        self._outer, self._door, self._prefix = outer, door, prefix
        self._prefixed: set[object] = set()
        self._routes: frozenset[web.AbstractRoute] = frozenset()
        self._bound: dict[web.AbstractRoute, _Place] = {}
        self._put_prefix()

    # --- its life

    def live(self, noting: Noting) -> None:
        """Let the application start and end with the outer one.

        ``noting`` is shown each of its responses before it is sent.
        """

        async def start(_: web.Application) -> None:
            await self._start(noting)

        async def clean_up(_: web.Application) -> AsyncIterator[None]:
            yield
            await self.hosted.cleanup()

        async def shut_down(_: web.Application) -> None:
            await self.hosted.shutdown()

        self._outer.on_startup.append(start)
        self._outer.cleanup_ctx.append(clean_up)
        self._outer.on_shutdown.append(shut_down)

    async def _start(self, noting: Noting) -> None:
        hosted = self.hosted
        if hosted.pre_frozen:
            raise RuntimeError("the hosted application was frozen before its start")
        hosted._set_loop(asyncio.get_running_loop())  # what ``app.loop`` tells
        hosted.on_startup.freeze()
        await hosted.startup()
        hosted.on_response_prepare.append(noting)
        self._put_prefix()
        hosted.freeze()
        self._routes = frozenset(self)
        self._put_entrances()

    def _put_prefix(self) -> None:
        """Before all paths that do not have it yet."""
        router = self.hosted.router
        for resource in router.resources():
            info = resource.get_info()
            indexed = "rule" not in info  # (of a domain: not by its path)
            what = resource if indexed else info["app"]  # which may have several domains
            if what in self._prefixed:
                continue
            self._prefixed.add(what)
            if indexed:
                router.unindex_resource(resource)
            resource.add_prefix(self._prefix)
            if indexed:
                router.index_resource(resource)

    def _put_entrances(self) -> None:
        """Let the outermost router find each resource by its path, before it asks here.

        Not those that the application's own router finds last of all (``/api{tail:.*}``), and none
        where it looks at something else than the path first.
        """
        index, own = self._outer.router, self.hosted.router
        if type(own) is not web.UrlDispatcher or any(
            "rule" in r.get_info() for r in own.resources()
        ):
            return
        index.unindex_resource(self)
        for resource in own.resources():
            fixed = resource.canonical.partition("{")[0]
            if fixed.startswith(self._prefix + "/") or resource.canonical == self._prefix:
                index.index_resource(_entrance(self, resource))
        index.index_resource(self)

    # --- finding

    async def resolve(self, request: web.Request) -> _Found:
        path = request.rel_url.path_safe
        if path != self._prefix and not path.startswith(self._prefix + "/"):
            return None, set()
        found = await self.hosted.router.resolve(request)
        return self.place(found).match_of(found), set()

    def place(self, found: web.UrlMappingMatchInfo) -> _Place:
        """Where a request goes for which this was found inside."""
        route, inner = found.route, found.apps
        place = self._bound.get(route)
        if place is None or place.inner != inner:
            apps = (self.hosted, *inner)
            place = _Place(route, self._bind(found.handler, apps), inner, apps)
            if route in self._routes and type(found) is web.UrlMappingMatchInfo:
                self._bound[route] = place
        return place

    def is_lasting(self, place: _Place) -> bool:
        """Whether the place is that of a route which was there at the start."""
        return self._bound.get(place.route) is place

    # --- putting together

    def _bind(self, own: Handler, apps: tuple[web.Application, ...]) -> Handler:
        """The handler behind the check and the middlewares of these applications."""
        inner = own
        if any(app.middlewares for app in (*apps, *self._around())):
            for app in reversed(apps):
                inner = _through(app, inner)
        check = checked(self._door, inner, vars(own))
        max_body_bytes = self.hosted._client_max_size
        max_fields = self.hosted._client_max_fields

        @wraps(own, updated=())
        def bound(request: web.Request) -> Awaitable[web.StreamResponse]:
            match: Any = request._match_info
            match.handler, match.inside = own, True
            # aiohttp goes by the outermost application
            request._client_max_size, request._client_max_fields = max_body_bytes, max_fields
            return check(request)

        return bound

    def _around(self) -> Iterator[web.Application]:
        """The outermost application, and others in it: its middlewares run if one has any."""
        yield self._outer
        for resource in self._outer.router.resources():
            if resource is not self and "app" in resource.get_info():
                yield resource.get_info()["app"]

    # --- as a resource

    @property
    def canonical(self) -> str:
        return self._prefix

    def get_info(self) -> Any:
        return {"app": self.hosted, "prefix": self._prefix}

    def __iter__(self) -> Iterator[web.AbstractRoute]:
        yield from self.hosted.router.routes()


class _Entrance(_Within):
    """A resource of the mounted application, for the outermost router's index."""

    def __init__(self, mounted: Mounted, resource: web.AbstractResource) -> None:
        super().__init__()
        self._mounted, self._resource = mounted, resource

    @property
    def canonical(self) -> str:
        return self._resource.canonical

    async def resolve(self, request: web.Request) -> _Found:
        found, _ = await self._resource.resolve(request)
        if found is None:
            return None, set()
        place = self._mounted.place(found)
        if request.method in hdrs.METH_ALL and self._mounted.is_lasting(place):
            self._keep(request, place)
        return place.match_of(found), set()

    def _keep(self, request: web.Request, place: _Place) -> None:
        """Find it more quickly next time, where that can be."""


class _Routes(_Entrance):
    """One path, with or without variables, of which each method has a place."""

    def __init__(self, mounted: Mounted, resource: web.PlainResource | web.DynamicResource) -> None:
        super().__init__(mounted, resource)
        self._match = resource._match  # the half of ``resolve`` that is about the path
        self._places: dict[str, _Place] = {}

    async def resolve(self, request: web.Request) -> _Found:
        place = self._places.get(request.method)
        if place is None:
            return await super().resolve(request)
        variables = self._match(request.rel_url.path_safe)
        return None if variables is None else place.match(variables), set()

    def _keep(self, request: web.Request, place: _Place) -> None:
        self._places[request.method] = place


class _Inner(_Entrance):
    """An application inside of the mounted one."""

    def __init__(self, mounted: Mounted, resource: web.AbstractResource) -> None:
        super().__init__(mounted, resource)
        self._places: dict[tuple[str, str], _Place] = {}

    async def resolve(self, request: web.Request) -> _Found:
        place = self._places.get((request.method, request.rel_url.path_safe))
        return (await super().resolve(request)) if place is None else (place.match({}), set())

    def _keep(self, request: web.Request, place: _Place) -> None:
        if type(place.route.resource) is web.PlainResource:  # (others have any number of paths)
            self._places[request.method, request.rel_url.path_safe] = place


def _entrance(mounted: Mounted, resource: web.AbstractResource) -> _Entrance:
    if type(resource) in (web.PlainResource, web.DynamicResource):
        return _Routes(mounted, cast(web.PlainResource | web.DynamicResource, resource))
    is_inner = type(resource) is web.PrefixedSubAppResource
    return (_Inner if is_inner and _is_constant(resource) else _Entrance)(mounted, resource)


def _is_constant(resource: web.AbstractResource) -> bool:
    """Whether nothing but path and method decides what a resource finds."""
    if type(resource) is web.PrefixedSubAppResource:
        router = resource.get_info()["app"].router
        return type(router) is web.UrlDispatcher and all(map(_is_constant, router.resources()))
    return type(resource) in (web.PlainResource, web.DynamicResource, web.StaticResource)


# --- as aiohttp puts middlewares together, for each request


def _through(app: web.Application, handler: Handler) -> Handler:
    """The handler behind the middlewares of this application."""
    for middleware in (_being(app), *app.middlewares)[::-1]:
        each = middleware if _is_new_style(middleware) else _new_style(app, middleware)
        handler = update_wrapper(partial(each, handler=handler), handler)
    return handler


def _being(app: web.Application) -> Middleware:
    """Makes it the current one (``request.app``) meanwhile."""

    @web.middleware
    async def be(request: web.Request, handler: Handler) -> web.StreamResponse:
        match = request.match_info
        before = match.current_app
        match.current_app = app
        try:
            return await handler(request)
        finally:
            match.current_app = before

    return be


def _is_new_style(middleware: Any) -> bool:
    return getattr(middleware, "__middleware_version__", None) == 1


def _new_style(app: web.Application, factory: Any) -> Middleware:
    """A middleware of aiohttp before 2.3: a factory of handlers."""

    @web.middleware
    async def run(request: web.Request, handler: Handler) -> web.StreamResponse:
        made: Handler = await factory(app, handler)
        return await made(request)

    return run
