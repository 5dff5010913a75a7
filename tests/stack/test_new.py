"""``gatelog new``: what it writes runs, and its test passes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.stack.service import COMMAND_TIMEOUT_S, Service, environment, run_command

NAME = "my_api"


@pytest.fixture
def project(tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    done = run_command(data_dir, "new", NAME)
    assert done.returncode == 0, done.stderr
    assert f"GATELOG_APP={NAME}:make_app gatelog serve --reload" in done.stdout
    return tmp_path / NAME


def outcome_of(project: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-B", "-m", "pytest", "-W", "error"],
        cwd=project,
        env=environment(project / "var", {}),
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
        check=False,
    )


def test_its_test_passes_and_can_fail(project: Path) -> None:
    done = outcome_of(project)
    assert re.search(r"\b3 passed\b", done.stdout), done.stdout + done.stderr
    app = project / f"{NAME}.py"
    app.write_text(app.read_text().replace('@requires("admin")', "@public"))
    assert re.search(r"\b1 failed, 2 passed\b", outcome_of(project).stdout)


def test_it_is_served(project: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    service = Service(data_dir, arguments=("--reload",), GATELOG_APP=f"{NAME}:make_app")
    try:
        service.wait_until_announced()
        assert service.request("GET", "/api/prices").json == {"apple": 1}
        assert service.request("GET", "/api/orders").status == 401
        assert service.register() == 201
        cookie = service.log_in().cookie
        assert service.request("GET", "/api/orders", cookie=cookie).json["orders"] == []
        assert service.request("GET", "/api/report", cookie=cookie).status == 403
    finally:
        assert service.stop() == 0


def test_what_is_there_is_left_alone(project: Path, data_dir: Path) -> None:
    app = project / f"{NAME}.py"
    app.write_text("mine")
    done = run_command(data_dir, "new", NAME)
    assert done.returncode == 1
    assert "my_api is there already" in done.stderr
    assert app.read_text() == "mine"


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "My", "my-api", "1st", "class", "json", "gatelog", "aiohttp", "_x", ""]
)
def test_a_name_that_would_not_work_is_refused(
    name: str, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run_command(data_dir, "new", "--", name)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())
