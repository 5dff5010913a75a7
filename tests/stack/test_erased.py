"""After an erasure a raw search finds nothing of the person in what a real service leaves behind.

Searched are all files below the data directory, the replica's and PostgreSQL's as they lie on the
disk, and everything that any process printed, with the access log and the level debug. In
PostgreSQL's own files the login name stays for a while (docs/personal-data.md, "What erasing cannot
reach"); there it shows that the search can see. Address and agent never were in them.
"""

from __future__ import annotations

import json
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.privacy.test_erasure import ADDRESS, AGENT, FROM, LOGIN, PERSON, traces
from tests.stack.conftest import two_workers
from tests.stack.service import PASSWORD, REQUEST_TIMEOUT_S, Answer, Service, run_command
from tests.waiting import eventually

MISTYPED = "wolkenschieber-passphrase"  # as a login name: nobody's, under the key of the day
SOUGHT = (*PERSON, MISTYPED)
NEVER_PLAIN = (ADDRESS, AGENT, MISTYPED)
SEALED_WITHIN_S = 60.0
SETTINGS = {
    "GATELOG_REGISTRATION": "open",
    "GATELOG_ACCESS_LOG": "true",
    "GATELOG_LOG_LEVEL": "debug",
    "GATELOG_TRUSTED_PROXIES": "127.0.0.0/8",
    "GATELOG_REPLICA_MAX_MIB": "64",
}


def ask(service: Service, path: str, cookie: str | None = None, **body: str) -> Answer:
    """A request of the person's, who would like a receipt."""
    return service.request("POST", path, body, cookie, FROM | {"Prefer": "receipt"})


def log_in(service: Service, password: str) -> Answer:
    return ask(service, "/v1/login_user", login=LOGIN, password=password)


def a_life(service: Service) -> tuple[str, str, Answer]:
    """What a user does; returns the id, an active session's cookie, and the first login."""
    new = "new " + PASSWORD
    registered = ask(service, "/v1/register_user", login=LOGIN, password=PASSWORD)
    assert registered.status == 201
    assert log_in(service, "wrong " + PASSWORD).status == 401
    first = log_in(service, PASSWORD)
    passwords = {"current_password": PASSWORD, "new_password": new}
    changed = ask(service, "/v1/change_password", first.cookie, **passwords)
    assert changed.status == 200
    assert ask(service, "/v1/logout_user", changed.cookie).status == 200
    last = log_in(service, new)
    assert last.status == 200
    malformed = f"POST /v1/login_user?{LOGIN} HTTP/1.1\r\nUser-Agent: {AGENT}\r\n{ADDRESS}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", service.port), timeout=REQUEST_TIMEOUT_S) as peer:
        peer.sendall(malformed.encode())
        assert b" 400 " in peer.recv(100)
    assert service.log_in(MISTYPED).status == 401  # from elsewhere: nobody knows whose it is
    return registered.json["user_id"], last.cookie, first


def proof_of(service: Service, cookie: str, login: Answer) -> bytes:
    """The receipt of this login, once it is sealed."""
    path = login.json["receipt"]["proof_at"]
    eventually(
        lambda: service.request("GET", path, cookie=cookie).status == 200,
        SEALED_WITHIN_S,
        "the proof of a login",
    )
    return service.request("GET", path, cookie=cookie).body


def files(path: Path, *, but: Path | None = None) -> bytes:
    """The contents of all files below this directory; what is empty at their ends is left out."""
    found = []
    for each in path.rglob("*"):
        with suppress(FileNotFoundError):  # PostgreSQL has just removed it
            if each.is_file() and (but is None or but not in each.parents):
                found.append(each.read_bytes().rstrip(b"\0"))
    assert found
    return b"\n".join(found)


def command(service: Service, *arguments: str, stdin: str = "") -> str:
    """What a command said, in all."""
    done = run_command(service.data_dir, *arguments, stdin=stdin, **SETTINGS)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def shown(service: Service, auditor: str) -> bytes:
    """All that an auditor is shown of the log."""
    paths = ("/v1/audit/export?format=ndjson", f"/v1/audit/events?address={ADDRESS}")
    answers = [service.request("GET", path, cookie=auditor) for path in paths]
    assert [answer.status for answer in answers] == [200, 200]
    return b"".join(answer.body for answer in answers)


def test_nothing_is_left_of_an_erased_person(data_dir: Path, tmp_path: Path) -> None:
    with two_workers(data_dir, **SETTINGS) as service:
        said = command(
            service,
            *("user", "add", "audrey", "--role", "auditor", "--password-file", "-"),
            stdin=PASSWORD,
        )
        auditor = service.log_in("audrey").cookie
        user_id, cookie, login = a_life(service)
        proof = tmp_path / "login.tlog-proof"
        proof.write_bytes(proof_of(service, cookie, login))
        key = run_command(data_dir, "log", "key").stdout.strip()
        assert traces(shown(service, auditor), SOUGHT) == list(SOUGHT)
        postgres = data_dir / "postgres"
        assert LOGIN in traces(files(postgres), (LOGIN,))

        said += command(service, "user", "erase", user_id, "--yes")
        assert service.me(cookie) == 401
        said += command(service, "check")
        assert traces(shown(service, auditor), SOUGHT) == [MISTYPED]

        assert traces(files(data_dir, but=postgres), SOUGHT) == []
        assert traces(files(postgres), NEVER_PLAIN) == []
        said += command(service, "log", "verify")
        held = run_command(tmp_path, "log", "verify", str(proof), "--key", key, "--json")
        assert held.returncode == 0, held.stderr
        event: dict[str, Any] = json.loads(json.loads(held.stdout)["entry"])
        assert event["session_id"] == login.json["session_id"]

        printed = service.printed + service.logged + said
        assert "/v1/login_user 200" in printed  # the access log
        assert " DEBUG " in printed
        assert traces(printed.encode(), SOUGHT) == []

        again = ask(service, "/v1/register_user", login=LOGIN, password=PASSWORD)
        assert again.status == 201
        assert again.json["user_id"] != user_id
        assert service.stop() == 0
        assert traces(service.logged.encode(), SOUGHT) == []
