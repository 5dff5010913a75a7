"""The application and what serves it.

Rules:

- Starting needs no database; a handler that needs one says 503 until it is there.
- Connections are bounded in time and number (``gatelog.hosting.server``).
- Requests are logged only if the configuration says so (of what is refused:
  ``gatelog.http.refusals``): address, method, path, status and time;
  never a query string or anything in the path that could be a token.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any, Final, cast

from aiohttp import hdrs, web, web_response
from aiohttp.abc import AbstractAccessLogger
from aiohttp.typedefs import Handler, Middleware

from gatelog import spans
from gatelog.accounts.web import ACCOUNTS
from gatelog.audit.web.asof import AS_OF
from gatelog.audit.web.events import AUDIT
from gatelog.audit.web.export import EXPORTING, EXPORTS, end_exports
from gatelog.audit.web.stream import FOLLOWER
from gatelog.composer.service.upstreams import Upstreams
from gatelog.composer.web import COMPOSER, RECORDER, TRACED, UPSTREAMS
from gatelog.composer.web.routing import Composed
from gatelog.composer.web.running import COMPOSED, RUNS, RUNS_AT_A_TIME
from gatelog.composer.web.surroundings import surroundings
from gatelog.config import Config
from gatelog.console.web import FIND_USERS, LOOKING, WHO_IS_IN
from gatelog.hosting.mount import expect_as_everywhere, mount
from gatelog.hosting.routes import own_pages, own_routes
from gatelog.hosting.server import BoundedServer, limits_of
from gatelog.hosting.services import Services, mailing, open_services, sweeping
from gatelog.http.answers import PROVER
from gatelog.http.bodies import MAX_BODY_BYTES
from gatelog.http.cors import share
from gatelog.http.encoded import SERVER_NAME
from gatelog.http.gauges import GAUGES
from gatelog.http.guard import Door, bind, checking, guarded, refuse_unguarded
from gatelog.http.identity import AUTH_PATH, ME_PATH, quick_auth, quick_me
from gatelog.http.nowhere import Nowhere
from gatelog.http.recheck import ASKED_AT_A_TIME, GATE, LASTING, Lasting
from gatelog.http.requests import counted, counting, requests_here
from gatelog.http.roles import READ_RECORDER
from gatelog.http.settings import CONFIG
from gatelog.http.signed_identity import IDENTITY_SIGNER
from gatelog.http.spanned import spanned, spanning
from gatelog.pages.door import for_people
from gatelog.pages.routes import set_up_pages
from gatelog.proofs.service.history import history_guard
from gatelog.proofs.web import PROOFS
from gatelog.session_data.web import SESSION_DATA
from gatelog.sessions.service.projector import projecting

KEEPALIVE_S = 75.0  # longer than proxies in front usually keep an idle connection

SHORTCUTS: Final = web.AppKey("shortcuts", dict[str, Handler])

_Answering = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
OpenServices = Callable[[], AbstractAsyncContextManager[Services]]

access_logger = logging.getLogger("gatelog.access")

# What aiohttp adds to every response that does not name one; its own tells versions. There is no
# documented way that reaches every response and costs nothing.
vars(web_response)["SERVER_SOFTWARE"] = SERVER_NAME


Hosted = web.Application | Iterable[web.RouteDef]


def create_app(
    config: Config, dsn: str, hosted: Hosted = (), *, projector: bool = False
) -> web.Application:
    """The application on this database. ``hosted``: routes beside the product's own, or an
    application, which is mounted where the configuration says.

    A hosted handler is protected like the product's own, unless it is marked public.
    ``projector``: follow the log in this process, for a single worker; where none does on this
    host, every check asks the primary.
    """
    return build_app(config, _opening(config, dsn, projector=projector), hosted)


def add_to(app: web.Application, config: Config, dsn: str, *, projector: bool) -> None:
    """The same, inside an application that is somebody else's: all of its handlers are checked."""
    if CONFIG in app:
        raise RuntimeError("this application is set up already")
    own, door = own_routes(config), Door()
    taken = {resource.canonical for resource in app.router.resources()}
    if hidden := taken & {route.path for route in own}:
        raise RuntimeError(f"this application answers {', '.join(sorted(hidden))} itself")
    _install(app, door, config, _opening(config, dsn, projector=projector))
    _compose(app, door, config)
    app.middlewares[:0] = [counting, *_spanning(), checking(door)]
    app.on_response_prepare.append(app[LASTING].note)
    share(app, config.origins_reading)
    app.add_routes([bind(door, route) for route in own])

    async def complete(app: web.Application) -> None:
        expect_as_everywhere(app)

    app.on_startup.append(complete)


def _spanning() -> list[Middleware]:
    """The middleware that makes a span for each request, if somebody has set that up."""
    spans.look()
    return [spanning] if spans.wanted() else []


def _opening(config: Config, dsn: str, *, projector: bool) -> OpenServices:
    @asynccontextmanager
    async def opened() -> AsyncIterator[Services]:
        async with (
            projecting(config, dsn, history_guard(config)) if projector else nullcontext(),
            open_services(config, dsn) as services,
            sweeping(services.accounts),
            mailing(config, services.accounts),
            services.tracing.going_on(),
        ):
            yield services

    return opened


def build_app(config: Config, services: OpenServices, hosted: Hosted = ()) -> web.Application:
    """The application on services that are opened as it starts, and closed as it ends."""
    door = Door()
    app = web.Application(client_max_size=MAX_BODY_BYTES)
    _install(app, door, config, services)
    app[SHORTCUTS] = {AUTH_PATH: guarded(door, quick_auth(app)), ME_PATH: guarded(door, quick_me)}
    app.add_routes([bind(door, route) for route in own_routes(config)])
    mounted = None
    routes = [] if isinstance(hosted, web.Application) else list(hosted)
    pages = own_pages(config, {route.path for route in routes})
    app.add_routes([bind(door, route) for route in pages])
    if pages:
        set_up_pages(app)
    if isinstance(hosted, web.Application):
        mounted = mount(app, door, hosted, config.mount, noting=app[LASTING].note)
    elif routes:
        app.add_routes([bind(door, route) for route in routes])
        app.on_response_prepare.append(app[LASTING].note)
    _compose(app, door, config)
    around = for_people if pages else None
    app.router.register_resource(Nowhere(door, lambda: refuse_unguarded(app, mounted), around))
    share(app, config.origins_reading)
    return app


def _compose(app: web.Application, door: Door, config: Config) -> None:
    """Let the application answer what is composed, behind all that is routed by now."""
    if config.composer == "off":
        return
    composed = app[COMPOSED] = Composed(door)
    app[RUNS] = asyncio.Semaphore(RUNS_AT_A_TIME)
    app.router.register_resource(composed)


def _others(app: web.Application) -> list[web.AbstractResource]:
    """All resources but those that answer what no route is for."""
    return [r for r in app.router.resources() if not isinstance(r, Composed | Nowhere)]


def _install(app: web.Application, door: Door, config: Config, services: OpenServices) -> None:
    """What the product's handlers find in the application, from its start to its end."""

    async def serving(app: web.Application) -> AsyncIterator[None]:
        async with services() as opened, Upstreams(config.upstreams_listed) as upstreams:
            _hand_out(app, opened)
            app[UPSTREAMS] = upstreams
            if COMPOSED in app:
                app[COMPOSED].open(opened.composing.live)
                opened.composing.composer.around = lambda: surroundings(config, _others(app))
            door.open(opened.gate)
            async with app[LASTING].watching(opened.gate):
                with requests_here.telling(*opened.tells, door.time_next):
                    yield

    app[CONFIG] = door.config = config
    app[EXPORTING] = set()
    # half of the queue at most: the other half is for new requests
    app[LASTING] = lasting = Lasting(max(1, min(ASKED_AT_A_TIME, config.lookup_queue // 2)))
    app.cleanup_ctx.append(serving)
    app.on_shutdown.extend((_end_streams, end_exports, lasting.leave))


def _hand_out(app: web.Application, services: Services) -> None:
    """To each room's handlers the use cases of their room, and what others do for them."""
    app[GATE] = services.gate
    app[IDENTITY_SIGNER] = services.identity_signer
    app[ACCOUNTS] = services.accounts
    app[PROOFS] = services.proofs
    app[AUDIT] = services.audit
    app[AS_OF] = services.as_of
    app[EXPORTS] = services.exports
    app[FOLLOWER] = services.follower
    app[PROVER] = services.proofs
    app[READ_RECORDER] = services.audit
    app[GAUGES] = services.gauges
    app[SESSION_DATA] = services.session_data
    app[FIND_USERS] = services.console.users
    app[WHO_IS_IN] = services.console.sessions
    app[LOOKING] = services.console.looking
    app[COMPOSER] = services.composing.composer
    app[RECORDER] = services.composing.recorder
    app[TRACED] = services.composing.traced


async def _end_streams(app: web.Application) -> None:
    """Streams have no end of their own: a stop must not wait for one."""
    if FOLLOWER in app:
        await app[FOLLOWER].close()
    if LOOKING in app:
        app[LOOKING].close()


def make_runner(app: web.Application, config: Config) -> web.AppRunner:
    """What serves the application on its sites, as configured."""
    return _Runner(
        app,
        config,
        access_log_class=AccessLog,
        access_log=access_logger if config.access_log else None,
        keepalive_timeout=KEEPALIVE_S,
        shutdown_timeout=config.shutdown_timeout_s,
    )


# --- the access log

_token_like = re.compile(r"[A-Za-z0-9_-]{43,}")


class AccessLog(AbstractAccessLogger):
    """One short line for a request."""

    @property
    def enabled(self) -> bool:
        return self.logger.isEnabledFor(logging.INFO)

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        path = _token_like.sub("…", request.rel_url.raw_path)
        self.logger.info(
            "%s %s %s %d %.1f ms",
            request.remote,
            request.method,
            path,
            response.status,
            time * 1000,
        )


# --- what comes before any handler


def _shortcut(app: web.Application, routed: _Answering) -> _Answering:
    """A GET of the identity goes straight to its handler; everything else takes the routes.

    Those two are asked for before every request to other services; finding a route would cost
    them as much as the check does. What they answer is the same either way. An application that
    wants to see every request or response itself has no shortcuts.
    """
    hooks = [hook for hook in app.on_response_prepare if hook != app[LASTING].note]
    if app.middlewares or hooks:
        return routed
    find = app[SHORTCUTS].get

    def answer(request: web.BaseRequest) -> Awaitable[web.StreamResponse]:
        handler = find(request.raw_path.partition("?")[0])
        if handler is None or request.method != hdrs.METH_GET or hdrs.EXPECT in request.headers:
            return routed(request)
        return handler(cast(web.Request, request))

    return answer


class _Runner(web.AppRunner):
    """aiohttp's runner, with shortcuts and with connections that have limits."""

    def __init__(self, app: web.Application, config: Config, **settings: Any) -> None:
        super().__init__(app, **settings)
        self._config = config

    async def _make_server(self) -> web.Server:
        server = await super()._make_server()
        answer = _shortcut(self.app, server.request_handler)
        spans.look()
        if counting not in self.app.middlewares:
            answer = counted(spanned(answer))
        return BoundedServer(
            answer,
            limits_of(self._config),
            request_factory=server.request_factory,
            loop=server._loop,
            **server._kwargs,
        )
