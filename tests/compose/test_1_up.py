"""The stack is up from nothing, is what it should be, and shows nothing but its front port."""

from __future__ import annotations

import json
import re
import time
from http.client import HTTPConnection
from typing import Any

import pytest

from tests.compose.stack import Stack, docker, inspect
from tests.stack.service import PASSWORD, ROOT, Answer
from tests.waiting import eventually

UP_WITHIN_S = 60.0
SOON_S = 60.0  # what takes a moment
STOP_WITHIN_S = 10.0
USER = 10001


def ask(
    method: str, path: str, *, host: str = "127.0.0.1", port: int, body: Any = None, **headers: str
) -> Answer:
    """One request on a connection of its own."""
    connection = HTTPConnection(host, port, timeout=30)
    if body is not None:
        headers["Content-Type"] = "application/json"
    try:
        connection.request(method, path, json.dumps(body) if body else None, headers)
        answer = connection.getresponse()
        return Answer(answer.status, answer.headers, answer.read())
    finally:
        connection.close()


def log_in(stack: Stack, login: str) -> dict[str, str]:
    """Register and log in; returns the header that carries the session."""
    body = {"login": login, "password": PASSWORD}
    assert ask("POST", "/v1/register_user", port=stack.port, body=body).status in (201, 409)
    answer = ask("POST", "/v1/login_user", port=stack.port, body=body)
    assert answer.status == 200, answer.body
    return {"Cookie": answer.cookie}


def test_it_is_up_from_nothing_within_a_minute(stack: Stack) -> None:
    print(f"up in {stack.up_in_s:.1f} s")  # noqa: T201 - shown with -s
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
    for network in ("backend", "database"):
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
    assert len(names) == 5

    def all_shown() -> bool:  # what is counted when an answer has gone out, a moment later
        shown = b"".join(ask("GET", "/metrics", host=host, port=8080).body for host in addresses)
        return all(name.encode() in shown for name in names)

    eventually(all_shown, SOON_S, f"all of {sorted(names)}")
    stack.compose("--profile", "*", "config", "--quiet")


def test_containers_have_no_rights_to_lose(stack: Stack) -> None:
    for id_ in stack.compose("ps", "--all", "--quiet").stdout.split():
        found = inspect(id_)
        host = found["HostConfig"]
        name = found["Name"]
        assert found["Config"]["User"] not in ("", "0", "root"), name
        assert host["CapDrop"] == ["ALL"] and not host["CapAdd"], name
        assert "no-new-privileges:true" in host["SecurityOpt"], name
        assert host["ReadonlyRootfs"], name
        assert host["Memory"] > 0 and host["PidsLimit"] > 0, name
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
    print(f"image: {inspect(image)['Size'] / 1e6:.0f} MB")  # noqa: T201 - shown with -s


@pytest.mark.timeout(600)
def test_it_stops_in_order_within_ten_seconds(stack: Stack) -> None:
    for service in ("api", "sealer"):
        container = stack.containers(service)[0]
        started = time.monotonic()
        docker("stop", "--time", "30", container.id)
        took_s = time.monotonic() - started
        print(f"{service} stopped in {took_s:.1f} s")  # noqa: T201 - shown with -s
        assert took_s < STOP_WITHIN_S
        assert container.state["ExitCode"] == 0, container.logs()
        docker("start", container.id)
        stack.wait_until_healthy(service)


@pytest.mark.timeout(600)
def test_an_application_behind_forward_auth(stack: Stack) -> None:
    stack.compose("--profile", "example", "up", "--detach", "--no-recreate", "example")
    session = log_in(stack, "example-user")
    assert ask("GET", "/example/", port=stack.port).status == 401
    eventually(
        lambda: ask("GET", "/example/", port=stack.port, **session).status == 200,
        SOON_S,
        "the application",
    )
    shown = ask("GET", "/example/", port=stack.port, **session)
    me = ask("GET", "/v1/me", port=stack.port, **session).json["user_id"]
    assert shown.headers["X-Seen-User"] == me
    forged = session | {"X-Gatelog-User": "somebody-else"}
    assert ask("GET", "/example/", port=stack.port, **forged).headers["X-Seen-User"] == me
    ask("POST", "/v1/logout_user", port=stack.port, **session)
    assert ask("GET", "/example/", port=stack.port, **session).status == 401
    stack.compose("--profile", "example", "rm", "--stop", "--force", "example")


def test_the_front_takes_tls(stack: Stack) -> None:
    """The configuration for TLS, with a certificate of the moment, is one that nginx takes."""
    nginx = stack.container("nginx")
    script = """
set -e
mkdir -p /tmp/t/enabled /tmp/t/certificates
cp /etc/gatelog/locations.conf /tmp/t/
sed "s,/etc/gatelog,/tmp/t,g" /etc/gatelog/nginx.conf > /tmp/t/nginx.conf
sed -e "s,/etc/certificates,/tmp/t/certificates,; s,/etc/gatelog,/tmp/t,g" \\
    -e "s,8443,18443,; s,8080,18080," /etc/gatelog/available/tls.conf > /tmp/t/enabled/http.conf
"""
    nginx.exec("sh", "-c", script)
    certificate, key = self_signed()
    for name, text in (("fullchain.pem", certificate), ("privkey.pem", key)):
        docker(
            *("exec", "-i", nginx.id, "sh", "-c", f"cat > /tmp/t/certificates/{name}"), input=text
        )
    done = docker("exec", nginx.id, "nginx", "-t", "-c", "/tmp/t/nginx.conf")  # noqa: S108 - its own
    assert "successful" in done.stderr


def self_signed() -> tuple[str, str]:
    """A certificate and its key, as PEM."""
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode(), private.decode()
