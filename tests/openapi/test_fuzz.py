"""schemathesis: every operation of the document, by everybody, with data that fits and does not.

All of its checks are on (``schemathesis.toml``). ``make fuzz`` does more of the same.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.scratch import in_temporary_directory
from tests.stack.service import PASSWORD, ROOT, Service, run_command, serving

HERE = Path(__file__).parent
LONG = os.environ.get("FUZZ") == "long"
EXAMPLES = os.environ.get("FUZZ_EXAMPLES", "100" if LONG else "2")
TIMEOUT_S = 7200 if LONG else 600
# What the same handler answers by another method is left to ``make fuzz``, and so is each boundary
# of each parameter for who gets no further than to the check: administrators get everywhere.
# A stream has no end, so each try lasts until its time is over; `tests/audit` reads streams, and so
# does `tests/console`.
ONCE = (
    "--exclude-operation-id-regex",
    "^(head_.*|(?!get_)[a-z]+_v1_auth|get_v1_(audit_events|overview)_stream)$",
)
OTHERS = [f"other-{number}" for number in range(6)]


@pytest.fixture(scope="module")
def service() -> Iterator[tuple[Service, dict[str, str]]]:
    """A service with users of all kinds, and their ids."""
    settings = {
        "GATELOG_REGISTRATION": "open",
        "GATELOG_WORKERS": "1",
        "GATELOG_LEASE_TTL_S": "0.1",
        "GATELOG_METRICS": "open",
    }
    with in_temporary_directory() as directory:
        data_dir = Path(directory) / "var"
        with serving(data_dir, **settings) as started:
            ids = {}
            for login in ("user", *OTHERS):
                body = {"login": login, "password": PASSWORD}
                ids[login] = started.request("POST", "/v1/register_user", body).json["user_id"]
            arguments = ("--role", "admin", "--password-file", "-", "--json")
            done = run_command(data_dir, "user", "add", "admin", *arguments, stdin=PASSWORD)
            assert done.returncode == 0, done.stderr
            ids["admin"] = json.loads(done.stdout)["user_id"]
            yield started, ids


@pytest.mark.timeout(2 * TIMEOUT_S)
@pytest.mark.parametrize("who", ["", "user", "admin"], ids=["anonymous", "user", "admin"])
def test_it_keeps_to_its_document(service: tuple[Service, dict[str, str]], who: str) -> None:
    started, ids = service
    url = f"http://127.0.0.1:{started.port}"
    told = {
        "FUZZ_URL": url,
        "FUZZ_LOGIN": who,
        "FUZZ_PASSWORD": PASSWORD,
        "FUZZ_USER": ids.get(who, ""),
        "FUZZ_OTHERS": ",".join(ids[login] for login in OTHERS),
        "SCHEMATHESIS_HOOKS": "tests.openapi.hooks",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file"]
    command += [str(HERE / "schemathesis.toml"), "run", f"{url}/openapi.json"]
    command += ["--max-examples", EXAMPLES, "--continue-on-failure", "--request-timeout", "30"]
    command += ["--checks", "all", "--generation-database", "none", "--no-color"]
    if not LONG:
        phases = "examples,coverage,fuzzing" if who == "admin" else "examples,fuzzing"
        command += [*ONCE, "--phases", phases]
    done = subprocess.run(
        command,
        env=os.environ | told,
        cwd=started.data_dir,  # it leaves notes where it runs
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert started.is_ready()
    assert "unexpected error" not in started.logged
