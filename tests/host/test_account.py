"""The system account that PostgreSQL runs as."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from gatelog.host.account import SYSTEM_USER

# Makes the account at the moment that all others do too, and says which one it got.
MAKE = """
import sys, time
from gatelog.host.account import account_of
from pathlib import Path
print("ready", flush=True)
sys.stdin.readline()
print(account_of(Path("/nowhere")).pw_uid, flush=True)
"""

# An /etc of this shell's own, without the account; then the program above, twice at once.
ROUND = """
set -eu
cp -a /etc/. "$1/"
mount --bind "$1" /etc
userdel "$2" 2>/dev/null || true
exec "$3" - "$3"
"""

TWICE = f"""
import pwd, subprocess, sys
make = [sys.argv[1], "-c", {MAKE!r}]
pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
started = [subprocess.Popen(make, **pipes) for _ in range(2)]
for process in started:
    assert process.stdout.readline() == "ready\\n"
for process in started:
    process.stdin.write("now\\n")
    process.stdin.flush()
made = [process.communicate()[0].strip() for process in started]
assert made == [str(pwd.getpwnam({SYSTEM_USER!r}).pw_uid)] * 2, made
"""


def own_mounts() -> bool:
    """Whether this process may have mounts of its own."""
    probe = ["unshare", "--mount", "true"]
    return os.geteuid() == 0 and subprocess.run(probe, check=False).returncode == 0


@pytest.mark.skipif(not own_mounts(), reason="needs root and mounts of its own")
def test_two_that_make_the_account_at_once_get_the_same(tmp_path: Path) -> None:
    """Without a lock about one round in two ends with an account that is not there."""
    for number in range(6):
        etc = tmp_path / f"etc-{number}"
        etc.mkdir()
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", ROUND, "sh", etc, SYSTEM_USER, sys.executable],
            input=TWICE,
            text=True,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
