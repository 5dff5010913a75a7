"""The stack is up from nothing, is what it should be, and shows nothing but its front port."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable
from functools import partial
from http.client import HTTPConnection
from ipaddress import ip_address
from typing import Any

import pytest

from tests.compose.stack import Stack, docker, inspect
from tests.stack.service import PASSWORD, ROOT, Answer
from tests.waiting import eventually

logger = logging.getLogger(__name__)

UP_WITHIN_S = 60.0
SOON_S = 60.0  # what takes a moment
STOP_WITHIN_S = 10.0
USER = 10001
FORGED = {  # what a client says of itself; nobody behind nginx may get to see it
    "X-Gatelog-User": "somebody-else",
    "X-Gatelog-Session": "another",
    "X-Gatelog-Roles": "admin",
    "X-Forwarded-For": "203.0.113.9",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Host": "evil.example",
    "X-Real-IP": "203.0.113.9",
    "Forwarded": "for=203.0.113.9;proto=https",
}


def ask(
    method: str, path: str, *, host: str = "127.0.0.1", port: int, body: Any = None, **headers: str
) -> Answer:
    """One request on a connection of its own."""
    return ask_on(HTTPConnection(host, port, timeout=30), method, path, body, headers)


def ask_on(
    connection: HTTPConnection, method: str, path: str, body: Any, headers: dict[str, str]
) -> Answer:
    """One request on this connection, which is closed then."""
    if body is not None:
        headers = headers | {"Content-Type": "application/json"}
    try:
        connection.request(method, path, json.dumps(body) if body else None, headers)
        answer = connection.getresponse()
        return Answer(answer.status, answer.headers, answer.read())
    finally:
        connection.close()


def log_in(stack: Stack, login: str) -> dict[str, str]:
    """Register and log in; returns the header that carries the session."""
    return log_in_by(partial(ask, port=stack.port), login)


def log_in_by(ask_it: Callable[..., Answer], login: str) -> dict[str, str]:
    """The same, in this way of asking."""
    body = {"login": login, "password": PASSWORD}
    assert ask_it("POST", "/v1/register_user", body=body).status in (201, 409)
    answer = ask_it("POST", "/v1/login_user", body=body)
    assert answer.status == 200, answer.body
    return {"Cookie": answer.cookie}


def test_it_is_up_from_nothing_within_a_minute(stack: Stack) -> None:
    logger.info("up in %.1f s", stack.up_in_s)
    assert stack.up_in_s < UP_WITHIN_S


@pytest.mark.timeout(600)
def test_the_six_steps_and_a_dead_token_at_every_container(stack: Stack) -> None:
    port = stack.port
    body = {"login": "ada", "password": PASSWORD}
    assert ask("GET", "/v1/me", port=port).status == 401
    assert ask("POST", "/v1/register_user", port=port, body=body).status == 201
    answer = ask("POST", "/v1/login_user", port=port, body=body)
    assert answer.status == 200
    assert answer.cookie.startswith("__Host-gatelog=")
    session = {"Cookie": answer.cookie}
    addresses = [container.address("_backend") for container in stack.containers("api")]
    assert len(addresses) == 2
    for address in addresses:
        assert ask("GET", "/v1/me", host=address, port=8080, **session).status == 200
    assert ask("GET", "/v1/me", port=port, **session).status == 200
    assert ask("POST", "/v1/logout_user", port=port, **session).status == 200
    for address in addresses:
        assert ask("GET", "/v1/me", host=address, port=8080, **session).status == 401
    assert ask("GET", "/v1/me", port=port, **session).status == 401


def test_every_container_answers_from_memory(stack: Stack) -> None:
    container, *_ = containers = stack.containers("api")
    wanted = sorted((each.id[:12], "memory") for each in containers)

    def all_from_memory() -> bool:
        hosts = json.loads(container.exec("gatelog", "status", "--json"))["hosts"]
        return sorted((host["host"], host["mode"]) for host in hosts) == wanted

    eventually(all_from_memory, SOON_S, "the leases of all containers, and of nobody else")
    assert "data.mdb" in container.exec("sh", "-c", "ls /replica/sessions/*")


def test_the_client_is_the_one_that_nginx_sees(stack: Stack) -> None:
    forged = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https"}
    body = {"login": "nobody-here", "password": PASSWORD}
    assert ask("POST", "/v1/login_user", port=stack.port, body=body, **forged).status == 401
    shown = stack.containers("api")[0].exec("gatelog", "log", "show", "--json")
    assert "203.0.113.9" not in shown


def test_secrets_differ_between_two_fresh_stacks(stack: Stack, image: str) -> None:
    other = Stack(image=image)
    try:
        other.compose("run", "--rm", "secrets")
        for volume, path in (
            ("secrets-database", "superuser_password"),
            ("secrets-database", "owner_password"),
            ("secrets-database", "password"),
            ("secrets-application", "master_key"),
            ("secrets-sealer", "log_signing_key"),
        ):
            mine, theirs = stack.secret(volume, path), other.secret(volume, path)
            assert len(mine) > 40
            assert mine != theirs
    finally:
        other.destroy()


def test_secrets_stay_and_are_for_their_readers_alone(stack: Stack) -> None:
    before = stack.secret("secrets-application", "master_key")
    stack.compose("run", "--rm", "secrets")
    assert stack.secret("secrets-application", "master_key") == before

    api, postgres = stack.containers("api")[0], stack.container("postgres")
    assert api.exec("sh", "-c", "ls /secrets/*").count("url") == 1
    assert "signing" not in api.exec("sh", "-c", "find /secrets", check=False)
    assert "master_key" not in postgres.exec("sh", "-c", "find /secrets")
    for line in api.exec("stat", "-c", "%u %a", "/secrets/application/master_key").splitlines():
        assert line == f"{USER} 600"
    mode = postgres.exec("stat", "-c", "%u %g %a", "/secrets/database/password").strip()
    assert mode == f"{USER} 999 640"


def test_a_lost_secret_is_not_made_again(image: str) -> None:
    stack = Stack(image=image)
    try:
        stack.compose("run", "--rm", "secrets")
        stack.compose(
            *("run", "--rm", "--entrypoint", "rm", "secrets"), "/secrets/application/master_key"
        )
        done = stack.compose("run", "--rm", "secrets", check=False)
        assert done.returncode == 1
        assert "master_key" in done.stderr + done.stdout
    finally:
        stack.destroy()


def test_nothing_but_the_front_port_is_published(stack: Stack) -> None:
    published: dict[str, Any] = {}
    for id_ in stack.compose("ps", "--all", "--quiet").stdout.split():
        ports = inspect(id_)["NetworkSettings"]["Ports"] or {}
        published |= {name: found for name, found in ports.items() if found}
    assert published == {"8080/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(stack.port)}]}
    for network in ("backend", "database", "upstreams"):
        assert json.loads(docker("network", "inspect", stack.network(network)).stdout)[0][
            "Internal"
        ]


def test_metrics_are_for_inside_only(stack: Stack) -> None:
    for path in (
        "/metrics",
        "//metrics",
        "/%6detrics",
        "/./metrics",
        "/v1/../metrics",
        "/metrics/",
    ):
        assert ask("GET", path, port=stack.port).status == 404, path
    address = stack.containers("api")[0].address("_backend")
    assert b"gatelog_" in ask("GET", "/metrics", host=address, port=8080).body
    forwarded = {"X-Forwarded-For": "192.0.2.1"}
    assert ask("GET", "/metrics", host=address, port=8080, **forwarded).status == 404


def test_the_dashboard_shows_what_there_is(stack: Stack) -> None:
    log_out = log_in(stack, "metrics-user")
    ask("POST", "/v1/logout_user", port=stack.port, **log_out)
    addresses = [container.address("_backend") for container in stack.containers("api")]
    observability = ROOT / "docker" / "observability"
    dashboard = (observability / "grafana" / "dashboards" / "gatelog.json").read_text()
    names = set(re.findall(r"gatelog_[a-z_]+", dashboard))
    assert names

    def all_shown() -> bool:  # what is counted when an answer has gone out, a moment later
        shown = b"".join(ask("GET", "/metrics", host=host, port=8080).body for host in addresses)
        return all(name.encode() in shown for name in names)

    eventually(all_shown, SOON_S, f"all of {sorted(names)}")
    stack.compose("--profile", "*", "config", "--quiet")


def test_nobody_reaches_the_service_past_nginx(stack: Stack) -> None:
    """Of all profiles: who shares a network is who could be believed, or could read metrics."""
    config = stack.config()
    sharing: dict[str, set[str]] = {}
    for name, service in config["services"].items():
        for network in service.get("networks") or {}:
            sharing.setdefault(network, set()).add(name)
    assert sharing["backend"] == {"nginx", "api", "prometheus"}
    assert sharing["upstreams"] == {"nginx", "example"}
    assert sharing["monitoring"] == {"prometheus", "grafana"}
    assert sharing["edge"] == {"nginx", "grafana"}
    outside = {name for name, network in config["networks"].items() if not network.get("internal")}
    assert outside == {"edge"}


def test_every_service_is_confined(stack: Stack) -> None:
    """Of all profiles, also those that run for a moment only."""
    services = stack.config()["services"]
    assert {"restore", "after-restore", "tools", "grafana"} <= set(services)
    for name, service in services.items():
        limits = service["deploy"]["resources"]["limits"]
        assert float(limits["cpus"]) > 0, name
        assert int(limits["memory"]) > 0, name
        assert limits["pids"] > 0, name
        assert service["cap_drop"] == ["ALL"] and not service.get("cap_add"), name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["read_only"], name


def test_nothing_is_sized_by_the_cores_of_the_host(stack: Stack) -> None:
    """A limit of processors does not lower the count that a program sees, nor does it memory."""
    found = json.loads(stack.containers("api")[0].exec("gatelog", "config", "--json"))
    settings = {item["variable"]: item["value"] for item in found}
    threads = settings["GATELOG_WORKERS"] * settings["GATELOG_HASHING_THREADS"]
    assert threads > 0
    hashing = threads * settings["GATELOG_ARGON2_MEMORY_KIB"] * 1024
    limits = stack.config()["services"]["api"]["deploy"]["resources"]["limits"]
    assert hashing < int(limits["memory"]) / 4
    shown = stack.container("nginx").exec("cat", "/etc/gatelog/nginx.conf")
    assert re.search(r"^worker_processes \d+;", shown, re.MULTILINE)


def test_containers_have_no_rights_to_lose(stack: Stack) -> None:
    for id_ in stack.compose("ps", "--all", "--quiet").stdout.split():
        found = inspect(id_)
        host = found["HostConfig"]
        name = found["Name"]
        assert found["Config"]["User"] not in ("", "0", "root"), name
        assert host["CapDrop"] == ["ALL"] and not host["CapAdd"], name
        assert "no-new-privileges:true" in host["SecurityOpt"], name
        assert host["ReadonlyRootfs"], name
        assert host["Memory"] > 0 and host["PidsLimit"] > 0 and host["NanoCpus"] > 0, name
    api = stack.containers("api")[0]
    assert api.exec("id", "-u").strip() == str(USER)
    assert "Read-only" in docker("exec", api.id, "touch", "/opt/gatelog/x", check=False).stderr
    for compiler in ("gcc", "cc", "make"):
        assert not api.exec("sh", "-c", f"command -v {compiler}", check=False)


def test_the_image_holds_no_secret_and_no_postgres(image: str) -> None:
    history = docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", image).stdout.lower()
    for word in ("password", "token", "private+key", "-----begin"):
        assert word not in history
    environment = inspect(image)["Config"]["Env"]
    assert not [item for item in environment if "KEY" in item or "URL" in item]
    found = docker(
        *("run", "--rm", "--entrypoint", "sh", image, "-c"),
        "find / -xdev \\( -name 'postgres' -o -name 'pg_ctl' -o -name '*.pem.key' \\) 2>/dev/null; "
        "ls /secrets/*",
        check=False,
    ).stdout
    assert "pg_ctl" not in found and "key" not in found
    logger.info("image: %.0f MB", inspect(image)["Size"] / 1e6)


@pytest.mark.timeout(600)
def test_it_stops_in_order_within_ten_seconds(stack: Stack) -> None:
    for service in ("api", "sealer"):
        container = stack.containers(service)[0]
        started = time.monotonic()
        docker("stop", "--time", "30", container.id)
        took_s = time.monotonic() - started
        logger.info("%s stopped in %.1f s", service, took_s)
        assert took_s < STOP_WITHIN_S
        assert container.state["ExitCode"] == 0, container.logs()
        docker("start", container.id)
        stack.wait_until_healthy(service)


def seen(answer: Answer) -> dict[str, str]:
    """What the example application was told."""
    return {name: value for name, value in answer.headers.items() if name.startswith("X-Seen-")}


@pytest.mark.timeout(600)
def test_an_application_behind_forward_auth(stack: Stack) -> None:
    stack.compose("--profile", "example", "up", "--detach", "--no-recreate", "example")
    log_in(stack, "example-user")
    stack.containers("api")[0].exec("gatelog", "user", "grant", "example-user", "auditor")
    session = log_in(stack, "example-user")
    assert ask("GET", "/example/", port=stack.port).status == 401
    assert ask("GET", "/example/", port=stack.port, **FORGED).status == 401
    eventually(
        lambda: ask("GET", "/example/", port=stack.port, **session).status == 200,
        SOON_S,
        "the application",
    )
    me = ask("GET", "/v1/me", port=stack.port, **session).json
    shown = seen(ask("GET", "/example/", port=stack.port, **session))
    address, _, scheme = shown.pop("X-Seen-Forwarded").partition(" ")
    assert ip_address(address).is_private
    assert scheme == "http", "and nothing in the headers that nginx does not set"
    assert shown == {
        "X-Seen-User": me["user_id"],
        "X-Seen-Session": me["session_id"],
        "X-Seen-Roles": "auditor",
    }
    plain = log_in(stack, "example-user-without-roles")
    for cookie in (session, plain):
        wanted = seen(ask("GET", "/example/", port=stack.port, **cookie))
        for name, value in FORGED.items():
            answer = ask("GET", "/example/", port=stack.port, **cookie, **{name: value})
            assert answer.status == 200, name
            assert seen(answer) == wanted, name
    assert "X-Seen-Roles" not in wanted
    assert "203.0.113.9" not in stack.containers("api")[0].exec("gatelog", "log", "show", "--json")
    ask("POST", "/v1/logout_user", port=stack.port, **session)
    assert ask("GET", "/example/", port=stack.port, **session).status == 401
    stack.compose("--profile", "example", "rm", "--stop", "--force", "example")
