"""A thousand connections that stay, slow clients beside them, and nobody gets a wrong answer.

It is the benchmark of ten thousand, with less of all.
"""

from __future__ import annotations

import io

from rich.console import Console

from tests.bench.connections import QUICK, measure


def test_the_quick_run() -> None:
    console = Console(file=io.StringIO(), width=130)
    measure(console, QUICK)
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert "1,000 kept connections" in shown
    for row in ("checks, on all of them in turn", "logins", "logouts, each token refused"):
        assert f"│ {row}" in shown, shown
    assert "MiB when they were open" in shown
