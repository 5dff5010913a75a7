"""A clock that tests move: what expires, expires without waiting for it."""

from __future__ import annotations

from datetime import datetime

from gatelog.clock import put_ahead, utc_now


class MovedClock:
    """The wall clock of this process as the product reads it, ahead by what it was advanced.

    It is read for what expires and for times in the log. Leases and the event loop have clocks of
    their own, which nothing moves.
    """

    def __init__(self) -> None:
        self._ahead_s = 0.0

    def __call__(self) -> datetime:
        """What time it is, in UTC."""
        return utc_now()

    def advance(self, seconds: float) -> None:
        """Move it ahead. Raises ValueError for a time that is not positive: it never goes back."""
        if not seconds > 0:
            raise ValueError("a clock is advanced by more than 0 seconds")
        self._ahead_s += seconds
        put_ahead(self._ahead_s)

    def reset(self) -> None:
        """Put it back to what the machine says."""
        self._ahead_s = 0.0
        put_ahead(0.0)
