"""Appending as a version did that knew of no origins, before migration 0015."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from gatelog.log.store import kinds, sql
from gatelog.privacy.rules import Client, Origin
from gatelog.privacy.service.personal import PersonalData


@contextmanager
def appending_without_origins() -> Iterator[None]:
    """Meanwhile, events are found by address alone, and nobody says how far they are traced."""
    origin_of = PersonalData.origin_of

    async def only_the_address(
        self: PersonalData, client: Client, login: str | None = None
    ) -> Origin | None:
        origin = await origin_of(self, client)
        return Origin(origin.address) if origin is not None else None

    begin, found, _ = sql.WRITE_BATCH.partition(",\n    traced_to")
    assert found
    kinds.writing_statement.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sql, "WRITE_BATCH", begin + "\n")
        patch.setattr(PersonalData, "origin_of", only_the_address)
        yield
    kinds.writing_statement.cache_clear()
