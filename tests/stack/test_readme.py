"""Every command of the README does what the README says."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from http.client import HTTPConnection
from pathlib import Path

import pytest
from gatelog.config import Config, variable

from tests.conftest import Dsns
from tests.stack.service import (
    COMMAND_TIMEOUT_S,
    PASSWORD,
    REQUEST_TIMEOUT_S,
    ROOT,
    START_TIMEOUT_S,
    STOP_TIMEOUT_S,
    Answer,
    Service,
    environment,
    run_command,
)
from tests.stack.service import RUN as RUN_PY
from tests.terminal import at_a_terminal
from tests.waiting import eventually, free_port

README = (ROOT / "README.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
BLOCKS = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.splitlines()]
CURL = [line for line in COMMANDS if line.startswith("curl ")]
RUN = [line for line in COMMANDS if "run.py" in line]
MAKE = [line for line in COMMANDS if line.startswith("make ")]
HOST = ["GATELOG_APP=shop.web:app gatelog serve"]  # see test_serve.py
NEW = [  # see test_new.py
    "gatelog new my_api",
    "cd my_api && GATELOG_APP=my_api:make_app gatelog serve --reload",
]
DOCKER = ["docker compose -f docker/compose.yaml up --detach --wait"]  # see tests/compose


def test_nothing_is_left_out() -> None:
    assert len(CURL) == 6
    assert sorted(CURL + RUN + MAKE + HOST + NEW + DOCKER) == sorted(COMMANDS)


def test_the_curl_lines_walk_from_login_to_logout(tmp_path: Path, data_dir: Path) -> None:
    service = Service(data_dir)
    try:
        service.wait_until_announced()
        base = f"http://127.0.0.1:{service.port}"
        statuses = []
        for line in (line.replace("http://127.0.0.1:8080", base) for line in CURL):
            assert line in service.printed  # the service prints the very same walk
            done = subprocess.run(
                [*shlex.split(line), "-s"], cwd=tmp_path, capture_output=True, text=True, check=True
            )
            statuses.append(int(done.stdout.split()[1]))
    finally:
        service.stop()
    assert statuses == [401, 201, 200, 200, 200, 401]
    assert f"They answer {', '.join(map(str, statuses))}." in README


def test_the_commands_work(data_dir: Path) -> None:
    for line in RUN:
        program, *arguments = shlex.split(line)[1:]
        assert program == "run.py"
        if arguments[:2] == ["user", "add"]:
            typed = at_a_terminal([*RUN_PY, *arguments], [PASSWORD] * 2, environment(data_dir, {}))
            assert typed == 0
        else:
            done = run_command(data_dir, *arguments)
            assert done.returncode == 0, done.stderr


def test_the_program_is_the_example() -> None:
    assert (ROOT / "examples" / "inside" / "app.py").read_text() == PYTHON[0]


def test_the_test_of_a_handler_passes_and_can_fail(tmp_path: Path) -> None:
    program, test = PYTHON
    settings = "asyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n"
    (tmp_path / "pytest.ini").write_text(f"[pytest]\n{settings}")
    (tmp_path / "test_app.py").write_text(test)

    def passes(tested: str) -> bool:
        (tmp_path / "app.py").write_text(tested)
        done = subprocess.run(
            [sys.executable, "-B", "-m", "pytest", "-q", "-p", "no:cacheprovider"],
            cwd=tmp_path,
            env=environment(tmp_path, {}),
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
        return "1 passed" in done.stdout and done.returncode == 0

    assert passes(program)
    assert not passes(program.replace('@requires("admin")', "@public"))
    assert len([line for line in test.partition("async def")[2].splitlines() if line]) == 5


def test_the_program_protects_its_handlers(tmp_path: Path, data_dir: Path, database: Dsns) -> None:
    (tmp_path / "program.py").write_text(PYTHON[0])
    port = free_port()
    settings = {
        "GATELOG_DATABASE_URL": database.app,
        "GATELOG_PORT": str(port),
        "GATELOG_LEASE_TTL_S": "60",
    }
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "program.py")], env=environment(data_dir, settings)
    )

    def ask(path: str, body: object = None, cookie: str = "") -> Answer:
        connection = HTTPConnection("127.0.0.1", port, timeout=REQUEST_TIMEOUT_S)
        headers = {"Content-Type": "application/json"} if body else {"Cookie": cookie}
        try:
            connection.request(
                "POST" if body else "GET", path, json.dumps(body) if body else None, headers
            )
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read())
        finally:
            connection.close()

    def answers() -> bool:
        assert process.poll() is None
        try:
            return ask("/health/ready").status == 200
        except OSError:
            return False

    def lookups() -> bytes:
        (line,) = re.findall(rb"^gatelog_primary_lookups_total .*$", ask("/metrics").body, re.M)
        return bytes(line)

    def from_memory() -> bool:
        before = lookups()
        assert ask("/orders", cookie=login.cookie).status == 200
        return lookups() == before

    try:
        eventually(answers, START_TIMEOUT_S, "the program")
        assert ask("/prices").json == {"apple": 1}
        assert ask("/orders").status == ask("/report").status == 401
        credentials = {"login": "ada", "password": PASSWORD}
        assert ask("/v1/register_user", credentials).status == 201
        login = ask("/v1/login_user", credentials)
        orders = ask("/orders", cookie=login.cookie)
        assert orders.json == {"user": login.json["user_id"]}
        assert ask("/report", cookie=login.cookie).status == 403
        eventually(from_memory, START_TIMEOUT_S, "an answer from memory")
        process.terminate()
        assert process.wait(STOP_TIMEOUT_S) == 0
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("line", MAKE)
def test_the_make_targets_exist(line: str) -> None:
    done = subprocess.run(
        [*shlex.split(line), "--dry-run"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_make_help_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY:(.*)$", makefile, re.MULTILINE)
    assert phony
    told = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    for target in phony[1].split():
        assert f"make {target} " in told.stdout


def test_the_configuration_table_is_true(tmp_path: Path) -> None:
    table = dict(re.findall(r"^\| (GATELOG_\w+) \| (\S*) ?\|", README, re.MULTILINE))
    assert len(table) >= 8
    for field in Config.__struct_fields__:
        if (name := variable(field)) in table:
            assert table.pop(name) == str(getattr(Config(), field))
    assert not table
    assert environment(tmp_path, {})["GATELOG_DATA_DIR"] == str(tmp_path)
