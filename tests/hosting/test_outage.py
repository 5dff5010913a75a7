"""The database is gone: what memory knows is answered for as long as the lease lasts, then 503."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec
import pytest
from gatelog.config import Config
from gatelog.host.embedded import PORT
from gatelog.hosting.app import create_app
from gatelog.log.store.appender import Appender
from gatelog.proofs.service.history import history_guard
from gatelog.sessions.rules.record import Session
from gatelog.sessions.rules.tokens import token_digest
from gatelog.sessions.service.projector import projecting
from gatelog.sessions.service.tokens import new_token
from gatelog.sessions.store.replica import ReplicaReader
from gatelog.sessions.store.replica_place import ReplicaPlace, boottime_ns

from tests.builders import end, registration, start
from tests.conftest import Dsns
from tests.faults.proxy import Proxy, proxying
from tests.serving import Answer, Service, serving
from tests.waiting import until

TTL_S = 60  # by the real clock it never ends here


class Clock:
    """CLOCK_BOOTTIME as the worker sees it, which the test can put forward."""

    def __init__(self) -> None:
        self.ahead_ns = 0

    def __call__(self) -> int:
        return boottime_ns() + self.ahead_ns


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    reader = partial(ReplicaReader, clock_ns=clock)
    monkeypatch.setattr("gatelog.hosting.services.ReplicaReader", reader)
    return clock


@pytest.fixture
def config(config: Config, tmp_path: Path) -> Iterator[Config]:
    config = msgspec.structs.replace(
        config, data_dir=str(tmp_path / "var"), lease_ttl_s=TTL_S, replica_max_mib=64
    )
    yield config
    shutil.rmtree(ReplicaPlace(config).base(), ignore_errors=True)


@pytest.fixture
async def proxy(database: Dsns) -> AsyncIterator[Proxy]:
    """The only way from the service to its database."""
    (directory,) = parse_qs(urlsplit(database.app).query)["host"]
    async with proxying(Path(unquote(directory)) / f".s.PGSQL.{PORT}") as proxy:
        yield proxy


@pytest.fixture
async def service(
    config: Config, database: Dsns, proxy: Proxy, clock: Clock
) -> AsyncIterator[Service]:
    """The service with a projector beside it."""
    url = urlsplit(database.app)
    login = url.netloc.rpartition("@")[0]
    dsn = f"postgresql://{login}@127.0.0.1:{proxy.port}{url.path}?sslmode=disable"
    app = create_app(config, dsn)
    async with projecting(config, dsn, history_guard(config)), serving(app, config) as running:
        yield running


async def log_in(appender: Appender, config: Config) -> tuple[str, str]:
    """Two tokens known to the replica: of an active session and of one that has ended."""
    user = registration("alice")
    active, ended = new_token(), new_token()
    ending = start(user.event.subject_id, token=ended)
    for command in (user, start(user.event.subject_id, token=active), ending):
        await appender.submit(command)
    with contextlib.closing(ReplicaReader(ReplicaPlace(config))) as reader:
        await until(lambda: isinstance(reader.peek(token_digest(active)), Session), within_s=60)
        await until(lambda: isinstance(reader.peek(token_digest(ended)), Session), within_s=60)
        await appender.submit(end(ending))
        await until(lambda: reader.peek(token_digest(ended)) is False, within_s=60)
    return active, ended


async def test_without_a_database_memory_answers_until_the_deadline(
    service: Service, config: Config, appender: Appender, proxy: Proxy, clock: Clock
) -> None:
    active, ended = await log_in(appender, config)
    unknown = new_token()

    async def ask(*tokens: str) -> list[Answer]:
        return await asyncio.gather(*(service.get("/v1/me", bearer=token) for token in tokens))

    assert [each.status for each in await ask(active, ended, unknown)] == [200, 401, 401]

    proxy.refuse(True)

    for _ in range(3):
        answers = await ask(active, ended, unknown)
        assert [answer.status for answer in answers] == [200, 401, 503]
        assert answers[1].code == "not_authenticated"

    clock.ahead_ns = TTL_S * 1_000_000_000

    for answer in await ask(active, ended, unknown):
        assert (answer.status, answer.code) == (503, "database_unavailable")
        assert int(answer.headers["Retry-After"]) > 0

    proxy.refuse(False)

    async def is_back() -> bool:
        return [each.status for each in await ask(active, ended, unknown)] == [200, 401, 401]

    await until(is_back, within_s=60)
