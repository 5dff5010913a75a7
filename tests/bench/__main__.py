"""``python -m tests.bench [--quick] [PART …]``: every benchmark, or these, one after the other.

``--quick`` only shows that everything runs; its numbers mean nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import uvloop
from rich.console import Console

from tests.bench import appends, checks, logins, personal, replica, revocation
from tests.bench.stage import Stage, open_stage

SESSIONS = 1_000_000
OTHER_SESSIONS = 100_000
QUICK_SESSIONS = 2_000
WIDTH = 130  # where there is no terminal


ON_THEIR_OWN = {"appends": appends.main, "personal": personal.main}
ON_A_STAGE: dict[str, tuple[Callable[[Stage, Any], Coroutine[Any, Any, None]], Any, Any]] = {
    "checks": (checks.measure, checks.Plan(), checks.QUICK),
    "replica": (replica.measure, replica.Plan(), replica.QUICK),
    "logins": (logins.measure, logins.Plan(), logins.QUICK),
    "revocation": (revocation.measure, revocation.Plan(), revocation.QUICK),
}


def main() -> None:
    parts = [*ON_THEIR_OWN, *ON_A_STAGE]
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Measure.")
    parser.add_argument("parts", nargs="*", metavar="part", help=f"{', '.join(parts)}; or all")
    parser.add_argument("--quick", action="store_true", help="see that it runs; not to measure")
    asked = parser.parse_args()
    if unknown := {*asked.parts} - {*parts}:
        parser.error(f"there is no part {', '.join(sorted(unknown))}")
    measure(asked.parts or (list(ON_A_STAGE) if asked.quick else parts), quick=asked.quick)


def measure(parts: Sequence[str], *, quick: bool) -> None:
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH
    for part in parts:
        if part in ON_THEIR_OWN:
            ON_THEIR_OWN[part]()
    staged = [ON_A_STAGE[part] for part in parts if part in ON_A_STAGE]
    if not staged:
        return
    sizes = (QUICK_SESSIONS, QUICK_SESSIONS) if quick else (SESSIONS, OTHER_SESSIONS)
    with open_stage(console, *sizes, hosts=2 if quick else 3) as stage:
        for run, plan, small in staged:
            uvloop.run(run(stage, small if quick else plan))


if __name__ == "__main__":
    main()
