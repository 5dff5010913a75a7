"""Installed from a wheel, in a project that has packages named like this repository's folders."""

from __future__ import annotations

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

from tests.scratch import in_temporary_directory
from tests.stack.service import (
    COMMAND_TIMEOUT_S,
    REQUEST_TIMEOUT_S,
    ROOT,
    START_TIMEOUT_S,
    STOP_TIMEOUT_S,
    Captured,
    environment,
)
from tests.waiting import eventually

SOURCES = ("server", "migrations", "setup.cfg", "pyproject.toml", "README.md")
SHADOWS = ("logging", "http", "asyncio", "gatelog_app", "secrets")  # modules of the project


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
    data = ["py.typed", "accounts/common_passwords.txt", "accounts/common_passwords.md"]
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
    """A fresh environment with the wheel installed; its dependencies are those of this one."""
    place = folder / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", place, cwd=folder)
    python = place / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", wheel, cwd=folder)
    # after the environment's own packages; with addsitedir the checkout would come along
    (found,) = place.glob("lib/python*/site-packages")
    (found / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return python


@pytest.fixture(scope="module")
def project(folder: Path) -> Path:
    """A project with packages named like the repository's folders, and modules like Python's."""
    place = folder / "project"
    for name in ("server", "migrations", "tests", *SHADOWS):
        (place / name).mkdir(parents=True)
        (place / name / "__init__.py").write_text("raise RuntimeError('not this one')\n")
    (place / "server" / "__init__.py").write_text("")
    (place / "server" / "x.py").write_text("print('the project')\n")
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
    env = own_environment(data_dir)
    where = run(python, "-P", "-c", "import gatelog; print(gatelog.__file__)", cwd=project, env=env)
    assert str(python.parent.parent) in where
    with served([str(gatelog), "serve"], project, env) as url:
        assert status_of(url, "/health/ready") == 200
        assert status_of(url, "/v1/me") == 401
        told = run(gatelog, "status", "--json", cwd=project, env=env)
        assert '"head"' in told
        run(gatelog, "check", cwd=project, env=env)
        run(gatelog, "migrate", cwd=project, env=env)
        assert run(python, "-m", "server.x", cwd=project, env=env) == "the project\n"
        run(gatelog, "demo", cwd=project, env=env)


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


def status_of(url: str, path: str) -> int:
    connection = HTTPConnection(url.split(maxsplit=1)[0], timeout=REQUEST_TIMEOUT_S)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()
