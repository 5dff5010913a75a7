"""The schema, in steps."""

OLDEST_SERVED = "0004"
"""The oldest schema whose programs can work on the newest one. A migration that removes what they
need moves this on, in a later release than the one that no longer needs it."""
