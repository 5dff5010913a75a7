"""Installed from a wheel, editable, or run from its checkout, beside a project of somebody's: its
packages are named like this repository's folders, its modules like Python's and the product's.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from zipfile import ZipFile

import pytest
from gatelog.hosting.docs import PAGE

from tests.scratch import in_temporary_directory
from tests.stack.service import (
    COMMAND_TIMEOUT_S,
    REQUEST_TIMEOUT_S,
    ROOT,
    START_TIMEOUT_S,
    STOP_TIMEOUT_S,
    Captured,
    complaints,
    environment,
)
from tests.waiting import eventually

SOURCES = ("server", "migrations", "setup.cfg", "pyproject.toml", "README.md", "run.py")
FOLDERS = ("server", "migrations", "tests")  # of this repository and of the project
SHADOWS = ("logging", "http", "asyncio", "secrets", "aiohttp", "click", "tasks", "errors")
SHOP = """
import gatelog, migrations, server.x, tests
from aiohttp import web


@gatelog.public
async def places(request: web.Request) -> web.Response:
    modules = (gatelog, migrations, server.x, tests)
    return web.json_response({module.__name__: module.__file__ for module in modules})


async def orders(request: web.Request) -> web.Response:
    return web.Response(text=request[gatelog.SESSION].subject_text)


app = web.Application()
app.add_routes([web.get("/places", places), web.get("/orders", orders)])
"""


def run(*words: str | Path, cwd: Path, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with in_temporary_directory() as directory:
        yield Path(directory)


@pytest.fixture(scope="module")
def sources(folder: Path) -> Path:
    """What the package is built from, and nothing that a build has left there."""
    copy = folder / "sources"
    copy.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=ignored)
        else:
            shutil.copy(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def wheel(folder: Path, sources: Path) -> Path:
    return build_wheel(sources, folder / "wheels")


def build_wheel(source: Path, into: Path) -> Path:
    pip = (sys.executable, "-m", "pip", "wheel", "--no-deps")
    run(*pip, "--wheel-dir", into, source, cwd=into.parent)
    (built,) = into.glob("*.whl")
    return built


def names_in(wheel: Path) -> set[str]:
    return {name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name}


def test_it_holds_the_package_and_nothing_else(wheel: Path) -> None:
    package = ROOT / "server" / "gatelog"
    own = [p.relative_to(package.parent).as_posix() for p in package.rglob("*.py")]
    moved = [f"gatelog/{p.relative_to(ROOT).as_posix()}" for p in ROOT.glob("migrations/**/*.py")]
    mails = (package / "mail/templates").iterdir()
    data = [
        "py.typed",
        *(f"mail/templates/{path.name}" for path in mails),
        *(f"accounts/common_passwords.{end}" for end in ("txt", "md")),
        *(f"hosting/page/{name}" for name in ("icon.svg", "page.css", "page.html", "page.js")),
        *(
            path.relative_to(package).as_posix()
            for folder in ("mail/templates", "pages/static", "pages/templates")
            for path in (package / folder).rglob("*.*")
        ),
    ]
    assert names_in(wheel) == {*own, *moved, *(f"gatelog/{name}" for name in data)}


def test_a_source_distribution_makes_the_same_wheel(
    folder: Path, sources: Path, wheel: Path
) -> None:
    build = "import setuptools.build_meta as b, sys; print(b.build_sdist(sys.argv[1]))"
    made = run(sys.executable, "-c", build, folder, cwd=sources).splitlines()[-1]
    with tarfile.open(folder / made) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    assert names_in(build_wheel(unpacked, folder / "again")) == names_in(wheel)


@pytest.fixture(scope="module")
def python(folder: Path, wheel: Path) -> Path:
    """Of a fresh environment with the wheel installed."""
    return installed(folder / "venv", wheel)


@pytest.fixture(scope="module")
def editable(folder: Path, sources: Path) -> Path:
    """Of a fresh environment with an editable install of a checkout of its own."""
    checkout = folder / "checkout"
    shutil.copytree(sources, checkout, symlinks=True)
    (checkout / "tests").mkdir()
    (checkout / "tests" / "__init__.py").write_text("raise RuntimeError('of the checkout')\n")
    return installed(folder / "venv-editable", "--editable", checkout)


def installed(place: Path, *what: str | Path) -> Path:
    """The interpreter of a fresh environment; its dependencies are those of this one."""
    run(sys.executable, "-m", "venv", "--without-pip", place, cwd=place.parent)
    python = place / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python)
    run(*pip, "install", "--no-deps", *what, cwd=place.parent)
    # after the environment's own packages; with addsitedir the checkout would come along
    (found,) = place.glob("lib/python*/site-packages")
    (found / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return python


@pytest.fixture(scope="module")
def project(folder: Path) -> Path:
    """A project with packages named like the repository's folders, and modules like others'."""
    place = folder / "project"
    for name in FOLDERS:
        (place / name).mkdir(parents=True)
        (place / name / "__init__.py").write_text("")
    (place / "server" / "x.py").write_text("if __name__ == '__main__':\n    print('the project')\n")
    for name in SHADOWS:
        (place / f"{name}.py").write_text("raise RuntimeError('not this one')\n")
    (place / "shop").mkdir()
    (place / "shop" / "web.py").write_text(SHOP)
    return place


def test_everything_installed_is_its_own(python: Path, folder: Path) -> None:
    listed = run(
        sys.executable, "-m", "pip", "--python", python, "show", "-f", "gatelog", cwd=folder
    )
    files = [line.strip() for line in listed.partition("Files:")[2].splitlines() if line.strip()]
    assert len(files) > 100
    allowed = ("gatelog/", "gatelog-", "../../../bin/gatelog")
    assert [name for name in files if not name.startswith(allowed)] == []


def own_environment(data_dir: Path, **settings: str) -> dict[str, str]:
    kept = environment(data_dir, settings)
    kept.pop("PYTHONPATH", None)
    return kept


def test_it_serves_beside_the_project(python: Path, project: Path, folder: Path) -> None:
    gatelog, data_dir = python.with_name("gatelog"), folder / "var"
    env = own_environment(data_dir, GATELOG_APP="shop.web:app")
    with served([str(gatelog), "serve"], project, env) as url:
        assert_hosts_the_project(url, project, python.parent.parent)
        told = run(gatelog, "status", "--json", cwd=project, env=env)
        assert '"head"' in told
        run(gatelog, "check", cwd=project, env=env)
        run(gatelog, "migrate", cwd=project, env=env)
        assert run(python, "-m", "server.x", cwd=project, env=env) == "the project\n"
        run(gatelog, "demo", cwd=project, env=env)


@pytest.mark.parametrize("way", ["editable", "run.py"])
def test_a_checkout_serves_beside_the_project(
    editable: Path, project: Path, folder: Path, way: str
) -> None:
    checkout = folder / "checkout"
    ways = {"editable": [editable.with_name("gatelog")], "run.py": [editable, checkout / "run.py"]}
    command = [str(word) for word in ways[way]]
    env = own_environment(folder / f"var-{way}", GATELOG_APP="shop.web:app")
    with served([*command, "serve"], project, env) as url:
        assert_hosts_the_project(url, project, checkout)
        assert '"head"' in run(*command, "status", "--json", cwd=project, env=env)
        run(*command, "check", cwd=project, env=env)
    assert run(editable, "-m", "server.x", cwd=project, env=env) == "the project\n"


def assert_hosts_the_project(url: str, project: Path, product: Path) -> None:
    """The service answers, and each side has found its own modules."""
    assert ask(url, "/health/ready")[0] == 200
    assert ask(url, "/v1/me")[0] == 401
    assert ask(url, "/api/orders")[0] == 401
    pages = ("/login", "/pages/any/gatelog.css", "/pages/any/presence.js")
    for path in ("/openapi.json", *(path for path, _ in PAGE.values()), *pages):
        assert ask(url, path)[0] == 200
    status, body = ask(url, "/api/places")
    assert status == 200, body
    places = {name: Path(place) for name, place in json.loads(body).items()}
    assert places.pop("gatelog").is_relative_to(product)
    assert set(places) == {"migrations", "server.x", "tests"}
    assert {name: p for name, p in places.items() if not p.is_relative_to(project)} == {}


@pytest.fixture
def namesake(folder: Path, project: Path) -> Iterator[Path]:
    """The project has a module named like the product itself."""
    own = project / "gatelog.py"
    own.write_text("from shop.web import app\nprint('the namesake')\n")
    yield own
    own.unlink()


def test_a_project_with_a_gatelog_of_its_own(
    python: Path, project: Path, folder: Path, namesake: Path
) -> None:
    command = str(python.with_name("gatelog"))
    env = own_environment(folder / "var-namesake", GATELOG_APP="shop.web:app")
    with served([command, "serve"], project, env) as url:  # nothing of the product takes it
        assert_hosts_the_project(url, project, python.parent.parent)

    done = subprocess.run(
        [command, "serve"],
        cwd=project,
        env=env | {"GATELOG_APP": "gatelog:app"},
        capture_output=True,
        text=True,
        timeout=START_TIMEOUT_S,
        check=False,
    )
    assert done.returncode != 0
    (told,) = complaints(done)
    assert f"{namesake} is hidden by {python.parent.parent}" in told
    assert "the namesake" not in done.stdout


def checked(python: Path, program: Path) -> list[str]:
    """What ``mypy --strict`` says of a program that sees what this environment has installed."""
    mypy = (sys.executable, "-m", "mypy", "--strict", "--config-file=", "--cache-dir=cache")
    done = subprocess.run(
        [*mypy, "--python-executable", str(python), program.name],
        cwd=program.parent,
        env={k: v for k, v in os.environ.items() if k not in ("MYPYPATH", "PYTHONPATH")},
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
        check=False,
    )
    return done.stdout.splitlines() + done.stderr.splitlines()


TYPED = """
from gatelog import GatelogError, Session, create_app, run, changes_state, recent_login


@recent_login(minutes=5)
@changes_state
async def pay(request: web.Request) -> web.Response:
    session = request[SESSION]
    reveal_type(session)
    return web.Response(text=session.subject_text)


def made(error: GatelogError, session: Session) -> tuple[str, int, web.Application]:
    return error.code, session.expires_us, create_app([web.get("/", pay)], config)


run([web.get("/", pay)], 5)
"""


def test_a_program_is_checked_against_what_is_installed(python: Path, folder: Path) -> None:
    place = folder / "typed"
    place.mkdir()
    (program := place / "program.py").write_text(readme_program() + TYPED)
    told = checked(python, program)
    assert any('Revealed type is "gatelog.sessions.rules.record.Session"' in line for line in told)
    (error,) = [line for line in told if ": error:" in line]
    assert 'Argument 2 to "run" has incompatible type "int"' in error

    (marker,) = python.parent.parent.glob("lib/python*/site-packages/gatelog/py.typed")
    marker.rename(marker.with_suffix(".away"))  # it is the marker that makes the difference
    try:
        assert any("py.typed marker" in line for line in checked(python, program))
    finally:
        marker.with_suffix(".away").rename(marker)


def readme_program() -> str:
    """The README's example of an application with the product inside."""
    found = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.M | re.S)
    return str(next(program for program in found if "__main__" in program))


def test_a_new_project_is_tested_with_it(python: Path, folder: Path) -> None:
    """pytest finds the plugin of the installed package, and the test that ``new`` writes passes."""
    env = own_environment(folder / "var-of-new")
    run(python.with_name("gatelog"), "new", "fresh_api", cwd=folder, env=env)
    told = run(python, "-m", "pytest", "-q", "-rA", cwd=folder / "fresh_api", env=env)
    assert "3 passed" in told
    where = "import gatelog.testing as t; print(t.__file__)"
    assert str(python.parent.parent) in run(python, "-P", "-c", where, cwd=folder, env=env)


@contextmanager
def served(command: list[str], cwd: Path, env: dict[str, str]) -> Iterator[str]:
    """The service, started in this directory, until the context ends; gives its host and port."""
    output = Captured()
    process = subprocess.Popen(command, cwd=cwd, env=env, stdout=output.file)

    def told() -> bool:
        assert process.poll() is None
        return "http://" in output.text

    try:
        eventually(told, START_TIMEOUT_S, "the service")
        yield output.text.partition("http://")[2].split()[0].rstrip("/.")
        process.send_signal(signal.SIGTERM)
        assert process.wait(STOP_TIMEOUT_S) == 0
    finally:
        process.kill()
        process.wait()
        output.close()


def ask(url: str, path: str) -> tuple[int, str]:
    """The status and the body."""
    connection = HTTPConnection(url.split(maxsplit=1)[0], timeout=REQUEST_TIMEOUT_S)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()
