"""Running a composed endpoint as a test visitor, and the walk from 401 to 401.

The request goes through the same application as any other, over a connection of this machine that
exists for as long as the run. Rules:

- The visitor has cookies of its own: they are kept in a cookie of the administrator's browser that
  goes nowhere else and that no script can read. The administrator's session is not sent along, so
  whatever a run ends is the visitor's.
- What is sent is made of an endpoint that is live, by its name: its path, its method, a body of
  JSON. No other address can be asked.
- Events are found by the trace of the request; what is personal in them is not shown here.
- An answer is shown up to a size, and a cookie's value not at all.
"""

from __future__ import annotations

import asyncio
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from time import perf_counter
from typing import Annotated, Any, Final, Literal

import aiohttp
import msgspec
from aiohttp import hdrs, web
from msgspec import Meta
from yarl import URL

from gatelog.audit.rules.shown import ShownEvent
from gatelog.composer.rules.composition import Endpoint
from gatelog.composer.rules.paths import MAX_VALUE_LENGTH, parse_path
from gatelog.composer.web import TRACED
from gatelog.composer.web.compose import PATH
from gatelog.composer.web.routing import Composed
from gatelog.errors import InvalidInput, NotFound, Overloaded, RecentLoginRequired, Unavailable
from gatelog.http.answers import private
from gatelog.http.bodies import read_body
from gatelog.http.caller import caller_of
from gatelog.http.described import Reply, describes
from gatelog.http.guard import no_tokens
from gatelog.http.roles import refuse_old_login, requires
from gatelog.traces import CURRENT, HEADER, Trace

COMPOSED: Final = web.AppKey("composed", Composed)
RUNS: Final = web.AppKey("composer_runs", asyncio.Semaphore)
RUNS_AT_A_TIME: Final = 4  # in a worker
RUN_TIMEOUT_S: Final = 30.0
MAX_SHOWN_BYTES: Final = 64 * 1024
VISITOR_COOKIE: Final = "gatelog-visitor"
MAX_VISITOR_BYTES: Final = 3_000
AGENT: Final = "gatelog-composer (a test run)"

Values = dict[str, Annotated[str, Meta(min_length=1, max_length=MAX_VALUE_LENGTH)]]


class Running(msgspec.Struct, forbid_unknown_fields=True):
    """``endpoint``: its name, of a live one; ``path``: its parameters; ``body``: an object, or
    nothing. ``visitor``: who was there before goes on (``same``), or a new one comes (``new``)."""

    endpoint: str
    path: Values = {}
    body: dict[str, Any] | None = None
    visitor: Literal["same", "new"] = "same"


class Header(msgspec.Struct, frozen=True):
    name: str
    value: str


class Ran(msgspec.Struct, frozen=True):
    """What was answered. ``body``: as text; null where it is none, or is too long, of so many
    ``size`` bytes. ``events``: those that it appended to the log."""

    method: str
    path: str
    status: int
    headers: list[Header]
    body: str | None
    size: int
    took_ms: float
    trace_id: str
    events: list[ShownEvent]


class Walking(msgspec.Struct, forbid_unknown_fields=True):
    """Names of three live endpoints, what the login needs, and values of paths' parameters."""

    protected: str
    login: str
    logout: str
    body: dict[str, Any]
    path: Values = {}
    protected_body: dict[str, Any] | None = None


class Stride(msgspec.Struct, frozen=True):
    """A step of the walk: what was to be answered, and what was."""

    what: str
    expected: int
    right: bool
    ran: Ran


class Walked(msgspec.Struct, frozen=True):
    """The walk, as far as it went: it ends with the first step that is not right."""

    right: bool
    steps: list[Stride]


_SET = Reply(
    content={"application/json": Ran},
    headers={hdrs.SET_COOKIE: "The visitor's cookies, for the next run."},
)
_decode_cookies = msgspec.json.Decoder(dict[str, str]).decode


@no_tokens
@requires("admin")
@describes(body=Running, returns={200: _SET}, raises=(NotFound, RecentLoginRequired))
async def run(request: web.Request) -> web.StreamResponse:
    """Ask a live endpoint as a test visitor, with cookies of its own."""
    refuse_old_login(request)
    ran, cookies = await run_once(request, await read_body(request, Running))
    response = private(ran)
    keep_visitor(request, response, cookies, f"{PATH}/run")
    return response


async def run_once(request: web.Request, running: Running) -> tuple[Ran, dict[str, str]]:
    """What is answered to the visitor, and the cookies that they have then (``keep_visitor``).

    Raises NotFound for an endpoint that is not live, InvalidInput, Overloaded, Unavailable.
    """
    endpoint = await live_endpoint(request, running.endpoint)
    cookies = _visitor(request) if running.visitor == "same" else {}
    async with _visiting(request, cookies) as visit:
        ran = await visit.ask(endpoint, running.path, running.body)
        return ran, visit.cookies()


@no_tokens
@requires("admin")
@describes(body=Walking, returns={200: Walked}, raises=(NotFound, RecentLoginRequired))
async def walk(request: web.Request) -> web.StreamResponse:
    """Go from 401 to 401 as a new test visitor: ask a protected endpoint, log in, ask, log out,
    ask. It ends where an answer is not the right one."""
    refuse_old_login(request)
    return private(await walked(request, await read_body(request, Walking)))


async def walked(request: web.Request, walking: Walking) -> Walked:
    """The walk, as far as it goes. Raises as ``run_once``."""
    protected = await live_endpoint(request, walking.protected)
    login = await live_endpoint(request, walking.login)
    logout = await live_endpoint(request, walking.logout)
    plan = [
        ("before the login", protected, walking.protected_body, 401),
        ("login", login, walking.body, 200),
        ("after the login", protected, walking.protected_body, 200),
        ("logout", logout, None, 200),
        ("after the logout", protected, walking.protected_body, 401),
    ]
    steps: list[Stride] = []
    async with _visiting(request, {}) as visit:
        for what, endpoint, content, expected in plan:
            ran = await visit.ask(endpoint, walking.path, content)
            steps.append(Stride(what, expected, ran.status == expected, ran))
            if not steps[-1].right:
                break
    return Walked(all(step.right for step in steps), steps)


async def live_endpoint(request: web.Request, name: str) -> Endpoint:
    """The live endpoint of this name. Raises NotFound."""
    serving = await request.app[COMPOSED].serving()
    for endpoint in serving.composition.endpoints:
        if endpoint.name == name:
            return endpoint
    raise NotFound("There is no live endpoint of this name.")


def path_with(endpoint: Endpoint, values: Mapping[str, str]) -> str:
    """The endpoint's path with these values, percent-encoded. Raises InvalidInput."""
    pattern = parse_path(endpoint.path)
    missing = [name for name in pattern.names if not values.get(name)]
    if missing:
        raise InvalidInput(f"The path needs a value for {', '.join(missing)}.")
    left = iter(pattern.names)
    parts = [values[next(left)] if part is None else part for part in pattern.segments]
    return "/" + "/".join(_encoded(part) for part in parts)


def _encoded(text: str) -> str:
    """Percent-encoded but for unreserved characters (RFC 3986, section 2.3)."""
    kept = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
    return "".join(chr(b) if b in kept else f"%{b:02X}" for b in text.encode(errors="replace"))


# --- the visitor's cookies


def _visitor(request: web.Request) -> dict[str, str]:
    """The cookies that the visitor has; none where they cannot be read."""
    try:
        packed = request.cookies.get(VISITOR_COOKIE, "")
        return _decode_cookies(urlsafe_b64decode(packed.encode())) if packed else {}
    except (ValueError, msgspec.DecodeError):
        return {}


def keep_visitor(
    request: web.Request, response: web.StreamResponse, cookies: Mapping[str, str], path: str
) -> None:
    """Have the administrator's browser keep these, for the next run from this path alone."""
    packed = urlsafe_b64encode(msgspec.json.encode(cookies)).decode()
    if len(packed) > MAX_VISITOR_BYTES:
        packed = ""
    secure = "" if caller_of(request).local else "; Secure"
    response.headers.add(
        hdrs.SET_COOKIE,
        f"{VISITOR_COOKIE}={packed}; Path={path}{secure}; HttpOnly; SameSite=Strict",
    )


# --- the visit


class _Visit:
    """A test visitor, connected to this application."""

    def __init__(self, request: web.Request, origin: URL, session: aiohttp.ClientSession) -> None:
        self._traced = request.app[TRACED]
        self._origin = origin
        self._session = session

    def cookies(self) -> dict[str, str]:
        """The cookies that the visitor has by now."""
        kept = self._session.cookie_jar.filter_cookies(self._origin)
        return {name: morsel.value for name, morsel in kept.items()}

    async def ask(
        self, endpoint: Endpoint, values: Mapping[str, str], body: dict[str, Any] | None
    ) -> Ran:
        """Ask this endpoint. Raises InvalidInput for a path that lacks something, Unavailable."""
        path, trace_id = path_with(endpoint, values), secrets.token_hex(16)
        headers = {HEADER: f"00-{trace_id}-{secrets.token_hex(8)}-01"}
        data = None
        if body is not None:
            data, headers[hdrs.CONTENT_TYPE] = msgspec.json.encode(body), "application/json"
        before, began = await self._traced.head(), perf_counter()
        url = URL(f"{self._origin}{path}", encoded=True)
        try:
            async with self._session.request(
                endpoint.method, url, headers=headers, data=data, allow_redirects=False
            ) as response:
                content = await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unavailable("The run did not come to an end.") from error
        return Ran(
            method=endpoint.method,
            path=path,
            status=response.status,
            headers=_shown_headers(response),
            body=_shown_body(content),
            size=len(content),
            took_ms=round((perf_counter() - began) * 1000, 3),
            trace_id=trace_id,
            events=await self._traced.since(before, trace_id),
        )


def _shown_headers(response: aiohttp.ClientResponse) -> list[Header]:
    shown = []
    for name, value in response.headers.items():
        is_cookie = name.lower() == "set-cookie"
        shown.append(Header(str(name), _without_value(value) if is_cookie else value))
    return shown


def _without_value(line: str) -> str:
    """A ``Set-Cookie`` without what it sets."""
    cookie, _, attributes = line.partition(";")
    name, _, value = cookie.partition("=")
    return f"{name}={'…' if value else ''};{attributes}"


def _shown_body(content: bytes) -> str | None:
    try:
        return content.decode() if len(content) <= MAX_SHOWN_BYTES else None
    except UnicodeDecodeError:
        return None


@asynccontextmanager
async def _visiting(request: web.Request, cookies: Mapping[str, str]) -> AsyncIterator[_Visit]:
    """Connect a visitor with these cookies to the application, until the context ends.

    Raises Overloaded when there are too many already.
    """
    app, turns = request.app, request.app[RUNS]
    if turns.locked():
        raise Overloaded("There are too many runs at once.")
    async with turns:
        server = web.Server(_in_its_trace(app), request_factory=app._make_request)
        listening = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
        try:
            origin = URL(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}")
            jar = aiohttp.CookieJar(unsafe=True)
            jar.update_cookies(cookies, origin)
            async with aiohttp.ClientSession(
                cookie_jar=jar,
                timeout=aiohttp.ClientTimeout(total=RUN_TIMEOUT_S),
                headers={hdrs.USER_AGENT: AGENT},
                trust_env=False,
            ) as session:
                yield _Visit(request, origin, session)
        finally:
            listening.close()
            await server.shutdown(1.0)
            await listening.wait_closed()


def _in_its_trace(app: web.Application) -> Any:
    """The application's own way to answer, with the trace that the request names.

    aiohttp has no public way to serve an application that is being served already.
    """

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        CURRENT.set(Trace(request.headers))
        return await app._handle(request)  # type: ignore[arg-type]

    return answer


def run_routes() -> list[web.RouteDef]:
    """The routes of runs."""
    return [web.post(f"{PATH}/run", run), web.post(f"{PATH}/walk", walk)]
