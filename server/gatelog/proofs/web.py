"""The handlers of the log's proofs: C2SP tlog-tiles below ``/v1/log``, and proofs made to order.

Each one needs the role ``auditor`` or ``admin``. Rules:

- Paths, formats and content types are the specification's, so that its tools read them; a
  consistency proof, which has no file format, is written as witnesses read it.
- A tile of hashes never changes: it may stay in the caller's own cache for good. Entries tell what
  people did, so no cache keeps them.
- Reading here is an audit read, and recorded before anything is shown.
"""

from __future__ import annotations

import re
from typing import Annotated, Final

from aiohttp import hdrs, web
from msgspec import Meta

from gatelog.errors import InvalidInput, MalformedProof, NotFound, NotSealed, Purged
from gatelog.http.described import Reply, describes
from gatelog.http.roles import record_read, requires
from gatelog.proofs.rules.merkle import MAX_TREE_SIZE
from gatelog.proofs.rules.tlog import TILE_PATTERN, parse_tile_path
from gatelog.proofs.service.proofs import Proofs

PROOFS: Final = web.AppKey("proofs", Proofs)

TEXT = "text/plain; charset=utf-8"
BYTES = "application/octet-stream"
FOR_GOOD = "private, max-age=31536000, immutable"

_number = re.compile(r"[0-9]{1,19}", re.ASCII).fullmatch


_Text = Reply(content={TEXT: str})
_TILE = Annotated[
    str,
    Meta(
        description="As C2SP's tlog-tiles writes it after `tile/`; its slashes stand as they are.",
        extra_json_schema={"pattern": f"^{TILE_PATTERN}$", "examples": ["0/000", "entries/000"]},
    ),
]
_Size = Annotated[int, Meta(ge=1, le=MAX_TREE_SIZE)]


def _text(body: bytes) -> web.Response:
    return web.Response(body=body, headers={hdrs.CONTENT_TYPE: TEXT})


@requires("auditor", "admin")
@describes(returns={200: _Text}, raises=(NotSealed,))
async def checkpoint(request: web.Request) -> web.StreamResponse:
    """The newest signed checkpoint."""
    await record_read(request, "log")
    return _text(await request.app[PROOFS].checkpoint())


@requires("auditor", "admin")
@describes(
    path={"path": _TILE},
    returns={
        200: Reply(
            content={BYTES: bytes},
            headers={hdrs.CACHE_CONTROL: "Hashes may be kept for good, entries may not."},
        )
    },
    raises=(NotSealed, Purged),
)
async def tile(request: web.Request) -> web.StreamResponse:
    """A tile of hashes, or a bundle of entries."""
    try:
        path = parse_tile_path(f"tile/{request.match_info['path']}")
    except MalformedProof as error:
        raise NotFound(str(error)) from error
    await record_read(request, "log")
    response = web.Response(
        body=await request.app[PROOFS].tile(path), headers={hdrs.CONTENT_TYPE: BYTES}
    )
    if path.level is not None:
        response.headers[hdrs.CACHE_CONTROL] = FOR_GOOD
    return response


@requires("auditor", "admin")
@describes(
    query={
        "position": Annotated[_Size, Meta(description="The event that is to be proved.")],
        "from": Annotated[_Size, Meta(description="The size of an older tree of this log.")],
    },
    returns={200: _Text},
    raises=(NotSealed,),
)
async def proof(request: web.Request) -> web.StreamResponse:
    """The proof of an event, or of an extension of an older tree. Takes one of the parameters."""
    name, number = _asked(request)
    await record_read(request, "log")
    proofs = request.app[PROOFS]
    if name == "position":
        return _text((await proofs.inclusion(number)).text())
    return _text((await proofs.consistency(number)).text())


def _asked(request: web.Request) -> tuple[str, int]:
    """The one parameter: ``position`` or ``from``, a number from 1 on."""
    given = list(request.query.items())
    if len(given) != 1 or given[0][0] not in {"position", "from"}:
        raise InvalidInput("Give one of the parameters 'position' and 'from', once.")
    name, text = given[0]
    if not _number(text) or not 0 < int(text) <= MAX_TREE_SIZE:
        raise InvalidInput(f"The parameter '{name}' must be a number from 1 on.")
    return name, int(text)


def log_routes() -> list[web.RouteDef]:
    """The routes of the log's proofs."""
    return [
        web.get("/v1/log/checkpoint", checkpoint),
        web.get("/v1/log/tile/{path:.+}", tile),
        web.get("/v1/log/proof", proof),
    ]
