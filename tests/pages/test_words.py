"""Every type of event has words of its own, for who reads about others and about oneself."""

from __future__ import annotations

from gatelog.audit.rules.formats import KINDS
from gatelog.log.rules.events import EVENT_TYPES
from gatelog.pages.words import OWN

OF_NOBODY = {"log_purged", "logins_throttled", "recovery_asked", "sessions_renewed"}


def test_every_type_has_words() -> None:
    assert set(EVENT_TYPES) > OF_NOBODY
    assert set(KINDS) == set(EVENT_TYPES)
    assert set(OWN) == set(EVENT_TYPES) - OF_NOBODY
