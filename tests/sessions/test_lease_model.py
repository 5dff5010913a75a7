"""Every interleaving of a small world that runs the lease protocol.

Two replicas, two logouts, a reaper, a witness, a database. Every step of the protocol may happen at
any moment or never, and a clock tick may come between any two steps: that is a pause of any length
of any party. A process may be started anew at any moment, as long as its logout has not been
committed. Every decision is made by ``gatelog.sessions.rules.lease``.

One incident may come at any moment, after which the database is another incarnation:

- a restart, which loses what was not committed synchronously;
- a failover, which may lose rows of replicas, and an event with them;
- an older copy of the data put back under the name that the epoch had, or a dump of it loaded into
  a cluster with another name, which lose the same;
- a new log, whose sessions no replica knows that has not loaded it; also under the old name.

A witness is a process of which nothing else is of interest: it sees the incarnation and notes for
others that it has lasted. Where the present log lacks what an older one held, a logout may be of a
session that only replicas of the older one know: it finds nothing to end.

The rule under test: once a logout is answered, no replica serves its session from memory; not
even to a worker that read the clock at any moment after the answer and looks into the replica
later. That is: a replica that knows the session and not its end has no deadline after the answer.

Times are relative to now and cut off where they no longer matter, so the number of states is
finite without a bound on time, and the search ends when it has seen them all.

Some steps only let logouts be answered sooner and have no other effect: acknowledging, noticing
the incarnation and noting it, watching and removing a row, answering. ``eager`` takes them as soon
as they can be taken: whatever a later moment would allow, the earlier one allows too. This makes
the world of two and two small enough; smaller worlds are also searched without it, and with every
incident and restart of a process. ``FAULTS=long`` allows these in the world of two and two as well.

The broken variants override one step each; the search must find a violation for every one.
"""

from __future__ import annotations

import logging
import os
from collections import deque

import pytest

from tests.sessions.lease_mistakes import (
    DeadlineFromTheReply,
    EmptyLogForAnEarlierCommit,
    EmptyLogForNothingToEnd,
    GrantBeforeCatchingUp,
    GrantInAnotherEpoch,
    IncarnationIsTheEpoch,
    LostRowIgnored,
    NewClusterHasNoLeases,
    NotedTooEarly,
    NoteOfTheEpoch,
    RenewalSeqRepeats,
    RepeatedLogoutAnsweredAtOnce,
    RowAndHeadInOneSnapshot,
    RowRemovedTooEarly,
    RowsAreAlwaysComplete,
    TimerBeforeTheCommit,
    UptimeByTheWallClock,
    UptimeOfTheServer,
)
from tests.sessions.lease_protocol import Protocol, RepeatedLogout
from tests.sessions.lease_states import NO, Log, Logout, Replica, State

logger = logging.getLogger(__name__)


def stale(s: State) -> bool:
    """Whether a replica may serve a session whose logout was answered."""
    return any(
        r.deadline > -g.answered and accepts(r, g, s.log)
        for g in s.logouts
        if g.answered != NO
        for r in s.replicas
    )


def accepts(r: Replica, g: Logout, log: Log) -> bool:
    """Whether a replica knows the session and not its end."""
    of_first_log = r.epoch < log.epoch
    if of_first_log and g.session == 1:
        return False
    if g.unknown or (log.new and g.session == 0):  # it is, or was, in the first log only
        return r.epoch == 0 and (g.unknown or r.applied < g.position)
    applied = min(r.applied, log.kept) if of_first_log else r.applied
    return applied < g.position


def explore(protocol: Protocol, start: State) -> tuple[int, list[str] | None]:
    """Visit all states that can be reached: their number, and the steps to the first violation."""
    came_from: dict[State, tuple[State, str] | None] = {start: None}
    queue = deque([start])
    while queue:
        state = queue.popleft()
        for name, new in protocol.steps(state):
            if new in came_from:
                continue
            came_from[new] = (state, name)
            if stale(new):
                return len(came_from), _trace(came_from, new)
            queue.append(new)
    return len(came_from), None


def _trace(came_from: dict[State, tuple[State, str] | None], state: State) -> list[str]:
    names = []
    while (step := came_from[state]) is not None:
        state, name = step
        names.append(name)
    return names[::-1]


def world(replicas: int, logouts: int) -> State:
    return State(replicas=(Replica(),) * replicas, logouts=(Logout(),) * logouts)


LONG = os.environ.get("FAULTS") == "long"
ALL = ("",)
FAILOVERS = ("database", "failover")


@pytest.mark.timeout(1800 if LONG else 600)
@pytest.mark.parametrize(
    ("protocol", "replicas", "logouts", "states"),
    [
        (Protocol(eager=False), 1, 2, 10_000),
        (Protocol(eager=False), 2, 1, 150_000),
        (Protocol(eager=False, incidents=("failover, rows lost",), past=0), 1, 2, 400_000),
        (Protocol(eager=False, incidents=ALL, starts=True, past=0), 1, 1, 150_000),
        (Protocol(incidents=ALL, starts=True, past=0), 1, 2, 15_000),
        (Protocol(incidents=ALL, starts=True, past=0), 2, 1, 100_000),
        (Protocol(), 2, 2, 100_000),
        (Protocol(incidents=ALL if LONG else FAILOVERS, starts=LONG, past=0), 2, 2, 300_000),
        (RepeatedLogout(), 2, 2, 10_000),
        (RepeatedLogout(incidents=ALL, starts=True, past=0), 1, 2, 10_000),
    ],
    ids=[
        "one replica, every step",
        "two replicas, every step",
        "one replica and a failover, every step",
        "one and one and any incident, every step",
        "one replica and any incident",
        "two replicas and any incident",
        "two and two",
        "two and two and an incident",
        "one session, two logouts",
        "one session, two logouts and any incident",
    ],
)
def test_no_replica_serves_a_session_whose_logout_was_answered(
    protocol: Protocol, replicas: int, logouts: int, states: int
) -> None:
    visited, violation = explore(protocol, world(replicas, logouts))

    assert violation is None, "\n".join(violation or [])
    logger.info("%d states", visited)
    assert visited >= states, "the search has become smaller than it was"


@pytest.mark.parametrize(
    ("broken", "incidents"),
    [
        (RowAndHeadInOneSnapshot, ()),
        (DeadlineFromTheReply, ()),
        (GrantBeforeCatchingUp, ()),
        (TimerBeforeTheCommit, ()),
        (RowsAreAlwaysComplete, FAILOVERS),
        (RowsAreAlwaysComplete, ("dump",)),
        (IncarnationIsTheEpoch, ("older",)),
        (NoteOfTheEpoch, ("older",)),
        (UptimeOfTheServer, FAILOVERS),
        (UptimeByTheWallClock, ("older",)),
        (NewClusterHasNoLeases, ("dump",)),
        (NotedTooEarly, FAILOVERS),
        (EmptyLogForNothingToEnd, ("new log",)),
        (EmptyLogForAnEarlierCommit, ("new log",)),
        (GrantInAnotherEpoch, FAILOVERS),
        (LostRowIgnored, ()),
        (RowRemovedTooEarly, ()),
        (RenewalSeqRepeats, ()),
        (RepeatedLogoutAnsweredAtOnce, ()),
    ],
)
def test_every_rule_is_needed(broken: type[Protocol], incidents: tuple[str, ...]) -> None:
    _visited, violation = explore(broken(incidents=incidents, starts=True), world(1, 2))

    assert violation is not None
    logger.info("%s", ", ".join(violation))
