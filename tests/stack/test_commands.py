"""The operator's commands, against a running service and without one."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from gatelog.host.embedded import EmbeddedPostgres

from tests.scratch import in_temporary_directory
from tests.stack.service import (
    COMMAND_TIMEOUT_S,
    PASSWORD,
    ROOT,
    Service,
    complaints,
    environment,
    run_command,
    serving,
)
from tests.stack.tail import tailing
from tests.waiting import eventually


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    """One service for the commands of this module, in which nobody may register over HTTP."""
    with (
        in_temporary_directory() as directory,
        serving(Path(directory) / "var", GATELOG_REGISTRATION="closed") as started,
    ):
        yield started


def command(service: Service, *arguments: str, stdin: str = "") -> str:
    """What the command prints; it must succeed."""
    done = run_command(service.data_dir, *arguments, stdin=stdin)
    assert done.returncode == 0, done.stderr
    return done.stdout


def json_of(service: Service, *arguments: str, stdin: str = "") -> Any:
    return json.loads(command(service, *arguments, "--json", stdin=stdin))


def add_user(service: Service, login: str, *roles: str) -> None:
    options = [word for role in roles for word in ("--role", role)]
    command(service, "user", "add", login, *options, "--password-file", "-", stdin=PASSWORD + "\n")


def test_users_and_their_sessions(service: Service) -> None:
    assert service.register("eve") == 403
    add_user(service, "ada", "admin")
    add_user(service, "bob")
    users = {user["login"]: user for user in json_of(service, "user", "list")}
    assert users["ada"]["roles"] == ["admin"]
    assert not users["ada"]["disabled"]
    assert "ada" in command(service, "user", "list")

    ada, bob = service.log_in("ada"), service.log_in("bob")
    sessions = json_of(service, "session", "list")
    listed = {session["session_id"] for session in sessions}
    assert {ada.json["session_id"], bob.json["session_id"]} <= listed
    assert "token_digest" not in sessions[0]
    assert len(json_of(service, "session", "list", "--user", "bob")) == 1
    assert len(json_of(service, "session", "list", "--limit", "1")) == 1

    assert json_of(service, "session", "end", bob.json["session_id"])["ended"] == 1
    assert (service.me(bob.cookie), service.me(ada.cookie)) == (401, 200)
    assert json_of(service, "session", "end", "--user", "ada")["ended"] == 1
    assert service.me(ada.cookie) == 401

    bob = service.log_in("bob")
    assert json_of(service, "user", "disable", "bob")["ended"] == 1
    assert service.me(bob.cookie) == 401
    assert service.log_in("bob").status == 401
    assert json_of(service, "user", "enable", "bob")["status"] == "enabled"
    assert service.log_in("bob").status == 200


def test_the_log_is_shown_as_it_is_stored(service: Service) -> None:
    for login in ("carol", "carla", "carlo"):
        add_user(service, login)
    lines = command(service, "log", "show", "--from", "1", "--limit", "3", "--json").splitlines()
    events = [json.loads(line) for line in lines]
    assert [event["position"] for event in events] == [1, 2, 3]
    assert all(event["entry"]["type"] for event in events)
    assert "user_registered" in command(service, "log", "show")
    assert PASSWORD not in command(service, "log", "show", "--limit", "1000")


def test_events_are_found_at_the_command_line(service: Service) -> None:
    """By login name and network, by people who have neither; and what is no question is told."""
    add_user(service, "greta")
    service.log_in("greta")
    user = next(each for each in json_of(service, "user", "list") if each["login"] == "greta")

    def found(*asked: str) -> list[str]:
        lines = command(service, "log", "show", "--json", *asked).splitlines()
        return [json.loads(line)["entry"]["type"] for line in lines]

    assert found("--login", "GRETA") == ["user_registered", "session_started"]
    assert found("--login", "greta", "--limit", "1") == ["session_started"]
    assert found("--login", "greta", "--from", "1", "--limit", "1") == ["user_registered"]
    assert found("--login", "greta", "--network", "127.0.0.0/8") == ["session_started"]
    assert found("--user", user["subject_id"], "--type", "session_started") == ["session_started"]
    assert found("--login", "nobody-at-all") == []
    for wrong, said in (
        (("--network", "10.0.0.0/12"), "/8, /16"),
        (("--network", "10.0.0.0/8", "--address", "10.0.0.1"), "--address or --network"),
        (("--type", "nothing"), "nothing"),
        (("--address", "here"), "no IP address"),
    ):
        refused = run_command(service.data_dir, "log", "show", *wrong)
        assert refused.returncode == 1
        assert said in refused.stderr


def test_the_tail_of_the_log_goes_on(service: Service) -> None:
    with tailing(service, "--from", "1", "--json") as tail:
        add_user(service, "dora")
        tail.wait_for(b"user_registered")
        session_id = service.log_in("dora").json["session_id"]
        tail.wait_for(session_id.encode())
        assert tail.stop() == ""
    assert tail.process.returncode == 0
    events = [json.loads(line) for line in tail.lines]
    assert [event["position"] for event in events] == list(range(1, len(events) + 1))
    (login,) = [event for event in events if event["entry"].get("session_id") == session_id]
    assert login["entry"]["type"] == "session_started"


def test_a_difference_is_found_and_mended(service: Service) -> None:
    add_user(service, "fred")
    cookie = service.log_in("fred").cookie
    assert json_of(service, "check")["differences"] == []

    async def forget() -> None:
        dsn = EmbeddedPostgres(service.data_dir).superuser_dsn("gatelog")
        connection = await asyncpg.connect(dsn)
        try:
            await connection.execute("DELETE FROM active_sessions")
        finally:
            await connection.close()

    asyncio.run(forget())
    checked = run_command(service.data_dir, "check")
    assert checked.returncode == 1
    assert "is missing" in checked.stdout
    command(service, "rebuild")
    assert command(service, "check")
    assert service.me(cookie) == 200


def test_migrate_has_nothing_to_do(service: Service) -> None:
    assert json_of(service, "migrate")["applied"] == []


def test_commands_start_the_database_when_no_service_does(data_dir: Path) -> None:
    assert run_command(data_dir, "migrate", "--json").stdout.startswith('{"applied":["0001"')
    done = run_command(data_dir, "user", "add", "ada", "--password-file", "-", stdin=PASSWORD)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(run_command(data_dir, "user", "list", "--json").stdout)) == 1
    with serving(data_dir) as service:
        assert service.log_in().status == 200


@pytest.mark.parametrize(
    ("arguments", "stdin", "reason"),
    [
        (["user", "add", "gus"], "", "--password-file"),
        (["user", "add", "gus", "--password-file", "/no/such/file"], "", "No such file"),
        (["user", "add", "gus", "--password-file", "-"], "", "one line"),
        (["user", "add", "gus", "--password-file", "-"], "short", "15"),
        (["user", "add", "ada\x01", "--password-file", "-"], PASSWORD, "login"),
        (
            ["user", "add", "x", "--role", "king", "--password-file", "-"],
            PASSWORD,
            "no role 'king'",
        ),
        (["user", "disable", "nobody"], "", "no user"),
        (["session", "end", "00000000-0000-4000-8000-000000000000"], "", "no such session"),
        (["session", "list", "--user", "nobody"], "", "no user"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line(
    service: Service, arguments: list[str], stdin: str, reason: str
) -> None:
    done = run_command(service.data_dir, *arguments, stdin=stdin)
    assert done.returncode == 1
    (told,) = complaints(done)
    assert reason in told


@pytest.mark.parametrize(
    "arguments",
    [["session", "end"], ["user", "add"], ["sing"]],
)
def test_a_wrong_command_line(service: Service, arguments: list[str]) -> None:
    done = run_command(service.data_dir, *arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_config_shows_what_holds(data_dir: Path) -> None:
    url = "postgresql://gatelog:hunter2@db.example/gatelog"
    shown = run_command(data_dir, "config", GATELOG_DATABASE_URL=url, COLUMNS="300")
    assert "hunter2" not in shown.stdout
    listed = run_command(data_dir, "config", "--json", GATELOG_DATABASE_URL=url)
    settings = {setting["variable"]: setting for setting in json.loads(listed.stdout)}
    assert settings["GATELOG_DATA_DIR"]["value"] == str(data_dir)
    assert settings["GATELOG_DATABASE_URL"]["value"] == "********"
    for name in settings:
        assert name in shown.stdout


def test_every_command_explains_itself(data_dir: Path) -> None:
    for words in ([], ["user"], ["user", "add"], ["session", "end"], ["log", "tail"], ["rebuild"]):
        done = run_command(data_dir, *words, "--help")
        assert done.returncode == 0
        assert done.stdout.startswith("Usage: run.py")


def test_its_name_is_the_one_that_was_called(data_dir: Path) -> None:
    """As ``gatelog`` in a container, where there is no run.py; also in what is wrong with it."""
    for words, status in ((["--help"], 0), (["sing"], 2), (["log", "tail", "--no-follow"], 2)):
        done = subprocess.run(
            [sys.executable, "-m", "gatelog.cli", *words],
            cwd=ROOT,
            env=environment(data_dir, {}),
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
        assert done.returncode == status
        assert "Usage: gatelog" in done.stdout + done.stderr
        assert "run.py" not in done.stdout + done.stderr


def test_the_status_of_every_host(service: Service) -> None:
    def hosts() -> list[dict[str, Any]]:  # none while the only one is late with its renewal
        found: list[dict[str, Any]] = json_of(service, "status")["hosts"]
        return found

    def one_host_from_memory() -> bool:
        return [(host["mode"], host["lag"]) for host in hosts()] == [("memory", 0)]

    def counted() -> bool:  # at the last renewal
        listed = len(json_of(service, "session", "list"))
        return [host["sessions"] for host in hosts()] == [listed]

    def shown() -> bool:
        replicas = [host["replica"] for host in hosts()]
        return len(replicas) == 1 and replicas[0] in command(service, "status")

    eventually(one_host_from_memory, 60, "the projector's lease")
    eventually(counted, 60, "the renewal that tells of all sessions")
    eventually(shown, 60, "the same for people")
