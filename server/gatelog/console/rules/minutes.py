"""How many logins, failures and ends there were in each of the last minutes.

Rules:

- The log is read once: what is new is added to the minute in which it was recorded.
- Of a minute of which not everything was read nothing is told: no number is made up.
- Numbers are kept for ``KEPT`` minutes.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final

import msgspec

KEPT: Final = 60
MINUTE: Final = timedelta(minutes=1)
TYPES: Final = (
    "session_started",
    "login_failed",
    "session_ended",
    "logins_throttled",
    "password_locked",
)


class Counted(msgspec.Struct, frozen=True):
    """So many events of a type were recorded in the minute that begins then."""

    minute: datetime
    type: str
    events: int


class Minutes:
    """Counts by minute and type; ``position``: how far the log was read, None before the first."""

    def __init__(self) -> None:
        self.position: int | None = None
        self._known_from: datetime | None = None
        self._counts: dict[tuple[datetime, str], int] = {}

    def begin(self, position: int, known_from: datetime | None) -> None:
        """Read on from this position, and forget what was counted.

        ``known_from``: all that was recorded from then on comes after it; None: it is not known
        when that begins, but with the first minute that is counted (which is not whole).
        """
        self.position = position
        self._known_from = whole_minute(known_from) if known_from is not None else None
        self._counts = {}

    def add(self, position: int, counted: Iterable[Counted]) -> None:
        """What was recorded since, up to this position."""
        for each in counted:
            if self._known_from is None:
                self._known_from = each.minute + MINUTE
            key = (each.minute, each.type)
            self._counts[key] = self._counts.get(key, 0) + each.events
        self.position = position

    def forget(self, now: datetime) -> None:
        """What is too old to be told."""
        first = this_minute(now) - KEPT * MINUTE
        self._counts = {key: n for key, n in self._counts.items() if key[0] >= first}

    def of(self, kind: str, now: datetime) -> list[int | None]:
        """The counts of the last minutes, this one last; None where it is not known."""
        last = this_minute(now)
        minutes = [last - back * MINUTE for back in range(KEPT - 1, -1, -1)]
        return [self._count(kind, minute) for minute in minutes]

    def sum_of(self, kind: str, now: datetime, minutes: int) -> int:
        """How many there were in so many minutes before now, as far as known."""
        return sum(count or 0 for count in self.of(kind, now)[-minutes:])

    def _count(self, kind: str, minute: datetime) -> int | None:
        if self._known_from is None or minute < self._known_from:
            return None
        return self._counts.get((minute, kind), 0)


def this_minute(moment: datetime) -> datetime:
    """When the minute of a moment began."""
    return moment.replace(second=0, microsecond=0)


def whole_minute(moment: datetime) -> datetime:
    """When the first minute begins of which nothing lies before a moment."""
    begun = this_minute(moment)
    return begun if begun == moment else begun + MINUTE
