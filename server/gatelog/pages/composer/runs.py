"""Run: ask a live endpoint as a test visitor, with a body from its declared fields; and the walk,
from 401 by a login and a logout to 401.

Rules:

- Who runs is a visitor with cookies of their own (``composer.web.running``): a run of a logout logs
  no administrator out.
- What is written is sent as it is, also what the endpoint will refuse: that is what runs are for. A
  field that may be missing and is left empty is not sent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Final, Literal

import msgspec
from aiohttp import web

from gatelog.composer.rules.checking import WITH_BODY
from gatelog.composer.rules.composition import Action, Composition, EndAll, Endpoint, Login, Logout
from gatelog.composer.rules.paths import MAX_VALUE_LENGTH, parse_path
from gatelog.composer.web.running import (
    COMPOSED,
    Ran,
    Running,
    Walking,
    keep_visitor,
    run_once,
    walked,
)
from gatelog.errors import GatelogError, NotFound
from gatelog.pages.composer.common import RUN_PATH, WALK_PATH, asked, composing
from gatelog.pages.forms import Form, again, read_form
from gatelog.pages.layout import show

_RUN: Final = "compose/run.html"
_WALK: Final = "compose/walk.html"
_LABELS: Final = {
    "login": "Login",
    "password": "Password",
    "current_password": "Current password",
    "new_password": "New password",
}
_integer = re.compile(r"-?[0-9]{1,19}").fullmatch
ROLES_OF_WALK: Final = ("protected", "login", "logout")


class Asked(msgspec.Struct, frozen=True):
    """A value that a request takes: the field of the form, and what it is for.

    ``place``: ``path`` or ``body``; ``kind``: as declared, or ``password``.
    """

    place: str
    name: str
    kind: str = "text"
    required: bool = True
    max_length: int | None = None
    of: str = ""  # of which endpoint of the walk

    @property
    def field(self) -> str:
        return "-".join(part for part in (self.of, self.place, self.name) if part)

    @property
    def label(self) -> str:
        known = _LABELS.get(self.name) if self.place == "body" else None
        return known or f"{self.name} (of the {self.place})"


def asked_by(endpoint: Endpoint, action: Action, of: str = "") -> list[Asked]:
    """What a request to this endpoint takes, in the order in which it is asked for."""
    found = [Asked("path", name, of=of) for name in parse_path(endpoint.path).names]
    taken = dict.fromkeys(name for step in action.steps for name in step.TAKES)
    for name in taken:
        found.append(Asked("body", name, "password" if "password" in name else "text", of=of))
    if any(isinstance(step, Login) for step in action.steps):
        found.append(Asked("body", "token", "token", required=False, of=of))
    for field in endpoint.fields:
        longest = field.max_length if field.kind == "text" else None
        found.append(Asked("body", field.name, field.kind, field.required, longest, of))
    return found


def _sent(form: Form, wanted: Sequence[Asked]) -> tuple[dict[str, str], dict[str, Any] | None]:
    """The values of the path and the body; no body where the endpoint takes none."""
    path = {each.name: form[each.field] for each in wanted if each.place == "path"}
    body: dict[str, Any] = {}
    of_body = [each for each in wanted if each.place == "body"]
    for each in of_body:
        text = form[each.field]
        if text or (each.required and each.kind in {"text", "password"}):
            body[each.name] = _value(each.kind, text)
    return path, body if of_body else None


def _value(kind: str, text: str) -> Any:
    """What was written, as JSON has it; what is no number stays text."""
    if kind == "integer" and _integer(text):
        return int(text)
    return {"true": True, "false": False}.get(text, text) if kind == "boolean" else text


def _check_path(form: Form, wanted: Sequence[Asked]) -> None:
    for each in wanted:
        if each.place == "path" and not 0 < len(form[each.field]) <= MAX_VALUE_LENGTH:
            says = f"A value of a path has 1 to {MAX_VALUE_LENGTH} characters."
            form.faults[each.field] = says


# --- run


@composing
async def run_page(request: web.Request) -> web.StreamResponse:
    """The live endpoints; or the form of the one that is named."""
    (name,) = asked(request, "endpoint")
    composition = (await request.app[COMPOSED].serving()).composition
    context = _of_run(composition, name)
    return show(request, _RUN, form=Form(), ran=None, **context)


def _of_run(composition: Composition, name: str | None) -> dict[str, Any]:
    pairs = composition.pairs()
    found = next((pair for pair in pairs if pair[0].name == name), None)
    if name is not None and found is None:
        raise NotFound("There is no live endpoint of this name: build first.")
    return {
        "pairs": pairs,
        "endpoint": found[0] if found is not None else None,
        "wanted": asked_by(*found) if found is not None else [],
        "has_body": found is not None and found[0].method in WITH_BODY,
        "done": "",
    }


@composing
async def run(request: web.Request) -> web.StreamResponse:
    """Ask the endpoint, and show what it answers."""
    (name,) = asked(request, "endpoint")
    composition = (await request.app[COMPOSED].serving()).composition
    context = _of_run(composition, name or "")
    wanted: list[Asked] = context["wanted"]
    form = await read_form(request, *(each.field for each in wanted), "new_visitor")
    _check_path(form, wanted)
    if form.is_wrong:
        return again(request, _RUN, form, ran=None, **context)
    path, body = _sent(form, wanted)
    visitor: Literal["same", "new"] = "new" if form["new_visitor"] else "same"
    running = Running(name or "", path, body, visitor)
    try:
        ran, cookies = await run_once(request, running)
    except NotFound:
        raise
    except GatelogError as error:
        return again(request, _RUN, form, error, ran=None, **context)
    response = show(request, _RUN, form=form, ran=ran, shown_body=shown_body(ran), **context)
    keep_visitor(request, response, cookies, RUN_PATH)
    return response


def shown_body(ran: Ran) -> str:
    """The body as one reads it: JSON over several lines."""
    if ran.body is None:
        return f"{ran.size:,} bytes that are not shown"
    try:
        return msgspec.json.format(ran.body, indent=2) if ran.body else ""
    except msgspec.DecodeError:
        return ran.body


# --- the walk


@composing
async def walk_page(request: web.Request) -> web.StreamResponse:
    """The form of the walk: three live endpoints, and what they take."""
    asked(request)
    composition = (await request.app[COMPOSED].serving()).composition
    candidates = _candidates(composition)
    chosen = {role: found[0][0].name for role, found in candidates.items() if found}
    form = Form(chosen)
    return show(request, _WALK, form=form, walk=None, **_of_walk(candidates, form))


def _candidates(composition: Composition) -> dict[str, list[tuple[Endpoint, Action]]]:
    """The live endpoints that can take each part of the walk."""
    pairs = composition.pairs()
    return {
        "protected": [pair for pair in pairs if pair[0].access != "public"],
        "login": [pair for pair in pairs if _does(pair[1], Login)],
        "logout": [pair for pair in pairs if _does(pair[1], Logout | EndAll)],
    }


def _does(action: Action, what: Any) -> bool:
    return any(isinstance(step, what) for step in action.steps)


def _of_walk(candidates: dict[str, list[tuple[Endpoint, Action]]], form: Form) -> dict[str, Any]:
    wanted: list[Asked] = []
    for role in ROLES_OF_WALK:
        pair = next((pair for pair in candidates[role] if pair[0].name == form[role]), None)
        if pair is not None:
            wanted += _of_role(*pair, role)
    return {
        "options": {
            role: [(e.name, f"{e.name} ({e.method} {e.path})") for e, _ in candidates[role]]
            for role in ROLES_OF_WALK
        },
        "lacking": [role for role in ROLES_OF_WALK if not candidates[role]],
        "wanted": list({each.field: each for each in wanted}.values()),
        "done": "",
    }


def _of_role(endpoint: Endpoint, action: Action, role: str) -> Iterator[Asked]:
    """What is asked for this part of the walk: values of paths are for all three at once."""
    for each in asked_by(endpoint, action):
        if each.place == "path":
            yield each
        elif role != "logout" and each.kind != "token":
            yield msgspec.structs.replace(each, of=role)


@composing
async def walk(request: web.Request) -> web.StreamResponse:
    """Go the walk as a new visitor, and show each step."""
    asked(request)
    composition = (await request.app[COMPOSED].serving()).composition
    candidates = _candidates(composition)
    possible = {
        each.field: each
        for role in ROLES_OF_WALK
        for pair in candidates[role]
        for each in _of_role(*pair, role)
    }
    form = await read_form(request, *ROLES_OF_WALK, *possible)
    context = _of_walk(candidates, form)
    for role in ROLES_OF_WALK:
        if form[role] not in {endpoint.name for endpoint, _ in candidates[role]}:
            form.faults[role] = "Choose an endpoint that is live."
    wanted: list[Asked] = context["wanted"]
    _check_path(form, wanted)
    if form.is_wrong:
        return again(request, _WALK, form, walk=None, **context)
    path, _ = _sent(form, wanted)
    login, protected = [
        _sent(form, [each for each in wanted if each.of == role])[1]
        for role in ("login", "protected")
    ]
    walking = Walking(
        protected=form["protected"],
        login=form["login"],
        logout=form["logout"],
        body=login or {},
        path=path,
        protected_body=protected,
    )
    try:
        result = await walked(request, walking)
    except NotFound:
        raise
    except GatelogError as error:
        return again(request, _WALK, form, error, walk=None, **context)
    return show(request, _WALK, form=form, walk=result, **context)


def run_page_routes() -> list[web.RouteDef]:
    """The routes of runs and of the walk."""
    return [
        web.get(RUN_PATH, run_page),
        web.post(RUN_PATH, run),
        web.get(WALK_PATH, walk_page),
        web.post(WALK_PATH, walk),
    ]
