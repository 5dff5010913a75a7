"""The benchmark of a long log runs to its end, and what it has loaded is a log like any other."""

from __future__ import annotations

import os
import subprocess
import sys

TIMEOUT_S = 100


def test_the_quick_run() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.audit", "--quick"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Verification: 0 findings") == 2  # before and after the purge
    for row in ("sealed", "marked", "user, 10⁵ events", "address of many", "ndjson, opened"):
        assert f"│ {row}" in done.stdout
    assert "Purge of 8,192 events, 6 partitions" in done.stdout
