"""The public API: small, typed, documented, and cheap to import."""

from __future__ import annotations

import importlib
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import gatelog
import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *ROOT.glob("docker/**/*.md")]
NAMES = [
    "SESSION",
    "Config",
    "EventLogStorage",
    "GatelogError",
    "RolesAuthorizationPolicy",
    "Session",
    "SessionIdentityPolicy",
    "changes_nothing",
    "changes_state",
    "create_app",
    "load_config",
    "public",
    "recent_login",
    "requires",
    "run",
    "setup",
]


def test_what_is_public_is_said() -> None:
    assert gatelog.__all__ == NAMES
    assert set(NAMES) <= set(dir(gatelog))
    with pytest.raises(AttributeError, match="nothing_like_it"):
        gatelog.nothing_like_it  # noqa: B018


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_at_home_where_it_is_said(name: str) -> None:
    assert getattr(gatelog, name) is getattr(importlib.import_module(gatelog._HOMES[name]), name)


def test_importing_it_loads_no_web_framework() -> None:
    told = subprocess.run(
        [sys.executable, "-c", "import gatelog, sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(told.stdout.split())
    assert not {"aiohttp", "asyncpg", "lmdb", "sqlalchemy"} & loaded
    assert {name for name in loaded if name.startswith("gatelog")} == {"gatelog"}


def test_the_page_is_what_the_docstrings_say() -> None:
    spec = importlib.util.spec_from_file_location("make_api", ROOT / "docs" / "make_api.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    assert (ROOT / "docs" / "api.md").read_text() == made.page()


PROGRAM = """
from aiohttp import web
from gatelog import SESSION, Config, GatelogError, Session, create_app, load_config, public, run

@public
async def handler(request: web.Request) -> web.Response:
    session = request[SESSION]
    reveal_type(session)
    return web.Response(text=session.subject_text)

config: Config = load_config({})
app: web.Application = create_app([web.get("/", handler)], config)
run([web.get("/", handler)], 5)
"""


def test_a_program_sees_the_types(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    told = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-incremental", str(program)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert 'Revealed type is "gatelog.sessions.rules.record.Session"' in told.stdout
    errors = [line for line in told.stdout.splitlines() if ": error:" in line]
    assert len(errors) == 1, told.stdout
    assert 'Argument 2 to "run"' in errors[0]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_page_imports_what_is_private(page: Path) -> None:
    imports = re.findall(r"^\s*(?:from|import) (gatelog\S*)", page.read_text(), re.MULTILINE)
    assert set(imports) <= {"gatelog"}
