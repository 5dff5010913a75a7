"""``run.py log key|verify|export-proofs``, as an auditor and a third party use them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from server.config import Config
from server.sealer import last_note, signing_key
from server.service.proofs import Proofs
from server.service.sealer import Sealer
from server.store.database import Database, connect
from server.store.tiles import take_sealer_lock
from tests.builders import NOON
from tests.conftest import Dsns
from tests.service.sealing import append, tampering
from tests.stack.service import PASSWORD, Service, run_command
from tests.waiting import eventually

SIZE = 300
POSITION = 290


async def make_log(database: Dsns, config: Config) -> bytes:
    """A sealed log, and the proof of one of its events."""
    await append(database.app, SIZE)
    connection = await connect(database.app)
    assert await take_sealer_lock(connection)
    sealer = Sealer(connection, signing_key(config), last_note(config), lambda: NOON)
    await sealer.load()
    assert await sealer.seal_next() == SIZE
    await connection.close()
    opened = Database(database.app, timeout_s=10, pool_size=1)
    proof = (await Proofs(opened).inclusion(POSITION)).text()
    await opened.close()
    return proof


@pytest.fixture
def var(tmp_path: Path) -> Path:
    return tmp_path / "var"


@pytest.fixture
def proof(database: Dsns, var: Path, tmp_path: Path) -> Path:
    path = tmp_path / "event.tlog-proof"
    path.write_bytes(asyncio.run(make_log(database, Config(data_dir=str(var)))))
    return path


def tamper(database: Dsns, script: str) -> None:
    async def run() -> None:
        async with tampering(database) as owner:
            await owner.execute(script)

    asyncio.run(run())


def test_the_live_log(proof: Path, database: Dsns, var: Path) -> None:
    settings = {"GATELOG_DATABASE_URL": database.app}
    done = run_command(var, "log", "verify", **settings)
    assert done.returncode == 0, done.stderr
    report = json.loads(run_command(var, "log", "verify", "--json", **settings).stdout)
    assert report == {
        "verified": True,
        "first_position": None,
        "events": SIZE,
        "sealed": SIZE,
        "checkpoints": 2,  # the stored one and the file's
        "without_entry": 0,
        "purged_to": 0,
        "purged_at": 0,
        "findings": [],
        "untold": 0,
    }
    tamper(database, f"UPDATE events SET entry = entry || '\\x20' WHERE position = {POSITION}")
    done = run_command(var, "log", "verify", **settings)
    assert done.returncode == 1
    assert f"The first position that does not fit: {POSITION}\n" in done.stdout
    tamper(
        database,
        "DELETE FROM events WHERE position > 100; UPDATE log_head SET position = 100;"
        "DELETE FROM checkpoints; DELETE FROM tiles",
    )
    done = run_command(var, "log", "verify", "--json", **settings)
    assert (done.returncode, json.loads(done.stdout)["first_position"]) == (1, 1)
    assert "the log was cut: it ends at 100" in done.stdout  # the file knows


def test_a_third_party_has_the_key_alone(
    proof: Path, database: Dsns, var: Path, tmp_path: Path
) -> None:
    settings = {"GATELOG_DATABASE_URL": database.app}
    key = run_command(var, "log", "key").stdout.strip()
    directory = tmp_path / "export"
    done = run_command(var, "log", "export-proofs", str(directory), **settings)
    assert (done.returncode, done.stdout) == (0, f"Exported 300 events, sealed, to {directory}.\n")
    elsewhere = tmp_path / "elsewhere"
    for source in (proof, directory):
        done = run_command(elsewhere, "log", "verify", str(source), "--key", key)
        assert done.returncode == 0, done.stderr
    checkpoint = str(var / "checkpoint")
    held = run_command(
        elsewhere, "log", "verify", str(directory), "--key", key, "--checkpoint", checkpoint
    )
    assert held.returncode == 0, held.stderr
    assert not elsewhere.exists()
    key_file = tmp_path / "key"
    key_file.write_text(key + "\n")
    shown = run_command(elsewhere, "log", "verify", str(proof), "--key", str(key_file), "--json")
    assert json.loads(shown.stdout)["position"] == POSITION
    bundle = directory / "tile/entries/001.p/44"
    bundle.write_bytes(bundle.read_bytes().replace(b"unknown_login", b"unknown_l0gin", 1))
    done = run_command(elsewhere, "log", "verify", str(directory), "--key", key)
    assert done.returncode == 1
    assert "The first position that does not fit: 257\n" in done.stdout


def test_what_does_not_verify_is_told_in_one_line(
    proof: Path, database: Dsns, var: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    key = run_command(var, "log", "key").stdout.strip()
    other = run_command(tmp_path / "other", "log", "key").stdout.strip()
    changed = tmp_path / "changed.tlog-proof"
    changed.write_bytes(proof.read_bytes().replace(b"index 289", b"index 288"))
    empty = tmp_path / "empty"
    empty.mkdir()
    for arguments, reason in (
        ((str(proof),), "give the log's KEY with --key"),
        ((str(proof), "--key", other), "not signed by"),
        ((str(proof), "--key", key[:-1]), "--key: the verifier key is not"),
        ((str(proof), "--key", str(tmp_path / "nowhere")), "cannot read"),
        ((str(changed), "--key", key), "leads to another root"),
        ((str(empty), "--key", key), "this is no complete export"),
        ((str(empty), "--key", key, "--checkpoint", str(changed)), "three lines or more"),
    ):
        done = run_command(elsewhere, "log", "verify", *arguments)
        assert done.returncode == 1, arguments
        assert reason in done.stderr
        assert done.stderr.count("\n") == 1
        assert done.stdout == ""
    done = run_command(elsewhere, "log", "verify", str(changed), "--key", key, "--json")
    assert json.loads(done.stdout)["code"] == "invalid_proof"


SEALED_WITHIN_S = 60.0  # a second where there is nothing else to do, and a process starts first


def sealed_after(service: Service, cookie: str, position: int) -> float:
    """Seconds until there is a proof of this position."""
    path = f"/v1/log/proof?position={position}"
    return eventually(
        lambda: service.request("GET", path, cookie=cookie).status == 200,
        SEALED_WITHIN_S,
        "a proof",
    )


def test_a_running_service_seals_what_it_records(service: Service, tmp_path: Path) -> None:
    done = run_command(
        service.data_dir,
        *("user", "add", "audrey", "--role", "auditor", "--password-file", "-"),
        stdin=PASSWORD + "\n",
    )
    assert done.returncode == 0, done.stderr
    login = service.log_in("audrey")
    sealed_after(service, login.cookie, login.json["position"])
    answer = service.request(
        "GET", f"/v1/log/proof?position={login.json['position']}", cookie=login.cookie
    )
    proof, key = tmp_path / "login.tlog-proof", run_command(service.data_dir, "log", "key")
    proof.write_bytes(answer.body)
    shown = run_command(
        tmp_path, "log", "verify", str(proof), "--key", key.stdout.strip(), "--json"
    )
    event = json.loads(json.loads(shown.stdout)["entry"])
    assert event["session_id"] == login.json["session_id"]
    (sealer,) = service.sealer()
    sealer.kill()
    again = service.log_in("audrey")
    sealed_after(service, again.cookie, again.json["position"])
    assert service.sealer() != [sealer]
    live = run_command(service.data_dir, "log", "verify")
    assert live.returncode == 0, live.stdout
