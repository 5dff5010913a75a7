"""Appending as a version did that knew of no origins, before migration 0015."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import pytest
from gatelog.log.store.kinds import register_kinds
from gatelog.privacy.rules import Client, Origin
from gatelog.privacy.service.personal import PersonalData
from gatelog.privacy.store.kinds import ADDRESSES


@contextmanager
def appending_without_origins() -> Iterator[None]:
    """Meanwhile, events are found by address alone, and nobody says how far they are traced."""
    origin_of = PersonalData.origin_of

    async def only_the_address(
        self: PersonalData, client: Client, login: str | None = None
    ) -> Origin | None:
        origin = await origin_of(self, client)
        return Origin(origin.address) if origin is not None else None

    of_origins = {"origins_erased", "origins_traced", "traced"}
    then = tuple(write for write in ADDRESSES.writes if write.name not in of_origins)
    assert len(then) == 2
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PersonalData, "origin_of", only_the_address)
        register_kinds(msgspec.structs.replace(ADDRESSES, writes=then))
        try:
            yield
        finally:
            register_kinds(ADDRESSES)
