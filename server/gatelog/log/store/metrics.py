"""What is counted of appends (see ``gatelog.http.metrics``)."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Sequence

from prometheus_client import Counter, Histogram

from gatelog.log.rules.events import Event

BATCH_EVENTS = Histogram(
    "gatelog_append_batch_events",
    "How many events a commit appended.",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
)
EVENTS = Counter("gatelog_events_total", "Events appended, by type.", ["type"])


def count_commit(events: Sequence[Event]) -> None:
    """Note what a commit appended."""
    if events:
        BATCH_EVENTS.observe(len(events))
    for name, count in Tally(event.type for event in events).items():
        EVENTS.labels(name).inc(count)
