"""The handlers: one for each action, which does its events one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from gatelog.composer.rules.code.bodies import has_body
from gatelog.composer.rules.code.names import INDENT, attribute, called, docstring, literal
from gatelog.composer.rules.code.values import Values
from gatelog.composer.rules.composition import (
    Action,
    AnyStep,
    Call,
    ChangePassword,
    EndAll,
    EndOthers,
    Endpoint,
    Handler,
    Login,
    Record,
    Register,
    Respond,
)
from gatelog.composer.rules.paths import parse_path

_IN = INDENT * 2
_FOR_LOGINS: Final = (Login, ChangePassword, EndOthers, EndAll)
_METHODS: Final = {
    "register": "register",
    "login": "log_in",
    "logout": "log_out",
    "end_others": "end_others",
    "change_password": "change_password",
    "current_user": "current_user",
    "list_sessions": "list_sessions",
}
HEAD = '''\
"""What happens at each endpoint: a handler for each action."""

from __future__ import annotations

'''
AS_TEXT = '''\
def as_text(value: object) -> str:
    """How a value is written within a longer text."""
    if value is None:
        return ""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode().strip('"')
'''


class Written(msgspec.Struct, frozen=True):
    """A handler that was written: its text, and the names that it needs of ``gatelog``."""

    text: str
    needs: frozenset[str]
    writes: bool


def handler(name: str, body: str, endpoint: Endpoint, action: Action) -> Written:
    """The handler of an action; ``body``: the name of its body's struct."""
    values = Values(endpoint)
    steps = "".join(f"{_step(step, endpoint, values)}\n" for step in action.steps)
    marks = list(_marks(body, endpoint, action))
    reads = has_body(endpoint, action)
    lines = [
        *(f"@{mark}" for _, mark in marks),
        f"async def {name}(request: web.Request) -> web.StreamResponse:",
        docstring(_says(endpoint, action), INDENT).rstrip("\n"),
        *([f"{INDENT}body = await read_body(request, bodies.{body})"] if reads else []),
        f"{INDENT}async with Steps(request{', body' if reads else ''}) as steps:",
        f"{steps}{INDENT}return steps.response\n",
    ]
    needs = {"Steps", *(each for each, _ in marks), *(["read_body"] if reads else [])}
    return Written("\n".join(lines), frozenset(needs), values.writes)


def _says(endpoint: Endpoint, action: Action) -> str:
    more = endpoint.description or action.description
    return f"{endpoint.name}. {more}".strip()


def _marks(body: str, endpoint: Endpoint, action: Action) -> Iterator[tuple[str, str]]:
    """The marks above the handler, the outermost first, each with the name that it needs."""
    if endpoint.access == "public":
        yield "public", "public"
    elif endpoint.access == "roles":
        yield "requires", f"requires({', '.join(map(literal, endpoint.roles))})"
    if any(isinstance(step, _FOR_LOGINS) for step in action.steps):
        yield "no_tokens", "no_tokens"
    if any(step.CHANGES for step in action.steps):
        yield "changes_state", "changes_state"
    takes = f"body=bodies.{body}, " if has_body(endpoint, action) else ""
    yield "describes", f"describes({takes}returns={{{_status(action)}: Any}})"


def _status(action: Action) -> int:
    last = action.steps[-1] if action.steps else None
    if isinstance(last, Respond):
        return last.status
    return 201 if isinstance(last, Register) else 200


# --- events


def _step(step: AnyStep, endpoint: Endpoint, values: Values) -> str:
    match step:
        case EndAll():
            return f"{_IN}await steps.end_all({'tokens=True' if step.tokens else ''})"
        case Record():
            return _record(step, endpoint, values)
        case Respond():
            return _respond(step, values)
        case Call():
            return _call(step, endpoint)
        case Handler():
            return f"{_IN}await steps.handle({literal(step.name)})"
    return f"{_IN}await steps.{_METHODS[step.do]}()"


def _record(step: Record, endpoint: Endpoint, values: Values) -> str:
    sealed = {field.name for field in endpoint.fields if field.personal}
    plain = _object([name for name in step.fields if name not in sealed], values)
    arguments = [literal(step.type), plain]
    if personal := [name for name in step.fields if name in sealed]:
        arguments.append(f"personal={_object(personal, values)}")
    arguments.append(f"per_hour={step.per_hour}")
    return called("await steps.record", arguments, _IN)


def _object(names: list[str], values: Values) -> str:
    return "{" + ", ".join(f"{literal(name)}: {values.named(name)}" for name in names) + "}"


def _respond(step: Respond, values: Values) -> str:
    content = values.json(step.json, _IN)
    status = [f"status={step.status}"] if step.status != 200 else []
    return called("steps.respond", [content, *status], _IN)


def _call(step: Call, endpoint: Endpoint) -> str:
    arguments = [literal(step.upstream), literal(endpoint.method)]
    if step.path != "/":
        pattern = parse_path(step.path)
        names = iter(pattern.names)
        for part in pattern.segments:
            parameter = part is None
            text = next(names) if part is None else part
            arguments.append(f"request.match_info[{literal(text)}]" if parameter else literal(text))
    if step.body:
        sent = ", ".join(
            f"{literal(field.name)}: body.{attribute(field.name)}" for field in endpoint.fields
        )
        arguments.append(f"body={{{sent}}}")
    return called("await steps.call", arguments, _IN)


def module(written: list[Written], *, with_bodies: bool) -> str:
    """The module of these handlers."""
    needs = sorted({name for each in written for name in each.needs}, key=_imports_order)
    writes = any(each.writes for each in written)
    head = [
        "from typing import Any\n\n",
        "import msgspec\n" if writes else "",
        "from aiohttp import web\n",
        f"from gatelog import {', '.join(needs)}\n",
        "\nfrom composed import bodies\n" if with_bodies else "",
    ]
    parts = [each.text for each in written]
    return HEAD + "".join(head) + "\n\n" + "\n\n".join([*parts, *([AS_TEXT] if writes else [])])


def _imports_order(name: str) -> tuple[bool, str]:
    """Classes first, as tools that sort imports have it."""
    return name[:1].islower(), name
