"""The export of the log: NDJSON or CSV of any size, as a stream.

Rules:

- Who asks is checked again all the way: an export ends with the session that asked for it. That
  they read is recorded all the way as well, in every minute that it takes.
- An export that cannot be finished never looks finished: the connection is reset in the middle of
  the chunked body (which HTTP/1.0 does not have). Until the end is written, whatever closes the
  connection resets it, be it the end of this process.
- It shows the log up to one position, which the header ``X-Gatelog-Position`` tells at the start:
  who wants the rest later asks for what comes ``after`` it.
- How fast it goes is the client's choice; a client that takes nothing for ``PATIENCE_S`` is gone.
- When the service stops, exports have a part of the time that requests have; then they break off.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Annotated, Any, Final, Literal, get_args

from aiohttp import hdrs, web
from msgspec import Meta
from multidict import istr

from gatelog.audit.rules.shown import ShownEvent
from gatelog.audit.service.export import ExportFormat, Exports
from gatelog.audit.web.events import FILTERS, parameters, parse_filter
from gatelog.errors import GatelogError, InvalidInput, Purged
from gatelog.http.answers import keep_private
from gatelog.http.described import Lines, Needed, Reply, describes
from gatelog.http.recheck import Asker
from gatelog.http.roles import record_read, requires
from gatelog.http.settings import CONFIG

logger = logging.getLogger(__name__)

POSITION_HEADER: Final = istr("X-Gatelog-Position")
PATIENCE_S = 60.0
STOP_SHARE = 0.8  # of the time that a stop waits for requests
EXPORTS: Final = web.AppKey("exports", Exports)
EXPORTING: Final = web.AppKey("exporting", set[asyncio.Timeout])

_TYPES: dict[str, str] = {
    "ndjson": "application/x-ndjson",
    "csv": "text/csv; charset=utf-8; header=present",
}
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER for no time: a close is a reset
_CLOSE = struct.pack("ii", 0, 0)


def reset(request: web.Request) -> None:
    """End the connection so that nobody takes what was sent for all."""
    _linger(request, _RESET)
    if request.transport is not None:
        request.transport.abort()


def _linger(request: web.Request, how: bytes) -> None:
    transport = request.transport
    connection: socket.socket | None = (
        transport.get_extra_info("socket") if transport is not None else None
    )
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, how)


@asynccontextmanager
async def _until_stopped(app: web.Application) -> AsyncIterator[None]:
    """What is done in here raises TimeoutError when the service has to stop."""
    async with asyncio.timeout(None) as limit:
        app[EXPORTING].add(limit)
        try:
            yield
        finally:
            app[EXPORTING].discard(limit)


async def end_exports(app: web.Application) -> None:
    """The service stops: some more time for exports that are almost done."""
    share_s = STOP_SHARE * app[CONFIG].shutdown_timeout_s
    for limit in app[EXPORTING]:
        limit.reschedule(asyncio.get_running_loop().time() + share_s)


def _parameters() -> dict[str, Any]:
    return parameters(FILTERS) | {
        "format": Needed(
            Annotated[ExportFormat, Meta(description="A line of JSON for each, or of CSV.")]
        ),
        "personal": Annotated[
            Literal["open", "sealed"],
            Meta(description="`sealed`: without logins, addresses and user agents; quicker."),
        ],
    }


@requires("auditor", "admin")
@describes(
    query=_parameters,
    returns={
        200: Reply(
            says="A stream of any size. One that is not whole does not end: it is broken off.",
            content={_TYPES["ndjson"]: Lines(ShownEvent), _TYPES["csv"]: str},
            headers={
                hdrs.CONTENT_DISPOSITION: "A name for the file.",
                POSITION_HEADER: "The position up to which it goes.",
            },
        )
    },
    raises=(Purged,),
)
async def export(request: web.Request) -> web.StreamResponse:
    """All events that fit, oldest first."""
    form, opened = _asked(request)
    wanted = parse_filter(request.query, names=FILTERS, also=("format", "personal"))
    exports = request.app[EXPORTS]
    with exports.place():
        upto = await exports.head()
        response = _response(form, upto)
        if request.method == hdrs.METH_HEAD:
            return response
        await record_read(request, "export")
        await response.prepare(request)
        _linger(request, _RESET)
        try:
            async with (
                _until_stopped(request.app),
                aclosing(exports.export(wanted, upto, form, opened=opened)) as pieces,
            ):
                if await _sent(request, response, pieces):
                    _linger(request, _CLOSE)
                else:
                    reset(request)
        except ConnectionError:
            pass  # the client has gone
        except (GatelogError, TimeoutError) as error:
            logger.warning("an export is broken off: %s", str(error) or "out of time")
            reset(request)
        except Exception:
            reset(request)
            raise
    return response


async def _sent(
    request: web.Request, response: web.StreamResponse, pieces: AsyncIterator[bytes]
) -> bool:
    """Whether everything was sent, with its end, to somebody who may have it."""
    asker = Asker(request)
    async for piece in pieces:
        if not await asker.is_there():
            logger.info("an export ends with the session that asked for it")
            return False
        await record_read(request, "export")
        async with asyncio.timeout(PATIENCE_S):
            await response.write(piece)
    async with asyncio.timeout(PATIENCE_S):
        await response.write_eof()
    return True


def _asked(request: web.Request) -> tuple[ExportFormat, bool]:
    form = _one_of(request, "format", get_args(ExportFormat), None)
    personal = _one_of(request, "personal", ("open", "sealed"), "open")
    return ("csv" if form == "csv" else "ndjson"), personal == "open"


def _one_of(request: web.Request, name: str, words: tuple[str, ...], default: str | None) -> str:
    given = request.query.getall(name, [])
    if not given and default is not None:
        return default
    if len(given) != 1 or given[0] not in words:
        raise InvalidInput(f"The parameter '{name}' must be one of: {', '.join(words)}.")
    return given[0]


def _response(form: ExportFormat, upto: int) -> web.StreamResponse:
    response = web.StreamResponse(
        headers={
            hdrs.CONTENT_TYPE: _TYPES[form],
            hdrs.CONTENT_DISPOSITION: f'attachment; filename="gatelog-events-{upto}.{form}"',
            hdrs.X_CONTENT_TYPE_OPTIONS: "nosniff",
            POSITION_HEADER: str(upto),
        }
    )
    keep_private(response)
    return response


def export_routes() -> list[web.RouteDef]:
    return [web.get("/v1/audit/export", export)]
