"""No password, token or hash in a log line or in the event log."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import msgspec
import pytest
from gatelog.config import Config
from gatelog.hosting.app import create_app

from tests.conftest import Dsns
from tests.serving import NEW_PASSWORD, PASSWORD, Service, serving

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection

WRONG = "a wrong phrase, though"
UNKNOWN = "U" * 43


async def walk(service: Service) -> list[str]:
    """Use everything, rightly and wrongly; returns the tokens that were used."""
    await service.register()
    await service.log_in(password=WRONG)
    await service.log_in("bob", WRONG)
    cookie = await service.token()
    bearer = (
        await service.post(
            "/v1/login_user", json={"login": "alice", "password": PASSWORD, "token": "bearer"}
        )
    ).token
    await service.get(f"/v1/me?token={bearer}", bearer=bearer)
    await service.get("/v1/me", bearer=UNKNOWN)
    await service.get(f"/v1/{bearer}")
    await service.send("DELETE", f"/v1/sessions/{bearer}", bearer=bearer)
    await service.get("/v1/me", headers={"Cookie": f'gatelog={cookie}; x="'})
    await service.get("/v1/me", headers={"Cookie": f"gatelog={cookie}x"})
    await service.get("/v1/me", headers={"Cookie": f"gatelog={cookie * 300}"})
    await service.post("/v1/login_user", data=f'{{"login": "{PASSWORD}'.encode())
    await service.post("/v1/login_user", json={"login": "alice", PASSWORD: PASSWORD})
    change = {"current_password": PASSWORD, "new_password": NEW_PASSWORD}
    fresh = (await service.post("/v1/change_password", json=change, cookie=cookie)).token
    await service.get("/v1/logout_user", cookie=fresh)
    return [cookie, bearer, fresh]


async def test_secrets_are_nowhere(
    config: Config, database: Dsns, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    logged = msgspec.structs.replace(config, access_log=True)
    async with serving(create_app(logged, database.app), logged) as service:
        tokens = await walk(service)
    assert len(set(tokens)) == 3
    entries = await connection.fetch("SELECT entry FROM events ORDER BY position")
    log = "".join(bytes(row["entry"]).decode() for row in entries)
    hashes = await connection.fetch("SELECT password_hash FROM credentials")
    secrets = [*tokens, UNKNOWN, PASSWORD, NEW_PASSWORD, WRONG, "argon2", "token="]
    secrets += [row["password_hash"] for row in hashes]
    assert len(entries) >= 7
    for secret in secrets:
        assert secret not in log
        assert secret not in caplog.text


async def test_the_access_log(
    config: Config, database: Dsns, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "gatelog.access")
    logged = msgspec.structs.replace(config, access_log=True)
    async with serving(create_app(logged, database.app), logged) as service:
        await service.get("/v1/me?x=1")
        await service.get(f"/v1/%0A/{UNKNOWN}")
    lines = [r.getMessage() for r in caplog.records if r.name == "gatelog.access"]
    assert [line.rpartition(" ")[0].rpartition(" ")[0] for line in lines] == [
        "127.0.0.1 GET /v1/me 401",
        "127.0.0.1 GET /v1/%0A/… 404",
    ]


async def test_no_request_is_logged_by_default(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await service.get("/v1/me")
    # the barrier may say meanwhile that the database takes its time
    assert not [
        record for record in caplog.records if record.name != "gatelog.sessions.service.barrier"
    ]
