"""What is counted of checks and of the ends of sessions (see ``gatelog.http.metrics``)."""

from __future__ import annotations

import logging
from collections.abc import Callable

from prometheus_client import Counter, Histogram

from gatelog.sessions.rules.lease import Verdict
from gatelog.sessions.service.barrier import Waited

logger = logging.getLogger(__name__)

_NS = 1_000_000_000
_SLOW_WAIT_NS = 500_000_000

BARRIER_WAIT = Histogram(
    "gatelog_barrier_wait_seconds",
    "How long commands that end sessions waited until every host knew.",
    ["outcome", "reason"],
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 3, 5, 10, 60),
)
REPLICA_CHECKS = Counter("gatelog_replica_checks_total", "Session checks answered from memory.")
REPLICA_TIME = Histogram(
    "gatelog_replica_check_seconds",
    "How long memory took to answer a session check: one check a second of each worker.",
    buckets=(1e-6, 2e-6, 5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 1e-2),
)
PRIMARY_LOOKUPS = Counter(
    "gatelog_primary_lookups_total", "Session checks that memory could not answer."
)

PRIMARY_TIME = Histogram(
    "gatelog_primary_lookup_seconds",
    "How long the primary took to say whether a session is active.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)
CHECKS_REFUSED = Counter(
    "gatelog_checks_refused_total", "Session checks answered 503: nobody could know."
)

RENEWALS = Counter("gatelog_sessions_renewed_total", "Sessions whose use was recorded.")
RENEWALS_DROPPED = Counter(
    "gatelog_renewals_dropped_total", "Sessions whose use could not be recorded at that time."
)


class MemoryChecks:
    """Tells now and then how many checks memory has answered; counting costs a check an addition.

    ``answered`` says how many there were so far.
    """

    def __init__(self, answered: Callable[[], int]) -> None:
        self._answered = answered
        self._told = answered()

    def tell(self) -> None:
        """Count those that were answered since the last time."""
        answered = self._answered()
        if answered > self._told:
            REPLICA_CHECKS.inc(answered - self._told)
            self._told = answered


def count_wait(waited: Waited) -> None:
    """Note how a barrier's wait went: in the metrics, and in the log when it was long."""
    reason = waited.reason.value if waited.reason else "none"
    BARRIER_WAIT.labels(waited.outcome.value, reason).observe(waited.waited_ns / _NS)
    slow = waited.waited_ns > _SLOW_WAIT_NS or waited.outcome is not Verdict.ACKNOWLEDGED
    logger.log(
        logging.INFO if slow else logging.DEBUG,
        "the end of sessions at position %d: %s after %.1f ms (%s)",
        waited.position,
        waited.outcome.value,
        waited.waited_ns / 1e6,
        reason,
    )
