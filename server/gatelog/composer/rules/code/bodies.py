"""The bodies of requests, as structs: what the composer takes, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator

from gatelog.composer.rules.code.names import INDENT, attribute, docstring, literal
from gatelog.composer.rules.composition import Action, Endpoint, Field, Login

HEAD = '''\
"""What requests bring along."""

from __future__ import annotations

'''
INTEGER = "Integer = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]\n"


def taken_by(action: Action) -> list[str]:
    """The fields that the events of an action read by themselves, each once."""
    return list(dict.fromkeys(name for step in action.steps for name in step.TAKES))


def has_body(endpoint: Endpoint, action: Action) -> bool:
    """Whether requests to this endpoint have a body."""
    return bool(endpoint.fields or taken_by(action))


def body(name: str, endpoint: Endpoint, action: Action) -> str:
    """The struct of an endpoint's body."""
    lines = [
        f"class {name}(msgspec.Struct, forbid_unknown_fields=True):",
        docstring(f"Of {endpoint.name}.", INDENT),
        *(f"{INDENT}{line}" for line in _fields(endpoint, action)),
    ]
    return "\n".join(lines) + "\n"


def _fields(endpoint: Endpoint, action: Action) -> Iterator[str]:
    """First what must be there."""
    for name in taken_by(action):
        yield f"{name}: str"
    for field in endpoint.fields:
        if field.required:
            yield _declared(field, _typed(field), "")
    if any(isinstance(step, Login) for step in action.steps):
        yield 'token: Literal["cookie", "bearer"] = "cookie"'
    for field in endpoint.fields:
        if not field.required:
            yield _declared(field, f"{_typed(field)} | None", "None")


def _declared(field: Field, kind: str, default: str) -> str:
    name = attribute(field.name)
    if name == field.name:
        return f"{name}: {kind}" + (f" = {default}" if default else "")
    more = f", default={default}" if default else ""
    return f"{name}: {kind} = msgspec.field(name={literal(field.name)}{more})"


def _typed(field: Field) -> str:
    if field.kind == "integer":
        return "Integer"
    if field.kind == "boolean":
        return "bool"
    return f"Annotated[str, Meta(max_length={field.max_length})]"


def module(structs: list[str]) -> str:
    """The module of these structs."""
    text = "\n\n".join(structs)
    typing = [name for name in ("Annotated", "Literal") if f"{name}[" in text]
    integers = ": Integer" in text
    if integers and "Annotated" not in typing:
        typing.insert(0, "Annotated")
    lines = [f"from typing import {', '.join(typing)}\n\n" if typing else ""]
    lines.append("import msgspec\n")
    lines.append("from msgspec import Meta\n" if "Annotated" in typing else "")
    lines.append(f"\n{INTEGER}" if integers else "")
    return f"{HEAD}{''.join(lines)}\n\n{text}"
