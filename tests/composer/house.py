"""A service with somebody who composes, and what they say to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from gatelog.composer.rules.composition import Composition
from gatelog.composer.service.composer import Composer
from gatelog.composer.service.services import ComposerServices
from gatelog.composer.store.builds import BuildStore
from gatelog.config import Config
from gatelog.hosting.app import create_app
from gatelog.hosting.services import open_services
from gatelog.log.store.database import Database
from gatelog.sessions.store.announced import PrimaryAnnouncements
from gatelog.sessions.store.replica_place import announced_encoder

from tests.conftest import Dsns
from tests.serving import PASSWORD, Answer, Service, serving

ADMIN, USER = "root", "ada"


class House:
    """The service, and its administrator's session."""

    def __init__(self, service: Service, token: str) -> None:
        self.service = service
        self.token = token

    async def ask(self, method: str, path: str, **options: Any) -> Answer:
        """As the administrator, of the composer's own paths."""
        options.setdefault("cookie", self.token)
        return await self.service.send(method, f"/v1/compose{path}", **options)

    async def draft(self, composition: Composition, **more: Any) -> Answer:
        body = {"composition": msgspec.to_builtins(composition)} | more
        return await self.ask("PUT", "/draft", json=body)

    async def build(self, composition: Composition) -> int:
        """Make this live; returns the build's number."""
        drafted = await self.draft(composition)
        assert drafted.status == 200, drafted
        built = await self.ask("POST", "/build", json={"seen": drafted.json["digest"]})
        assert built.status == 200, built
        return int(built.json["build"])


async def people(config: Config, dsn: str) -> None:
    """The administrator and a user."""
    async with open_services(config, dsn) as services:
        await services.accounts.logins.add_user(ADMIN, PASSWORD, ("admin",))
        await services.accounts.logins.add_user(USER, PASSWORD)


@asynccontextmanager
async def housing(config: Config, database: Dsns, *hosted: Any) -> AsyncIterator[House]:
    """The whole service with a projector of its own."""
    await people(config, database.app)
    app = create_app(config, database.app, hosted, projector=True)
    async with serving(app, config) as service:
        yield House(service, await service.token(ADMIN))


def nothing_composed(database: Database) -> ComposerServices:
    """The composer of a service whose memory says that nothing was ever built."""
    unused: Any = None
    store, nothing = BuildStore(database), announced_encoder.encode({})
    return ComposerServices(
        composer=Composer(store=store, acting=unused, personal=unused),
        recorder=unused,
        traced=unused,
        store=store,
        peek=lambda: nothing,
        primary=PrimaryAnnouncements(database, timeout_s=1),
    )
