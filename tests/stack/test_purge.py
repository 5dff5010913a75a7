"""``run.py log purge`` and ``run.py as-of``, as an operator uses them."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path

import pytest
from gatelog.clock import utc_now
from gatelog.config import Config
from gatelog.host.sealer import last_note, signing_key
from gatelog.log.store.appender import Appender
from gatelog.log.store.database import connect
from gatelog.proofs.service.sealer import Sealer
from gatelog.proofs.store.tiles import take_sealer_lock

from tests.audit.history import fill
from tests.builders import MASTER_KEY
from tests.conftest import Dsns
from tests.partitions import SIZE, small_partitions
from tests.stack.service import run_command

PARTITIONED = ("events", "event_addresses", "event_origins")  # what goes with a stretch of the log
CUT = 4 * SIZE
EVENTS = CUT + SIZE // 4


@pytest.fixture
def var(tmp_path: Path) -> Path:
    return tmp_path / "var"


@pytest.fixture
def log(database: Dsns, var: Path, monkeypatch: pytest.MonkeyPatch) -> Dsns:
    """A log of several partitions, sealed with the key of the data directory."""
    asyncio.run(make(database, Config(data_dir=str(var)), monkeypatch))
    return database


async def make(database: Dsns, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    await small_partitions(database, monkeypatch)
    async with Appender(lambda: connect(database.app), timeout_s=10) as appender:
        await fill(appender, events=EVENTS, seed=8)
    await seal(database, config)


async def seal(database: Dsns, config: Config) -> None:
    connection = await connect(database.app)
    assert await take_sealer_lock(connection)
    sealer = Sealer(connection, signing_key(config), last_note(config), utc_now)
    await sealer.load()
    assert await sealer.seal_next()
    await connection.close()


def run(var: Path, log: Dsns, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return run_command(
        var,
        *arguments,
        stdin=stdin,
        GATELOG_DATABASE_URL=log.app,
        GATELOG_OWNER_DATABASE_URL=log.owner,
        GATELOG_MASTER_KEY=MASTER_KEY,
    )


def purge(var: Path, log: Dsns, *options: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return run(var, log, "log", "purge", "--before", utc_now().isoformat(), *options, stdin=stdin)


def test_from_a_dry_run_to_what_is_left(var: Path, log: Dsns) -> None:
    dry = purge(var, log, "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert dry.stdout.startswith(f"The {CUT} events up to position {CUT} would go.")
    asked = purge(var, log, stdin="n\n")
    assert (asked.returncode, asked.stdout) == (1, "")
    assert "would go. Go on?" in asked.stderr
    before = json.loads(run(var, log, "as-of", "--position", str(CUT + 1), "--json").stdout)
    assert before["sessions"]

    done = purge(var, log, "--yes", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["up_to"], report["events"]) == (CUT, CUT)
    assert len(report["dropped"]) == CUT // SIZE * len(PARTITIONED)
    assert "Nothing to purge" in purge(var, log, "--yes").stdout

    after = json.loads(run(var, log, "as-of", "--position", str(CUT + 1), "--json").stdout)
    assert after == before
    gone = run(var, log, "as-of", "--position", "1")
    assert gone.returncode == 1
    assert gone.stderr.startswith(f"gatelog: The log begins after position {CUT}")
    for command in (("check",), ("rebuild",)):
        finished = run(var, log, *command)
        assert finished.returncode == 0, finished
    asyncio.run(seal(log, Config(data_dir=str(var))))
    verified = json.loads(run(var, log, "log", "verify", "--json").stdout)
    assert verified["verified"] is True
    assert (verified["purged_to"], verified["without_entry"]) == (CUT, CUT)
    assert verified["purged_at"] > CUT


def test_the_tail_leaves_nothing_out_on_its_own(var: Path, log: Dsns, tmp_path: Path) -> None:
    """Before the cut it stops and says what is missing; from the cut on it goes on."""
    cursor = tmp_path / "cursor"
    options = ("log", "tail", "--no-follow", "--format", "ndjson")
    resumed = (*options, "--cursor", str(cursor))
    cursor.write_text(json.dumps({"position": SIZE + 5}))
    assert purge(var, log, "--yes").returncode == 0

    for arguments, first in (
        ((*options, "--from", "1"), 1),
        ((*options, "--from", str(CUT)), CUT),
        ((*options, "--follow", "--from", "7"), 7),
        (resumed, SIZE + 6),
        ((*resumed, "--follow", "--from", str(CUT + 1)), SIZE + 6),
    ):
        stopped = run(var, log, *arguments)
        assert (stopped.returncode, stopped.stdout) == (1, ""), arguments
        told = f"gatelog: The events {first} to {CUT} were purged before they were read here."
        assert stopped.stderr.startswith(told) and stopped.stderr.count("\n") == 1
        assert f"give --from {CUT + 1}." in stopped.stderr
        assert (f"remove the cursor {cursor}" in stopped.stderr) == ("--cursor" in arguments)
    assert json.loads(cursor.read_text()) == {"position": SIZE + 5}

    whole = run(var, log, *options, "--from", str(CUT + 1))
    assert (whole.returncode, whole.stderr) == (0, "")
    positions = [json.loads(line)["position"] for line in whole.stdout.splitlines()]
    assert positions == list(range(CUT + 1, CUT + 1 + len(positions))) and len(positions) > 2
    cursor.write_text(json.dumps({"position": CUT}))
    assert run(var, log, *resumed).stdout == whole.stdout
    cursor.unlink()
    new = run(var, log, *resumed)
    assert (new.returncode, new.stdout) == (0, whole.stdout)
    assert new.stderr == (
        f"gatelog: the log begins with position {CUT + 1}: what was before it has been purged\n"
    )


def test_as_of_as_a_table(var: Path, log: Dsns) -> None:
    shown = run(var, log, "as-of", "--at", utc_now().isoformat(), "--limit", "1")
    assert shown.returncode == 0, shown.stderr
    assert "Logged in at position" in shown.stdout
    assert "There are more" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("as-of",), "Give --at or --position"),
        (("as-of", "--at", "2026-01-01", "--position", "1"), "Give --at or --position"),
        (("as-of", "--at", "yesterday"), "no time"),
        (("as-of", "--position", "999999999"), "no event at this position yet"),
        (("log", "purge"), "--before"),
        (("log", "purge", "--before", "3000-01-01", "--yes"), "still to come"),
    ],
)
def test_what_makes_no_sense_is_refused(
    var: Path, log: Dsns, arguments: tuple[str, ...], told: str
) -> None:
    refused = run(var, log, *arguments)
    assert refused.returncode != 0
    assert told in refused.stderr
