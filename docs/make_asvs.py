"""Writes docs/asvs.md from the tests in tests/asvs: ``python docs/make_asvs.py``."""

from __future__ import annotations

import ast
import inspect
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.asvs import catalogue  # noqa: E402
from tests.asvs.catalogue import Requirement, Section  # noqa: E402

PAGE = Path(__file__).with_name("asvs.md")
TESTS = ROOT / "tests" / "asvs"
HEAD = """# Requirement by requirement

What OWASP ASVS 5.0 (levels 1 to 3) and NIST SP 800-63B-4 ask of sessions and logins, how Gatelog
meets it, and the test that shows it on the running service. Numbers and titles are the standards'
([ASVS](https://github.com/OWASP/ASVS), [NIST](https://pages.nist.gov/800-63-4/sp800-63b.html));
what is asked is said in words of our own, so read the standard for the letter. What was decided,
and why, is in [security](security.md).

This page is made from the tests (`python docs/make_asvs.py`).
"""


class Test:
    """The test of a requirement: where it stands, and what its docstring says."""

    def __init__(self, module: Path, function: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self.name = function.name
        self.place = module.relative_to(ROOT).as_posix()
        self.says = " ".join(inspect.cleandoc(ast.get_docstring(function) or "").split())


def tests() -> dict[str, Test]:
    """Every test of these, by name, whether there is such a requirement or not."""
    found = {}
    for module in sorted(TESTS.glob("test_*.py")):
        for node in ast.parse(module.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith(
                ("test_v", "test_nist")
            ):
                found[node.name] = Test(module, node)
    return found


def state(requirement: Requirement, test: Test | None) -> str:
    """Met, in part, planned, or not applicable."""
    if requirement.absent:
        return "does not apply"
    if test is None:
        return "planned"
    return "in part" if requirement.planned else "met"


def row(requirement: Requirement, test: Test | None) -> str:
    """The line of the table about a requirement."""
    told = [test.says] if test else []
    if requirement.planned:
        told.append(f"Planned: {requirement.planned}")
    told += [requirement.absent] if requirement.absent else []
    name = f"[{test.name}](../{test.place})" if test else ""
    level = str(requirement.level or "")
    cells = [
        requirement.id,
        level,
        requirement.asks,
        state(requirement, test),
        " ".join(told),
        name,
    ]
    return f"| {' | '.join(cell.replace('``', '`').replace('|', '&#124;') for cell in cells)} |"


def table(section: Section, known: dict[str, Test]) -> str:
    """What there is to say of a section."""
    lines = [
        f"## {section.id} {section.title}",
        "",
        "| | level | it asks | state | how | test |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        row(each, known.get(catalogue.name_of_test(each.id))) for each in section.requirements
    ]
    return "\n".join([*lines, ""])


def page() -> str:
    """The page as it should be."""
    known = tests()
    states = [
        state(each, known.get(catalogue.name_of_test(each.id)))
        for each in catalogue.requirements().values()
    ]
    counts = ", ".join(
        f"{states.count(kind)} {said}"
        for kind, said in (
            ("met", "are met"),
            ("in part", "in part"),
            ("planned", "planned"),
            ("does not apply", "do not apply"),
        )
    )
    summary = f"Of {len(states)} requirements {counts}.\n"
    return "\n".join([HEAD, summary, *(table(section, known) for section in catalogue.SECTIONS)])


if __name__ == "__main__":
    if "--check" in sys.argv[1:]:
        sys.exit(page() != PAGE.read_text())
    PAGE.write_text(page())
