"""Changes of one part of a composition at a time, as who composes by hand makes them.

Rules:

- A part is found by its name. Who changes one says which they have seen (``seen_of``): what
  somebody else has done to it meanwhile is not overwritten, and what was done to other parts does
  not matter.
- What refers to a part goes along when it gets another name, and is left without it when it goes.
- The result may be unfinished: what stands against a build is for ``composer.rules.checking``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any, TypeVar

import msgspec

from gatelog.composer.rules.composition import (
    MAX_ENDPOINTS,
    MAX_FIELDS,
    MAX_STEPS,
    Action,
    AnyStep,
    Composition,
    Endpoint,
    Field,
)
from gatelog.errors import DraftOutdated, InvalidInput, NotFound

Change = Callable[[Composition], Composition]
PartT = TypeVar("PartT", bound=Endpoint | Action)
ItemT = TypeVar("ItemT")

_encode = msgspec.json.Encoder().encode


def seen_of(part: Endpoint | Action) -> str:
    """By what who has seen this part says so: 16 hexadecimal digits."""
    return sha256(_encode(part)).hexdigest()[:16]


def endpoint_named(composition: Composition, name: str) -> Endpoint:
    """The endpoint of this name. Raises NotFound."""
    return _named(composition.endpoints, name, "endpoint")


def action_named(composition: Composition, name: str) -> Action:
    """The action of this name. Raises NotFound."""
    return _named(composition.actions, name, "action")


def _named(parts: Sequence[PartT], name: str, what: str) -> PartT:
    found = next((part for part in parts if part.name == name), None)
    if found is None:
        raise NotFound(f"There is no {what} of this name in the draft.")
    return found


def _seen(part: PartT, seen: str, what: str) -> PartT:
    """The part itself. Raises DraftOutdated where it is not what was seen."""
    if seen_of(part) != seen:
        raise DraftOutdated(f"Somebody has changed this {what} meanwhile: look at it again.")
    return part


def _put(parts: Sequence[PartT], old: str | None, new: PartT, what: str) -> tuple[PartT, ...]:
    """The parts with this one in the place of the old one, or at the end."""
    if new.name != old and any(part.name == new.name for part in parts):
        raise InvalidInput(f"There is another {what} of this name.")
    if old is None:
        if len(parts) >= MAX_ENDPOINTS:
            raise InvalidInput(f"There are {MAX_ENDPOINTS} {what}s already, and no more can be.")
        return (*parts, new)
    at = next(number for number, part in enumerate(parts) if part.name == old)
    return (*parts[:at], new, *parts[at + 1 :])


# --- endpoints


def add_endpoint(endpoint: Endpoint) -> Change:
    """Add this endpoint. Raises InvalidInput for a name that is taken."""

    def change(composition: Composition) -> Composition:
        endpoints = _put(composition.endpoints, None, endpoint, "endpoint")
        return msgspec.structs.replace(composition, endpoints=endpoints)

    return change


def change_endpoint(name: str, seen: str, become: Callable[[Endpoint], Endpoint]) -> Change:
    """Let this endpoint become another one; its action stays the same.

    Raises NotFound, DraftOutdated, InvalidInput for a name that is taken.
    """

    def change(composition: Composition) -> Composition:
        new = become(_seen(endpoint_named(composition, name), seen, "endpoint"))
        actions = tuple(
            msgspec.structs.replace(action, trigger=new.name) if action.trigger == name else action
            for action in composition.actions
        )
        return Composition(_put(composition.endpoints, name, new, "endpoint"), actions)

    return change


def remove_endpoint(name: str, seen: str) -> Change:
    """Remove this endpoint: its action is left without a trigger. Raises as ``change_endpoint``."""

    def change(composition: Composition) -> Composition:
        gone = _seen(endpoint_named(composition, name), seen, "endpoint")
        actions = tuple(
            msgspec.structs.replace(action, trigger="") if action.trigger == name else action
            for action in composition.actions
        )
        return Composition(_without(composition.endpoints, gone), actions)

    return change


def put_field(number: int | None, field: Field) -> Callable[[Endpoint], Endpoint]:
    """Put a field in the place of this one, from 1; None: at the end.

    Raises NotFound, and InvalidInput for one too many, or a name that another field has.
    """

    def become(endpoint: Endpoint) -> Endpoint:
        names = [each.name for each in endpoint.fields]
        if number is not None:
            names[_at(endpoint.fields, number)] = ""
        if field.name in names:
            raise InvalidInput("There is another field of this name.")
        fields = _with(endpoint.fields, number, field, MAX_FIELDS, "fields")
        return msgspec.structs.replace(endpoint, fields=fields)

    return become


def remove_field(number: int) -> Callable[[Endpoint], Endpoint]:
    """Remove this field, from 1. Raises NotFound."""

    def become(endpoint: Endpoint) -> Endpoint:
        gone = endpoint.fields[_at(endpoint.fields, number)]
        return msgspec.structs.replace(endpoint, fields=_without(endpoint.fields, gone))

    return become


# --- actions


def add_action(action: Action) -> Change:
    """Add this action. Raises InvalidInput for a name that is taken."""

    def change(composition: Composition) -> Composition:
        actions = _put(composition.actions, None, action, "action")
        return msgspec.structs.replace(composition, actions=actions)

    return change


def change_action(name: str, seen: str, become: Callable[[Action], Action]) -> Change:
    """Let this action become another one. Raises as ``change_endpoint``."""

    def change(composition: Composition) -> Composition:
        new = become(_seen(action_named(composition, name), seen, "action"))
        actions = _put(composition.actions, name, new, "action")
        return msgspec.structs.replace(composition, actions=actions)

    return change


def remove_action(name: str, seen: str) -> Change:
    """Remove this action; its endpoint then triggers none. Raises as ``change_endpoint``."""

    def change(composition: Composition) -> Composition:
        gone = _seen(action_named(composition, name), seen, "action")
        return msgspec.structs.replace(composition, actions=_without(composition.actions, gone))

    return change


def put_step(number: int | None, step: AnyStep) -> Callable[[Action], Action]:
    """Put an event in the place of this one, from 1; None: at the end.

    Raises NotFound, and InvalidInput for one too many.
    """

    def become(action: Action) -> Action:
        steps = _with(action.steps, number, step, MAX_STEPS, "events")
        return msgspec.structs.replace(action, steps=steps)

    return become


def remove_step(number: int) -> Callable[[Action], Action]:
    """Remove this event, from 1. Raises NotFound."""

    def become(action: Action) -> Action:
        at = _at(action.steps, number)
        return msgspec.structs.replace(action, steps=action.steps[:at] + action.steps[at + 1 :])

    return become


def move_step(number: int, by: int) -> Callable[[Action], Action]:
    """Move this event, from 1, by so many places; not beyond the ends. Raises NotFound."""

    def become(action: Action) -> Action:
        at, steps = _at(action.steps, number), list(action.steps)
        step = steps.pop(at)
        steps.insert(max(0, at + by), step)
        return msgspec.structs.replace(action, steps=tuple(steps))

    return become


# --- items of a part


def _at(items: Sequence[Any], number: int) -> int:
    if not 1 <= number <= len(items):
        raise NotFound("There is nothing at this place any more.")
    return number - 1


def _with(
    items: tuple[ItemT, ...], number: int | None, item: ItemT, most: int, what: str
) -> tuple[ItemT, ...]:
    if number is not None:
        at = _at(items, number)
        return (*items[:at], item, *items[at + 1 :])
    if len(items) >= most:
        raise InvalidInput(f"There are {most} {what} already, and no more can be.")
    return (*items, item)


def _without(items: tuple[ItemT, ...], gone: ItemT) -> tuple[ItemT, ...]:
    return tuple(item for item in items if item is not gone)
