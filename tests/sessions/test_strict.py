"""GATELOG_CHECK=strict: memory is not asked, whatever it says."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from uuid import UUID

import msgspec
import pytest
from gatelog.config import Config
from gatelog.hosting.app import create_app
from gatelog.sessions.rules.tokens import token_digest
from gatelog.sessions.store.replica_place import ReplicaPlace, ReplicaState, boottime_ns
from gatelog.sessions.store.replica_writer import ReplicaWriter, drop_environment

from tests.builders import session_record
from tests.conftest import Dsns
from tests.serving import Answer, Service, serving

NOBODY = "postgresql://nobody@127.0.0.1:1/nothing"
LEASE_NS = 3600 * 1_000_000_000


@pytest.fixture
def leased(config: Config) -> Iterator[ReplicaWriter]:
    """A replica that may answer for as long as any test lasts, and in which nothing happens."""
    place = ReplicaPlace(config)
    writer = ReplicaWriter.create(place)
    writer.loaded(ReplicaState("epoch", 1, bytes(32), 1))
    writer.set_deadline(boottime_ns() + LEASE_NS)
    place.make_current(writer.path)
    yield writer
    drop_environment(writer)
    shutil.rmtree(place.base(), ignore_errors=True)


def put_into(writer: ReplicaWriter, login: Answer) -> None:
    """Let the replica hold this session as active."""
    told = login.json
    record = session_record(
        session_id=UUID(told["session_id"]),
        subject_id=UUID(told["user_id"]),
        started_at=datetime.now(UTC),
        expires_at=datetime.fromisoformat(told["expires_at"]),
        roles=(),
    )
    writer.load([(token_digest(login.token), record)])


async def ended_in_the_database(alice: Service, writer: ReplicaWriter) -> str:
    """The token of a session that has ended, and that the replica still holds as active."""
    login = await alice.log_in()
    assert (await alice.post("/v1/logout_user", cookie=login.token)).status == 200
    put_into(writer, login)
    return login.token


@pytest.fixture(params=[("replica", 200), ("strict", 401)], ids=lambda param: param[0])
def asked(request: pytest.FixtureRequest, config: Config) -> tuple[Config, int]:
    check, status = request.param
    return checking(config, check), status


def checking(config: Config, check: str) -> Config:
    return msgspec.convert(msgspec.to_builtins(config) | {"check": check}, Config)


async def test_a_strict_host_asks_the_primary_although_memory_knows(
    alice: Service, leased: ReplicaWriter, database: Dsns, asked: tuple[Config, int]
) -> None:
    token = await ended_in_the_database(alice, leased)
    checked, status = asked
    async with serving(create_app(checked, database.app), checked) as service:
        for path in ("/v1/me", "/v1/auth", "/v1/sessions"):
            assert (await service.get(path, cookie=token)).status == status


@pytest.mark.parametrize(("check", "status"), [("replica", 200), ("strict", 503)])
async def test_a_strict_host_knows_nothing_without_the_database(
    alice: Service, leased: ReplicaWriter, config: Config, check: str, status: int
) -> None:
    login = await alice.log_in()
    put_into(leased, login)
    checked = checking(config, check)
    async with serving(create_app(checked, NOBODY), checked) as service:
        for path in ("/v1/me", "/v1/auth"):
            answer = await service.get(path, cookie=login.token)
            assert answer.status == status
            assert ("Retry-After" in answer.headers) == (status == 503)
