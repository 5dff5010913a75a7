"""What its operator does with a stack of their own: TLS, an upgrade that fails, another machine.

The stack has compose files beside the first one, and another number of containers than the
default; nothing that is done to it may forget either.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.client import HTTPSConnection
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.compose.stack import Stack, docker, free_port, inspect
from tests.compose.test_1_up import SOON_S, ask, ask_on, log_in_by
from tests.compose.test_4_restore import back_up, verify, wait_until_sealed
from tests.stack.service import ROOT, Answer
from tests.waiting import eventually

OF_MINE = "GATELOG_MAX_SESSIONS_PER_USER=77"  # set in a file beside the others
REPLICAS = 1
MINE = f"""
services:
  api:
    environment:
      {OF_MINE.replace("=", ": ")}
"""
# An image that migrates, and whose service ends at once.
BROKEN = ["sh", "-c", '[ "$1" != serve ] && exec gatelog "$@"', "sh"]


class Operated(Stack):
    """A stack with TLS, and with a file of its operator's own."""

    def __init__(self, image: str, directory: Path) -> None:
        certificates = directory / "certificates"
        certificates.mkdir()
        certificates.chmod(0o755)
        certificate, key = self_signed()
        for name, text in (("fullchain.pem", certificate), ("privkey.pem", key)):
            (certificates / name).write_text(text)
            (certificates / name).chmod(0o644)
        (directory / "mine.yaml").write_text(MINE)
        tls = ROOT / "docker" / "compose.tls.yaml"
        super().__init__(image=image, more=(tls, directory / "mine.yaml"))
        self.tls_port = free_port()
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.tls.load_verify_locations(cadata=certificate)
        self.environment |= {
            "GATELOG_CERTIFICATES": str(certificates),
            "GATELOG_FRONT_TLS": f"127.0.0.1:{self.tls_port}",
            "GATELOG_TLS_PORT": str(self.tls_port),
            "GATELOG_API_REPLICAS": str(REPLICAS),
        }

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """One request by HTTPS."""
        connection = HTTPSConnection("127.0.0.1", self.tls_port, timeout=30, context=self.tls)
        return ask_on(connection, method, path, body, headers)

    def log_in(self, login: str) -> dict[str, str]:
        return log_in_by(self.ask, login)

    def status_of(self, session: dict[str, str]) -> int:
        return self.ask("GET", "/v1/me", **session).status

    def api_ids(self) -> set[str]:
        """All containers of the service, in whatever state."""
        project = f"label=com.docker.compose.project={self.project}"
        service = "label=com.docker.compose.service=api"
        found = docker(
            "ps", "--all", "--quiet", "--no-trunc", "--filter", project, "--filter", service
        )
        return set(found.stdout.split())

    def assert_as_wanted(self, image: str) -> None:
        """The number of containers, their image and settings, and TLS at the front."""
        assert len(self.api_ids()) == REPLICAS
        for service in ("api", "sealer"):
            for container in self.containers(service):
                assert container.healthy
                assert inspect(container.id)["Image"] == inspect(image)["Id"], service
        for id_ in self.api_ids():
            assert OF_MINE in inspect(id_)["Config"]["Env"]
        assert self.ask("GET", "/v1/me").status == 401


def self_signed() -> tuple[str, str]:
    """A certificate for this machine and its key, as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    address = x509.IPAddress(ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder(name, name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode(), private.decode()


@pytest.fixture(scope="module")
def operated(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operated]:
    stack = Operated(image, tmp_path_factory.mktemp("operated"))
    try:
        stack.up()
        yield stack
    finally:
        stack.destroy()


@contextmanager
def derived(image: str, name: str, *instructions: str) -> Iterator[str]:
    """An image made of another one, gone afterwards."""
    text = "\n".join([f"FROM {image}", *instructions, ""])
    docker("build", "--quiet", "--tag", name, "-", input=text)
    try:
        yield name
    finally:
        docker("rmi", "--force", name, check=False)


def test_tls_at_the_front(operated: Operated, image: str) -> None:
    session = operated.log_in("tls-user")
    assert operated.status_of(session) == 200
    operated.assert_as_wanted(image)

    answer = ask("GET", "/v1/me?a=b", port=operated.port)
    assert answer.status == 308
    assert answer.headers["Location"] == f"https://127.0.0.1:{operated.tls_port}/v1/me?a=b"
    header = operated.ask("GET", "/v1/me").headers["Strict-Transport-Security"]
    assert "max-age" in header


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_failed_upgrade_leaves_what_was_and_the_way_back_leads_there(
    operated: Operated, image: str
) -> None:
    stack, previous = operated, f"{operated.project}:previous"
    session, before = stack.log_in("upgraded"), stack.api_ids()
    broken = f"ENTRYPOINT {json.dumps(BROKEN)}"
    names = [f"{stack.project}:{name}" for name in ("broken", "newer")]
    with (
        derived(image, names[0], broken) as broken,
        derived(image, names[1], "LABEL version=newer") as newer,
    ):
        assert inspect(newer)["Id"] != inspect(image)["Id"]
        try:
            stack.environment["GATELOG_IMAGE"] = broken
            done = stack.try_script("rolling.sh", "upgrade")
            assert done.returncode == 1, done.stderr
            assert "not upgraded" in done.stderr
            assert stack.api_ids() == before
            assert stack.status_of(session) == 200
            assert inspect(previous)["Id"] == inspect(image)["Id"]
            stack.assert_as_wanted(image)

            stack.environment["GATELOG_IMAGE"] = newer
            stack.script("rolling.sh", "upgrade")
            stack.assert_as_wanted(newer)
            assert inspect(previous)["Id"] == inspect(image)["Id"]

            stack.environment["GATELOG_IMAGE"] = previous
            stack.script("rolling.sh", "upgrade")
            stack.assert_as_wanted(image)
            assert stack.status_of(session) == 200
        finally:
            stack.environment["GATELOG_IMAGE"] = image
            docker("rmi", "--force", previous, check=False)


def test_an_upgrade_to_an_image_that_is_not_there_changes_nothing(operated: Operated) -> None:
    before, image = operated.api_ids(), operated.environment["GATELOG_IMAGE"]
    operated.environment["GATELOG_IMAGE"] = f"{operated.project}:never-built"
    try:
        done = operated.try_script("rolling.sh", "upgrade")
    finally:
        operated.environment["GATELOG_IMAGE"] = image
    assert done.returncode != 0
    assert "never-built" in done.stderr
    assert operated.api_ids() == before


@pytest.mark.timeout(600)
def test_what_needs_the_owner_of_the_database(operated: Operated) -> None:
    session = operated.log_in("erased-by-its-operator")
    tools = ("run", "--rm", "tools")
    done = operated.compose(*tools, "user", "erase", "--yes", "erased-by-its-operator")
    assert "sessions ended: 1" in done.stdout
    assert "gatelog:" not in done.stderr, "vacuumed, without warnings"
    assert operated.status_of(session) == 401
    purged = operated.compose(*tools, "log", "purge", "--yes", "--before", "2020-01-01")
    assert "Nothing to purge" in purged.stdout

    api, kept = operated.containers("api")[0], operated.log_in("lost-by-the-projection")
    delete = ("psql", "--username=postgres", "gatelog", "--command=DELETE FROM active_sessions")
    operated.container("postgres").exec(*delete)
    refused = docker("exec", api.id, "gatelog", "rebuild", check=False)
    assert refused.returncode == 1
    assert "Traceback" not in refused.stderr
    assert "GATELOG_OWNER_DATABASE_URL" in refused.stderr.splitlines()[-1]
    report = json.loads(operated.compose(*tools, "rebuild", "--json").stdout)
    assert report["changed"] >= 1
    api.exec("gatelog", "check")
    eventually(lambda: operated.status_of(kept) == 200, SOON_S, "a replica of the new epoch")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_moved_to_another_machine(operated: Operated, image: str, tmp_path: Path) -> None:
    ended, active = operated.log_in("ended-before"), operated.log_in("moved")
    back_up(operated)
    later = operated.log_in("after-the-backup")
    answer = operated.ask("POST", "/v1/logout_user", **ended)
    wait_until_sealed(operated, answer.json["position"])
    operated.compose("stop")
    saved = tmp_path / "saved"
    saved.mkdir()
    operated.script("volumes.sh", "save", str(saved))
    assert len(list(saved.iterdir())) == 2
    for path in saved.iterdir():
        assert path.stat().st_mode & 0o077 == 0, path

    other = Operated(image, tmp_path)
    try:
        other.script("volumes.sh", "load", str(saved))
        said = other.script("restore.sh", "--keep-sessions")
        assert "sessions ended: 0" in said
        assert "lost" not in said
        other.assert_as_wanted(image)
        assert [other.status_of(each) for each in (ended, active, later)] == [401, 200, 200]
        verify(other)
        refused = other.try_script("volumes.sh", "load", str(saved))
        assert refused.returncode == 1
        assert "runs; nothing is changed" in refused.stderr
        assert other.status_of(other.log_in("moved")) == 200, "their keys have come along"
    finally:
        other.destroy()
    operated.compose("start")
