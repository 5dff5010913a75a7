"""``gatelog compose``: the walk from a file, in a database that a service may be using."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from gatelog.composer.rules.code.project import files
from gatelog.composer.rules.composition import CurrentUser, Handler, Logout
from gatelog.composer.rules.files import write

from tests.composer.compositions import WALK, one
from tests.conftest import Dsns


@pytest.fixture
def run(
    database: Dsns,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> object:
    """Runs a command; returns its exit code, and what it wrote."""
    from gatelog.cli import run as run_command

    monkeypatch.setenv("GATELOG_DATABASE_URL", database.app)
    monkeypatch.setenv("GATELOG_DATA_DIR", str(tmp_path / "var"))
    monkeypatch.setenv("GATELOG_LEASE_TTL_S", "0.1")
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        code = run_command(["compose", *arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def test_apply_export_and_diff(run: object, tmp_path: Path) -> None:
    assert callable(run)
    file = tmp_path / "walk.toml"
    file.write_text(write(WALK))
    code, out, _ = run("diff", "walk.toml")
    assert code == 1 and "endpoint 'Who am I' added: GET /v2/me" in out
    code, out, _ = run("apply", "walk.toml")
    assert (code, out.splitlines()[-1]) == (0, "Build 1 is live.")
    assert run("apply", "walk.toml")[:2] == (0, "This is live already.\n")
    assert run("diff", "walk.toml")[:2] == (0, "There is no difference.\n")
    assert run("export", "-")[:2] == (0, write(WALK))
    assert run("export", "copy.toml")[0] == 0
    assert (tmp_path / "copy.toml").read_text() == write(WALK)
    file.write_text(write(one(CurrentUser())))
    code, out, _ = run("apply", "walk.toml", "--json")
    assert code == 0 and json.loads(out)["build"] == 2
    assert run("export", "-", "--build", "1")[1] == write(WALK)
    code, out, _ = run("diff", "copy.toml", "--build", "1")
    assert (code, out) == (0, "There is no difference.\n")
    assert json.loads(run("diff", "copy.toml", "--json")[1])[0]["how"] == "removed"


def test_what_cannot_be_applied_is_told_in_a_line(run: object, tmp_path: Path) -> None:
    assert callable(run)
    file = tmp_path / "wrong.toml"
    for composition, why in (
        (one(Logout(), CurrentUser()), "step 1 (logout) has ended the session"),
        (one(CurrentUser(), path="/v1/me"), "which the product itself answers"),
        (one(CurrentUser(), path="/api/x"), "which the application at /api answers"),
        (one(Handler(name="missing")), "registered no handler"),
    ):
        file.write_text(write(composition))
        code, _, err = run("apply", "wrong.toml")
        assert code == 1 and why in err and len(err.splitlines()) == 1, err
    assert run("export", "-")[1] == "format = 1\n"
    assert "\\n" not in run("export", "-", "--draft")[1]
    file.write_text("nonsense")
    assert run("apply", "wrong.toml")[0] == 1
    assert run("apply", "missing.toml")[0] == 1
    assert "There is no such build" in run("export", "-", "--build", "7")[2]


def test_a_handler_of_the_hosted_application_is_known(
    run: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert callable(run)
    (tmp_path / "hosted_for_compose.py").write_text(
        "from aiohttp import web\nfrom gatelog import composable\n\n\n"
        "@composable('from_a_file')\nasync def handler(request):\n    return web.Response()\n\n\n"
        "def make_app():\n    return web.Application()\n"
    )
    monkeypatch.setenv("GATELOG_APP", "hosted_for_compose:make_app")
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "it.toml").write_text(write(one(Handler(name="from_a_file"))))
    code, out, err = run("apply", "it.toml")
    assert (code, out.splitlines()[-1:]) == (0, ["Build 1 is live."]), err


def test_a_build_is_written_as_a_project(run: object, tmp_path: Path) -> None:
    assert callable(run)
    (tmp_path / "walk.toml").write_text(write(WALK))
    run("apply", "walk.toml")
    code, out, _ = run("code", "project")
    written = {f"project/{name}": text for name, text in files(WALK).items()}
    assert (code, out.splitlines()) == (0, list(written))
    assert {name: (tmp_path / name).read_text() for name in written} == written
    code, _, err = run("code", "project")
    assert code == 1 and "there is something in project already" in err
    (tmp_path / "walk.toml").write_text("format = 1\n")
    run("apply", "walk.toml")
    assert run("code", "before", "--build", "1")[0] == 0
    assert (tmp_path / "before" / "composition.toml").read_text() == write(WALK)
    assert run("code", "nothing", "--build", "7")[0] == 1


def test_off_there_is_none(run: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert callable(run)
    monkeypatch.setenv("GATELOG_COMPOSER", "off")
    code, _, err = run("export", "-")
    assert code == 1 and "GATELOG_COMPOSER" in err
