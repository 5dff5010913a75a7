"""What a replica needs beside the log that it follows: to be loaded, and to be tidied."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from gatelog.errors import EventsLost, LogDiffers
from gatelog.sessions.store.feed import Pair, copy_sessions
from gatelog.sessions.store.replica_place import ReplicaPlace, ReplicaState
from gatelog.sessions.store.replica_writer import ReplicaWriter, drop_environment

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection
    from gatelog.sessions.store.leases import EpochHead

logger = logging.getLogger(__name__)

LOAD_TIMEOUT_S = 3600.0
READER_CHECK_EVERY = 9  # renewals
LEAST_PURGED, MOST_PURGED, PURGE_ROUND = 300, 60_000, 600

ConnectWithin = Callable[[float], Awaitable["Connection"]]


async def load_replica(place: ReplicaPlace, connect_within: ConnectWithin) -> ReplicaWriter:
    """A new environment with the sessions of now; nobody reads it yet.

    ``connect_within`` opens a connection whose statements have this limit, in seconds.
    """
    writer = ReplicaWriter.create(place)
    active = 0

    def take(pairs: list[Pair]) -> None:
        nonlocal active
        active += writer.load(pairs)

    try:
        loading = await connect_within(LOAD_TIMEOUT_S)
        try:
            head = await copy_sessions(loading, take)
        finally:
            loading.terminate()
        state = ReplicaState(head.epoch, head.position, head.leaf_hash, active)
        writer.loaded(state, head.announced)
    except BaseException:
        drop_environment(writer)
        raise
    return writer


def check_same_log(state: ReplicaState, head: EpochHead) -> None:
    """Raises LogDiffers unless the log still holds, in this epoch, what the replica was made of."""
    if head.position < state.position:
        raise EventsLost(f"The log ends at {head.position}, and {state.position} was applied.")
    if head.leaf_hash != state.leaf_hash:
        raise EventsLost(f"The event at {state.position} is another one, or gone.")
    if head.epoch != state.epoch:
        raise LogDiffers(f"The epoch is {head.epoch}, and was {state.epoch}.")


def tidy(place: ReplicaPlace, writer: ReplicaWriter, renewals: int) -> None:
    """Bounded work on what is no longer needed; and see that new workers can find the rest.

    ``renewals`` so far: readers whose processes have ended are looked for now and then.
    """
    place.check(writer.path)
    limit = min(max(LEAST_PURGED, writer.entries // PURGE_ROUND), MOST_PURGED)
    writer.purge(time.time_ns() // 1000, limit)
    if renewals % READER_CHECK_EVERY == 0 and (cleared := writer.clear_stale_readers()):
        logger.info("%d reader slots of ended processes are free again", cleared)
