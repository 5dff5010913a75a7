"""Erasing a person and changing the master key, by command, beside the running service."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.scratch import in_temporary_directory
from tests.stack.service import Service, complaints, run_command, serving


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with (
        in_temporary_directory() as directory,
        serving(
            Path(directory) / "var", GATELOG_REGISTRATION="open", GATELOG_WORKERS="2"
        ) as started,
    ):
        yield started


def master_key(service: Service) -> Path:
    return service.data_dir / "secrets" / "master_key"


def json_of(service: Service, *arguments: str) -> Any:
    done = run_command(service.data_dir, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    assert complaints(done) == []
    return json.loads(done.stdout)


def refusal(service: Service, *arguments: str) -> str:
    done = run_command(service.data_dir, *arguments)
    assert done.returncode == 1
    return complaints(done)[-1].removeprefix("gatelog: ")


def test_erasing_by_login_and_by_id(service: Service) -> None:
    assert [service.register(login) for login in ("ada", "bob")] == [201, 201]
    ada, bob = service.log_in("ada"), service.log_in("bob")
    assert refusal(service, "user", "erase", "ada") == "stopped"  # nobody has said yes
    for who, login in (("ada", ada), (bob.json["user_id"], bob)):
        done = json_of(service, "user", "erase", who, "--yes")
        assert done == {"user_id": login.json["user_id"], "status": "erased", "ended": 1}
        assert service.me(login.cookie) == 401
    assert "no user" in refusal(service, "user", "erase", "ada", "--yes")
    users = {user["subject_id"]: user for user in json_of(service, "user", "list")}
    erased = users[ada.json["user_id"]]
    assert (erased["login"], erased["erased"]) == (None, True)
    assert service.register("ada") == 201
    assert service.log_in("ada").json["user_id"] != ada.json["user_id"]
    assert run_command(service.data_dir, "check").returncode == 0


def test_a_login_that_looks_like_an_id_is_not_taken_for_one(service: Service) -> None:
    assert [service.register(login) for login in ("cyd", "0" * 32)] == [201, 201]
    victim = service.log_in("cyd").json["user_id"]
    assert service.register(victim) == 201
    assert json_of(service, "user", "erase", victim, "--yes")["user_id"] == victim
    assert service.log_in(victim).status == 200
    assert "no such user" in refusal(service, "user", "erase", "0" * 32, "--yes")


def test_roles_by_command(service: Service) -> None:
    assert service.register("dan") == 201
    cookie = service.log_in("dan").cookie
    assert json_of(service, "user", "grant", "dan", "admin")["status"] == "granted"
    assert service.me(cookie) == 401
    login = service.log_in("dan")
    path = f"/v1/users/{login.json['user_id']}"
    assert service.request("POST", f"{path}/disable", cookie=login.cookie).status == 409
    assert json_of(service, "user", "revoke", "dan", "admin")["status"] == "revoked"


def test_rotation_beside_the_running_service(service: Service) -> None:
    assert service.register("eve") == 201
    before = master_key(service).read_text()
    done = json_of(service, "keys", "rotate")
    assert master_key(service).read_text() != before
    assert not done["resumed"]
    for number in range(8):  # both workers find the new key by themselves
        assert service.register(f"later{number}") == 201
        assert service.log_in("eve").status == 200
        assert service.log_in("nobody").status == 401
    assert run_command(service.data_dir, "check").returncode == 0


def test_a_lost_master_key_is_told_before_anything_else(data_dir: Path) -> None:
    with serving(data_dir) as service:
        assert service.register() == 201
    kept = master_key(service).read_bytes()
    master_key(service).unlink()
    told = refusal(service, "serve")
    assert told.startswith("GATELOG_MASTER_KEY: ")
    assert str(master_key(service)) in told
    assert not master_key(service).exists()
    master_key(service).write_bytes(kept)
    with serving(data_dir) as service:
        assert service.log_in().status == 200
    master_key(service).unlink()
    assert refusal(service, "keys", "rotate", "--lost") == "stopped"
    done = json_of(service, "keys", "rotate", "--lost", "--yes")
    assert done["lost"] == 2
    with serving(data_dir) as service:
        assert service.log_in().status == 200
