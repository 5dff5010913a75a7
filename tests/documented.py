"""What a docstring has to say of a function or class, read from its code."""

from __future__ import annotations

import ast
import builtins
import inspect
import re
import textwrap
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

UNITS = {  # how a name says its unit, and how a sentence does
    "_s": "second",
    "_ms": "millisecond",
    "_us": "microsecond",
    "_ns": "nanosecond",
    "_days": "day",
    "_kib": "KiB",
    "_mib": "MiB",
    "_bytes": "byte",
}
_UNIT = re.compile(r"\b(?:(?:micro|milli|nano)?second|minute|hour|day|byte|KiB|MiB)s?\b")
_SENTENCE = re.compile(r"\w[^.:]*\s[^.:]*\s.*[.:]", re.DOTALL)  # three words and an end


def says_what_it_means(text: str) -> bool:
    """Whether its first paragraph is a sentence."""
    return bool(_SENTENCE.match(text.partition("\n\n")[0].strip()))


def unsaid_units(name: str, hints: Mapping[str, Any], text: str) -> set[str]:
    """Of what is called so and has these types, the measures whose unit the text does not say.

    A name's ending says which; a number that is not whole has one in any case, and a moment has a
    time zone.
    """
    unsaid = set()
    for part, hint in hints.items():
        word = name if part == "return" else part
        kinds = (hint, *typing.get_args(hint))
        ending = next((unit for end, unit in UNITS.items() if word.endswith(end)), None)
        if ending is not None and not re.search(rf"\b{ending}s?\b", text, re.I):
            unsaid.add(f"{word}: {ending}s")
        elif ending is None and float in kinds and not _UNIT.search(text):
            unsaid.add(f"{word}: a unit")
        elif datetime in kinds and "UTC" not in text:
            unsaid.add(f"{word}: UTC")
    return unsaid


Errors = set[type[BaseException]]


def raised_by(function: Callable[..., Any]) -> Errors:
    """What it raises itself, or by way of functions of its package that it calls by name.

    What it catches is not counted, nor what functions inside it raise: they run later, and for
    somebody else.
    """
    return _raised(inspect.unwrap(function), frozenset())


def _raised(function: types.FunctionType, callers: frozenset[types.FunctionType]) -> Errors:
    if function in callers:
        return set()
    tree = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    assert isinstance(tree, ast.FunctionDef | ast.AsyncFunctionDef)
    return set().union(*(_raised_at(node, function, callers | {function}) for node in tree.body))


def _raised_at(
    node: ast.AST, function: types.FunctionType, callers: frozenset[types.FunctionType]
) -> Errors:
    def at(nodes: Iterable[ast.AST]) -> Errors:
        return set().union(*(_raised_at(inner, function, callers) for inner in nodes))

    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef):
        return set()
    if isinstance(node, ast.Try):
        caught = tuple(error for h in node.handlers for error in _caught(h, function))
        tried = {error for error in at(node.body) if not issubclass(error, caught)}
        return tried | at(node.handlers) | at(node.orelse) | at(node.finalbody)
    found = at(ast.iter_child_nodes(node))
    if isinstance(node, ast.Raise) and node.exc is not None:
        named = _named(node.exc.func if isinstance(node.exc, ast.Call) else node.exc, function)
        if isinstance(named, type) and issubclass(named, BaseException):
            found.add(named)
    elif isinstance(node, ast.Call):
        called = _named(node.func, function)
        if isinstance(called, types.FunctionType) and _package(called) == _package(function):
            found |= _raised(called, callers)
    return found


def _caught(handler: ast.ExceptHandler, function: types.FunctionType) -> list[type[BaseException]]:
    if handler.type is None:
        return [BaseException]
    names = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    caught = (_named(name, function) for name in names)
    return [error for error in caught if isinstance(error, type)]


def _package(function: types.FunctionType) -> str:
    return function.__module__.partition(".")[0]


def _named(node: ast.expr, function: types.FunctionType) -> Any:
    """What a name, or a module's attribute, means in this function; None where it is neither."""
    if isinstance(node, ast.Name):
        return function.__globals__.get(node.id, getattr(builtins, node.id, None))
    if isinstance(node, ast.Attribute):
        owner = _named(node.value, function)
        return getattr(owner, node.attr, None) if isinstance(owner, types.ModuleType) else None
    return None


def unsaid_errors(function: Callable[..., Any]) -> set[str]:
    """The errors that it raises and its docstring does not name, by themselves or by a base."""
    text = (inspect.getdoc(function) or "").partition("Raises")[2]
    return {
        error.__name__
        for error in raised_by(function)
        if not any(re.search(rf"\b{base.__name__}\b", text) for base in error.__mro__)
    }
