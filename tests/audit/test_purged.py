"""Ways out of a log whose beginning was really purged: told where something is missing."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from gatelog.audit.rules.shown import AuditFilter
from gatelog.audit.service.retention import purge
from gatelog.clock import utc_now
from gatelog.config import Config
from gatelog.errors import Purged
from gatelog.hosting.app import create_app
from gatelog.hosting.services import Services, open_services

from tests.audit.auditing import STREAM, add_auditor, following
from tests.conftest import Dsns
from tests.partitions import SIZE, SPACING, small_partitions
from tests.proofs.sealing import append, seal
from tests.serving import Service, serving

EXPORT = "/v1/audit/export"
CUT = 4 * SIZE
EVENTS = CUT + SIZE // 2
PAGE = 50  # events, far fewer than go


@pytest.fixture
async def services(
    config: Config, database: Dsns, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Services]:
    """With a log of several partitions, read in small pages."""
    await small_partitions(database, monkeypatch)
    monkeypatch.setattr("gatelog.audit.service.export.PAGE", PAGE)
    monkeypatch.setattr("gatelog.audit.service.follow.PAGE", PAGE)
    async with open_services(config, database.app) as opened:
        await append(database.app, EVENTS)
        yield opened


async def give_up(database: Dsns, directory: Path) -> None:
    await seal(database.app, directory / "note")
    now = utc_now()
    done = await purge(database.owner, database.app, now, now=utc_now, spacing=SPACING)
    assert done.up_to == CUT


# --- before somebody asks


@pytest.fixture
async def service(services: Services, config: Config, database: Dsns) -> AsyncIterator[Service]:
    await add_auditor(config, database)
    async with serving(create_app(config, database.app), config) as running:
        yield running


async def test_a_stream_is_not_resumed_before_the_cut(
    service: Service, database: Dsns, tmp_path: Path
) -> None:
    token = await service.token("audrey")
    async with following(service, token, f"?after={CUT - 3}") as reader:
        last = (await reader.take(2))[-1].position
    await give_up(database, tmp_path)
    for query, headers in (
        ("", {"Last-Event-ID": str(last)}),
        ("", {"Last-Event-ID": "0"}),
        (f"?after={CUT - 1}", {}),
        (f"?after={CUT}", {"Last-Event-ID": str(last)}),
        ("?type=user_erased", {"Last-Event-ID": str(last)}),
    ):
        gone = await service.get(f"{STREAM}{query}", cookie=token, headers=headers)
        assert (gone.status, gone.code) == (410, "purged"), (query, headers)
        assert str(CUT + 1) in gone.json["detail"]
    async with following(service, token, last=str(CUT)) as reader:
        assert [event.position for event in await reader.take(2)] == [CUT + 1, CUT + 2]


@pytest.mark.parametrize("personal", ["open", "sealed"])
async def test_an_export_begins_at_the_cut(
    service: Service, database: Dsns, tmp_path: Path, personal: str
) -> None:
    token = await service.token("audrey")
    await give_up(database, tmp_path)
    for query, begins in (("", 1), ("&after=0", 1), ("&after=9", 1), (f"&after={CUT + 5}", 6)):
        path = f"{EXPORT}?format=ndjson&personal={personal}{query}"
        answer = await service.get(path, cookie=token)
        positions = [json.loads(line)["position"] for line in answer.body.splitlines()]
        head = int(answer.headers["X-Gatelog-Position"])
        assert positions == list(range(CUT + begins, head + 1))
    empty = await service.get(f"{EXPORT}?format=ndjson&before={CUT}", cookie=token)
    assert (empty.status, empty.body) == (200, b"")


# --- while they read


async def test_an_export_that_a_purge_overtakes_does_not_look_complete(
    services: Services, database: Dsns, tmp_path: Path
) -> None:
    pieces = services.exports.export(AuditFilter(), EVENTS, "ndjson", opened=False)
    assert (await anext(pieces)).count(b"\n") == PAGE
    await give_up(database, tmp_path)
    with pytest.raises(Purged):
        async for _ in pieces:
            pass


async def test_a_stream_that_a_purge_overtakes_ends(
    services: Services, database: Dsns, tmp_path: Path
) -> None:
    stream = await services.follower.open(AuditFilter(), 0)
    assert [frame.position for frame in await stream.next(1)] == list(range(1, PAGE + 1))
    await give_up(database, tmp_path)
    with pytest.raises(Purged):
        await stream.next(1)
    assert stream.position == PAGE
    stream.close()


async def test_what_is_decided_to_go_counts_as_gone(
    services: Services, database: Dsns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worst moment: decided, and all of the events are still there."""

    async def interrupted(*_: object, **__: object) -> None:
        raise KeyError("interrupted")

    monkeypatch.setattr("gatelog.audit.service.retention.detach_before", interrupted)
    with pytest.raises(KeyError, match="interrupted"):
        await give_up(database, tmp_path)
    with pytest.raises(Purged):
        await services.follower.open(AuditFilter(), CUT - 1)
    pieces = services.exports.export(AuditFilter(), CUT + 2, "ndjson", opened=False)
    text = b"".join([piece async for piece in pieces])
    assert [json.loads(line)["position"] for line in text.splitlines()] == [CUT + 1, CUT + 2]
