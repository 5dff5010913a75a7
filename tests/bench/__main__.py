"""``python -m tests.bench [--quick]``: every benchmark, one after the other.

``--quick`` only shows that everything runs; its numbers mean nothing.
"""

from __future__ import annotations

import sys

import uvloop
from rich.console import Console

from tests.bench import appends, checks, logins, personal, replica, revocation
from tests.bench.stage import open_stage

SESSIONS = 1_000_000
OTHER_SESSIONS = 100_000
QUICK_SESSIONS = 2_000
WIDTH = 130  # where there is no terminal


def main() -> None:
    quick = "--quick" in sys.argv[1:]
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH
    sizes = (QUICK_SESSIONS, QUICK_SESSIONS) if quick else (SESSIONS, OTHER_SESSIONS)
    if not quick:
        appends.main()
        personal.main()
    with open_stage(console, *sizes, hosts=2 if quick else 3) as stage:
        uvloop.run(checks.measure(stage, checks.QUICK if quick else checks.Plan()))
        uvloop.run(replica.measure(stage, replica.QUICK if quick else replica.Plan()))
        uvloop.run(logins.measure(stage, logins.QUICK if quick else logins.Plan()))
        uvloop.run(revocation.measure(stage, revocation.QUICK if quick else revocation.Plan()))


if __name__ == "__main__":
    main()
