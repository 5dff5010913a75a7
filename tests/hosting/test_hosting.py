"""Who hosts the product in one process: the log can be followed there, too."""

from __future__ import annotations

from pathlib import Path

import msgspec
from aiohttp import web
from gatelog.config import Config
from gatelog.hosting.app import create_app
from gatelog.http.guard import SESSION
from gatelog.sessions.store.replica import ReplicaReader
from gatelog.sessions.store.replica_place import ReplicaPlace
from prometheus_client.registry import REGISTRY

from tests.conftest import Dsns
from tests.serving import Service, serving
from tests.waiting import until

PATHS = ("/orders", "/v1/me", "/v1/auth")


async def orders(request: web.Request) -> web.Response:
    return web.json_response({"user": str(request[SESSION].subject_id)})


HOSTED = [web.get("/orders", orders)]


def lookups() -> float:
    """How many checks of this process have asked the primary."""
    return REGISTRY.get_sample_value("gatelog_primary_lookups_total") or 0


async def asked(service: Service, token: str) -> float:
    """How many of one request to each path asked the primary."""
    before = lookups()
    for path in PATHS:
        assert (await service.get(path, cookie=token)).status == 200
    return lookups() - before


async def test_with_a_projector_checks_are_answered_from_memory(
    config: Config, database: Dsns, tmp_path: Path
) -> None:
    patient = msgspec.structs.replace(
        config, lease_ttl_s=60, replica_dir=str(tmp_path / "memory"), replica_max_mib=64
    )
    app = create_app(patient, database.app, HOSTED, projector=True)
    async with serving(app, patient) as service:
        await service.register()
        token = await service.token()

        async def from_memory() -> bool:
            return await asked(service, token) == 0

        await until(from_memory)
        assert [await asked(service, token) for _ in range(10)] == [0] * 10
        reader = ReplicaReader(ReplicaPlace(patient))
        assert reader.leased
        reader.close()

    reader = ReplicaReader(ReplicaPlace(patient))
    assert reader.status() is not None
    assert not reader.leased, "it ends with the application"
    reader.close()


async def test_without_a_projector_every_check_asks_the_primary(
    config: Config, database: Dsns
) -> None:
    async with serving(create_app(config, database.app, HOSTED), config) as service:
        await service.register()
        token = await service.token()
        assert [await asked(service, token) for _ in range(3)] == [len(PATHS)] * 3
