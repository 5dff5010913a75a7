"""Templates of answers: JSON in which texts may refer to the session, the path and the body.

``{{session.user_id}}``, ``{{path.id}}``, ``{{body.note}}``: a text that is nothing but a reference
becomes the value itself, with its type; within a longer text the value is written out. There is
nothing else: no expressions, no loops, no other names. A value is put in as a value, never as JSON:
whatever a client sends stays within its place.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, NoReturn

import msgspec

from gatelog.errors import InvalidInput

MAX_DEPTH = 16
SESSION_VALUES = (
    "user_id",
    "session_id",
    "started_at",
    "expires_at",
    "roles",
    "amr",
)
_reference = re.compile(r"\{\{(session|path|body)\.([a-z][a-z0-9_]{0,31})\}\}")

Values = Mapping[str, Callable[[str], Any]]
"""By place (``session``, ``path``, ``body``): what a name stands for there."""
Render = Callable[[Values], Any]


class Reference(msgspec.Struct, frozen=True, order=True):
    """A value that a template asks for."""

    place: str
    name: str

    def __str__(self) -> str:
        return f"{{{{{self.place}.{self.name}}}}}"


class Template:
    """A template, read once and filled for each answer.

    ``references``: all that it asks for; ``constant``: its JSON where it asks for nothing.
    """

    __slots__ = ("_render", "constant", "references")

    def __init__(self, text: str) -> None:
        """Raises InvalidInput for what is no JSON, or refers to what nobody knows."""
        content = _read(text)
        self.references = tuple(sorted(set(_references(content, 0))))
        self._render = _renderer(content)
        self.constant = None if self.references else msgspec.json.encode(content)

    def fill(self, values: Values) -> bytes:
        """The answer's JSON with these values."""
        if self.constant is not None:
            return self.constant
        return msgspec.json.encode(self._render(values))


def unknown(template: Template, path: Collection[str], body: Collection[str]) -> list[Reference]:
    """What a template asks for that is not there, of an endpoint with these names."""
    known = {"session": SESSION_VALUES, "path": path, "body": body}
    return [each for each in template.references if each.name not in known[each.place]]


def _read(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse)
    except RecursionError:
        raise InvalidInput("the JSON is nested too deeply") from None
    except ValueError as error:
        raise InvalidInput(f"this is no JSON: {error}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a name occurs twice in an object")
    return content


def _refuse(word: str) -> NoReturn:
    raise ValueError(f"{word} is not JSON")


def _references(content: Any, depth: int) -> list[Reference]:
    if depth > MAX_DEPTH:
        raise InvalidInput("the JSON is nested too deeply")
    if isinstance(content, str):
        return _references_in(content)
    if isinstance(content, int) and not -(2**63) <= content < 2**63:
        raise InvalidInput("a number is too large")
    if isinstance(content, float) and not math.isfinite(content):
        raise InvalidInput("a number is too large")
    if isinstance(content, dict):
        for name in content:
            if _references_in(name):
                raise InvalidInput("a name in an object cannot be a reference")
        parts = list(content.values())
    elif isinstance(content, list):
        parts = content
    else:
        parts = []
    return [found for part in parts for found in _references(part, depth + 1)]


def _references_in(text: str) -> list[Reference]:
    """All references in a text. Raises InvalidInput where there is another pair of braces."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidInput("a text has a lone surrogate") from None
    if "{{" in _reference.sub("", text):
        raise InvalidInput(
            f"{text!r} refers to what is not known: a reference is like {{{{session.user_id}}}},"
            " {{path.id}} or {{body.note}}"
        )
    return [Reference(*match.groups()) for match in _reference.finditer(text)]


def _renderer(content: Any) -> Render:
    if isinstance(content, str):
        return _text_renderer(content)
    if isinstance(content, dict):
        named = [(name, _renderer(part)) for name, part in content.items()]
        return lambda values: {name: render(values) for name, render in named}
    if isinstance(content, list):
        each = [_renderer(part) for part in content]
        return lambda values: [render(values) for render in each]
    return lambda _: content


def parts_of(text: str) -> list[str | tuple[str, str]]:
    """What a text of a template is made of: texts, and references by their place and name."""
    split = _reference.split(text)  # text, place, name, text, place, …
    parts: list[str | tuple[str, str]] = [split[0]]
    for place, name, after in zip(split[1::3], split[2::3], split[3::3], strict=True):
        parts += ((place, name), after)
    return [part for part in parts if part] or [""]


def _text_renderer(text: str) -> Render:
    if whole := _reference.fullmatch(text):
        place, name = whole.groups()
        return lambda values: values[place](name)
    if not _reference.search(text):
        return lambda _: text
    parts = _reference.split(text)  # text, place, name, text, place, …
    texts, places, names = parts[::3], parts[1::3], parts[2::3]

    def render(values: Values) -> str:
        written = [texts[0]]
        for place, name, after in zip(places, names, texts[1:], strict=True):
            written += (_written(values[place](name)), after)
        return "".join(written)

    return render


def _written(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
