"""Build: the difference to what is live, what stands against it, and then live; and the builds
before: one shown, two compared, an earlier one brought back; each as files."""

from __future__ import annotations

from typing import Any, Final

from aiohttp import hdrs, web

from gatelog.composer.rules.code.project import files
from gatelog.composer.rules.composition import MAX_COMPOSITION_BYTES
from gatelog.composer.rules.files import read, write
from gatelog.composer.service.projects import zipped
from gatelog.composer.store.builds import LAST
from gatelog.errors import GatelogError, InvalidInput, NotFound
from gatelog.http.answers import keep_private
from gatelog.pages.account import what_is_done
from gatelog.pages.composer.actions import settings_of
from gatelog.pages.composer.common import (
    BUILD_PATH,
    BUILDS_PATH,
    asked,
    composer_of,
    composing,
    done,
    number_of,
    to,
)
from gatelog.pages.forms import Form, again, read_form
from gatelog.pages.layout import COMPOSE_PATH, show
from gatelog.pages.users import actor

PAGE_ROWS: Final = 50
FILE_PATH: Final = f"{COMPOSE_PATH}/file"
CODE_PATH: Final = f"{COMPOSE_PATH}/code"
IMPORT_PATH: Final = f"{COMPOSE_PATH}/import"
MAX_FILE_FORM_BYTES: Final = 3 * MAX_COMPOSITION_BYTES  # in a form, much is percent-encoded
_BUILD: Final = "compose/build.html"
_IMPORT: Final = "compose/import.html"
_SHOWN: Final = "compose/shown.html"


@composing
async def build_page(request: web.Request) -> web.StreamResponse:
    """What building the draft would change, and what stands against it."""
    asked(request)
    return show(request, _BUILD, form=Form(), **await _of_build(request))


async def _of_build(request: web.Request) -> dict[str, Any]:
    checked = await composer_of(request).check()
    return {
        "live": checked.draft.live,
        "seen": checked.draft.digest.hex(),
        "changes": checked.changes,
        "faults": checked.faults,
        "done": what_is_done(request),
    }


@composing
async def build(request: web.Request) -> web.StreamResponse:
    """Make the draft live, as it was looked at; every worker of every host serves it then."""
    form = await read_form(request, "seen")
    try:
        built = await composer_of(request).build(seen=_digest(form["seen"]), by=actor(request))
    except GatelogError as error:
        return again(request, _BUILD, form, error, **await _of_build(request))
    return done(f"{BUILDS_PATH}/{built.build}", "built")


# --- the builds before


@composing
async def builds_page(request: web.Request) -> web.StreamResponse:
    """What was built, the newest first."""
    (before,) = asked(request, "before")
    composer = composer_of(request)
    found = await composer.builds(number_of(before) or LAST, PAGE_ROWS + 1)
    rows = found[:PAGE_ROWS]
    return show(
        request,
        "compose/builds.html",
        builds=rows,
        live=(await composer.draft()).live,
        older=to(BUILDS_PATH, before=rows[-1].build) if len(found) > PAGE_ROWS else None,
        newest=BUILDS_PATH if before is not None else None,
        done=what_is_done(request),
    )


def _number(request: web.Request) -> int:
    return int(request.match_info["number"])


@composing
async def shown_page(request: web.Request) -> web.StreamResponse:
    """One build: what it is made of, and how it differs from another one or from the draft."""
    (other,) = asked(request, "to")
    context = await _of_shown(request, _number(request), other)
    return show(request, _SHOWN, form=Form({"to": other or ""}), **context)


async def _of_shown(request: web.Request, number: int, other: str | None) -> dict[str, Any]:
    composer = composer_of(request)
    stored, composition = await composer.stored(number)
    draft = await composer.draft()
    to_number = number_of(other or None)  # an empty field: the draft
    if other is None:
        compared = await composer.compared(number - 1, number)
    else:
        compared = await composer.compared(number, to_number)
    newest = max(draft.live, number)
    return {
        "build": stored,
        "pairs": composition.pairs(),
        "settings_of": settings_of,
        "live": draft.live,
        "compared": compared,
        "other": other,
        "others": [
            ("", "The draft"),
            *((str(each), f"Build {each}") for each in range(newest, max(0, newest - 50), -1)),
        ],
        "done": what_is_done(request),
    }


@composing
async def bring_back(request: web.Request) -> web.StreamResponse:
    """Make an earlier build live again, as a new one."""
    form = await read_form(request, "number")
    number = number_of(form["number"] or "0") or 0
    if not number:
        raise NotFound("There is no such build.")
    try:
        built = await composer_of(request).bring_back(number, by=actor(request))
    except NotFound:
        raise
    except GatelogError as error:
        return again(request, _SHOWN, form, error, **await _of_shown(request, number, None))
    return done(f"{BUILDS_PATH}/{built.build}", "brought_back")


# --- as files


@composing
async def file(request: web.Request) -> web.StreamResponse:
    """The draft, or a build, as a file of TOML."""
    (number,) = asked(request, "build")
    composer = composer_of(request)
    wanted = number_of(number)
    if wanted is None:
        name, composition = "draft", (await composer.draft()).composition
    else:
        name, composition = f"build-{wanted}", await composer.composition(wanted)
    return download(write(composition).encode(), f"composition-{name}.toml", "application/toml")


@composing
async def import_page(request: web.Request) -> web.StreamResponse:
    """The form by which a file of TOML becomes the draft."""
    asked(request)
    return show(request, _IMPORT, form=Form(), **await _of_import(request))


async def _of_import(request: web.Request) -> dict[str, Any]:
    draft = await composer_of(request).draft()
    return {"seen": draft.digest.hex(), "done": what_is_done(request)}


@composing
async def replace_draft(request: web.Request) -> web.StreamResponse:
    """Make a file of TOML the draft; it is looked at, and built, as any."""
    form = await read_form(request, "toml", "seen", limit=MAX_FILE_FORM_BYTES)
    try:
        composition = read(form["toml"].replace("\r\n", "\n"))
        await composer_of(request).replace(
            composition, seen=_digest(form["seen"]), by=actor(request)
        )
    except GatelogError as error:
        at = "toml" if type(error) is InvalidInput else None
        return again(request, _IMPORT, form, error, at=at, **await _of_import(request))
    return done(BUILD_PATH, "replaced")


def _digest(text: str) -> bytes:
    """The draft that was looked at; what is no digest is nobody's draft."""
    try:
        return bytes.fromhex(text)
    except ValueError:
        return b"?"


@composing
async def code(request: web.Request) -> web.StreamResponse:
    """A build as a project of one's own, in a zip file."""
    (number,) = asked(request, "build")
    wanted = number_of(number)
    if not wanted:
        raise NotFound("There is no such build.")
    made = files(await composer_of(request).composition(wanted))
    return download(zipped(made, f"composed-{wanted}"), f"composed-{wanted}.zip", "application/zip")


def download(content: bytes, name: str, media: str) -> web.Response:
    """A file to keep, for its reader alone."""
    response = web.Response(body=content)
    response.content_type = media
    response.headers[hdrs.CONTENT_DISPOSITION] = f'attachment; filename="{name}"'
    keep_private(response)
    return response


def build_page_routes() -> list[web.RouteDef]:
    """The routes of building, and of what was built."""
    return [
        web.get(BUILD_PATH, build_page),
        web.post(BUILD_PATH, build),
        web.get(BUILDS_PATH, builds_page),
        web.get(f"{BUILDS_PATH}/{{number:[0-9]{{1,15}}}}", shown_page),
        web.post(f"{BUILDS_PATH}/bring_back", bring_back),
        web.get(FILE_PATH, file),
        web.get(CODE_PATH, code),
        web.get(IMPORT_PATH, import_page),
        web.post(IMPORT_PATH, replace_draft),
    ]
