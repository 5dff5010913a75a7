"""``log tail``: for programs that watch, in order and at least once, whatever breaks down."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from gatelog.host.processes import running

from tests.stack.service import PASSWORD, STOP_TIMEOUT_S, Service, run_command
from tests.stack.tail import WITHIN_S, Tail, tailing
from tests.waiting import eventually


def positions(lines: list[bytes]) -> list[int]:
    return [json.loads(line)["position"] for line in lines]


def tail_once(service: Service, *options: str) -> list[bytes]:
    done = run_command(service.data_dir, "log", "tail", "--no-follow", *options)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.encode().splitlines()


def add_user(service: Service, login: str) -> None:
    done = run_command(
        service.data_dir, "user", "add", login, "--password-file", "-", stdin=PASSWORD
    )
    assert done.returncode == 0, done.stderr


# --- formats


def test_the_formats(shared_service: Service) -> None:
    """Sealed unless asked for; the same events in each."""
    service = shared_service
    service.register("tess")
    service.log_in("tess", "=not|her phrase\\")
    session = service.log_in("tess").json["session_id"]
    sealed = [json.loads(line) for line in tail_once(service, "--from", "1", "--format", "ndjson")]
    assert [event["position"] for event in sealed] == list(range(1, len(sealed) + 1))
    assert not {"login", "address", "user_agent"} & {name for event in sealed for name in event}
    options = ("--from", "1", "--personal", "open", "--format")
    opened = [json.loads(line) for line in tail_once(service, *options, "ndjson")]
    (started,) = [e for e in opened if e.get("session_id") == session]
    assert (started["login"], started["address"]) == ("tess", "127.0.0.1")

    cef = tail_once(service, *options, "cef")
    assert all(line.startswith(b"CEF:0|Gatelog|Gatelog|") for line in cef)
    (line,) = [line for line in cef if f"cs1={session}".encode() in line]
    assert b" duser=tess " in line and b" src=127.0.0.1 " in line
    ocsf = [json.loads(line) for line in tail_once(service, *options, "ocsf")]
    (document,) = [d for d in ocsf if d.get("session", {}).get("uid") == session]
    assert document["type_uid"] == 300201
    assert document["user"]["name"] == "tess"
    assert document["src_endpoint"]["ip"] == "127.0.0.1"
    assert len(cef) == len(ocsf) == len(opened)


def test_a_new_event_is_printed_when_it_is_recorded(shared_service: Service) -> None:
    shared_service.log_in("nobody-at-all")  # it may be the first test, and the log be empty
    with tailing(shared_service, "--follow", "--format", "cef", "--from", "1") as tail:
        tail.wait_for(b"CEF:0|")
        shared_service.register("nora")
        session_id = shared_service.log_in("nora").json["session_id"]
        tail.wait_for(f"cs1={session_id}".encode())
        assert tail.stop() == ""
    assert tail.process.returncode == 0


# --- the cursor


def test_the_cursor_goes_on_where_it_stood(shared_service: Service, tmp_path: Path) -> None:
    """Stopped in whatever way: nothing is missed, and what comes twice comes in order."""
    cursor = tmp_path / "cursor"
    options = ("--follow", "--format", "ndjson", "--cursor", str(cursor))
    seen: list[int] = []
    drafts = set()  # of who was killed while it noted how far it got
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL, signal.SIGINT):
        login = f"user-{number}-{len(seen)}"
        with tailing(shared_service, *options) as tail:
            shared_service.register(login)
            tail.wait_for(shared_service.log_in(login).json["session_id"].encode())
            assert tail.stop(number) == ""
            part = positions(tail.lines)
            assert part == list(range(part[0], part[0] + len(part)))
            assert 1 <= part[0] <= (seen[-1] if seen else 0) + 1
            if number is signal.SIGINT:
                assert json.loads(cursor.read_bytes())["position"] == part[-1]
            else:
                drafts.add(f".cursor.{tail.process.pid}")
            seen += part
    assert set(seen) == set(range(1, max(seen) + 1))
    assert {path.name for path in tmp_path.iterdir()} - drafts == {"cursor"}


def test_a_cursor_counts_more_than_from(shared_service: Service, tmp_path: Path) -> None:
    for _ in range(3):
        shared_service.log_in("nobody-at-all")  # it may be the first test, and the log be empty
    cursor = tmp_path / "cursor"
    options = ("--format", "ndjson", "--cursor", str(cursor), "--from", "3")
    first = positions(tail_once(shared_service, *options))
    assert first[0] == 3
    shared_service.log_in("nobody-at-all")
    assert positions(tail_once(shared_service, *options)) == [first[-1] + 1]


def test_a_beginning_beyond_the_end(shared_service: Service, tmp_path: Path) -> None:
    """A cursor that there is not yet has no part in it."""
    cursor = tmp_path / "cursor"
    for options in ((), ("--cursor", str(cursor))):
        done = run_command(
            shared_service.data_dir, "log", "tail", "--no-follow", "--from", "999999", *options
        )
        assert (done.returncode, done.stderr) == (1, "gatelog: The log ends before 999998.\n")
    assert not cursor.exists()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is no cursor"),
        ("17", "is no cursor"),
        ('{"position": -1}', "is no cursor"),
        ('{"position": 1, "leaf_hash": "xy"}', "is no cursor"),
        ('{"position": 1, "leaf_hash": "00"}', "is of another log"),
        ('{"position": 99999999}', "is of another log"),
    ],
)
def test_a_cursor_that_does_not_fit(
    shared_service: Service, tmp_path: Path, text: str, reason: str
) -> None:
    cursor = tmp_path / "cursor"
    cursor.write_text(text)
    options = ("--follow", "--format", "ndjson", "--cursor", str(cursor))
    done = run_command(shared_service.data_dir, "log", "tail", *options)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("gatelog: ") and done.stderr.count("\n") == 1
    assert reason in done.stderr
    assert cursor.read_text() == text


def test_a_cursor_that_cannot_be_written(shared_service: Service, tmp_path: Path) -> None:
    cursor = tmp_path / "no such directory" / "cursor"
    done = run_command(
        shared_service.data_dir, "log", "tail", "--no-follow", "--cursor", str(cursor)
    )
    assert done.returncode == 1
    assert "cannot be written" in done.stderr


# --- what breaks down


def test_a_reader_that_goes_away_ends_it(shared_service: Service) -> None:
    """Also while nothing is recorded that it could fail to print."""
    shared_service.log_in("nobody-at-all")
    with tailing(shared_service, "--format", "ndjson", "--from", "1") as tail:
        tail.wait_for(b"position")
        assert tail.process.stdout
        tail.process.stdout.close()
        assert tail.process.wait(STOP_TIMEOUT_S) == 1
        assert tail.errors.text == ""


def test_a_restart_of_the_service_is_waited_out(service: Service, tmp_path: Path) -> None:
    """The database goes with the service; what is recorded before and after is printed."""
    add_user(service, "ann")
    cursor = tmp_path / "cursor"
    options = ("--follow", "--format", "ocsf", "--cursor", str(cursor))
    with tailing(service, *options) as tail:
        first = service.log_in("ann").json["session_id"]
        tail.wait_for(first.encode())
        (postmaster,) = service.postgres()
        service.process.send_signal(signal.SIGSTOP)  # or the database is back too soon
        postmaster.send_signal(signal.SIGINT)
        eventually(lambda: running(postmaster.pid) is None, WITHIN_S, "the end of the database")
        eventually(lambda: "trying again" in tail.errors.text, WITHIN_S, "it was noticed")
        service.process.send_signal(signal.SIGCONT)
        eventually(lambda: service.takes_logins("ann"), WITHIN_S, "the database is there again")
        second = service.log_in("ann").json["session_id"]
        tail.wait_for(second.encode())
        errors = tail.stop().splitlines()
    assert all("trying again" in line for line in errors[::2])  # once, each time
    assert errors[1::2] == ["gatelog: the database answers again"] * (len(errors) // 2)
    assert len(errors) % 2 == 0
    sequence = [json.loads(line)["metadata"]["sequence"] for line in tail.lines]
    assert sequence == list(range(1, len(sequence) + 1))


def test_it_leaves_the_database_to_the_service(data_dir: Path) -> None:
    """It waits for a service that is down, and does not keep it from starting."""
    assert run_command(data_dir, "migrate").returncode == 0
    tail = Tail(data_dir, "--follow", "--format", "ndjson", "--from", "1")
    try:
        service = Service(data_dir)
        try:
            service.wait_until_announced()
            service.register("ada")
            tail.wait_for(b"user_registered")
        finally:
            service.stop()
        errors = tail.stop()
        assert positions(tail.lines)[0] == 1
        assert errors.count("\n") <= 3
    finally:
        tail.close()


@pytest.mark.parametrize(
    "options",
    [["--json", "--format", "cef"], ["--personal", "open"], ["--format", "xml"], ["--no-follow"]],
)
def test_options_that_do_not_go_together(data_dir: Path, options: list[str]) -> None:
    done: Any = run_command(data_dir, "log", "tail", *options)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
