"""The benchmarks run to their end, with every contestant answering as it must.

A benchmark checks the answers of its contestants itself (good credentials 200, others 401) and
ends with an error otherwise. Its numbers are nobody's business here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

TIMEOUT_S = 200  # on a busy machine; an idle one needs a tenth of it

pytestmark = pytest.mark.timeout(TIMEOUT_S + 20)

ROWS = [
    "bare aiohttp, no check",
    "protected by Gatelog",
    "the same, hosted",
    "GET /v1/me",
    "GET /v1/auth",
    "GET /v1/auth, signed",
    "one SELECT, asyncpg",
    "PyJWT, HS256",
    "bare aiohttp, no logins",
    "Gatelog, 2 clients logging in",
    "healthy: 401 from every worker",
    "a projector stopped: logout answered",
]
REDIS_ROW = "aiohttp-session, Redis"
NO_REDIS = "aiohttp-session on Redis: skipped"


@pytest.fixture(scope="module")
def output() -> str:
    """What the quick run of all benchmarks prints."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench", "--quick"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("row", ROWS)
def test_prints_a_row_for_each(output: str, row: str) -> None:
    assert any(line.startswith(f"│ {row} ") for line in output.splitlines()), output


def test_compares_with_redis_or_says_that_there_is_none(output: str) -> None:
    has_redis = shutil.which("redis-server") or shutil.which("valkey-server")
    assert (REDIS_ROW if has_redis else NO_REDIS) in output
