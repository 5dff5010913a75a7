"""``new``: a small application to begin with, and its test."""

from __future__ import annotations

import keyword
import sys
from importlib.util import find_spec
from pathlib import Path

import click

from gatelog.errors import InvalidInput, OperatorError

APP = '''\
"""Orders: an API that Gatelog hosts. Every handler is protected unless it is marked public."""

from aiohttp import web
from gatelog import SESSION, public, requires


@public
async def prices(request: web.Request) -> web.Response:
    return web.json_response({"apple": 1})


async def orders(request: web.Request) -> web.Response:
    return web.json_response({"user": str(request[SESSION].subject_id), "orders": []})


@requires("admin")
async def report(request: web.Request) -> web.Response:
    return web.json_response({"orders": 0})


def make_app() -> web.Application:
    app = web.Application()
    app.add_routes([web.get("/prices", prices), web.get("/orders", orders)])
    app.add_routes([web.get("/report", report)])
    return app
'''

TEST = '''\
"""The API behind the check, with real sessions on a database of each test's own."""

from gatelog.testing import GatelogClient, login_as

from {name} import make_app


async def test_prices_are_for_everybody(gatelog_client: GatelogClient) -> None:
    client = await gatelog_client(make_app)
    assert (await client.get("/api/prices")).status == 200


async def test_orders_are_for_users(gatelog_client: GatelogClient) -> None:
    client = await gatelog_client(make_app)
    assert (await client.get("/api/orders")).status == 401
    await login_as(client, "ada")
    assert (await client.get("/api/orders")).status == 200


async def test_the_report_is_for_administrators(gatelog_client: GatelogClient) -> None:
    client = await gatelog_client(make_app)
    await login_as(client, "ada")
    assert (await client.get("/api/report")).status == 403
    await login_as(client, "ada", roles={{"admin"}})
    assert (await client.get("/api/report")).status == 200
'''

PROJECT = """\
[project]
name = "{project}"
version = "0.1.0"
requires-python = ">=3.11"
dependencies = ["gatelog[embedded]"]

[project.optional-dependencies]
test = ["gatelog[testing]"]

[tool.setuptools]
py-modules = ["{name}"]

[tool.pytest.ini_options]
asyncio_mode = "auto"
asyncio_default_fixture_loop_scope = "function"
pythonpath = ["."]
"""

IGNORED = """\
__pycache__/
.pytest_cache/
*.egg-info/
var/
"""


@click.command()
@click.argument("name")
def new(name: str) -> None:
    """Write a small application, NAME, and its test into a directory of that name."""
    files = written(name)
    click.echo(f"Wrote {', '.join(path.name for path in files)} into {name}/.\n")
    click.echo(f"  cd {name}")
    click.echo("  python -m pytest")
    click.echo(f"  GATELOG_APP={name}:make_app gatelog serve --reload")


def written(name: str) -> list[Path]:
    """Write the application into a new directory of this name; returns the files.

    Raises InvalidInput for what cannot be a module's name, and OperatorError where the directory
    is there already or cannot be made.
    """
    _check(name)
    folder = Path.cwd() / name
    texts = {
        f"{name}.py": APP,
        f"test_{name}.py": TEST.format(name=name),
        "pyproject.toml": PROJECT.format(name=name, project=name.replace("_", "-")),
        ".gitignore": IGNORED,
    }
    try:
        folder.mkdir()  # what is there already is left alone
        for file, text in texts.items():
            (folder / file).write_text(text)
    except FileExistsError as error:
        raise OperatorError(f"{name} is there already") from error
    except OSError as error:
        raise OperatorError(f"cannot write {error.filename}: {error.strerror}") from error
    return [folder / file for file in texts]


def _check(name: str) -> None:
    if not (name.isascii() and name.isidentifier() and name.islower()) or keyword.iskeyword(name):
        raise InvalidInput(f"{name!r} is no name for a module: take lower-case letters, digits, _")
    if name.startswith("_") or name.endswith("_"):
        raise InvalidInput(f"{name!r} is no name for a project: let it begin and end otherwise")
    if name in sys.stdlib_module_names or _is_installed(name):
        raise InvalidInput(f"there is a module {name} already, which would be found first")


def _is_installed(name: str) -> bool:
    found = find_spec(name)
    return found is not None and found.origin is not None  # a mere directory has none
