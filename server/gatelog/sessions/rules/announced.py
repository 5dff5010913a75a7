"""What was announced last, by topic, as a kind of state (``log.rules.events.Announcement``)."""

from __future__ import annotations

import msgspec

from gatelog.log.rules.events import Announcement, Event
from gatelog.log.rules.kinds import State, Trace


class Announced(msgspec.Struct, frozen=True):
    """What everybody goes by in a matter."""

    topic: str
    value: bytes


def announced_by(event: Announcement) -> Announced:
    """What this event announces."""
    return Announced(event.TOPIC, event.announced)


class Announcements(State):
    """What a batch announces; the last one of a topic counts."""

    concerns = (Announcement,)

    def __init__(self) -> None:
        self.put: dict[str, Announced] = {}

    def apply(self, event: Event, position: int, trace: Trace | None) -> None:
        if isinstance(event, Announcement):
            self.put[event.TOPIC] = announced_by(event)
