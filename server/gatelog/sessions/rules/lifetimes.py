"""How long a session lives: until a moment at the latest, and only while somebody uses it.

Rules:

- A session ends at ``absolute_at``, whatever happens (absolute timeout), and ``limit_s`` after it
  was last *seen* (idle timeout), whichever comes first: that is its ``expires_at``.
- It counts as seen from its start on. Use is recorded once in a quarter of the limit, no more, so
  it ends between three quarters of the limit and the limit after it was really used last.
- A token need not be used; that it is, is recorded once a day (UTC), no more.
- What is over by time stays over: nothing that happens at or after ``expires_at`` renews it, and
  being seen never moves anything back.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec

MOST_RENEWED = 256  # sessions in one event: an entry of 12 KB, a few milliseconds under the lock
QUARTER_US = 250_000  # of a second of the limit, in microseconds
DAY_US = 86_400_000_000


class Idle(msgspec.Struct, frozen=True):
    """That a session ends ``limit_s`` seconds after it was seen last, or at ``absolute_at``."""

    limit_s: int
    seen_at: datetime
    absolute_at: datetime

    @property
    def expires_at(self) -> datetime:
        """When the session is over, if it is not used until then."""
        return min(self.absolute_at, self.seen_at + timedelta(seconds=self.limit_s))

    @property
    def due_at(self) -> datetime:
        """From when on its use is worth an event."""
        return self.seen_at + timedelta(microseconds=QUARTER_US * self.limit_s)

    def seen(self, at: datetime) -> Idle:
        """The same after the session was used then."""
        return Idle(self.limit_s, max(self.seen_at, at), self.absolute_at)


def next_day(at: datetime) -> datetime:
    """When the day after this moment's begins (UTC)."""
    day = at.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return day + timedelta(days=1)
