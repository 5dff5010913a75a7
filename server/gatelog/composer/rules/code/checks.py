"""The project's own tests: each endpoint, as a stranger and as somebody who may finds it."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, Final

from gatelog.composer.rules.code.bodies import has_body, taken_by
from gatelog.composer.rules.code.names import INDENT, Names, called, docstring, literal
from gatelog.composer.rules.composition import (
    Action,
    Call,
    ChangePassword,
    Composition,
    Endpoint,
    Field,
    Handler,
    Login,
    Record,
    Register,
    Respond,
)
from gatelog.composer.rules.paths import parse_path

SAMPLES: Final = {"text": "x", "integer": 1, "boolean": True}
HEAD = '''\
"""Every endpoint, as a stranger finds it and as somebody who may."""

from __future__ import annotations

from aiohttp import web
from aiohttp.test_utils import TestClient
from gatelog.testing import login_as

Client = TestClient[web.Request, web.Application]
SOMEBODY, NEWCOMER = "somebody", "newcomer"
PASSWORD = "a password of these tests"
ANOTHER = "another password of these tests"
'''
CONFTEST = '''\
"""The application with a database of each test's own."""

from __future__ import annotations

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient
from gatelog import Config
from gatelog.testing import GatelogClient

from composed.app import make_app

ROLES = {roles}


@pytest.fixture
def gatelog_config(gatelog_config: Config) -> Config:
    return msgspec.structs.replace(gatelog_config, roles=ROLES)


@pytest.fixture
async def client(
    gatelog_client: GatelogClient, gatelog_config: Config
) -> TestClient[web.Request, web.Application]:
    return await gatelog_client(make_app(gatelog_config, projector=False))
'''
_BUILT_IN: Final = frozenset({"admin", "auditor"})


def conftest(composition: Composition) -> str:
    """The fixtures of the tests: the service with the roles that the composition names."""
    names = {role for endpoint in composition.endpoints for role in endpoint.roles}
    roles: dict[str, dict[str, str]] = {name: {} for name in sorted(names - _BUILT_IN)}
    return CONFTEST.format(roles=literal(json.dumps(roles)))


def module(pairs: list[tuple[Endpoint, Action]]) -> str:
    """The tests of these endpoints."""
    names = Names()
    tests = [
        _test(names.function(f"test {endpoint.name}"), endpoint, action)
        for endpoint, action in pairs
    ]
    return HEAD + "".join(f"\n\n{test}" for test in tests)


def _test(name: str, endpoint: Endpoint, action: Action) -> str:
    ask = _asking(endpoint, action)
    lines = [
        f"async def {name}(client: Client) -> None:",
        docstring(f"{endpoint.method} {endpoint.path}", INDENT).rstrip("\n"),
    ]
    if endpoint.access != "public":
        lines += [*ask, f"{INDENT}assert answer.status == 401"]
    lines += _somebody(endpoint, ask)
    expected = status_of(endpoint, action)
    if expected is not None:
        lines += [*ask, f"{INDENT}assert answer.status == {expected}"]
    return "\n".join(lines) + "\n"


def _asking(endpoint: Endpoint, action: Action) -> list[str]:
    path = "/" + "/".join("x" if part is None else part for part in _segments(endpoint.path))
    arguments = [literal(endpoint.method), literal(path)]
    if has_body(endpoint, action):
        arguments.append(f"json={{{', '.join(_sample(endpoint, action))}}}")
    return [called("answer = await client.request", arguments, INDENT)]


def _segments(path: str) -> tuple[str | None, ...]:
    return parse_path(path).segments


def _sample(endpoint: Endpoint, action: Action) -> list[str]:
    known = {
        "login": "NEWCOMER" if _has(action, Register) else "SOMEBODY",
        "password": "PASSWORD",
        "current_password": "PASSWORD",
        "new_password": "ANOTHER",
    }
    own = [f"{literal(name)}: {known[name]}" for name in taken_by(action)]
    return [*own, *(f"{literal(f.name)}: {_value(f)}" for f in endpoint.fields)]


def _value(field: Field) -> str:
    sample = SAMPLES[field.kind]
    return literal(sample) if isinstance(sample, str) else repr(sample)


def _somebody(endpoint: Endpoint, ask: list[str]) -> list[str]:
    """Who may asks: a public endpoint is for strangers, too, and somebody has an account."""
    user = f"{INDENT}await login_as(client, SOMEBODY, password=PASSWORD)"
    if endpoint.access == "public":
        return [user, f"{INDENT}client.session.cookie_jar.clear()"]
    if endpoint.access == "roles":
        roles = literal(endpoint.roles[0])
        entitled = f"{INDENT}await login_as(client, SOMEBODY, roles={{{roles}}}, password=PASSWORD)"
        return [user, *ask, f"{INDENT}assert answer.status == 403", entitled]
    return [user]


def status_of(endpoint: Endpoint, action: Action) -> int | None:
    """What is answered to who may; None where nobody can tell from the composition alone."""
    steps = action.steps
    registers = [at for at, step in enumerate(steps) if isinstance(step, Register)]
    logins = [at for at, step in enumerate(steps) if isinstance(step, Login)]
    if _has(action, Call | Handler) or len(registers) > 1:
        return None  # others answer, or the login is taken
    if registers and logins and logins[0] < registers[0]:
        return None  # who is to log in is not there yet
    changes = [step for step in steps if isinstance(step, ChangePassword)]
    if changes and (logins or registers or len(changes) > 1):
        return None  # the password is another one by then
    if _records_too_often(action):
        return None
    last = steps[-1]
    if isinstance(last, Respond):
        return last.status
    return 201 if isinstance(last, Register) else 200


def _records_too_often(action: Action) -> bool:
    records = [step for step in action.steps if isinstance(step, Record)]
    counts = Counter(step.type for step in records)
    return any(counts[step.type] > step.per_hour for step in records)


def _has(action: Action, what: Any) -> bool:
    return any(isinstance(step, what) for step in action.steps)
