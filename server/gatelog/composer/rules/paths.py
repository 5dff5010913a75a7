"""Paths of composed endpoints: what they may be, which of them meet, and finding one by a path.

A path has segments between slashes. A segment is literal (letters, digits and ``-._~``, which no
client can spell in two ways; RFC 3986, section 2.3), or a ``{parameter}``, which stands for one
segment of any text. Two paths meet when a request could be for either; so of endpoints that do not
meet, and of routes that none of them meets, at most one answers a request, in whatever order they
are looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Generic, TypeVar

import msgspec

from gatelog.errors import InvalidInput

MAX_SEGMENTS = 10
MAX_VALUE_LENGTH = 200
_literal = re.compile(r"[A-Za-z0-9._~-]+")
_parameter = re.compile(r"\{([a-z][a-z0-9_]{0,31})\}")

T = TypeVar("T")


class Pattern(msgspec.Struct, frozen=True):
    """A path taken apart: a literal segment is its text, a parameter None.

    ``tail``: anything may follow, with any number of segments. ``names``: of the parameters.
    """

    segments: tuple[str | None, ...]
    tail: bool = False
    names: tuple[str, ...] = ()

    def meets(self, other: Pattern) -> bool:
        """Whether there is a path that is one of both."""
        mine, theirs = self.segments, other.segments
        if len(mine) > len(theirs) and not other.tail:
            return False
        if len(theirs) > len(mine) and not self.tail:
            return False
        pairs = zip(mine, theirs, strict=False)  # beyond the shorter one, its tail takes anything
        return all(a is None or b is None or a == b for a, b in pairs)


def parse_path(text: str) -> Pattern:
    """The pattern in this text. Raises InvalidInput, which says what is wrong with it."""
    if not text.startswith("/") or text == "/":
        raise InvalidInput("it must begin with '/' and go on")
    parts = text[1:].split("/")
    if len(parts) > MAX_SEGMENTS:
        raise InvalidInput(f"it has more than {MAX_SEGMENTS} segments")
    segments: list[str | None] = []
    names: list[str] = []
    for part in parts:
        if match := _parameter.fullmatch(part):
            names.append(match[1])
            segments.append(None)
        elif _literal.fullmatch(part) and part not in {".", ".."}:
            segments.append(part)
        else:
            raise InvalidInput(_what_is_wrong(part))
    if len(set(names)) < len(names):
        raise InvalidInput("a parameter stands in it twice")
    return Pattern(tuple(segments), names=tuple(names))


def _what_is_wrong(part: str) -> str:
    if not part:
        return "it has an empty segment"
    if "{" in part or "}" in part:
        return f"{part!r} is no parameter: it must be a whole segment, like {{id}}"
    return f"{part!r} is no segment: it may have letters, digits and - . _ ~"


class Crossings(Generic[T]):
    """Patterns with whose they are; finds one that meets another pattern without asking each."""

    __slots__ = ("_any", "_end", "_literal", "_tail")

    def __init__(self) -> None:
        self._literal: dict[str, Crossings[T]] = {}
        self._any: Crossings[T] | None = None
        self._end: list[T] = []
        self._tail: list[T] = []

    def add(self, pattern: Pattern, owner: T) -> None:
        """Take in a pattern."""
        node = self
        for segment in pattern.segments:
            if segment is None:
                node._any = node._any or Crossings()
                node = node._any
            else:
                node = node._literal.setdefault(segment, Crossings())
        (node._tail if pattern.tail else node._end).append(owner)

    def meeting(self, pattern: Pattern) -> Iterator[T]:
        """Whose patterns this one meets; it has no tail of its own."""
        return self._meeting(pattern.segments)

    def _meeting(self, segments: tuple[str | None, ...]) -> Iterator[T]:
        yield from self._tail
        if not segments:
            yield from self._end
            return
        head, rest = segments[0], segments[1:]
        if head is None:
            for node in self._literal.values():
                yield from node._meeting(rest)
        elif head in self._literal:
            yield from self._literal[head]._meeting(rest)
        if self._any is not None:
            yield from self._any._meeting(rest)


class Found(msgspec.Struct, Generic[T], frozen=True):
    """What answers at a path: by method, and what its parameters stand for."""

    by_method: dict[str, T]
    values: dict[str, str]


# Of a template: by the names of its parameters, and by method.
_Ends = dict[tuple[str, ...], dict[str, T]]


class _Node(Generic[T]):
    """What may follow after some segments."""

    __slots__ = ("any", "ends", "literal")

    def __init__(self) -> None:
        self.literal: dict[str, _Node[T]] = {}
        self.any: _Node[T] | None = None
        self.ends: _Ends[T] = {}


class Table(Generic[T]):
    """Finds what is for a path and a method, at a cost that does not grow with what there is.

    A path without parameters is looked up as a whole; the others segment by segment.
    """

    def __init__(self) -> None:
        self._whole: dict[str, Found[T]] = {}
        self._root: _Node[T] = _Node()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, path: str, method: str, target: T) -> None:
        """Let this answer there. Raises InvalidInput for what is no path."""
        pattern = parse_path(path)
        self._size += 1
        if not pattern.names:
            self._whole.setdefault(path, Found({}, {})).by_method[method] = target
            return
        node = self._root
        for segment in pattern.segments:
            if segment is None:
                node.any = node.any or _Node()
                node = node.any
            else:
                node = node.literal.setdefault(segment, _Node())
        node.ends.setdefault(pattern.names, {})[method] = target

    def find(self, path: str) -> Found[T] | None:
        """What there is at this path, of which ``%2F`` and ``%25`` are left as they came."""
        found = self._whole.get(path)
        if found is not None or (self._root.any is None and not self._root.literal):
            return found
        values: list[str] = []
        parts = path[1:].split("/")
        if len(parts) > MAX_SEGMENTS:
            return None
        for names, by_method in _ends(self._root, parts, 0, values).items():
            return Found(by_method, dict(zip(names, values)))  # noqa: B905  # they are as many
        return None


def _ends(node: _Node[T], parts: list[str], at: int, values: list[str]) -> _Ends[T]:
    """What ends where the segments from this one on lead; ``values`` gets what the parameters
    stand for. Literal segments come first."""
    while at < len(parts):
        head = parts[at]
        at += 1
        literal = node.literal.get(head)
        if literal is not None and node.any is None:
            node = literal
            continue
        if literal is not None:
            kept = len(values)
            if found := _ends(literal, parts, at, values):
                return found
            del values[kept:]
        if node.any is None or (value := parameter_value(head)) is None:
            return {}
        values.append(value)
        node = node.any
    return node.ends


def parameter_value(segment: str) -> str | None:
    """What a segment says; None for one that no parameter takes: empty, too long, or a step in a
    tree."""
    value = segment
    if "%" in segment:
        value = segment.replace("%2F", "/").replace("%25", "%")
    return value if 0 < len(value) <= MAX_VALUE_LENGTH and value not in {".", ".."} else None
