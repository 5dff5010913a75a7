"""What all pages of the composer share: their mark, addresses, and how a form changes the draft."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import wraps
from typing import Any, Final, TypeVar
from urllib.parse import urlencode

import msgspec
from aiohttp import web

from gatelog.composer.rules.checking import Fault
from gatelog.composer.rules.editing import Change
from gatelog.composer.service.composer import Composer
from gatelog.composer.service.editing import edit
from gatelog.composer.web import COMPOSER
from gatelog.console.web.parameters import only
from gatelog.errors import DraftOutdated, GatelogError, InvalidInput, NotFound
from gatelog.http.roles import refuse_old_login, requires
from gatelog.pages.account import DONE_PARAMETER
from gatelog.pages.door import page
from gatelog.pages.forms import Form, onward
from gatelog.pages.layout import COMPOSE_PATH
from gatelog.pages.users import actor

PageHandler = Callable[[web.Request], Awaitable[web.StreamResponse]]
PartT = TypeVar("PartT", bound=msgspec.Struct)

ENDPOINT_PATH: Final = f"{COMPOSE_PATH}/endpoint"
FIELD_PATH: Final = f"{COMPOSE_PATH}/field"
ACTION_PATH: Final = f"{COMPOSE_PATH}/action"
EVENT_PATH: Final = f"{COMPOSE_PATH}/event"
BUILD_PATH: Final = f"{COMPOSE_PATH}/build"
BUILDS_PATH: Final = f"{COMPOSE_PATH}/builds"
RUN_PATH: Final = f"{COMPOSE_PATH}/run"
WALK_PATH: Final = f"{COMPOSE_PATH}/walk"


def composing(handler: PageHandler) -> PageHandler:
    """Mark a page of the composer: for administrators with a recent sign-in."""

    @requires("admin")
    @page
    @wraps(handler)
    async def checked(request: web.Request) -> web.StreamResponse:
        refuse_old_login(request)
        return await handler(request)

    return checked


def composer_of(request: web.Request) -> Composer:
    return request.app[COMPOSER]


def to(path: str, **query: str | int | None) -> str:
    """The address of this page with these parameters; those that are None are left out."""
    given = [(name, str(value)) for name, value in query.items() if value is not None]
    return f"{path}?{urlencode(given)}" if given else path


def asked(request: web.Request, *names: str) -> list[str | None]:
    """The parameters of these names, and no others. Raises InvalidInput."""
    only(request.query, (*names, DONE_PARAMETER))
    return [request.query.get(name) for name in names]


def number_of(text: str | None) -> int | None:
    """The number in a parameter, if it is given. Raises InvalidInput."""
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise InvalidInput("This parameter must be a number.")
    return int(text)


def done(path: str, what: str, **query: str | int | None) -> web.Response:
    """On to this page, which says what has been done."""
    return onward(to(path, **query, **{DONE_PARAMETER: what}))


# --- from a form to a part


def shaped(
    form: Form, made: type[PartT], values: Mapping[str, Any], says: Mapping[str, str]
) -> PartT | None:
    """The part with these values; or None, and beside each field that is wrong why.

    ``says``: what each field must be, in a sentence.
    """
    for field in msgspec.structs.fields(made):
        if field.name not in values:
            continue
        try:
            msgspec.convert(values[field.name], field.type, strict=True)
        except msgspec.ValidationError:
            form.faults.setdefault(field.name, says.get(field.name, "This cannot be used."))
    return None if form.is_wrong else made(**values)


def whole_number(text: str) -> int | str:
    """The number that was written; what is none stays what it is, and has no right type."""
    text = text.strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else text


async def changed(
    request: web.Request,
    form: Form,
    change: Change,
    refuse: Callable[[Fault], bool] = lambda _: False,
) -> GatelogError | None:
    """Change the draft so. Returns the error of why it is not changed, if it is none; what is
    wrong with single fields stands in the form.

    Raises NotFound where the part is not there any more.
    """
    try:
        faults = await edit(composer_of(request), change, by=actor(request), refuse=refuse)
    except NotFound:
        raise
    except GatelogError as error:
        return error
    for fault in faults:
        form.faults.setdefault(fault.at or "name", fault.says)
    return None


def at_of(error: GatelogError | None) -> str | None:
    """The field that an error of a change is about: a name that is taken."""
    return "name" if type(error) is InvalidInput else None


async def plainly_changed(request: web.Request, change: Change) -> str:
    """Change the draft by a button; returns what went wrong, as a word that templates know."""
    try:
        await edit(composer_of(request), change, by=actor(request))
    except DraftOutdated:
        return "outdated"
    return ""


def about(faults: Iterable[Fault], what: str, name: str) -> list[Fault]:
    """Those that are about this endpoint or action."""
    return [fault for fault in faults if fault.what == what and fault.name == name]
