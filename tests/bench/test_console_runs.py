"""The benchmark of the console's pages runs to its end."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.bench.console import pages

TIMEOUT_S = 100


def test_the_quick_run() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.console", "--quick"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for name in pages():
        assert f"│ {name}" in done.stdout
