"""``run.py log key|verify|export-proofs``, as an auditor and a third party use them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from gatelog.cli import run
from gatelog.config import Config
from gatelog.host.sealer import last_note, signing_key
from gatelog.log.store.database import Database, connect
from gatelog.proofs.service.proofs import Proofs
from gatelog.proofs.service.sealer import Sealer
from gatelog.proofs.store.tiles import take_sealer_lock

from tests.builders import NOON
from tests.conftest import Dsns
from tests.proofs.sealing import append, tampering
from tests.stack.service import PASSWORD, Service, run_command
from tests.waiting import eventually, until

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
        "checkpoint_file": True,
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


def test_a_missing_checkpoint_file_is_told(proof: Path, database: Dsns, var: Path) -> None:
    """A log that was cut back with everything in it is found by nothing then."""
    settings = {"GATELOG_DATABASE_URL": database.app}
    (var / "checkpoint").unlink()
    done = run_command(var, "log", "verify", "--json", **settings)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["checkpoint_file"] is False
    assert f"{var / 'checkpoint'} is not there" in done.stderr


async def grow_log(database: Dsns, config: Config) -> tuple[bytes, bytes]:
    """Seal some more events; the old checkpoint, and the proof that the log was only added to."""
    old = last_note(config).read()
    assert old is not None
    await append(database.app, 50)
    connection = await connect(database.app)
    await until(lambda: take_sealer_lock(connection))
    sealer = Sealer(connection, signing_key(config), last_note(config), lambda: NOON)
    await sealer.load()
    assert await sealer.seal_next() == 50
    await connection.close()
    opened = Database(database.app, timeout_s=10, pool_size=1)
    grown = (await Proofs(opened).consistency(SIZE)).text()
    await opened.close()
    return old, grown


Said = Callable[..., tuple[int, str, str]]


@pytest.fixture
def verify(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Said:
    """``log verify`` in this process, where there is nothing but the key."""
    monkeypatch.setenv("GATELOG_DATA_DIR", str(tmp_path / "elsewhere"))

    def run_it(*arguments: object) -> tuple[int, str, str]:
        status = run(["log", "verify", *map(str, arguments)])
        return status, *capsys.readouterr()

    return run_it


def test_what_was_only_added_to(
    proof: Path, database: Dsns, var: Path, tmp_path: Path, verify: Said
) -> None:
    """An auditor has two checkpoints and the proof between them, nothing else."""
    key = str(signing_key(Config(data_dir=str(var))).verifier)
    old, grown = asyncio.run(grow_log(database, Config(data_dir=str(var))))
    files = {"old": old, "grown": grown}
    files["changed"] = grown.replace(b"\n\n", b"\n" + b"A" * 43 + b"=\n\n", 1)
    files["new"] = grown.partition(b"\n\n")[2]
    files["forged"] = old.replace(b"\n300\n", b"\n299\n")
    paths = {name: tmp_path / name for name in files}
    for name, content in files.items():
        paths[name].write_bytes(content)

    given = (paths["grown"], "--checkpoint", paths["old"], "--key", key)
    status, said, _ = verify(*given)
    assert status == 0
    assert "with 350 events is the log that had 300 events" in said
    status, said, _ = verify(*given, "--json")
    assert (json.loads(said)["old_size"], json.loads(said)["size"]) == (SIZE, SIZE + 50)
    for what, old_one, reason in (
        ("changed", "old", "the consistency proof"),
        ("grown", "new", "starts from size 300, not 350"),
        ("grown", "forged", "does not hold"),
        ("grown", "grown", "does not hold"),
    ):
        status, said, told = verify(paths[what], "--checkpoint", paths[old_one], "--key", key)
        assert (status, said) == (1, ""), what
        assert reason in told


def test_options_that_do_not_apply_are_refused(
    proof: Path, database: Dsns, var: Path, tmp_path: Path, verify: Said
) -> None:
    key = str(signing_key(Config(data_dir=str(var))).verifier)
    extension, directory = tmp_path / "extension", tmp_path / "directory"
    extension.write_bytes(b"old 3\n\n")
    directory.mkdir()
    checkpoint = ("--checkpoint", str(var / "checkpoint"))
    for source, options, reason in (
        (proof, checkpoint, "--checkpoint is for"),
        (proof, ("--purged-to", "3"), "--purged-to is for"),
        (extension, (), "needs the one older checkpoint"),
        (extension, checkpoint * 2, "needs the one older checkpoint"),
        (extension, (*checkpoint, "--entry", str(proof)), "--entry is for"),
        (directory, ("--entry", str(proof)), "--entry is for"),
    ):
        status, said, told = verify(source, *options, "--key", key)
        assert (status, said) == (2, ""), options
        assert reason in told


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
