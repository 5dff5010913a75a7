"""OWASP ASVS 5.0, V11 and V13: how passwords are kept, what is random, and what is not told."""

from __future__ import annotations

import base64
import re
import socket
from importlib.metadata import distributions
from typing import TYPE_CHECKING

import argon2
import msgspec
import pytest
from gatelog.config import Config
from gatelog.hosting.app import create_app

from tests.builders import MASTER_KEY
from tests.conftest import Dsns
from tests.serving import PASSWORD, Service, serving
from tests.stack.service import Service as Processes

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection

# OWASP's Password Storage Cheat Sheet for Argon2id: any of these, or more
ENOUGH = ((47_104, 1), (19_456, 2), (12_288, 3), (9_216, 4), (7_168, 5))
LEAST_BITS = 128


async def kept(connection: Connection) -> str:
    return str(await connection.fetchval("SELECT password_hash FROM credentials"))


async def test_v11_4_2(config: Config, database: Dsns, connection: Connection) -> None:
    """Passwords are kept as Argon2id (RFC 9106) of 19 MiB and 2 passes with a salt of 16 bytes, as
    OWASP's cheat sheet has it; a password whose hash was made with other settings is hashed again
    at the next login."""
    default = msgspec.structs.replace(config, argon2_memory_kib=19_456, argon2_time_cost=2)
    assert (Config().argon2_memory_kib, Config().argon2_time_cost) in ENOUGH
    async with serving(create_app(config, database.app), config) as cheap:
        await cheap.register()
    weak = argon2.extract_parameters(await kept(connection))
    assert weak.memory_cost == config.argon2_memory_kib
    async with serving(create_app(default, database.app), default) as service:
        assert (await service.log_in()).status == 200
        strong = await kept(connection)
        found = argon2.extract_parameters(strong)
        assert (found.type, found.version) == (argon2.Type.ID, 19)
        assert (found.memory_cost, found.time_cost) in ENOUGH
        assert (found.hash_len, found.salt_len) == (32, 16)
        assert PASSWORD not in strong
        assert (await service.log_in()).status == 200
        assert await kept(connection) == strong


def bits(text: str) -> int:
    """How many bits stand in this text of base64, of either alphabet."""
    alike = text.replace("+", "-").replace("/", "_").rstrip("=")
    return len(base64.urlsafe_b64decode(alike + "=" * (-len(alike) % 4))) * 8


async def test_v11_5_1(alice: Service, connection: Connection, processes: Processes) -> None:
    """Tokens and the keys of users are 256 bits of the operating system's generator (``secrets``),
    salts 128, and the secrets that a first start makes at least 256; what is a UUID (ids of users,
    sessions and events) is public and opens nothing."""
    login = await alice.log_in()
    assert bits(login.token) == 256
    for public in (login.json["session_id"], login.json["user_id"]):
        assert (await alice.get("/v1/me", bearer=public)).status == 401
        assert (await alice.get("/v1/me", cookie=public)).status == 401
    for name in ("bob", "carol", "dave"):
        assert (await alice.register(name)).status == 201
    rows = await connection.fetch("SELECT password_hash FROM credentials")
    salts = {row["password_hash"].split("$")[4] for row in rows}
    assert len(salts) == 4
    assert min(map(bits, salts)) >= LEAST_BITS
    keys = {bytes(r["wrapped_key"]) for r in await connection.fetch("SELECT * FROM subject_keys")}
    assert len(keys) == 4
    made = list((processes.data_dir / "secrets").iterdir())
    assert {path.name for path in made} >= {"master_key", "log_signing_key", "database_password"}
    for path in made:
        secret = path.read_text().strip()
        if path.name == "log_signing_key":  # PRIVATE+KEY+name+id+key
            secret = secret.split("+", 4)[4]
        assert bits(secret) >= LEAST_BITS, path.name
        assert secret != MASTER_KEY


def raw(processes: Processes, request: bytes) -> str:
    """The whole answer to these bytes."""
    with socket.create_connection(("127.0.0.1", processes.port), timeout=30) as client:
        client.sendall(request)
        return b"".join(iter(lambda: client.recv(65_536), b"")).decode("latin-1")


def versions() -> set[str]:
    """The versions of what is installed, as far as they are like nothing else."""
    return {each.version for each in distributions() if each.version.count(".") > 1}


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        ("GET /v1/me", 401),
        ("GET /health/ready", 200),
        ("GET /nothing", 404),
        ("PUT /v1/me", 405),
        ("POST /v1/login_user", 415),
        ("GET /v1/me HTTP/9.9 GET", 400),
        ("TRACE /v1/me", 405),
    ],
)
def test_v13_4_6(processes: Processes, request_line: str, status: int) -> None:
    """``Server`` is ``gatelog`` without a version, and no answer names what is behind: Python,
    aiohttp, gunicorn or PostgreSQL. Versions are in ``/metrics``, which is for this machine only
    unless configured (404)."""
    answer = raw(
        processes, f"{request_line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
    )
    head, _, body = answer.partition("\r\n\r\n")
    assert re.match(rf"HTTP/1\.[01] {status} ", head)
    assert re.findall(r"^Server: (.+?)\r?$", head, re.MULTILINE) == ["gatelog"]
    told = re.sub(r"^(Date|Content-Length): .*$", "", head, flags=re.MULTILINE) + body
    assert not re.search(r"python|aiohttp|gunicorn|uvloop|postgres|asyncpg", told, re.IGNORECASE)
    assert not [version for version in versions() if version in told]
    metrics = raw(
        processes, b"GET /metrics HTTP/1.1\r\nHost: gate.example\r\nConnection: close\r\n\r\n"
    )
    assert " 404 " in metrics.partition("\r\n")[0]
