"""The difference of two compositions, in words, by the names of endpoints and actions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import msgspec

from gatelog.composer.rules.composition import Action, Composition, Endpoint

MAX_TOLD = 50
MAX_TOLD_LENGTH = 200


class Change(msgspec.Struct, frozen=True):
    """What is different of one endpoint or action; ``details``: what of it, in words."""

    how: Literal["added", "removed", "changed"]
    what: Literal["endpoint", "action"]
    name: str
    details: tuple[str, ...] = ()

    def __str__(self) -> str:
        details = f": {'; '.join(self.details)}" if self.details else ""
        return f"{self.what} {self.name!r} {self.how}{details}"


def compare(before: Composition, after: Composition) -> list[Change]:
    """What is to be done to the first one to get the second; nothing where they are the same."""
    return [
        *_changes("endpoint", before.endpoints, after.endpoints),
        *_changes("action", before.actions, after.actions),
    ]


def told(changes: Sequence[Change]) -> str:
    """The same as a list of texts in JSON for the log, a bounded number of bounded ones."""
    lines = [str(change)[:MAX_TOLD_LENGTH] for change in changes[:MAX_TOLD]]
    if len(changes) > len(lines):
        lines.append(f"and {len(changes) - len(lines)} more")
    return msgspec.json.encode(lines).decode()


def _changes(
    what: Literal["endpoint", "action"],
    before: Sequence[Endpoint] | Sequence[Action],
    after: Sequence[Endpoint] | Sequence[Action],
) -> Iterator[Change]:
    old: dict[str, Any] = {part.name: part for part in before}
    new: dict[str, Any] = {part.name: part for part in after}
    for name in old:
        if name not in new:
            yield Change("removed", what, name)
    for name, part in new.items():
        if name not in old:
            yield Change("added", what, name, _first_words(part))
        elif old[name] != part:
            yield Change("changed", what, name, tuple(_details(old[name], part)))
    if not old.keys() ^ new.keys() and list(old) != list(new):
        yield Change("changed", what, "all", ("another order",))


def _first_words(part: Endpoint | Action) -> tuple[str, ...]:
    if isinstance(part, Endpoint):
        return (f"{part.method} {part.path}",)
    return (f"{part.trigger!r} does {', '.join(step.do for step in part.steps) or 'nothing'}",)


def _details(before: Endpoint | Action, after: Endpoint | Action) -> Iterator[str]:
    for field in msgspec.structs.fields(type(before)):
        old, new = getattr(before, field.name), getattr(after, field.name)
        if old == new:
            continue
        if field.name == "steps":
            yield f"steps: {_steps(before)} became {_steps(after)}"
        elif field.name == "fields":
            yield f"fields: {_names(old)} became {_names(new)}"
        elif field.name == "description":
            yield "another description"
        else:
            yield f"{field.name}: {_shown(old)} became {_shown(new)}"


def _steps(action: Any) -> str:
    return _list(_step(step) for step in action.steps)


def _step(step: Any) -> str:
    settings = [
        f"{field.name}={_shown(getattr(step, field.name))}"
        for field in msgspec.structs.fields(type(step))
        if getattr(step, field.name) != field.default
    ]
    return f"{step.do}({', '.join(settings)})" if settings else str(step.do)


def _names(fields: Any) -> str:
    return _list(msgspec.json.encode(field).decode() for field in fields)


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return _list(_shown(each) for each in value)
    return repr(value) if isinstance(value, str) else str(value)


def _list(parts: Any) -> str:
    return ", ".join(parts) or "nothing"
