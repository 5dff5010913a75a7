"""The public API: small, typed, documented, and cheap to import."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

import gatelog
import gatelog.testing
import pytest
from gatelog import Config, GatelogError
from gatelog.config import Setting, settings_of

from tests.documented import says_what_it_means, unsaid_errors, unsaid_units

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
    "Steps",
    "changes_nothing",
    "changes_state",
    "composable",
    "create_app",
    "describes",
    "load_config",
    "no_tokens",
    "public",
    "read_body",
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


def make_api() -> ModuleType:
    """The program that makes the page."""
    spec = importlib.util.spec_from_file_location("make_api", ROOT / "docs" / "make_api.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def test_the_page_is_what_the_docstrings_say() -> None:
    assert (ROOT / "docs" / "api.md").read_text() == make_api().page()


def described(name: str) -> Iterator[tuple[str, Callable[..., Any]]]:
    """The functions of a public name: itself, or a class's methods and properties."""
    value = getattr(gatelog, name)
    if inspect.isfunction(value):
        yield name, value
    for member, item in vars(value).items() if inspect.isclass(value) else ():
        function = item.fget if isinstance(item, property) else item
        if not member.startswith("_") and inspect.isfunction(function):
            yield member, function


@pytest.mark.parametrize("name", NAMES)
def test_a_docstring_says_what_one_has_to_know(name: str) -> None:
    value = getattr(gatelog, name)
    assert says_what_it_means(make_api().CONSTANTS.get(name) or inspect.getdoc(value) or "")
    for called, function in described(name):
        text = inspect.getdoc(function) or ""
        assert says_what_it_means(text), called
        assert unsaid_units(called, get_type_hints(function), text) == set()
        assert unsaid_errors(function) == set(), called


@pytest.mark.parametrize("setting", settings_of(Config()), ids=lambda setting: setting.variable)
def test_a_setting_says_its_unit(setting: Setting) -> None:
    name = setting.variable.lower()
    assert re.fullmatch(r"[A-Z].* .*[.]", setting.meaning)
    assert unsaid_units(name, {"return": type(setting.value)}, setting.meaning) == set()


class Late(Exception):
    pass


def _check(late: bool) -> None:
    if late:
        raise Late


def takes_its_time(timeout_s: float, share: float) -> datetime:
    """Wait."""
    try:
        _check(share > 1)
        _check(timeout_s > 1)
        raise KeyError
    except KeyError as error:
        raise GatelogError from error


def takes_as_long(timeout_s: float, share: float) -> datetime:
    """Wait for so many seconds, in percent of a day; when that was (UTC).

    Raises GatelogError every time, and Exception when it is late.
    """
    return takes_its_time(timeout_s, share)


def test_what_a_docstring_does_not_say_is_found() -> None:
    hints = get_type_hints(takes_its_time)
    assert not says_what_it_means("Wait.")
    wanted = {"timeout_s: seconds", "share: a unit", "takes_its_time: UTC"}
    assert unsaid_units("takes_its_time", hints, "Wait.") == wanted
    assert unsaid_errors(takes_its_time) == {"Late", "GatelogError"}
    text = inspect.getdoc(takes_as_long) or ""
    assert says_what_it_means(text)
    assert unsaid_units("takes_as_long", hints, text) == set()
    assert unsaid_errors(takes_as_long) == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_imports_from_the_public_api_alone(page: Path) -> None:
    text = page.read_text()
    programs = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert programs or page != ROOT / "README.md"
    for program in programs if page.name != "api.md" else ():  # which has signatures
        for module, names in imported(ast.parse(program)):
            package = module.partition(".")[0]
            # "app" is the file that the README calls its program; "jwt" checks what is signed
            assert package in {
                "gatelog",
                "aiohttp",
                "app",
                "jwt",
                "msgspec",
                *sys.stdlib_module_names,
            }
            if module == "gatelog.testing":
                assert names <= set(gatelog.testing.__all__)
            elif package == "gatelog":
                assert module == "gatelog"
                assert names <= set(NAMES)
    mentioned = re.findall(r"^\s*(?:from|import) (gatelog\S*)", text, re.MULTILINE)
    assert set(mentioned) <= {"gatelog", "gatelog.testing"}


def imported(tree: ast.AST) -> Iterator[tuple[str, set[str]]]:
    """The modules that are imported, each with the names that are taken from it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert not node.level
            yield node.module or "", {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            yield from ((alias.name, set()) for alias in node.names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        place, _, heading = target.partition("#")
        if re.match(r"[a-z]+:", place):
            continue
        other = page.parent / place if place else page
        assert other.exists(), target
        if heading:
            assert heading in headings(other), target


def headings(page: Path) -> set[str]:
    """The anchors of a page, as forges make them."""
    found = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in found}
