"""The operator's commands, against a running service and without one."""

from __future__ import annotations

import asyncio
import json
import selectors
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from server.embedded import EmbeddedPostgres
from tests.stack.service import (
    PASSWORD,
    RUN,
    Service,
    environment,
    run_command,
    serving,
)
from tests.waiting import eventually


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    """One service for the commands of this module, in which nobody may register over HTTP."""
    with (
        tempfile.TemporaryDirectory(prefix="gatelog-", ignore_cleanup_errors=True) as directory,
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
    assert {s["session_id"] for s in sessions} == {ada.json["session_id"], bob.json["session_id"]}
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
    add_user(service, "carol")
    lines = command(service, "log", "show", "--from", "1", "--limit", "3", "--json").splitlines()
    events = [json.loads(line) for line in lines]
    assert [event["position"] for event in events] == [1, 2, 3]
    assert all(event["entry"]["type"] for event in events)
    assert "user_registered" in command(service, "log", "show")
    assert PASSWORD not in command(service, "log", "show", "--limit", "1000")


def test_the_tail_of_the_log_goes_on(service: Service) -> None:
    tail = subprocess.Popen(
        [*RUN, "log", "tail", "--from", "1", "--json"],
        env=environment(service.data_dir, {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    add_user(service, "dora")
    assert tail.stdout and tail.stderr
    positions, kinds = [], []
    with selectors.DefaultSelector() as selector:
        selector.register(tail.stdout, selectors.EVENT_READ)
        while "login_failed" not in kinds and selector.select(30):
            event = json.loads(tail.stdout.readline())
            positions.append(event["position"])
            kinds.append(event["entry"]["type"])
            if kinds[-1] == "user_registered":
                service.log_in("dora", "not the password of dora")
    tail.send_signal(signal.SIGINT)
    _, errors = tail.communicate(timeout=30)
    assert (tail.returncode, errors) == (0, "")
    assert "login_failed" in kinds
    assert positions == list(range(1, len(positions) + 1))


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
    assert done.stderr.startswith("gatelog: ")
    assert done.stderr.count("\n") == 1
    assert reason in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [["session", "end"], ["user", "add"], ["user", "add", "x", "--role", "king"], ["sing"]],
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


def test_the_status_of_every_host(service: Service) -> None:
    def one_host_from_memory() -> bool:
        hosts = json_of(service, "status")["hosts"]
        return len(hosts) == 1 and hosts[0]["mode"] == "memory" and hosts[0]["lag"] == 0

    def counted() -> bool:  # at the last renewal
        hosts = json_of(service, "status")["hosts"]
        return bool(hosts[0]["sessions"] == len(json_of(service, "session", "list")))

    eventually(one_host_from_memory, 20, "the projector's lease")
    eventually(counted, 20, "the renewal that tells of all sessions")
    assert json_of(service, "status")["hosts"][0]["replica"] in command(service, "status")
