"""Metrics: what they tell, and to whom."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from gatelog.config import Config
from gatelog.hosting.app import create_app
from gatelog.http.metrics import exposition
from prometheus_client.mmap_dict import MmapedDict, mmap_key

from tests.conftest import Dsns
from tests.serving import SECURE_HOST, Service, serving


async def test_waits_are_counted_with_their_outcome(alice: Service) -> None:
    await alice.post("/v1/logout_user", cookie=await alice.token())
    answer = await alice.get("/metrics")
    assert answer.status == 200
    assert b'gatelog_barrier_wait_seconds_count{outcome="' in answer.body
    assert b"gatelog_command_seconds_count" in answer.body


async def test_who_comes_from_elsewhere_finds_nothing(service: Service) -> None:
    assert (await service.get("/metrics", headers=SECURE_HOST)).status == 404


@pytest.mark.parametrize(("setting", "status"), [("open", 200), ("off", 404)])
async def test_they_can_be_opened_and_switched_off(
    config: Config, database: Dsns, setting: str, status: int
) -> None:
    config = msgspec.convert(msgspec.to_builtins(config) | {"metrics": setting}, Config)
    async with serving(create_app(config, database.app), config) as service:
        answer = await service.get("/metrics", headers=SECURE_HOST)
        assert answer.status == status


async def test_they_can_be_for_who_comes_through_no_proxy(config: Config, database: Dsns) -> None:
    config = msgspec.convert(msgspec.to_builtins(config) | {"metrics": "direct"}, Config)
    async with serving(create_app(config, database.app), config) as service:
        assert (await service.get("/metrics", headers=SECURE_HOST)).status == 200
        for name in ("X-Forwarded-For", "Forwarded", "Via"):
            forwarded = SECURE_HOST | {name: "192.0.2.1"}
            assert (await service.get("/metrics", headers=forwarded)).status == 404


def test_a_process_that_just_starts_does_not_keep_others_from_being_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file is there and has no size yet; another is a link to what has gone since."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    key = mmap_key("asked", "asked_total", [], [], "How often.")
    counted = MmapedDict(str(tmp_path / "counter_1.db"))
    counted.write_value(key, 3.0, 0.0)
    counted.close()
    (tmp_path / "counter_2.db").touch()
    (tmp_path / "gauge_livesum_3.db").symlink_to(tmp_path / "gone")
    assert b"asked_total 3.0" in exposition()
