"""The application and what serves it.

Rules:

- Starting needs no database; a handler that needs one says 503 until it is there.
- What breaks before a handler is found (a malformed request line, 10 MB of headers) is answered
  with a problem document, too, and the client gets to read it: the connection is drained for a
  bounded time and then closed. Nothing of such a request is logged, only that there was one.
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
from typing import Final, cast

from aiohttp import hdrs, web, web_response
from aiohttp.abc import AbstractAccessLogger
from aiohttp.http import WebSocketReader
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Handler

from gatelog.accounts.web import ACCOUNTS
from gatelog.audit.web.asof import AS_OF
from gatelog.audit.web.events import AUDIT
from gatelog.audit.web.export import EXPORTING, EXPORTS, end_exports
from gatelog.audit.web.stream import FOLLOWER
from gatelog.config import Config
from gatelog.errors import BadRequest
from gatelog.hosting.mount import expect_as_everywhere, mount
from gatelog.hosting.routes import own_routes
from gatelog.hosting.services import Services, open_services, sweeping
from gatelog.http.answers import PROVER
from gatelog.http.bodies import MAX_BODY_BYTES
from gatelog.http.cors import share
from gatelog.http.encoded import SERVER_NAME
from gatelog.http.gauges import GAUGES
from gatelog.http.guard import Door, bind, checking, guarded, refuse_unguarded
from gatelog.http.identity import AUTH_PATH, ME_PATH, quick_auth, quick_me
from gatelog.http.nowhere import Nowhere
from gatelog.http.problems import internal_error, log_unexpected, problem
from gatelog.http.recheck import GATE, Lasting
from gatelog.http.refusals import refusals_here
from gatelog.http.requests import counted
from gatelog.http.roles import READ_RECORDER
from gatelog.http.settings import CONFIG
from gatelog.proofs.service.history import history_guard
from gatelog.proofs.web import PROOFS
from gatelog.session_data.web import SESSION_DATA
from gatelog.sessions.service.projector import projecting

KEEPALIVE_S = 75.0  # longer than proxies in front usually keep an idle connection
DRAIN_S = 5.0
DRAIN_BYTES = 64 * 1024 * 1024

SHORTCUTS: Final = web.AppKey("shortcuts", dict[str, Handler])
LASTING: Final = web.AppKey("lasting", Lasting)

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
    app.middlewares.insert(0, checking(door))
    app.on_response_prepare.append(app[LASTING].note)
    share(app, config.origins_reading)
    app.add_routes([bind(door, route) for route in own])

    async def complete(app: web.Application) -> None:
        expect_as_everywhere(app)

    app.on_startup.append(complete)


def _opening(config: Config, dsn: str, *, projector: bool) -> OpenServices:
    @asynccontextmanager
    async def opened() -> AsyncIterator[Services]:
        async with (
            projecting(config, dsn, history_guard(config)) if projector else nullcontext(),
            open_services(config, dsn) as services,
            sweeping(services.accounts),
        ):
            yield services

    return opened


def build_app(config: Config, services: OpenServices, hosted: Hosted = ()) -> web.Application:
    """The application on services that are opened as it starts, and closed as it ends."""
    door = Door()
    app = web.Application(client_max_size=MAX_BODY_BYTES)
    _install(app, door, config, services)
    app[SHORTCUTS] = {AUTH_PATH: guarded(door, quick_auth), ME_PATH: guarded(door, quick_me)}
    app.add_routes([bind(door, route) for route in own_routes(config)])
    mounted = hosted if isinstance(hosted, web.Application) else None
    if isinstance(hosted, web.Application):
        mount(app, door, hosted, config.mount, noting=app[LASTING].note)
    elif routes := [bind(door, route) for route in hosted]:
        app.add_routes(routes)
        app.on_response_prepare.append(app[LASTING].note)
    app.router.register_resource(Nowhere(door))
    share(app, config.origins_reading)

    async def complete(app: web.Application) -> None:
        refuse_unguarded(app, mounted)

    app.on_startup.append(complete)  # after the hosted application's own
    return app


def _install(app: web.Application, door: Door, config: Config, services: OpenServices) -> None:
    """What the product's handlers find in the application, from its start to its end."""

    async def serving(app: web.Application) -> AsyncIterator[None]:
        async with services() as opened:
            _hand_out(app, opened)
            door.open(opened.gate)
            async with app[LASTING].watching(opened.gate):
                yield

    app[CONFIG] = door.config = config
    app[EXPORTING] = set()
    app[LASTING] = lasting = Lasting()
    app.cleanup_ctx.append(serving)
    app.on_shutdown.extend((_end_streams, end_exports, lasting.leave))


def _hand_out(app: web.Application, services: Services) -> None:
    """To each room's handlers the use cases of their room, and what others do for them."""
    app[GATE] = services.gate
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


async def _end_streams(app: web.Application) -> None:
    """Streams have no end of their own: a stop must not wait for one."""
    if FOLLOWER in app:
        await app[FOLLOWER].close()


def make_runner(app: web.Application, config: Config) -> web.AppRunner:
    """What serves the application on its sites, as configured."""
    return _Runner(
        app,
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
        handler = find(request.raw_path)
        if handler is None or request.method != hdrs.METH_GET or hdrs.EXPECT in request.headers:
            return routed(request)
        return handler(cast(web.Request, request))

    return answer


class _Runner(web.AppRunner):
    """aiohttp's runner, with shortcuts and with connections that answer in problem documents."""

    async def _make_server(self) -> web.Server:
        server = await super()._make_server()
        return _Server(
            counted(_shortcut(self.app, server.request_handler)),
            request_factory=server.request_factory,
            loop=server._loop,
            **server._kwargs,
        )


class _Server(web.Server):
    def __call__(self) -> web.RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)


class _Connection(web.RequestHandler):
    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to what went wrong outside of all handlers. The connection ends with it."""
        if isinstance(exc, HttpProcessingError):
            detail = "The request is not well-formed HTTP, or its headers are too large."
            refusals_here.note_malformed()
            return _LastResponse(self, problem(BadRequest(detail)))
        if isinstance(exc, ConnectionError):
            raise exc  # the client is gone
        if request.writer.output_size > 0:
            log_unexpected(exc or RuntimeError())
            raise ConnectionResetError("the response has begun already")
        response = internal_error(exc or RuntimeError())
        response.force_close()
        return response


class _LastResponse(web.Response):
    """A response after which the connection is drained, so that the client gets to read it.

    Closing while the client still sends would reset the connection, and with it the answer.
    """

    def __init__(self, connection: web.RequestHandler, like: web.Response) -> None:
        super().__init__(status=like.status, body=like.body, headers=like.headers)
        self.force_close()
        self._transport = connection.transport
        self._drain = _Drain()
        connection.set_parser(cast(WebSocketReader, self._drain))

    async def write_eof(self, data: bytes = b"") -> None:
        await super().write_eof(data)
        if self._transport is not None and self._transport.can_write_eof():
            self._transport.write_eof()
            await asyncio.wait({self._drain.over}, timeout=DRAIN_S)


class _Drain:
    """Takes what still arrives, in place of the HTTP parser, and forgets it."""

    def __init__(self) -> None:
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._left = DRAIN_BYTES

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self._left -= len(data)
        if self._left < 0:
            self.feed_eof()
        return False, b""

    def feed_eof(self) -> None:
        if not self.over.done():
            self.over.set_result(None)
