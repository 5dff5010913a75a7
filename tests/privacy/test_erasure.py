"""After an erasure over HTTP, a raw search finds nothing of the person, anywhere.

Searched are a full dump of the database with its statistics, the replica's files, the log as it is
exported, and what was logged; each for the texts themselves, in upper and lower case, and for
their hexadecimal and base64 forms at every alignment, alone and one within the other. The same
search finds them before the erasure: it can see.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import subprocess
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from gatelog.config import Config
from gatelog.host.embedded import POSTGRES_BIN_PATH
from gatelog.hosting.app import create_app
from gatelog.hosting.services import open_services
from gatelog.log.rules import events as ev
from gatelog.log.store.database import Database
from gatelog.log.store.reading import StoredEvent, read_events
from gatelog.privacy.service.personal import PersonalData
from gatelog.proofs.rules.merkle import root_of
from gatelog.proofs.service.history import history_guard
from gatelog.sessions.rules.record import Session
from gatelog.sessions.rules.tokens import token_digest
from gatelog.sessions.service.projector import Projector
from gatelog.sessions.store.replica import ReplicaReader
from gatelog.sessions.store.replica_place import ReplicaPlace

from tests.conftest import Dsns
from tests.serving import PASSWORD, Service, serving
from tests.waiting import until

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection

LOGIN = "ziegenpeter-fleischhauer"
ADDRESS = "203.0.113.77"
AGENT = "Peculiar-Browser/47.11 (Amiga; Kickstart)"
PERSON = (LOGIN, ADDRESS, AGENT)
FROM = {"X-Forwarded-For": ADDRESS, "User-Agent": AGENT}


def forms(text: str) -> Iterator[bytes]:
    """The text as it may stand somewhere: itself, in hexadecimal, in base64, in both."""
    for spelling in {text, text.lower(), text.upper()}:
        raw = spelling.encode()
        plain = [raw, spelling.encode("utf-16-le")]
        for alignment in range(3):
            code = b64encode(b"\0" * alignment + raw)
            # the first and the last characters depend on what stands around
            plain.append(code[4 if alignment else 0 : -4])
        yield from plain
        for each in plain:
            yield each.hex().encode()
            yield b64encode(each)[:-4]


def traces(haystack: bytes, person: tuple[str, ...] = PERSON) -> list[str]:
    """Which of the person's texts are found."""
    return [text for text in person if any(form in haystack for form in forms(text))]


def test_the_search_finds_what_is_hidden() -> None:
    for text in PERSON:
        raw = text.encode()
        hidden = [raw, raw.upper(), raw.hex().encode(), b64encode(b"?" + raw + b"??")]
        hidden += [b64encode(raw).hex().encode(), b64encode(b"[" + raw + b"]").hex().encode()]
        for each in hidden:
            assert traces(b"before" + each + b"after") == [text]
    assert traces(os.urandom(100_000)) == []


def dump(dsn: str) -> bytes:
    """The whole database, with its statistics, as SQL."""
    done = subprocess.run(
        [str(POSTGRES_BIN_PATH / "pg_dump"), "--statistics", "--dbname", dsn],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def files(path: Path) -> bytes:
    """The contents of all files below this directory."""
    found = [each.read_bytes() for each in path.resolve().rglob("*") if each.is_file()]
    assert found
    return b"".join(found)


@pytest.fixture
def config(config: Config, tmp_path: Path) -> Iterator[Config]:
    config = msgspec.structs.replace(
        config,
        trusted_proxies="127.0.0.0/8",
        data_dir=str(tmp_path / "var"),
        lease_ttl_s=2,  # also how long a statement of the projector's may take
        replica_max_mib=64,
        log_level="debug",
    )
    yield config
    shutil.rmtree(ReplicaPlace(config).base(), ignore_errors=True)


@asynccontextmanager
async def projecting(config: Config, database: Dsns) -> AsyncIterator[None]:
    task = asyncio.create_task(
        Projector.configured(config, database.app, history_guard(config)).run()
    )
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def reading(config: Config) -> AsyncIterator[ReplicaReader]:
    reader = ReplicaReader(ReplicaPlace(config))
    try:
        yield reader
    finally:
        reader.close()


async def add_admin(config: Config, database: Dsns) -> None:
    async with open_services(config, database.app) as services:
        await services.accounts.logins.add_user("root", PASSWORD, ("admin",))


async def send(service: Service, path: str, bearer: str | None = None, **body: str) -> Any:
    answer = await service.post(path, json=body or None, bearer=bearer, headers=FROM)
    assert answer.status in {200, 201, 401}, answer
    return answer.json


async def log_in(service: Service, password: str = PASSWORD) -> Any:
    return await send(service, "/v1/login_user", login=LOGIN, password=password, token="bearer")


async def a_life(service: Service) -> tuple[str, str]:
    """All that a user does; returns the user's id and the token of an active session."""
    new = "new " + PASSWORD
    user_id = (await send(service, "/v1/register_user", login=LOGIN, password=PASSWORD))["user_id"]
    await log_in(service, "wrong " + PASSWORD)
    tokens = [(await log_in(service))["token"] for _ in range(4)]
    await send(service, "/v1/sessions/end_others", tokens[0])
    body = {"current_password": PASSWORD, "new_password": new}
    token = (await send(service, "/v1/change_password", tokens[0], **body))["token"]
    await send(service, "/v1/logout_user", token)
    await log_in(service, new)
    await send(service, "/v1/sessions/end_all", (await log_in(service, new))["token"])
    return user_id, (await log_in(service, new))["token"]


async def exported(connection: Connection) -> list[StoredEvent]:
    return await read_events(connection, 0)


async def shown(service: Service, auditor: str) -> bytes:
    """All that an auditor is shown of the log, in every form."""
    paths = [f"/v1/audit/export?format={form}&personal=open" for form in ("ndjson", "csv")]
    answers = [
        await service.get(path, cookie=auditor)
        for path in (*paths, "/v1/audit/events?limit=1000", "/v1/audit/sessions?position=10")
    ]
    assert [answer.status for answer in answers] == [200] * len(answers)
    return b"\n".join(answer.body for answer in answers)


async def test_nothing_is_left(
    config: Config, database: Dsns, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    await add_admin(config, database)
    app = create_app(config, database.app)
    async with serving(app, config) as service, projecting(config, database):
        user_id, token = await a_life(service)
        before = await exported(connection)
        pool = Database(database.app, timeout_s=5, pool_size=1)
        personal = PersonalData(config, pool)
        opened = await personal.open_personal([stored.event() for stored in before])
        known = {text for found in opened if found for text in (found.login, found.address)}
        assert {LOGIN, ADDRESS} <= known
        assert LOGIN in traces(dump(database.superuser))  # the login is in the credential

        root = await service.token("root")
        assert traces(await shown(service, root)) == list(PERSON)
        before = await exported(connection)
        async with reading(config) as reader:
            # what is loaded after the end would not have the session at all
            await until(lambda: isinstance(reader.peek(token_digest(token)), Session))
            erased = await service.post(f"/v1/users/{user_id}/erase", cookie=root)
            assert erased.json["ended"] == 1
            await until(lambda: reader.peek(token_digest(token)) is False)

        after = await exported(connection)
        assert traces(dump(database.superuser)) == []
        assert traces(files(Path(config.data_dir)) + files(ReplicaPlace(config).base())) == []
        assert traces(b"\n".join(stored.entry for stored in after)) == []
        assert traces(caplog.text.encode()) == []
        opened = await personal.open_personal([stored.event() for stored in after])
        assert {LOGIN, ADDRESS, AGENT}.isdisjoint(
            text for found in opened if found for text in (found.login, found.address, found.agent)
        )
        assert traces(await shown(service, root)) == []
        listed = await service.get(f"/v1/users/{user_id}/sessions", cookie=root)
        assert listed.status == 404
        await pool.close()

    assert after[: len(before)] == before
    leaves = b"".join(ev.leaf_hash(stored.entry) for stored in after)
    assert root_of(leaves) == root_of(b"".join(stored.leaf_hash for stored in after))
