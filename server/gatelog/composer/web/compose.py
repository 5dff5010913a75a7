"""The handlers of who composes: the draft, its check, the build, and what was built before.

For administrators who have logged in recently, and for no machine.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal
from uuid import UUID

import msgspec
from aiohttp import hdrs, web
from msgspec import Meta

from gatelog.accounts.service.acting import Actor
from gatelog.composer.rules.checking import Fault
from gatelog.composer.rules.comparing import Change
from gatelog.composer.rules.composition import (
    MAX_COMPOSITION_BYTES,
    PALETTE,
    Composition,
    convert,
)
from gatelog.composer.rules.files import read, write
from gatelog.composer.service.composer import NO_SUCH_BUILD, Built
from gatelog.composer.store.builds import LAST, StoredBuild, StoredDraft
from gatelog.composer.web import COMPOSER
from gatelog.console.web.parameters import LIMIT, NEXT_LINK, limit_of, linked, only
from gatelog.errors import (
    DraftOutdated,
    HostsTooOld,
    InvalidInput,
    NotBuildable,
    NotFound,
    NothingToBuild,
    RecentLoginRequired,
    TooManyChanges,
)
from gatelog.http.answers import JSON, private
from gatelog.http.bodies import read_body
from gatelog.http.caller import caller_of
from gatelog.http.described import Reply, describes
from gatelog.http.guard import SESSION, no_tokens
from gatelog.http.roles import refuse_old_login, requires
from gatelog.moments import Moment

PATH: Final = "/v1/compose"
MAX_DRAFT_BYTES: Final = 2 * MAX_COMPOSITION_BYTES  # white space, and what surrounds it
TOML: Final = "application/toml"
_NUMBER = "{number:[0-9]{1,15}}"
Digest = Annotated[
    str,
    Meta(
        description="The SHA-256 of a draft, hexadecimal; empty before the first one.",
        extra_json_schema={"pattern": "^([0-9a-f]{64})?$"},
    ),
]
BuildNumber = Annotated[int, Meta(ge=0, le=10**15 - 1)]


class Draft(msgspec.Struct, frozen=True):
    """What is being composed. ``live``: the build that is, 0 before the first."""

    composition: Composition
    digest: Digest
    changed_at: Moment | None
    changed_by: UUID | None
    live: int


class NewDraft(msgspec.Struct, forbid_unknown_fields=True):
    """The whole composition; ``seen``: the digest of the draft that it replaces, null: any."""

    composition: dict[str, Any]
    seen: str | None = None


class _NewDraft(msgspec.Struct):
    """The whole composition; ``seen``: the digest of the draft that it replaces, null: any."""

    composition: Composition
    seen: Digest | None = None


class NewFile(msgspec.Struct, forbid_unknown_fields=True):
    """The whole composition as a file of TOML; ``seen``: as with the draft."""

    toml: str
    seen: str | None = None


class Difference(msgspec.Struct, frozen=True):
    """What is different, by endpoint and action, in words."""

    changes: list[Change]


class DraftKept(msgspec.Struct, frozen=True):
    """The draft is this one; ``position``: where the log says so, null where it was the same."""

    digest: Digest
    changes: list[Change]
    position: int | None
    status: Literal["kept"] = "kept"


class DraftChecked(msgspec.Struct, frozen=True):
    """Whether the draft can be built; ``changes``: what would be different from ``live``."""

    digest: Digest
    live: int
    faults: list[Fault]
    changes: list[Change]


class Building(msgspec.Struct, forbid_unknown_fields=True):
    """``seen``: the digest of the draft that is to be built; null: whatever it is."""

    seen: str | None = None


class BuildLive(msgspec.Struct, frozen=True):
    """The build that every worker serves by now, and where the log says so."""

    build: int
    changes: list[Change]
    position: int
    status: Literal["live"] = "live"


class ListedBuild(msgspec.Struct, frozen=True):
    """A build. ``restored``: of which earlier one it is the composition again."""

    build: int
    digest: Digest
    position: int
    built_at: Moment
    built_by: UUID | None
    restored: int | None


class ShownBuild(ListedBuild, frozen=True):
    """The same, with what was built."""

    composition: Composition


class Builds(msgspec.Struct, omit_defaults=True):
    """A page, the newest first; what has no ``next`` is the end."""

    builds: list[ListedBuild]
    next: str | None = None


class OfPalette(msgspec.Struct, frozen=True):
    """An event that an action can have. ``takes``: the fields that it reads of the body."""

    do: str
    title: str
    about: str
    takes: tuple[str, ...]


class Palette(msgspec.Struct, frozen=True):
    """What there is to compose with."""

    events: list[OfPalette]
    roles: list[str]
    upstreams: list[str]
    handlers: list[str]


def _digest(text: str | None) -> bytes | None:
    """A digest as it is shown. Raises InvalidInput."""
    try:
        digest = bytes.fromhex(text) if text is not None else None
    except ValueError:
        digest = b"?"
    if digest is not None and (len(digest) not in {0, 32} or digest.hex() != text):
        raise InvalidInput("The field seen has a wrong type or value.")
    return digest


def _actor(request: web.Request) -> Actor:
    return Actor(request[SESSION].subject_id, caller_of(request).client)


def _number(request: web.Request) -> int:
    return int(request.match_info["number"])


def _draft(draft: StoredDraft) -> Draft:
    return Draft(
        draft.composition, draft.digest.hex(), draft.changed_at, draft.changed_by, draft.live
    )


def _listed(build: StoredBuild) -> ListedBuild:
    return ListedBuild(
        build.build,
        build.digest.hex(),
        build.position,
        build.built_at,
        build.built_by,
        build.restored,
    )


def _live(built: Built) -> web.Response:
    return private(BuildLive(built.build, built.changes, built.position))


@no_tokens
@requires("admin")
@describes(returns={200: Palette}, raises=(RecentLoginRequired,))
async def palette(request: web.Request) -> web.StreamResponse:
    """What there is to compose with: events, roles, upstreams and handlers of this host."""
    refuse_old_login(request)
    around = request.app[COMPOSER].around()
    events = [OfPalette(str(s.__struct_config__.tag), s.TITLE, s.ABOUT, s.TAKES) for s in PALETTE]
    names = (sorted(around.roles), sorted(around.upstreams), sorted(around.handlers))
    return private(Palette(events, *names))


@no_tokens
@requires("admin")
@describes(returns={200: Draft}, raises=(RecentLoginRequired,))
async def read_draft(request: web.Request) -> web.StreamResponse:
    """What is being composed."""
    refuse_old_login(request)
    return private(_draft(await request.app[COMPOSER].draft()))


@no_tokens
@requires("admin")
@describes(
    body=_NewDraft,
    returns={200: DraftKept},
    raises=(RecentLoginRequired, DraftOutdated, TooManyChanges),
)
async def replace_draft(request: web.Request) -> web.StreamResponse:
    """Replace what is being composed. It may be unfinished; nothing of it is live before a
    build."""
    refuse_old_login(request)
    body = await read_body(request, NewDraft, limit=MAX_DRAFT_BYTES)
    return await _keep(request, convert(body.composition), body.seen)


@no_tokens
@requires("admin")
@describes(returns={200: Reply(content={TOML: str})}, raises=(RecentLoginRequired,))
async def read_file(request: web.Request) -> web.StreamResponse:
    """What is being composed, as a file of TOML."""
    refuse_old_login(request)
    text = write((await request.app[COMPOSER].draft()).composition)
    return web.Response(body=text.encode(), headers={hdrs.CONTENT_TYPE: TOML})


@no_tokens
@requires("admin")
@describes(
    body=NewFile,
    returns={200: DraftKept},
    raises=(RecentLoginRequired, DraftOutdated, TooManyChanges),
)
async def replace_by_file(request: web.Request) -> web.StreamResponse:
    """Replace what is being composed by a file of TOML."""
    refuse_old_login(request)
    body = await read_body(request, NewFile, limit=MAX_DRAFT_BYTES)
    return await _keep(request, read(body.toml), body.seen)


async def _keep(
    request: web.Request, composition: Composition, seen: str | None
) -> web.StreamResponse:
    kept = await request.app[COMPOSER].replace(composition, seen=_digest(seen), by=_actor(request))
    return private(DraftKept(kept.draft.digest.hex(), kept.changes, kept.position))


@no_tokens
@requires("admin")
@describes(returns={200: DraftChecked}, raises=(RecentLoginRequired,))
async def check_draft(request: web.Request) -> web.StreamResponse:
    """Whether the draft can be built, and what would be different. Changes nothing."""
    refuse_old_login(request)
    checked = await request.app[COMPOSER].check()
    draft = checked.draft
    return private(DraftChecked(draft.digest.hex(), draft.live, checked.faults, checked.changes))


@no_tokens
@requires("admin")
@describes(
    body=Building,
    returns={200: BuildLive},
    raises=(
        RecentLoginRequired,
        DraftOutdated,
        NothingToBuild,
        HostsTooOld,
        NotBuildable,
        TooManyChanges,
    ),
)
async def build(request: web.Request) -> web.StreamResponse:
    """Make the draft live. When this is answered, every worker of every host serves it."""
    refuse_old_login(request)
    body = await read_body(request, Building)
    composer = request.app[COMPOSER]
    return _live(await composer.build(seen=_digest(body.seen), by=_actor(request)))


@no_tokens
@requires("admin")
@describes(
    query={
        "limit": LIMIT,
        "before": Annotated[int, Meta(ge=1, le=LAST, description="Builds before this one.")],
    },
    returns={200: Reply(content={JSON[hdrs.CONTENT_TYPE]: Builds}, sometimes=NEXT_LINK)},
    raises=(InvalidInput, RecentLoginRequired),
)
async def builds(request: web.Request) -> web.StreamResponse:
    """What was built, the newest first."""
    refuse_old_login(request)
    query = request.query
    only(query, ("limit", "before"))
    text, limit = query.get("before", str(LAST)), limit_of(query)
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:20]) <= LAST):
        raise InvalidInput("The parameter before must be the number of a build.")
    found = await request.app[COMPOSER].builds(int(text), limit + 1)
    target = _before(request, found[limit - 1].build) if len(found) > limit else None
    return linked(private(Builds([_listed(each) for each in found[:limit]], target)), target)


def _before(request: web.Request, number: int) -> str:
    return f"{PATH}/builds?limit={limit_of(request.query)}&before={number}"


@no_tokens
@requires("admin")
@describes(
    path={"number": BuildNumber},
    returns={200: ShownBuild},
    raises=(NotFound, RecentLoginRequired),
)
async def show_build(request: web.Request) -> web.StreamResponse:
    """A build, with what was built."""
    refuse_old_login(request)
    stored, composition = await request.app[COMPOSER].stored(_number(request))
    listed = msgspec.structs.asdict(_listed(stored))
    return private(ShownBuild(**listed, composition=composition))


@no_tokens
@requires("admin")
@describes(
    path={"number": BuildNumber},
    query={"to": Annotated[BuildNumber, Meta(description="The other one; missing: the draft.")]},
    returns={200: Difference},
    raises=(NotFound, InvalidInput, RecentLoginRequired),
)
async def compare_build(request: web.Request) -> web.StreamResponse:
    """What is different between a build (0: nothing at all) and another one, or the draft."""
    refuse_old_login(request)
    only(request.query, ("to",))
    text = request.query.get("to")
    if text is not None and not (text.isascii() and text.isdigit() and len(text) < 16):
        raise InvalidInput("The parameter to must be the number of a build.")
    after = int(text) if text is not None else None
    return private(Difference(await request.app[COMPOSER].compared(_number(request), after)))


@no_tokens
@requires("admin")
@describes(
    path={"number": BuildNumber},
    returns={200: BuildLive},
    raises=(
        NotFound,
        RecentLoginRequired,
        DraftOutdated,
        NothingToBuild,
        HostsTooOld,
        NotBuildable,
        TooManyChanges,
    ),
)
async def bring_back(request: web.Request) -> web.StreamResponse:
    """Make an earlier build live again, as a new one. A draft with something new is kept."""
    refuse_old_login(request)
    number = _number(request)
    if not number:
        raise NotFound(NO_SUCH_BUILD)
    return _live(await request.app[COMPOSER].bring_back(number, by=_actor(request)))


def compose_routes() -> list[web.RouteDef]:
    """The routes of who composes."""
    return [
        web.get(f"{PATH}/palette", palette),
        web.get(f"{PATH}/draft", read_draft),
        web.put(f"{PATH}/draft", replace_draft),
        web.get(f"{PATH}/file", read_file),
        web.put(f"{PATH}/file", replace_by_file),
        web.post(f"{PATH}/check", check_draft),
        web.post(f"{PATH}/build", build),
        web.get(f"{PATH}/builds", builds),
        web.get(f"{PATH}/builds/{_NUMBER}", show_build),
        web.get(f"{PATH}/builds/{_NUMBER}/changes", compare_build),
        web.post(f"{PATH}/builds/{_NUMBER}/bring_back", bring_back),
    ]
