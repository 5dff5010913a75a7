"""All files of the project."""

from __future__ import annotations

import html
from collections.abc import Mapping
from itertools import groupby

from gatelog.composer.rules.code import bodies, checks, handlers
from gatelog.composer.rules.code.names import INDENT, Names, called, literal
from gatelog.composer.rules.composition import (
    Action,
    Call,
    Composition,
    Endpoint,
    Handler,
    stands_for_own,
)
from gatelog.composer.rules.files import write
from gatelog.composer.rules.paths import parse_path

NAME = "composed"
_APP = '''\
"""The application: which handler answers where."""

from __future__ import annotations

from aiohttp import web
from gatelog import Config, create_app

{actions}
{one}
def routes() -> list[web.RouteDef]:
    """Every endpoint."""
    return [{routes}]


def make_app(config: Config | None = None, *, projector: bool = True) -> web.Application:
    """The endpoints, with Gatelog beside them; ``config``: else from the environment."""
    return create_app(routes(), config, projector=projector)
'''
_ONE = """\
# A parameter is one segment of at most 200 characters, in which %2F is a slash and %25 a percent.
ONE = r"(?!\\.\\.?(?:/|$))(?:%2F|%25|[^/%]){1,200}"

"""
_MAIN = '''\
"""``python -m composed``: serve it, in one process, as the environment says."""

from gatelog import run

from composed.app import routes

run(routes())
'''
_SETUP = """\
[metadata]
name = composed
version = 0.1.0
description = Endpoints that were composed with Gatelog.

[options]
python_requires = >=3.11
packages = composed
install_requires =
    gatelog

[options.extras_require]
test =
    gatelog[testing]

[tool:pytest]
testpaths = tests
pythonpath = .
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
"""
_PYPROJECT = """\
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
"""
_IGNORED = """\
__pycache__/
.pytest_cache/
*.egg-info/
"""
_README = """\
# Composed endpoints

{count}, as aiohttp handlers on the public API of Gatelog. They answer as the composer's own do.

| endpoint | for whom | handler |
| --- | --- | --- |
{rows}
## Test

```sh
python -m venv .venv
.venv/bin/pip install -e '.[test]'
.venv/bin/python -m pytest
```

## Serve

```sh
# a database that `gatelog migrate` has prepared
export GATELOG_DATABASE_URL=postgresql://gatelog@localhost/gatelog
.venv/bin/python -m composed
```

It serves Gatelog's own paths as well. On a database on which they are composed still, these
handlers come first; `GATELOG_COMPOSER=off` takes the composer away.
{more}
`composition.toml` is what this was made of: `gatelog compose apply composition.toml` composes it
again.
"""


def files(composition: Composition) -> Mapping[str, str]:
    """The texts of the project's files, by their paths."""
    pairs = composition.pairs()
    names, types = Names(), Names()
    named = [
        (names.function(action.name), endpoint, action)
        for endpoint, action in pairs
        if not stands_for_own(endpoint, action)  # Gatelog is beside the handlers
    ]
    body_names = {
        endpoint.name: types.type(endpoint.name)
        for endpoint, action in pairs
        if bodies.has_body(endpoint, action)
    }
    written = [
        handlers.handler(name, body_names.get(endpoint.name, ""), endpoint, action)
        for name, endpoint, action in named
    ]
    structs = [
        bodies.body(body_names[endpoint.name], endpoint, action)
        for endpoint, action in pairs
        if endpoint.name in body_names
    ]
    made = {
        ".gitignore": _IGNORED,
        "README.md": _readme(named),
        "composition.toml": write(composition),
        "pyproject.toml": _PYPROJECT,
        "setup.cfg": _SETUP,
        f"{NAME}/__init__.py": '"""Endpoints that were composed."""\n',
        f"{NAME}/__main__.py": _MAIN,
        f"{NAME}/app.py": _app(named),
        "tests/conftest.py": checks.conftest(composition),
        "tests/test_endpoints.py": checks.module(pairs),
    }
    if written:
        made[f"{NAME}/actions.py"] = handlers.module(written, with_bodies=bool(structs))
    if structs:
        made[f"{NAME}/bodies.py"] = bodies.module(structs)
    return dict(sorted(made.items()))


def _app(named: list[tuple[str, Endpoint, Action]]) -> str:
    ordered = sorted(named, key=lambda each: each[1].path)
    lines = [
        f"{_route(name, endpoint, action)},\n"
        for _, same in groupby(ordered, key=lambda each: each[1].path)
        for name, endpoint, action in same
    ]
    joined = "\n" + "".join(lines) + INDENT if lines else ""
    with_parameters = any(parse_path(endpoint.path).names for _, endpoint, _ in named)
    return _APP.format(
        actions="from composed import actions\n" if named else "",
        one=_ONE if with_parameters else "",
        routes=joined,
    )


def _route(name: str, endpoint: Endpoint, action: Action) -> str:
    pattern = parse_path(endpoint.path)
    path = literal(endpoint.path)
    if pattern.names:
        left = iter(pattern.names)
        parts = [f"{{{{{next(left)}:{{ONE}}}}}}" if p is None else p for p in pattern.segments]
        path = f'f"/{"/".join(parts)}"'
    arguments = [path, f"actions.{name}"]
    if endpoint.method == "GET" and any(step.CHANGES for step in action.steps):
        arguments.append("allow_head=False")
    return called(f"web.{endpoint.method.lower()}", arguments, INDENT * 2)


def _readme(named: list[tuple[str, Endpoint, Action]]) -> str:
    rows = [
        f"| `{endpoint.method} {endpoint.path}`: {_plain(endpoint.name)} | {_for_whom(endpoint)}"
        f" | `{name}`: {_plain(action.name)} |\n"
        for name, endpoint, action in named
    ]
    count = "One endpoint" if len(named) == 1 else f"{len(named)} endpoints"
    return _README.format(count=count, rows="".join(rows), more=_more(named))


def _more(named: list[tuple[str, Endpoint, Action]]) -> str:
    """What the project needs beside itself."""
    steps = [step for _, _, action in named for step in action.steps]
    upstreams = sorted({step.upstream for step in steps if isinstance(step, Call)})
    functions = sorted({step.name for step in steps if isinstance(step, Handler)})
    lines = []
    if upstreams:
        listed = ", ".join(f"`{name}`" for name in upstreams)
        lines.append(f"Upstreams that `GATELOG_UPSTREAMS` must list: {listed}.\n")
    if functions:
        listed = ", ".join(f"`{name}`" for name in functions)
        lines.append(
            f"Functions that are registered by `gatelog.composable`: {listed}. Import the modules"
            " in which they are in `composed/app.py`; until then they are answered 503.\n"
        )
    return "".join(f"\n{line}" for line in lines)


def _for_whom(endpoint: Endpoint) -> str:
    if endpoint.access == "public":
        return "everybody"
    if endpoint.access == "roles":
        return "roles " + ", ".join(f"`{role}`" for role in endpoint.roles)
    return "who is logged in"


def _plain(text: str) -> str:
    """The text as Markdown shows it as it is."""
    escaped = "".join(f"\\{each}" if each in r"\`*_{}[]()#+-.!|~" else each for each in text)
    return html.escape(escaped, quote=False)
