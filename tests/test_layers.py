"""The layers: imports point one way, and the core is pure."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SERVER = Path(__file__).parent.parent / "server"
# Each layer may import itself and what stands before it.
LAYERS = ["core", "store", "service", "web", "shell"]
# No clock, no randomness, no I/O in the core: they come in as arguments.
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
MODULES = sorted(SERVER.rglob("*.py"))


def layer(parts: tuple[str, ...]) -> str:
    """The layer of a module, by its path below ``server``; config and secrets are everybody's."""
    if parts[0].removesuffix(".py") in {"config", "secrets", "__init__"}:
        return "config"
    return parts[0] if parts[0] in LAYERS else "shell"


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def faults(path: Path, names: Iterator[str]) -> Iterator[str]:
    own = layer(path.relative_to(SERVER).parts)
    for name in names:
        top, *rest = name.split(".")
        if top == "server" and rest:
            other = layer(tuple(rest))
            if own == "config":
                allowed = other in {"config", "core"}
            else:
                allowed = other == "config" or LAYERS.index(other) <= LAYERS.index(own)
            if not allowed or (own == "core" and other == "config"):
                yield f"{path.name} ({own}) imports {name} ({other})"
        if own == "core" and top in IMPURE | {"server.config"}:
            yield f"{path.name} (core) imports {name}"
        if own in {"core", "web"} and top in STORES:
            yield f"{path.name} ({own}) imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SERVER)))
def test_imports_point_one_way(path: Path) -> None:
    assert list(faults(path, imported(path))) == []


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("core/x.py", "server.store.log"),
        ("core/x.py", "time"),
        ("core/x.py", "server.config"),
        ("store/x.py", "server.web.app"),
        ("service/x.py", "server.web"),
        ("web/x.py", "server.cli"),
        ("web/x.py", "asyncpg"),
    ],
)
def test_a_wrong_import_is_found(module: str, name: str) -> None:
    assert list(faults(SERVER / module, iter([name])))


def test_sql_is_nowhere_but_in_the_store() -> None:
    words = ("SELECT ", "INSERT INTO", "DELETE FROM", "UPDATE log_head")
    shell = {"embedded.py"}  # makes roles and databases, before there is a schema
    for path in MODULES:
        if layer(path.relative_to(SERVER).parts) != "store" and path.name not in shell:
            text = path.read_text()
            assert not [word for word in words if word in text], path
