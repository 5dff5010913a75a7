"""The walk on a real service with two workers, from an empty database: as docs/composer.md has it.

Every request has a connection of its own, so that either worker may answer it; once by the API, and
once from the file, by the command line, while the service runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from gatelog.composer.rules.checking import check
from gatelog.composer.rules.files import read, write

from tests.composer.compositions import AROUND, OWN_WALK
from tests.scratch import in_temporary_directory
from tests.stack.conftest import two_workers
from tests.stack.service import PASSWORD, ROOT, Service, run_command

TIMES = 12  # so that both workers are met
PAGE = (ROOT / "docs" / "composer.md").read_text()
FILES = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
LOGIN = {"login": "ada", "password": PASSWORD}


@pytest.fixture
def service() -> Iterator[Service]:
    with in_temporary_directory() as directory, two_workers(Path(directory) / "var") as started:
        arguments = ("--role", "admin", "--password-file", "-")
        done = run_command(started.data_dir, "user", "add", "ada", *arguments, stdin=PASSWORD)
        assert done.returncode == 0, done.stderr
        yield started


def statuses(service: Service, path: str, cookie: str | None = None) -> set[int]:
    """What is answered, asked again and again."""
    return {service.request("GET", path, cookie=cookie).status for _ in range(TIMES)}


def walk(service: Service) -> None:
    assert statuses(service, "/v2/me") == {401}
    logged_in = service.request("POST", "/v2/login", LOGIN)
    assert logged_in.status == 200
    assert statuses(service, "/v2/me", logged_in.cookie) == {200}
    out = service.request("GET", "/v1/logout_user", cookie=logged_in.cookie)
    assert (out.status, out.json["ended"]) == (200, 1)
    assert statuses(service, "/v2/me", logged_in.cookie) == {401}


def test_by_the_api(service: Service) -> None:
    admin = service.log_in().cookie

    def ask(method: str, path: str, body: Any = None) -> Any:
        answer = service.request(method, f"/v1/compose{path}", body, cookie=admin)
        assert answer.status == 200, answer.body
        return answer.json

    assert statuses(service, "/v2/me") == {404}
    drafted = ask("PUT", "/draft", {"composition": msgspec.to_builtins(OWN_WALK), "seen": ""})
    assert ask("POST", "/check")["faults"] == []
    built = ask("POST", "/build", {"seen": drafted["digest"]})
    assert built["build"] == 1
    ran = ask("POST", "/run", {"endpoint": "Logout user"})
    assert ran["status"] == 200
    names = {"protected": "Who am I", "login": "Log in", "logout": "Logout user"}
    assert ask("POST", "/walk", names | {"body": LOGIN})["right"]
    walk(service)
    assert service.me(admin) == 200


def test_from_the_file(service: Service, tmp_path: Path) -> None:
    file = tmp_path / "walk.toml"
    file.write_text(FILES[0])

    def compose(*arguments: str) -> tuple[int, str]:
        done = run_command(service.data_dir, "compose", *arguments)
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout

    assert compose("diff", str(file))[0] == 1
    code, out = compose("apply", str(file))
    assert (code, out.splitlines()[-1]) == (0, "Build 1 is live.")
    walk(service)
    assert compose("diff", str(file))[0] == 0
    assert compose("export", "-") == (0, FILES[0])
    file.write_text("format = 1\n")
    assert compose("apply", str(file))[1].splitlines()[-1] == "Build 2 is live."
    assert statuses(service, "/v2/me") == {404}


def test_the_page_shows_files_that_can_be_built() -> None:
    assert len(FILES) == 2
    assert read(FILES[0]) == OWN_WALK and write(OWN_WALK) == FILES[0]
    record = read(f"format = 1\n\n{FILES[1]}")
    assert check(record, AROUND) == []
