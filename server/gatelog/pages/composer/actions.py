"""Actions: name, description and trigger; and their events, an ordered list from the palette."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, cast

import msgspec
from aiohttp import web

from gatelog.composer.rules.checking import Fault
from gatelog.composer.rules.composition import (
    MAX_RECORDS_PER_HOUR,
    MAX_STEPS,
    PALETTE,
    Action,
    AnyStep,
    Call,
    Composition,
    EndAll,
    Handler,
    Record,
    Respond,
    Step,
)
from gatelog.composer.rules.editing import (
    action_named,
    add_action,
    change_action,
    move_step,
    put_step,
    remove_action,
    remove_step,
    seen_of,
)
from gatelog.composer.rules.paths import parse_path
from gatelog.composer.rules.templates import SESSION_VALUES, Template
from gatelog.composer.service.editing import faults_of
from gatelog.errors import GatelogError, InvalidInput, NotFound
from gatelog.pages.account import what_is_done
from gatelog.pages.composer.common import (
    ACTION_PATH,
    EVENT_PATH,
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
from gatelog.pages.forms import Form, again, onward, read_form
from gatelog.pages.layout import COMPOSE_PATH, show

_ACTION: Final = "compose/action.html"
_EVENT: Final = "compose/event.html"
EVENTS: Final[Mapping[str, type[Step]]] = {
    str(step.__struct_config__.tag): step for step in PALETTE
}
# What can be mended in the form of an action is refused there.
_MENDED_HERE: Final = frozenset({"name", "description"})
_SAYS: Final = {
    "name": "A name has 1 to 64 characters.",
    "description": "A description has at most 1,000 characters.",
}
_EVENT_SAYS: Final = {
    "type": "It is app. and then a lower-case letter, letters, digits and _; at most 48.",
    "fields": "At most 32 fields can be recorded.",
    "per_hour": f"It is a number from 1 to {MAX_RECORDS_PER_HOUR:,}.",
    "status": "It is a number from 200 to 599.",
    "json": "It has at most 4,096 characters.",
    "upstream": "Choose an upstream.",
    "path": "A path has 1 to 200 characters.",
    "name": "Choose a handler.",
}


@composing
async def action_page(request: web.Request) -> web.StreamResponse:
    """The form of an action, and its events; of a new one, where none is named."""
    name, trigger = asked(request, "name", "trigger")
    context = await _of_action(request, name)
    action: Action | None = context["action"]
    form = Form({"name": "", "trigger": trigger or "", "description": ""})
    if action is not None:
        texts = {each: getattr(action, each) for each in ("name", "trigger", "description")}
        form = Form(texts)
    return show(request, _ACTION, form=form, **context)


async def _of_action(request: web.Request, name: str | None) -> dict[str, Any]:
    composer = composer_of(request)
    draft = await composer.draft()
    composition = draft.composition
    action = action_named(composition, name) if name is not None else None
    faults: list[Fault] = []
    if action is not None:
        faults = about(await faults_of(composer, composition), "action", action.name)
    return {
        "action": action,
        "seen": seen_of(action) if action is not None else "",
        "steps": _shown_steps(action, faults) if action is not None else [],
        "faults": [fault for fault in faults if fault.step is None],
        "triggers": _triggers(composition, action),
        "full": action is not None and len(action.steps) >= MAX_STEPS,
        "done": what_is_done(request),
    }


def _triggers(composition: Composition, action: Action | None) -> list[tuple[str, str]]:
    """The endpoints that can be the trigger: those that trigger nothing else."""
    used = {each.trigger for each in composition.actions if each is not action}
    free = [
        (each.name, f"{each.name} ({each.method} {each.path})")
        for each in composition.endpoints
        if each.name not in used
    ]
    return [("", "None yet"), *free]


class ShownStep(msgspec.Struct, frozen=True):
    """An event of an action: what it is, how it is set, and what is wrong with it."""

    step: AnyStep
    settings: list[tuple[str, str]]
    faults: list[str]


def _shown_steps(action: Action, faults: list[Fault]) -> list[ShownStep]:
    return [
        ShownStep(step, settings_of(step), [each.says for each in faults if each.step == number])
        for number, step in enumerate(action.steps, start=1)
    ]


def settings_of(step: AnyStep) -> list[tuple[str, str]]:
    """How an event is set, in words; nothing for what cannot be set."""
    match step:
        case EndAll():
            return [("Tokens for machines", "end, too" if step.tokens else "stay")]
        case Record():
            return [
                ("Type", step.type),
                ("Fields", ", ".join(step.fields) or "none"),
                ("An hour, at most", f"{step.per_hour:,}"),
            ]
        case Respond():
            return [("Status", str(step.status)), ("JSON", step.json)]
        case Call():
            return [
                ("Upstream", step.upstream),
                ("Path", step.path),
                ("Body", "goes along" if step.body else "stays here"),
            ]
        case Handler():
            return [("Name", step.name)]
    return []


@composing
async def keep_action(request: web.Request) -> web.StreamResponse:
    """Add an action, or change the one that is named."""
    old, _ = asked(request, "name", "trigger")
    form = await read_form(request, "name", "trigger", "description", "seen")
    values = {
        "name": form["name"].strip(),
        "trigger": form["trigger"],
        "description": form["description"].strip().replace("\r\n", "\n"),
    }
    action = shaped(form, Action, values, _SAYS)
    error: GatelogError | None = None
    if action is not None:
        change = add_action(action)
        if old is not None:
            change = change_action(old, form["seen"], _become(action))
        error = await changed(request, form, change, _mended_here(action.name))
    if action is None or error is not None or form.is_wrong:
        context = await _of_action(request, old)
        return again(request, _ACTION, form, error, at=at_of(error), **context)
    what = "action_added" if old is None else "action_kept"
    return done(ACTION_PATH, what, name=action.name)


def _become(new: Action) -> Callable[[Action], Action]:
    """The events have forms of their own."""
    return lambda old: msgspec.structs.replace(new, steps=old.steps)


def _mended_here(name: str) -> Callable[[Fault], bool]:
    def mended_here(fault: Fault) -> bool:
        return fault.what == "action" and fault.name == name and fault.at in _MENDED_HERE

    return mended_here


@composing
async def drop_action(request: web.Request) -> web.StreamResponse:
    """Remove an action from the draft."""
    form = await read_form(request, "name", "seen")
    wrong = await plainly_changed(request, remove_action(form["name"], form["seen"]))
    return done(COMPOSE_PATH, wrong or "action_removed")


# --- events


@composing
async def event_page(request: web.Request) -> web.StreamResponse:
    """The palette; the settings of the event that was chosen from it; or those of one that is
    there."""
    name, do, number = asked(request, "action", "do", "number")
    context = await _of_event(request, name, do, number)
    step: AnyStep | None = context["step"]
    kind: type[Step] | None = context["kind"]
    form = Form({"per_hour": "60", "status": "200", "json": "{}", "path": "/", "type": "app."})
    if step is not None:
        form = _form_of(step)
    elif kind is not None and not msgspec.structs.fields(kind):
        context["kind"] = None  # nothing to set: the palette's own button adds it
    return show(request, _EVENT, form=form, **context)


async def _of_event(
    request: web.Request, name: str | None, do: str | None, number: str | None
) -> dict[str, Any]:
    composer = composer_of(request)
    composition = (await composer.draft()).composition
    action, at = action_named(composition, name or ""), number_of(number)
    if at is not None and not 1 <= at <= len(action.steps):
        raise NotFound("There is no event at this place any more.")
    step = action.steps[at - 1] if at is not None else None
    if do is not None and do not in EVENTS:
        raise NotFound("There is no such event.")
    kind = type(step) if step is not None else EVENTS[do] if do is not None else None
    around = composer.around()
    return {
        "action": action,
        "seen": seen_of(action),
        "number": at,
        "step": step,
        "kind": kind,
        "do": str(kind.__struct_config__.tag) if kind is not None else "",
        "palette": [(each, bool(msgspec.structs.fields(EVENTS[each]))) for each in EVENTS],
        "events": EVENTS,
        "recordable": [(each, each) for each in _recordable(composition, action)],
        "references": _references(composition, action),
        "upstreams": [(each, each) for each in sorted(around.upstreams)],
        "handlers": [(each, each) for each in sorted(around.handlers)],
        "done": "",
    }


def _recordable(composition: Composition, action: Action) -> list[str]:
    """What an event of this action can record: of the path, and of the body."""
    endpoint = next((e for e in composition.endpoints if e.name == action.trigger), None)
    if endpoint is None:
        return []
    return list(dict.fromkeys([*_parameters(endpoint.path), *(f.name for f in endpoint.fields)]))


def _parameters(path: str) -> tuple[str, ...]:
    try:
        return parse_path(path).names
    except InvalidInput:
        return ()


def _references(composition: Composition, action: Action) -> list[str]:
    """What an answer's JSON can refer to."""
    endpoint = next((e for e in composition.endpoints if e.name == action.trigger), None)
    path = _parameters(endpoint.path) if endpoint is not None else ()
    body = [field.name for field in endpoint.fields] if endpoint is not None else []
    named = [("session", SESSION_VALUES), ("path", path), ("body", body)]
    return [f"{{{{{place}.{name}}}}}" for place, names in named for name in names]


def _form_of(step: AnyStep) -> Form:
    """The settings of an event, as its form has them."""
    values: dict[str, str] = {}
    lists: dict[str, tuple[str, ...]] = {}
    for field in msgspec.structs.fields(type(step)):
        value = getattr(step, field.name)
        if isinstance(value, tuple):
            lists[field.name] = value
        elif isinstance(value, bool):
            values[field.name] = "on" if value else ""
        else:
            values[field.name] = str(value)
    return Form(values, lists=lists)


@composing
async def keep_event(request: web.Request) -> web.StreamResponse:
    """Add an event to an action, or change one."""
    name, do, number = asked(request, "action", "do", "number")
    context = await _of_event(request, name, do, number)
    kind: type[Step] | None = context["kind"]
    if kind is None:
        raise NotFound("There is no such event.")
    fields = [field.name for field in msgspec.structs.fields(kind)]
    texts = [each for each in fields if each != "fields"]
    form = await read_form(request, *texts, "seen", lists=("fields",) if "fields" in fields else ())
    step = _step_of(kind, form, texts)
    error: GatelogError | None = None
    if step is not None:
        become = put_step(context["number"], step)
        error = await changed(request, form, change_action(name or "", form["seen"], become))
    if step is None or error is not None:
        again_context = await _of_event(request, name, do, number)
        return again(request, _EVENT, form, error, **again_context)
    return done(ACTION_PATH, "event_kept", name=name)


def _step_of(kind: type[Step], form: Form, texts: list[str]) -> AnyStep | None:
    """The event with these settings; None, and in the form why, for what cannot be."""
    values: dict[str, Any] = {each: form[each].strip().replace("\r\n", "\n") for each in texts}
    for each in ("per_hour", "status"):
        if each in values:
            values[each] = whole_number(values[each])
    for each in ("tokens", "body"):
        if each in values:
            values[each] = bool(values[each])
    if "fields" in {field.name for field in msgspec.structs.fields(kind)}:
        values["fields"] = form.all("fields")
    if issubclass(kind, Respond):
        form.check("json", _in_a_sentence(Template))
    if issubclass(kind, Call) and values["path"] != "/":
        form.check("path", _in_a_sentence(parse_path))
    return cast(AnyStep | None, shaped(form, kind, values, _EVENT_SAYS))


def _in_a_sentence(rule: Callable[[str], object]) -> Callable[[str], object]:
    """The rule, whose reason begins a sentence here."""

    def hold(text: str) -> object:
        try:
            return rule(text)
        except InvalidInput as error:
            says = str(error)
            raise InvalidInput(says[:1].upper() + says[1:]) from error

    return hold


@composing
async def move_event(request: web.Request) -> web.StreamResponse:
    """Move an event of an action one place up or down."""
    form = await read_form(request, "action", "number", "where", "seen")
    number, by = number_of(form["number"] or "0") or 0, {"up": -1, "down": 1}.get(form["where"])
    if by is None:
        raise InvalidInput("An event moves up or down.")
    change = change_action(form["action"], form["seen"], move_step(number, by))
    wrong = await plainly_changed(request, change)
    return _back(form["action"], wrong or "event_moved", number + by)


@composing
async def drop_event(request: web.Request) -> web.StreamResponse:
    """Remove an event from an action."""
    form = await read_form(request, "action", "number", "seen")
    number = number_of(form["number"] or "0") or 0
    change = change_action(form["action"], form["seen"], remove_step(number))
    wrong = await plainly_changed(request, change)
    return _back(form["action"], wrong or "event_removed", number)


def _back(name: str, what: str, number: int) -> web.Response:
    """On to the action; a browser goes to the event that was moved."""
    location = done(ACTION_PATH, what, name=name).headers["Location"]
    return onward(f"{location}#event-{max(1, number)}")


def action_page_routes() -> list[web.RouteDef]:
    """The routes of actions and of their events."""
    return [
        web.get(ACTION_PATH, action_page),
        web.post(ACTION_PATH, keep_action),
        web.post(f"{ACTION_PATH}/remove", drop_action),
        web.get(EVENT_PATH, event_page),
        web.post(EVENT_PATH, keep_event),
        web.post(f"{EVENT_PATH}/move", move_event),
        web.post(f"{EVENT_PATH}/remove", drop_event),
    ]
