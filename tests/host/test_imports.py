"""What the entry points import: nothing that only another one needs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner
from gatelog.cli import COMMANDS, cli

# What only ``migrate`` needs, what only answers HTTP, and what only draws tables.
MIGRATING = {"alembic", "sqlalchemy", "mako", "gatelog.log.store.migrate"}
WEB = {"aiohttp", "gunicorn", "gatelog.http", "gatelog.hosting.app"}
DRAWING = {"rich"}
ABSENT = {
    "gatelog.cli": MIGRATING | WEB | DRAWING | {"asyncpg", "cryptography"},
    "gatelog.cli.service": MIGRATING | WEB | DRAWING | {"asyncpg", "cryptography"},
    "gatelog.cli.services": MIGRATING | WEB | DRAWING,
    "gatelog.host.supervisor": MIGRATING | WEB | DRAWING | {"asyncpg", "cryptography", "uvloop"},
    "gatelog.host.nursery": MIGRATING | WEB | DRAWING | {"asyncpg"},
    "gatelog.host.preparation": MIGRATING | WEB | DRAWING,
    "gatelog.host.worker": MIGRATING | DRAWING,
    "gatelog.host.projector": MIGRATING | WEB | DRAWING,
    "gatelog.host.sealer": MIGRATING | WEB | DRAWING,
}


def modules_of(entry: str) -> set[str]:
    """What an interpreter has in memory that has imported this and nothing else."""
    script = f"import json, sys, {entry}; print(json.dumps(list(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, check=True, text=True
    )
    return set(json.loads(done.stdout))


@pytest.mark.parametrize("entry", ABSENT)
def test_nothing_is_imported_that_only_others_need(entry: str) -> None:
    assert not modules_of(entry) & ABSENT[entry]


@pytest.mark.parametrize(
    ("entry", "names"),
    [
        ("gatelog.log.store.migrate", MIGRATING),
        ("gatelog.host.worker", WEB),
        ("rich", DRAWING),
    ],
)
def test_it_is_known_by_these_names(entry: str, names: set[str]) -> None:
    assert names <= modules_of(entry)


@pytest.mark.parametrize("command", [c for commands in COMMANDS.values() for c in commands])
def test_every_command_is_found_in_its_module(command: str) -> None:
    assert CliRunner().invoke(cli, [command, "--help"]).exit_code == 0


def test_a_command_that_there_is_not() -> None:
    assert "No such command" in CliRunner().invoke(cli, ["serv"]).output
