"""The rooms: imports point one way, within a room and between rooms, and the rules are pure."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "server" / "gatelog"
# Each room may import itself and those that stand before it; ``ground`` is what stands in none.
ROOMS = [
    "ground",
    "migrations",
    "log",
    "privacy",
    "mail",
    "sessions",
    "http",
    "accounts",
    "session_data",
    "proofs",
    "audit",
    "console",
    "composer",
    "kinds",
    "pages",
    "hosting",
    "host",
    "testing",
    "cli",
]
# What a room is made of; each may import itself and those before it, of its own and other rooms.
WORDS = ["rules", "store", "service", "web"]
# Rooms that are all of one kind: the door, what is built on it, processes and the shell.
WHOLE = {
    "http": "web",
    "kinds": "service",
    "pages": "web",
    "hosting": "web",
    "host": "shell",
    "testing": "shell",
    "cli": "shell",
    "migrations": "store",
}
# Of the ground, what may be imported by rules.
PURE = {"errors", "ids", "master_keys", "moments", "settings", "text"}
# No clock, no randomness, no I/O in the rules: they come in as arguments.
IMPURE = {
    "asyncio",
    "logging",
    "os",
    "pathlib",
    "random",
    "secrets",
    "socket",
    "subprocess",
    "threading",
    "time",
}
STORES = {"asyncpg", "lmdb", "sqlalchemy", "alembic"}
# Nothing is longer, in lines: a reader holds a module, and sees a function at once.
LONGEST_MODULE = 450
LONGEST_FUNCTION = 60
# The package itself names what is public, wherever it is, and imports nothing (tests/test_api.py).
MODULES = sorted(
    path
    for path in PACKAGE.rglob("*.py")
    if "migrations" not in path.parts and path != PACKAGE / "__init__.py"
)


class Place:
    """Where a module stands: its room and what it is in it."""

    def __init__(self, parts: tuple[str, ...]) -> None:
        self.room = parts[0] if parts and parts[0] in ROOMS else "ground"
        self.word = "ground"
        if self.room in WHOLE:
            self.word = WHOLE[self.room]
        elif self.room != "ground":
            self.word = parts[1] if len(parts) > 1 and parts[1] in WORDS else "nowhere"
        self.pure_ground = self.room == "ground" and (not parts or parts[0] in PURE)

    def __str__(self) -> str:
        return f"{self.room}.{self.word}"


def parts_of(path: Path) -> tuple[str, ...]:
    return path.relative_to(PACKAGE).with_suffix("").parts


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def faults(parts: tuple[str, ...], names: Iterator[str]) -> Iterator[str]:
    own = Place(parts)
    for name in names:
        top, *rest = name.split(".")
        if top == "gatelog" and rest and not (len(rest) == 1 and rest[0] in ROOMS):
            other = Place(tuple(rest))
            if not may_import(own, other):
                yield f"{'.'.join(parts)} ({own}) imports {name} ({other})"
        if own.word == "rules" and top in IMPURE:
            yield f"{'.'.join(parts)} ({own}) imports {name}"
        if own.word in {"rules", "web"} and top in STORES:
            yield f"{'.'.join(parts)} ({own}) imports {name}"


def may_import(own: Place, other: Place) -> bool:
    if ROOMS.index(other.room) > ROOMS.index(own.room):
        return False
    if own.word == "rules":
        return other.word == "rules" or other.pure_ground
    if own.word in WORDS and other.word in WORDS:
        return WORDS.index(other.word) <= WORDS.index(own.word)
    return True


@pytest.mark.parametrize("path", MODULES, ids=lambda path: "/".join(parts_of(path)))
def test_imports_point_one_way(path: Path) -> None:
    assert list(faults(parts_of(path), imported(path))) == []


@pytest.mark.parametrize(
    "path",
    [p for p in MODULES if p.name != "__init__.py"],
    ids=lambda path: "/".join(parts_of(path)),
)
def test_every_module_has_its_place(path: Path) -> None:
    assert Place(parts_of(path)).word != "nowhere"


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("log/rules/x", "gatelog.log.store.reading"),
        ("log/rules/x", "time"),
        ("log/rules/x", "gatelog.config"),
        ("log/store/x", "gatelog.sessions.rules.record"),
        ("sessions/store/x", "gatelog.sessions.service.gate"),
        ("sessions/service/x", "gatelog.http.guard"),
        ("accounts/web/x", "gatelog.cli"),
        ("accounts/web/x", "asyncpg"),
        ("errors", "gatelog.log.rules.events"),
    ],
)
def test_a_wrong_import_is_found(module: str, name: str) -> None:
    assert list(faults(tuple(module.split("/")), iter([name, f"{name}.y"])))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: "/".join(parts_of(path)))
def test_nothing_is_too_long(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= LONGEST_MODULE
    assert not list(long_functions(text))


def test_a_long_function_is_found() -> None:
    body = "    pass\n" * (LONGEST_FUNCTION - 1)
    assert not list(long_functions(f"def f():\n{body}"))
    assert list(long_functions(f"class C:\n  async def f():\n{body}    pass\n")) == ["f"]


def long_functions(text: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > LONGEST_FUNCTION:
                yield node.name


def test_sql_is_nowhere_but_in_the_store() -> None:
    words = ("SELECT ", "INSERT INTO", "DELETE FROM", "UPDATE log_head")
    shell = {"embedded.py"}  # makes roles and databases, before there is a schema
    for path in MODULES:
        if Place(parts_of(path)).word != "store" and path.name not in shell:
            text = path.read_text()
            assert not [word for word in words if word in text], path
