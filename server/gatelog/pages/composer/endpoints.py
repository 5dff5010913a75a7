"""The draft at a glance; endpoints, and the fields of their bodies: add, edit, remove."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, get_args

import msgspec
from aiohttp import web

from gatelog.composer.rules.checking import WITH_BODY, Fault
from gatelog.composer.rules.composition import (
    MAX_TEXT_LENGTH,
    Endpoint,
    Field,
    Method,
)
from gatelog.composer.rules.editing import (
    add_endpoint,
    change_endpoint,
    endpoint_named,
    put_field,
    remove_endpoint,
    remove_field,
    seen_of,
)
from gatelog.composer.service.editing import faults_of
from gatelog.errors import GatelogError, NotFound
from gatelog.http.settings import CONFIG
from gatelog.pages.account import what_is_done
from gatelog.pages.composer.common import (
    ENDPOINT_PATH,
    FIELD_PATH,
    about,
    asked,
    at_of,
    changed,
    composer_of,
    composing,
    done,
    number_of,
    plainly_changed,
    shaped,
    whole_number,
)
from gatelog.pages.forms import Form, again, read_form
from gatelog.pages.layout import COMPOSE_PATH, show

_ENDPOINT: Final = "compose/endpoint.html"
_FIELD: Final = "compose/field.html"
ACCESSES: Final = (
    ("logged_in", "Logged in: whoever has a session"),
    ("public", "Public: everybody"),
    ("roles", "Roles: who has one of those below"),
)
KINDS: Final = (("text", "Text"), ("integer", "Whole number"), ("boolean", "Yes or no"))
# What can be mended in the form of an endpoint is refused there, and not kept for the build.
_MENDED_HERE: Final = frozenset({"name", "path", "description", "roles"})
_SAYS: Final = {
    "name": "A name has 1 to 64 characters.",
    "path": "A path has 1 to 200 characters.",
    "method": "Choose a method.",
    "access": "Choose who may ask.",
    "description": "A description has at most 1,000 characters.",
    "roles": "At most 16 roles can be named.",
}
_FIELD_SAYS: Final = {
    "name": "A name is a lower-case letter, then letters, digits and _; at most 32.",
    "kind": "Choose what it is.",
    "max_length": f"It is a number of characters, from 1 to {MAX_TEXT_LENGTH}.",
}


# --- the draft


@composing
async def draft_page(request: web.Request) -> web.StreamResponse:
    """All endpoints and actions of the draft, and how it stands against what is live."""
    asked(request)
    composer = composer_of(request)
    checked = await composer.check()
    draft = checked.draft
    live = await composer.composition(draft.live)
    wrong = {(fault.what, fault.name) for fault in checked.faults}
    return show(
        request,
        "compose/draft.html",
        endpoints=draft.composition.endpoints,
        actions=draft.composition.actions,
        action_of={action.trigger: action for action in draft.composition.actions},
        names={endpoint.name for endpoint in draft.composition.endpoints},
        live_names={endpoint.name for endpoint in live.endpoints},
        wrong=wrong,
        draft=draft,
        changes=checked.changes,
        faults=checked.faults,
        done=what_is_done(request),
    )


# --- an endpoint


@composing
async def endpoint_page(request: web.Request) -> web.StreamResponse:
    """The form of an endpoint: of a new one, where none is named."""
    (name,) = asked(request, "name")
    context = await _of_endpoint(request, name)
    endpoint: Endpoint | None = context["endpoint"]
    if endpoint is None:
        form = Form({"method": "GET", "access": "logged_in"})
    else:
        values = {each: getattr(endpoint, each) for each in ("name", "path", "method", "access")}
        form = Form(values | {"description": endpoint.description}, lists={"roles": endpoint.roles})
    return show(request, _ENDPOINT, form=form, **context)


async def _of_endpoint(request: web.Request, name: str | None) -> dict[str, Any]:
    composer = composer_of(request)
    draft = await composer.draft()
    endpoint = endpoint_named(draft.composition, name) if name is not None else None
    faults: list[Fault] = []
    is_live = False
    if endpoint is not None:
        faults = about(await faults_of(composer, draft.composition), "endpoint", endpoint.name)
        live = await composer.composition(draft.live)
        is_live = any(each.name == endpoint.name for each in live.endpoints)
    return {
        "endpoint": endpoint,
        "action": draft.composition.action_of(endpoint) if endpoint is not None else None,
        "seen": seen_of(endpoint) if endpoint is not None else "",
        "faults": faults,
        "is_live": is_live,
        "has_body": endpoint is not None and endpoint.method in WITH_BODY,
        "methods": [(method, method) for method in get_args(Method)],
        "accesses": ACCESSES,
        "roles": [(role, role) for role in request.app[CONFIG].role_names],
        "done": what_is_done(request),
    }


@composing
async def keep_endpoint(request: web.Request) -> web.StreamResponse:
    """Add an endpoint, or change the one that is named."""
    (old,) = asked(request, "name")
    texts = ("name", "path", "method", "access", "description")
    form = await read_form(request, *texts, "seen", lists=("roles",))
    values: dict[str, Any] = {each: form[each].strip() for each in texts}
    values["description"] = values["description"].replace("\r\n", "\n")
    values["roles"] = form.all("roles") if values["access"] == "roles" else ()
    endpoint = shaped(form, Endpoint, values, _SAYS)
    error: GatelogError | None = None
    if endpoint is not None:
        change = add_endpoint(endpoint)
        if old is not None:
            change = change_endpoint(old, form["seen"], _become(endpoint))
        error = await changed(request, form, change, _mended_here(endpoint.name))
    if endpoint is None or error is not None or form.is_wrong:
        context = await _of_endpoint(request, old)
        return again(request, _ENDPOINT, form, error, at=at_of(error), **context)
    what = "endpoint_added" if old is None else "endpoint_kept"
    return done(ENDPOINT_PATH, what, name=endpoint.name)


def _become(new: Endpoint) -> Callable[[Endpoint], Endpoint]:
    """The fields of the body have forms of their own."""
    return lambda old: msgspec.structs.replace(new, fields=old.fields)


def _mended_here(name: str) -> Callable[[Fault], bool]:
    def mended_here(fault: Fault) -> bool:
        return fault.what == "endpoint" and fault.name == name and fault.at in _MENDED_HERE

    return mended_here


@composing
async def drop_endpoint(request: web.Request) -> web.StreamResponse:
    """Remove an endpoint from the draft."""
    form = await read_form(request, "name", "seen")
    wrong = await plainly_changed(request, remove_endpoint(form["name"], form["seen"]))
    return done(COMPOSE_PATH, wrong or "endpoint_removed")


# --- a field of its body


@composing
async def field_page(request: web.Request) -> web.StreamResponse:
    """The form of a field of an endpoint's body: of a new one, where no number is given."""
    name, number = asked(request, "endpoint", "number")
    context = await _of_field(request, name, number)
    field: Field | None = context["field"]
    form = Form({"kind": "text", "max_length": "200", "required": "on"})
    if field is not None:
        ticks = {each: "on" for each in ("required", "personal") if getattr(field, each)}
        values = {"name": field.name, "kind": field.kind, "max_length": str(field.max_length)}
        form = Form(values | ticks)
    return show(request, _FIELD, form=form, **context)


async def _of_field(request: web.Request, name: str | None, number: str | None) -> dict[str, Any]:
    draft = await composer_of(request).draft()
    endpoint, at = endpoint_named(draft.composition, name or ""), number_of(number)
    if at is not None and not 1 <= at <= len(endpoint.fields):
        raise NotFound("There is no field at this place any more.")
    return {
        "endpoint": endpoint,
        "number": at,
        "field": endpoint.fields[at - 1] if at is not None else None,
        "seen": seen_of(endpoint),
        "kinds": KINDS,
        "done": "",
    }


@composing
async def keep_field(request: web.Request) -> web.StreamResponse:
    """Add a field to an endpoint's body, or change one."""
    name, number = asked(request, "endpoint", "number")
    form = await read_form(request, "name", "kind", "max_length", "required", "personal", "seen")
    values = {
        "name": form["name"].strip(),
        "kind": form["kind"],
        "max_length": whole_number(form["max_length"]),
        "required": bool(form["required"]),
        "personal": bool(form["personal"]),
    }
    field = shaped(form, Field, values, _FIELD_SAYS)
    error: GatelogError | None = None
    if field is not None:
        become = put_field(number_of(number), field)
        error = await changed(request, form, change_endpoint(name or "", form["seen"], become))
    if field is None or error is not None:
        context = await _of_field(request, name, number)
        return again(request, _FIELD, form, error, at=at_of(error), **context)
    return done(ENDPOINT_PATH, "field_kept", name=name)


@composing
async def drop_field(request: web.Request) -> web.StreamResponse:
    """Remove a field of an endpoint's body."""
    form = await read_form(request, "endpoint", "number", "seen")
    become = remove_field(number_of(form["number"] or "0") or 0)
    wrong = await plainly_changed(request, change_endpoint(form["endpoint"], form["seen"], become))
    return done(ENDPOINT_PATH, wrong or "field_removed", name=form["endpoint"])


def endpoint_page_routes() -> list[web.RouteDef]:
    """The routes of the draft, of endpoints and of their fields."""
    return [
        web.get(COMPOSE_PATH, draft_page),
        web.get(ENDPOINT_PATH, endpoint_page),
        web.post(ENDPOINT_PATH, keep_endpoint),
        web.post(f"{ENDPOINT_PATH}/remove", drop_endpoint),
        web.get(FIELD_PATH, field_page),
        web.post(FIELD_PATH, keep_field),
        web.post(f"{FIELD_PATH}/remove", drop_field),
    ]
