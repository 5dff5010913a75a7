"""Stopped and started, backed up and restored: nothing is lost, and no dead session comes back."""

from __future__ import annotations

import json
import re

import pytest

from tests.compose.stack import Stack, docker
from tests.compose.test_1_up import ask, log_in
from tests.stack.service import PASSWORD
from tests.waiting import eventually

SEALED_WITHIN_S = 120.0  # a sealer that has refused looks again after 10 s
READY_WITHIN_S = 120.0


def status_of(stack: Stack, session: dict[str, str]) -> int:
    return ask("GET", "/v1/me", port=stack.port, **session).status


def log_out(stack: Stack, session: dict[str, str]) -> int:
    """End the session; returns the position at which the log says so."""
    answer = ask("POST", "/v1/logout_user", port=stack.port, **session)
    assert answer.status == 200
    assert answer.json["ended"] == 1
    position: int = answer.json["position"]
    return position


def wait_until_sealed(stack: Stack, position: int) -> None:
    sealer = stack.container("sealer")

    def is_sealed() -> bool:  # there is no checkpoint before the first one
        lines = sealer.exec("cat", "/sealed/checkpoint", check=False).splitlines()
        return len(lines) > 1 and int(lines[1]) >= position

    eventually(is_sealed, SEALED_WITHIN_S, "the logout is signed")


def back_up(stack: Stack) -> str:
    return stack.container("postgres").exec("/gatelog/backup.sh").strip()


def epoch_of(stack: Stack) -> int:
    shown = stack.containers("api")[0].exec("gatelog", "status", "--json")
    return int(json.loads(shown)["epoch"].rpartition(".")[2])


def verify(stack: Stack) -> None:
    """The log fits what was signed, and the projection fits the log."""
    stack.container("sealer").exec("gatelog", "log", "verify")
    stack.containers("api")[0].exec("gatelog", "check")


@pytest.mark.timeout(600)
def test_down_and_up_again(stack: Stack) -> None:
    session = log_in(stack, "down-and-up")
    stack.compose("down")
    stack.up()

    assert status_of(stack, session) == 200
    log_out(stack, session)
    verify(stack)


@pytest.mark.timeout(600)
def test_a_restore_that_nobody_has_told_of_is_refused(stack: Stack) -> None:
    ended, active = log_in(stack, "ended-after-backup"), log_in(stack, "active-all-the-time")
    back_up(stack)
    clock = ("psql", "--username=postgres", "--tuples-only", "--command=SELECT now()")
    before = stack.container("postgres").exec(*clock).strip()
    wait_until_sealed(stack, log_out(stack, ended))
    epoch = epoch_of(stack)  # each restore before this one, in whatever order, has begun one
    refused = stack.compose("run", "--rm", "restore", "latest", before, check=False)
    assert "PostgreSQL is running" in refused.stderr

    stack.compose("stop", "postgres")
    stack.compose("run", "--rm", "restore", "latest", before)
    stack.compose("start", "postgres")
    stack.wait_until_healthy("postgres")

    eventually(
        lambda: b"history_lost" in ask("GET", "/health/ready", port=stack.port).body,
        READY_WITHIN_S,
        "the reason is told",
    )
    docker("restart", stack.containers("api")[0].id)  # one remembers, one was never there
    for session in (ended, active):
        answers = [ask("GET", "/v1/me", port=stack.port, **session) for _ in range(10)]
        assert {answer.status for answer in answers} == {503}
        assert all(answer.headers["Retry-After"] for answer in answers)
    assert ask("POST", "/v1/logout_user", port=stack.port, **active).status == 503

    taken = json.loads(stack.compose("run", "--rm", "after-restore", "--json").stdout)
    assert taken["ended"] >= 2, "both live in the backup"
    assert taken["epoch"] == epoch + 1
    assert taken["lost_to"] is not None
    stack.wait_until_healthy("api")

    def both_are_over() -> bool:
        found = [status_of(stack, session) for session in (ended, active)]
        assert 200 not in found
        return found == [401, 401]  # 503 from who has not looked again yet

    eventually(both_are_over, READY_WITHIN_S, "the sessions are over")
    assert status_of(stack, log_in(stack, "active-all-the-time")) == 200
    wait_until_sealed(stack, taken["position"])
    kept = stack.container("sealer").exec("sh", "-c", "ls /sealed")
    assert f"checkpoint.lost-{taken['lost_to']}" in kept, "the evidence is kept"
    verify(stack)


@pytest.mark.timeout(600)
def test_a_lost_volume_comes_back_with_everything_and_the_passwords_of_today(stack: Stack) -> None:
    ended, active = log_in(stack, "lost-1"), log_in(stack, "lost-2")
    back_up(stack)
    log_out(stack, ended)
    later = log_in(stack, "lost-3")
    last = log_in(stack, "lost-4")
    wait_until_sealed(stack, log_out(stack, last))
    stack.compose("run", "--rm", "secrets", "new-passwords")  # the backup knows the old ones
    stack.compose("rm", "--stop", "--force", "postgres")
    docker("volume", "rm", f"{stack.project}_database")

    said = stack.script("restore.sh", "--keep-sessions")

    assert "sessions ended: 0" in said
    assert "lost" not in said
    found = [status_of(stack, session) for session in (ended, active, later, last)]
    assert found == [401, 200, 200, 401]
    verify(stack)
    log_in(stack, "lost-5")


@pytest.mark.timeout(600)
def test_a_lost_volume_comes_back_and_nobody_is_logged_in(stack: Stack) -> None:
    """What 'restore.sh' does without a further word."""
    ended, active = log_in(stack, "nobody-1"), log_in(stack, "nobody-2")
    back_up(stack)
    log_out(stack, ended)
    later = log_in(stack, "nobody-3")
    last = log_in(stack, "nobody-4")
    wait_until_sealed(stack, log_out(stack, last))
    epoch = epoch_of(stack)
    stack.compose("rm", "--stop", "--force", "postgres")
    docker("volume", "rm", f"{stack.project}_database")

    said = stack.script("restore.sh")

    told = re.search(r"in epoch (\d+); sessions ended: (\d+)", said)
    assert told and int(told[1]) == epoch_of(stack) == epoch + 1
    assert int(told[2]) >= 2, "the two that lived"
    assert "lost" not in said
    found = [status_of(stack, session) for session in (ended, active, later, last)]
    assert found == [401] * 4
    assert status_of(stack, log_in(stack, "nobody-3")) == 200
    verify(stack)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_back_to_a_point_in_time(stack: Stack) -> None:
    """What was before it is there, what was after it is not, and the restore says so."""
    active = log_in(stack, "time-1")
    backup = back_up(stack)
    between = log_in(stack, "time-2")
    clock = ("psql", "--username=postgres", "--no-align", "--tuples-only", "--command=SELECT now()")
    moment = stack.container("postgres").exec(*clock).strip()
    late = log_in(stack, "time-3")
    position = log_out(stack, between)
    wait_until_sealed(stack, position)
    epoch = epoch_of(stack)

    said = stack.script("restore.sh", backup, moment)

    told = re.search(r"Events up to (\d+) had been signed and are lost", said)
    assert told and int(told[1]) >= position
    kept = stack.container("sealer").exec("sh", "-c", "ls /sealed").split()
    assert f"checkpoint.lost-{told[1]}" in kept
    assert epoch_of(stack) == epoch + 1
    found = [status_of(stack, session) for session in (active, between, late)]
    assert found == [401] * 3
    for login, status in (("time-1", 200), ("time-2", 200), ("time-3", 401)):
        body = {"login": login, "password": PASSWORD}
        answer = ask("POST", "/v1/login_user", port=stack.port, body=body)
        assert answer.status == status, f"{login}: {answer.body!r}"
    verify(stack)
