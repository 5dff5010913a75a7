"""Writes docs/api.md from the docstrings of the public API: ``python docs/make_api.py``."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

import gatelog

# Of constants, which have no docstrings.
CONSTANTS = {
    "SESSION": "The key under which a protected handler finds its session: `request[SESSION]` is a"
    " `Session`. Raises KeyError in a handler that is public.",
}
PAGE = Path(__file__).with_name("api.md")
HEAD = """# API

What a program may import from `gatelog`. Everything else in the package is private and may move.
This page is made from the docstrings (`python docs/make_api.py`); how to use it is in the
[README](../README.md#protect-your-own-application).
"""


def page() -> str:
    """The page as it should be."""
    return "\n".join([HEAD, *(section(name) for name in sorted(gatelog.__all__, key=str.lower))])


def section(name: str) -> str:
    """What there is to say of one public name."""
    value = getattr(gatelog, name)
    parts = [f"## {name}", ""]
    if inspect.isfunction(value):
        parts += ["```python", f"{name}{inspect.signature(value)}", "```", ""]
    text = CONSTANTS.get(name) or inspect.getdoc(value)
    if not text:
        raise ValueError(f"{name} has no docstring")
    parts += [text.replace("``", "`"), ""]
    if inspect.isclass(value):
        parts += members(value)
    return "\n".join(parts)


def members(cls: type) -> list[str]:
    """The properties and methods of a class that have something to say."""
    lines = []
    for name, member in vars(cls).items():
        doc = inspect.getdoc(member)
        if name.startswith("_") or not (isinstance(member, property) or inspect.isfunction(member)):
            continue
        if doc:
            lines.append(f"- `{name}`: {' '.join(doc.split()).replace('``', '`')}")
    return [*lines, ""] if lines else []


if __name__ == "__main__":
    if "--check" in sys.argv[1:]:
        sys.exit(page() != PAGE.read_text())
    PAGE.write_text(page())
