"""The benchmark of composed endpoints runs, and what they answer is what the handler does."""

from __future__ import annotations

import io

from rich.console import Console

from tests.bench.composed import QUICK, run


def test_the_quick_run() -> None:
    shown = io.StringIO()
    run(Console(file=shown, width=130), QUICK)
    for row in ("by hand, beside 10", "of 10", "by hand, beside 1000", "of 1000"):
        assert f"│ {row}" in shown.getvalue(), shown.getvalue()
