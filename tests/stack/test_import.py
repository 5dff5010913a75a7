"""``user import``: a file of another system's users, against a running service."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.scratch import in_temporary_directory
from tests.stack.service import Service, run_command, serving

MADE = json.loads((Path(__file__).parent.parent / "accounts" / "foreign_hashes.json").read_text())
PASSWORD = MADE["password"]
SOME = MADE["django"]["pbkdf2_sha256"]


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with (
        in_temporary_directory() as directory,
        serving(Path(directory) / "var", GATELOG_ARGON2_MEMORY_KIB="64") as started,
    ):
        yield started


def test_json_lines_with_what_is_refused_and_why(service: Service, tmp_path: Path) -> None:
    users = [
        {"login": "ada", "hash": SOME, "roles": ["admin"]},
        {"login": "no hash"},
        {"login": "grace", "hash": "plain"},
        {"login": "kurt", "hash": SOME, "salt": "x"},
        {"login": "alan", "hash": MADE["passlib"]["2y"], "disabled": True},
    ]
    file, report = tmp_path / "users.jsonl", tmp_path / "report"
    file.write_text("\n".join(map(json.dumps, users)) + "\n\nnonsense\n")
    done = run_command(
        service.data_dir, "user", "import", str(file), "--report", str(report), "--json"
    )
    assert done.returncode == 1, done.stderr
    told = json.loads(done.stdout)
    assert told["imported"] == 2
    assert sum(told["refused"].values()) == 4
    lines = [json.loads(line) for line in report.read_text().splitlines()]
    assert sorted(line["line"] for line in lines) == [2, 3, 4, 7]
    assert {line["line"]: line["login"] for line in lines}[4] == "kurt"
    assert stat.S_IMODE(report.stat().st_mode) == 0o600
    assert "plain" not in report.read_text() and SOME not in report.read_text()
    assert service.log_in("ada", PASSWORD).status == 200
    assert service.log_in("alan", PASSWORD).status == 401
    again = run_command(service.data_dir, "user", "import", str(file))
    assert again.returncode == 1
    assert (
        "Users imported: 0." in again.stdout and "Refused: 2. The login is taken." in again.stdout
    )


def test_csv_in_thousands_again_and_again(service: Service, tmp_path: Path) -> None:
    file = tmp_path / "users.csv"
    lines = [f'user-{number},"{SOME}",{"auditor" * (number == 7)},no' for number in range(2500)]
    file.write_text("\ufefflogin,hash,roles,disabled\r\n" + "\r\n".join(lines) + "\r\n")
    done = run_command(service.data_dir, "user", "import", str(file))
    assert (done.returncode, done.stdout) == (0, "Users imported: 2500.\n"), done.stderr
    assert service.log_in("user-2499", PASSWORD).status == 200
    again = run_command(service.data_dir, "user", "import", str(file), "--json")
    assert again.returncode == 0
    assert json.loads(again.stdout) == {"imported": 0, "refused": {"The login is taken.": 2500}}


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("users.txt", "login,hash\n", "--format"),
        ("users.csv", "login,password\n", "the head line must name login and hash"),
        ("users.csv", "login,hash,email\n", "nothing else"),
        ("users.csv", 'login,hash\n"a"b,c\n', "line 2: it is no CSV"),
        ("users.jsonl", "x" * 20_000, "line 1: it is longer than"),
        ("users.jsonl", "\udcff", "it is not UTF-8"),
    ],
)
def test_what_is_no_such_file_is_told_in_one_line(
    service: Service, tmp_path: Path, name: str, text: str, says: str
) -> None:
    file = tmp_path / name
    file.write_bytes(text.encode(errors="surrogateescape"))
    done = run_command(service.data_dir, "user", "import", str(file))
    assert done.returncode == 1
    assert says in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_file_that_is_not_there(service: Service, tmp_path: Path) -> None:
    done = run_command(service.data_dir, "user", "import", str(tmp_path / "none.csv"))
    assert done.returncode == 1 and "No such file" in done.stderr
