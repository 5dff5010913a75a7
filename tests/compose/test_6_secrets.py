"""The commands that are written down change secrets and make the first administrator."""

from __future__ import annotations

import asyncio
import re
import shlex

import pytest
from gatelog.errors import ConfigError
from gatelog.log.store.database import connect

from tests.compose.stack import Stack
from tests.compose.test_1_up import ask, log_in
from tests.compose.test_4_restore import log_out, status_of, verify, wait_until_sealed
from tests.stack.service import PASSWORD, ROOT
from tests.terminal import at_a_terminal
from tests.waiting import eventually

README = (ROOT / "docker" / "README.md").read_text()
COMPOSE = ROOT / "docker" / "compose.yaml"
GONE_WITHIN_S = 60.0
TRIES = 12  # through nginx: some for every worker of every container


def documented(secret: str) -> list[str]:
    """The commands that change this secret, as the table has them, in their order."""
    found = re.search(rf"^\| {secret} \| ((?:`[^`]+`(?:, )?)+)", README, re.MULTILINE)
    assert found
    return re.findall("`([^`]+)`", found[1])


def follow(stack: Stack, command: str) -> str:
    """Run a command as it is written; returns what it printed."""
    program, *arguments = shlex.split(command)
    if program == "…":
        return stack.compose(*arguments).stdout
    return stack.script(program.removeprefix("docker/"), *arguments)


def sql(stack: Stack, query: str) -> str:
    asked = ("psql", "--username=postgres", "--dbname=gatelog", "--no-align", "--tuples-only")
    return stack.container("postgres").exec(*asked, f"--command={query}").strip()


def application_dsn(stack: Stack) -> str:
    """The database as the application, as the host reaches it."""
    host = stack.container("postgres").address("_database")
    url = stack.secret("secrets-application", "database_url").strip()
    return url.replace("@postgres:", f"@{host}:")


async def try_to_connect(dsn: str) -> None:
    connection = await connect(dsn, role=None)
    await connection.close()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_other_passwords(stack: Stack) -> None:
    session = log_in(stack, "before-other-passwords")
    old = [stack.owner_dsn(), application_dsn(stack)]
    commands = documented("the database's passwords")
    assert len(commands) == 4
    began = sql(stack, "SELECT now()")
    for command in commands:
        follow(stack, command)
    stack.wait_until_healthy("sealer")

    for refused in old:
        with pytest.raises(ConfigError, match="refuses"):
            asyncio.run(try_to_connect(refused))
    for accepted in (stack.owner_dsn(), application_dsn(stack)):
        assert accepted not in old
        asyncio.run(try_to_connect(accepted))
    from_before = (
        "SELECT count(*) FROM pg_stat_activity"
        f" WHERE usename LIKE 'gatelog%' AND backend_start < '{began}'"
    )
    eventually(lambda: sql(stack, from_before) == "0", GONE_WITHIN_S, "nobody is left from before")
    stack.compose("run", "--rm", "--no-deps", "migrate")  # the owner has the new one, too
    assert status_of(stack, session) == 200
    wait_until_sealed(stack, log_out(stack, session))
    verify(stack)


def own_logins(stack: Stack, session: dict[str, str]) -> list[str | None]:
    """The logins that are sealed in what is recorded about a user, as far as they are readable."""
    answer = ask("GET", "/v1/me/events", port=stack.port, **session)
    assert answer.status == 200, answer.body
    return [event.get("login") for event in answer.json["events"]]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_another_master_key(stack: Stack) -> None:
    login = "before-another-master-key"
    session = log_in(stack, login)
    old = stack.secret("secrets-application", "master_key").split()
    commands = documented("the master key")
    assert len(commands) == 5
    said = [follow(stack, command) for command in commands]

    new = stack.secret("secrets-application", "master_key").split()
    assert len(new) == 1 and new != old
    ring = sql(stack, "SELECT encode(master_key_id, 'hex') FROM key_ring")
    assert any(ring in each and "rewrapped" in each for each in said)
    for table in ("subject_keys", "day_keys"):
        other = f"SELECT count(*) FROM {table} WHERE encode(master_key_id, 'hex') <> '{ring}'"
        assert sql(stack, other) == "0"
    for _ in range(TRIES):
        assert own_logins(stack, session) == [login, login]  # registered, logged in
    later = "after-another-master-key"
    assert own_logins(stack, log_in(stack, later)) == [later, later]
    again = stack.compose("exec", "api", "gatelog", "keys", "rotate", check=False)
    assert again.returncode == 1 and "in front of" in again.stderr, "nothing is left to do"
    wait_until_sealed(stack, log_out(stack, session))
    verify(stack)


@pytest.mark.timeout(600)
def test_the_first_administrator(stack: Stack) -> None:
    written = re.search(
        r"^docker compose (?:-f \S+ )?(exec .*gatelog user add) \w+ (--role admin)$",
        README,
        re.MULTILINE,
    )
    assert written
    login = "the-first-administrator"
    words = (*written[1].split(), login, *written[2].split())
    command = ["docker", "compose", "-f", str(COMPOSE), *words]
    assert at_a_terminal(command, [PASSWORD, PASSWORD], stack.environment) == 0

    body = {"login": login, "password": PASSWORD}
    answer = ask("POST", "/v1/login_user", port=stack.port, body=body)
    assert answer.status == 200
    administrator, nobody = {"Cookie": answer.cookie}, log_in(stack, "no-administrator")
    assert ask("GET", "/v1/audit/events", port=stack.port, **administrator).status == 200
    assert ask("GET", "/v1/audit/events", port=stack.port, **nobody).status == 403
