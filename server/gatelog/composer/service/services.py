"""All of the composer's use cases, as they are opened together."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import msgspec

from gatelog.accounts.service.acting import Acting
from gatelog.composer.service.composer import Composer
from gatelog.composer.service.live import Live, Make
from gatelog.composer.service.records import Recorder
from gatelog.composer.service.traced import Traced
from gatelog.composer.store.builds import BuildStore
from gatelog.config import Config
from gatelog.log.store.database import Database
from gatelog.privacy.service.personal import PersonalData
from gatelog.sessions.store.announced import PrimaryAnnouncements

T = TypeVar("T")


class ComposerServices(msgspec.Struct, frozen=True):
    """What handlers and commands work with."""

    composer: Composer
    recorder: Recorder
    traced: Traced
    store: BuildStore
    peek: Callable[[], bytes | None]
    primary: PrimaryAnnouncements

    def live(self, make: Make[T]) -> Live[T]:
        """What is live, as ``make`` makes it of a build."""
        return Live(peek=self.peek, primary=self.primary, store=self.store, make=make)


@asynccontextmanager
async def composing(
    config: Config,
    *,
    database: Database,
    acting: Acting,
    personal: PersonalData,
    peek: Callable[[], bytes | None],
) -> AsyncIterator[ComposerServices]:
    """The services, until the context ends. ``peek``: what memory says is announced, if it can."""
    store = BuildStore(database)
    primary = PrimaryAnnouncements(database, timeout_s=config.database_timeout_s)
    try:
        yield ComposerServices(
            composer=Composer(store=store, acting=acting, personal=personal),
            recorder=Recorder(acting=acting, personal=personal),
            traced=Traced(database, personal),
            store=store,
            peek=peek,
            primary=primary,
        )
    finally:
        await primary.close()


def never_in_memory() -> bytes | None:
    """The ``peek`` of who has no replica, or does not want to use it."""
    return None
