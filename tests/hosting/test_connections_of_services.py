"""How many connections to the database there are: counted, in the settings, in what is written."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from uuid import UUID

import msgspec
from gatelog.audit.rules.shown import AuditFilter
from gatelog.config import Config
from gatelog.host.database import PROJECTOR_CONNECTIONS, connections_of_host, embedded_postgres
from gatelog.hosting.connections import connections_of_services
from gatelog.hosting.services import open_services
from gatelog.log.store.database import connect
from gatelog.sessions.rules.tokens import token_digest

from tests.builders import CHEAP_CONFIG
from tests.conftest import SHORT_TTL_S, Dsns

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "docker" / "README.md").read_text()
COMPOSE = (ROOT / "docker" / "compose.yaml").read_text()
AT_ONCE = 20  # more than any pool has
NOBODY = UUID(int=0)
PASSWORD = "a long enough password"
OTHERS = (  # of this database
    "SELECT count(*) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
)


async def test_services_that_do_all_they_can_have_as_many_as_is_said(
    database: Dsns, tmp_path: Path
) -> None:
    config = msgspec.structs.replace(
        CHEAP_CONFIG,
        data_dir=str(tmp_path),
        replica_dir=str(tmp_path / "memory"),
        lease_ttl_s=SHORT_TTL_S,
        database_pool=3,
        audit_pool=5,
    )
    async with open_services(config, database.app) as services:
        accounts = services.accounts
        await accounts.logins.add_user("ada", PASSWORD)
        grant = await accounts.logins.log_in("ada", PASSWORD)
        digest = token_digest(grant.token)
        assert await services.gate.find(digest) is not None
        await asyncio.gather(
            *(accounts.users.list_users(NOBODY, 10) for _ in range(AT_ONCE)),
            *(services.audit.page(AuditFilter()) for _ in range(AT_ONCE)),
            *(services.as_of.sessions(position=grant.position) for _ in range(AT_ONCE)),
        )
        await accounts.sessions.log_out(digest)
        observer = await connect(database.superuser, role=None)
        try:
            assert await observer.fetchval(OTHERS) == connections_of_services(config)
        finally:
            await observer.close()


def test_the_embedded_database_takes_them_all(tmp_path: Path) -> None:
    config = Config(data_dir=str(tmp_path), workers=3, sealer="off")
    assert connections_of_host(config) == 3 * connections_of_services(config) + 3
    sealing = Config(data_dir=str(tmp_path), workers=3)
    assert connections_of_host(sealing) > connections_of_host(config)
    limit = int(embedded_postgres(sealing)._settings["max_connections"])
    assert limit > connections_of_host(sealing)


def test_the_stacks_database_takes_an_upgrade_of_as_many_containers_as_is_written() -> None:
    told = re.search(
        r"^\| GATELOG_DATABASE_CONNECTIONS \| (\d+) \| each worker may use (\d+), each container"
        r" (\d+) more.* Enough for (\d+) containers of (\d+) workers",
        README,
        re.MULTILINE,
    )
    assert told
    limit, of_worker, of_container, containers, workers = map(int, told.groups())
    default = re.search(r"max_connections=\$\{GATELOG_DATABASE_CONNECTIONS:-(\d+)\}", COMPOSE)
    assert default and int(default[1]) == limit
    assert of_worker == connections_of_services(Config())
    assert of_container == PROJECTOR_CONNECTIONS
    one = connections_of_host(Config(workers=workers, sealer="off"))
    assert 2 * containers * one + 20 <= limit
