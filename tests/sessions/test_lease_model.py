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

What is left out of the search:

- *Prompt steps.* Some steps only let logouts be answered sooner and have no other effect:
  acknowledging, noticing the incarnation and noting it, watching and removing a row, answering.
  Two make a lease longer and have no other effect: reading the head for a row that was just
  written (later it can only be further on), and granting. ``eager`` takes them as soon as they can
  be taken: whatever a later moment would allow, the earlier one allows too.
- *An early t0.* A renewal's t0 may lie any time before its row. Nothing but the deadline depends
  on it, and no deadline is later than with a t0 at the very moment of the row.
- *What cannot matter any more.* Answered logouts whose session no replica accepts: none forgets an
  end. Replicas that have applied all that there will ever be. Deadlines that were over before any
  answer that is still of interest; renewals that would not make a deadline later. What a process
  knows of the incarnation, once there is a note or the logout has waited in full; what was in the
  first log, once nobody follows it. ``Protocol.plain`` makes one state of all that differ in this
  alone; replicas and logouts are in order, because they are alike.

``every_state`` leaves out none of the last two. The number of states before they were left out and
since; before, where it is not "every step", all prompt steps but those of a lease were taken at
once, and after an incident some of what cannot matter was left out:

====================================================  ===========  =========
world                                                      before        now
====================================================  ===========  =========
one replica, every step                                    11,047      1,470
two replicas, every step                                  163,366      1,802
one replica and a failover, every step                    417,957     79,231
one and one and any incident, every step                  178,825     25,908
one replica and any incident                               21,183      4,193
two replicas and any incident                             150,122      4,196
two and two                                               117,849        590
two and two and a failover or a restart                   336,086     11,083
one session, two logouts                                   45,219        225
one session, two logouts and any incident                  15,524      3,155
====================================================  ===========  =========

So many fall away with two replicas because each multiplies the states by its own, most of which
differ in renewals of which nothing comes; and nothing is told apart any more once all logouts are
answered and applied. The room that this makes goes into more: any incident and restart of a process
in the world of two and two (46,724 states for about 1,280,000), and a third replica.

That nothing is left out that matters is tested, and not by the same code: small worlds are searched
in every state, and for each state the reduced search must have reached one that stands for it, as
``lease_coverage`` judges: leases as long, answers as early, rows as little in the way.
``FAULTS=long`` does so in bigger worlds. The broken variants are found in both searches.

The broken variants override one step each; the search must find a violation for every one.
"""

from __future__ import annotations

import gc
import logging
import os
from collections import deque
from collections.abc import Iterator

import pytest

from tests.sessions.lease_coverage import uncovered
from tests.sessions.lease_mistakes import (
    DeadlineFromTheReply,
    EarlyT0Only,
    EmptyLogForAnEarlierCommit,
    EmptyLogForNothingToEnd,
    EventsAppliedAtOnce,
    EveryAnswerForgotten,
    GrantBeforeCatchingUp,
    GrantInAnotherEpoch,
    IncarnationIsTheEpoch,
    LostRowIgnored,
    LostSessionsForgotten,
    NewClusterHasNoLeases,
    NotedTooEarly,
    NoteOfTheEpoch,
    RenewalSeqRepeats,
    RenewalsForgotten,
    RepeatedLogoutAnsweredAtOnce,
    RowAndHeadInOneSnapshot,
    RowRemovedTooEarly,
    RowsAreAlwaysComplete,
    TimerBeforeTheCommit,
    UptimeByTheWallClock,
    UptimeOfTheServer,
)
from tests.sessions.lease_protocol import Protocol, RepeatedLogout
from tests.sessions.lease_states import NO, Logout, Replica, State, accepts

logger = logging.getLogger(__name__)


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    """No state is garbage before the search is over; looking for some takes half of the time."""
    gc.disable()
    yield
    gc.enable()


def stale(s: State) -> bool:
    """Whether a replica may serve a session whose logout was answered."""
    return any(
        r.deadline > -g.answered and accepts(r, g, s.log)
        for g in s.logouts
        if g.answered != NO
        for r in s.replicas
    )


Found = dict[State, tuple[State, str] | None]
"""Each state that was reached, with the state and the step that it was first reached by."""


def explore(protocol: Protocol, start: State) -> tuple[Found, list[str] | None]:
    """Visit all states that can be reached; with them the steps to the first violation."""
    came_from: Found = {start: None}
    queue = deque([start])
    while queue:
        state = queue.popleft()
        for name, new in protocol.steps(state):
            if new in came_from:
                continue
            came_from[new] = (state, name)
            if stale(new):
                return came_from, _trace(came_from, new)
            queue.append(new)
    return came_from, None


def _trace(came_from: Found, state: State) -> list[str]:
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
BIGGER = (
    pytest.param(2, 1, (), 1, 160_000, id="two replicas"),
    pytest.param(1, 2, ("failover, rows lost",), 0, 400_000, id="one replica and a failover"),
)


@pytest.mark.parametrize(
    ("protocol", "replicas", "logouts", "states"),
    [
        (Protocol(eager=False), 1, 2, 1_400),
        (Protocol(eager=False), 2, 1, 1_800),
        (Protocol(eager=False, incidents=("failover, rows lost",), past=0), 1, 2, 75_000),
        (Protocol(eager=False, incidents=ALL, starts=True, past=0), 1, 1, 25_000),
        (Protocol(incidents=ALL, starts=True, past=0), 1, 2, 4_000),
        (Protocol(incidents=ALL, starts=True, past=0), 2, 1, 4_000),
        (Protocol(), 2, 2, 550),
        (Protocol(), 3, 2, 3_000),
        (Protocol(incidents=ALL, starts=True, past=0), 2, 2, 45_000),
        (RepeatedLogout(), 2, 2, 200),
        (RepeatedLogout(incidents=ALL, starts=True, past=0), 1, 2, 3_000),
    ],
    ids=[
        "one replica, every step",
        "two replicas, every step",
        "one replica and a failover, every step",
        "one and one and any incident, every step",
        "one replica and any incident",
        "two replicas and any incident",
        "two and two",
        "three and two",
        "two and two and any incident",
        "one session, two logouts",
        "one session, two logouts and any incident",
    ],
)
def test_no_replica_serves_a_session_whose_logout_was_answered(
    protocol: Protocol, replicas: int, logouts: int, states: int
) -> None:
    found, violation = explore(protocol, world(replicas, logouts))

    assert violation is None, "\n".join(violation or [])
    logger.info("%d states", len(found))
    assert len(found) >= states, "the search has become smaller than it was"


@pytest.mark.timeout(1800 if LONG else 600)
@pytest.mark.parametrize(
    ("replicas", "logouts", "incidents", "past", "states"),
    [
        pytest.param(1, 2, (), 1, 11_000, id="one replica"),
        pytest.param(1, 1, ALL, 0, 175_000, id="one and one and any incident"),
        *(BIGGER if LONG else ()),
    ],
)
def test_what_is_left_out_makes_no_difference(
    replicas: int, logouts: int, incidents: tuple[str, ...], past: int, states: int
) -> None:
    start = world(replicas, logouts)
    whole = Protocol(incidents=incidents, starts=True, past=past, eager=False, every_state=True)
    every, violation = explore(whole, start)
    reduced, _violation = explore(Protocol(incidents=incidents, starts=True, past=past), start)

    assert violation is None, "\n".join(violation or [])
    assert len(every) >= states, "the search has become smaller than it was"
    assert len(reduced) < len(every) / 100
    assert next(uncovered(every, reduced), None) is None


@pytest.mark.parametrize(
    ("too_much", "incidents"),
    [
        (EarlyT0Only, ()),
        (EventsAppliedAtOnce, ()),
        (EveryAnswerForgotten, ()),
        (RenewalsForgotten, ()),
        (LostSessionsForgotten, ("new log",)),
    ],
)
def test_leaving_out_too_much_is_noticed(
    too_much: type[Protocol], incidents: tuple[str, ...]
) -> None:
    start, past = (world(1, 1), 0) if incidents else (world(1, 2), 1)
    whole = Protocol(incidents=incidents, past=past, eager=False, every_state=True)
    every, _violation = explore(whole, start)
    reduced, _violation = explore(too_much(incidents=incidents, past=past), start)

    assert next(uncovered(every, reduced), None) is not None


@pytest.mark.parametrize("every_state", [False, True], ids=["reduced", "every state"])
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
def test_every_rule_is_needed(
    broken: type[Protocol], incidents: tuple[str, ...], every_state: bool
) -> None:
    protocol = broken(incidents=incidents, starts=True, every_state=every_state)
    _found, violation = explore(protocol, world(1, 2))

    assert violation is not None
    logger.info("%s", ", ".join(violation))
