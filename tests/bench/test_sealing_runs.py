"""The benchmark of sealing runs to its end, and what it sealed verifies."""

from __future__ import annotations

import os
import subprocess
import sys

TIMEOUT_S = 100


def test_the_quick_run() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.sealing", "--quick"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for row in ("sealing a backlog", "verify, live", "export to a directory", "verify, export"):
        assert f"│ {row}" in done.stdout
    assert " 0 findings" in done.stdout
