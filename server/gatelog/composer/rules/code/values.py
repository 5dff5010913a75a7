"""What templates and fields stand for, as expressions of Python."""

from __future__ import annotations

import json
from typing import Any

from gatelog.composer.rules.code.names import INDENT, WIDTH, attribute, literal
from gatelog.composer.rules.composition import Endpoint
from gatelog.composer.rules.templates import parts_of

_OF_SESSION = {
    "user_id": "str(steps.session.subject_id)",
    "session_id": "str(steps.session.session_id)",
    "started_at": "steps.session.started_at",
    "expires_at": "steps.session.expires_at",
    "roles": "sorted(steps.session.roles)",
    "amr": "sorted(steps.session.amr)",
}
_TEXTS = frozenset({"user_id", "session_id"})


class Values:
    """The values that the handler of an endpoint can refer to.

    ``writes``: whether one has to be written out within a text (``as_text``).
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._fields = {field.name: field for field in endpoint.fields}
        self.writes = False

    def named(self, name: str) -> str:
        """What a name stands for that is declared in the body, or else is of the path."""
        return self._value("body" if name in self._fields else "path", name)

    def json(self, text: str, indent: str) -> str:
        """The content of this template as an expression, over several lines if it is long."""
        return self._expression(json.loads(text), indent)

    def _expression(self, content: Any, indent: str) -> str:
        inner = indent + INDENT
        if isinstance(content, str):
            return self._text(content, indent)
        if isinstance(content, dict):
            short = [f"{literal(k)}: {self._expression(v, inner)}" for k, v in content.items()]
            return _bracketed("{", short, "}", indent)
        if isinstance(content, list):
            return _bracketed("[", [self._expression(v, inner) for v in content], "]", indent)
        return repr(content)

    def _text(self, text: str, indent: str) -> str:
        parts = parts_of(text)
        if len(parts) == 1:
            (part,) = parts
            return literal(part) if isinstance(part, str) else self._value(*part)
        written = [literal(p) if isinstance(p, str) else self._written(*p) for p in parts]
        line = " + ".join(written)
        return line if len(indent + line) <= WIDTH - 5 * len(INDENT) else _sum(written, indent)

    def _value(self, place: str, name: str) -> str:
        if place == "session":
            return _OF_SESSION[name]
        if place == "path":
            return f"request.match_info[{literal(name)}]"
        return f"body.{attribute(name)}"

    def _written(self, place: str, name: str) -> str:
        """The value as it is written within a longer text."""
        value = self._value(place, name)
        if place == "path" or (place == "session" and name in _TEXTS):
            return value
        field = self._fields.get(name)
        if place == "body" and field is not None and field.kind == "text" and field.required:
            return value
        self.writes = True
        return f"as_text({value})"


def _sum(parts: list[str], indent: str) -> str:
    return f"\n{indent}+ ".join(parts)


def _bracketed(opening: str, parts: list[str], closing: str, indent: str) -> str:
    line = f"{opening}{', '.join(parts)}{closing}"
    if len(indent) + len(line) <= WIDTH - 2 * len(INDENT) and "\n" not in line:
        return line
    inner = indent + INDENT
    return f"{opening}\n" + "".join(f"{inner}{part},\n" for part in parts) + f"{indent}{closing}"
