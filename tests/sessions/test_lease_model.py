"""Every interleaving of a small world that runs the lease protocol.

Two replicas, two logouts, a reaper, a database. Every step of the protocol may happen at any
moment or never, and a clock tick may come between any two steps: that is a pause of any length of
any party. One incident may come at any moment: a restart of the database that loses what was not
committed synchronously, a failover that also loses rows of replicas, or one that loses events too.
Every decision is made by ``gatelog.sessions.rules.lease``.

The rule under test: once a logout is answered, no replica serves its session from memory; not
even to a worker that read the clock at any moment after the answer and looks into the replica
later. That is: a replica without the logout's event has no deadline after the answer.

Times are relative to now and cut off where they no longer matter, so the number of states is
finite without a bound on time, and the search ends when it has seen them all.

Some steps only let logouts be answered sooner and have no other effect: acknowledging, noticing
the epoch, watching and removing a row, answering. ``eager`` takes them as soon as they can be
taken: whatever a later moment would allow, the earlier one allows too. This makes the world of
two and two small enough; smaller worlds are also searched without it.

The broken variants override one step each; the search must find a violation for every one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import pytest
from gatelog.sessions.rules.lease import (
    EpochSeen,
    LeaseRow,
    LeaseTerms,
    Sighting,
    barrier_verdict,
    epoch_seen,
    lease_deadline,
    may_grant,
    may_reap,
    sighted,
)

TERMS = LeaseTerms(ttl_ns=2, drift_ppm=0, slack_ns=0)
WAIT = TERMS.wait_ns
EPOCHS = ("first", "second")
NO = -1  # instead of None: states are tuples of numbers, quick to hash and to sort


class Replica(NamedTuple):
    """A replica, its projector and its row.

    ``t0_age``: ticks since the t0 of the renewal under way, which has written its row; ``head``:
    the position that it has read since. The row is there when ``row_applied`` is not NO;
    ``watched`` is for how many ticks the reaper has seen it unmoved.
    """

    applied: int = 0
    epoch: int = 0
    deadline: int = NO
    t0_age: int = NO
    head: int = NO
    row_applied: int = NO
    watched: int = NO


class Logout(NamedTuple):
    """A logout and the process that it runs in: how long it has known which epoch.

    ``elapsed``: ticks since the commit; ``answered``: ticks since the answer.
    """

    known_epoch: int = 0
    epoch_age: int = WAIT
    position: int = NO
    elapsed: int = NO
    answered: int = NO


class State(NamedTuple):
    """``head`` events are in the log; of the first epoch's events the first ``kept`` survived."""

    replicas: tuple[Replica, ...]
    logouts: tuple[Logout, ...]
    head: int = 0
    epoch: int = 0
    kept: int = 0
    incident: bool = False


Step = tuple[str, State]


def with_replica(s: State, index: int, replica: Replica) -> State:
    """The state with this replica changed; replicas are alike, so they are kept in order."""
    others = s.replicas[:index] + s.replicas[index + 1 :]
    return s._replace(replicas=tuple(sorted((*others, replica))))


def with_logout(s: State, index: int, logout: Logout) -> State:
    others = s.logouts[:index] + s.logouts[index + 1 :]
    return s._replace(logouts=tuple(sorted((*others, logout))))


@cache
def lease_row(applied: int, epoch: int) -> LeaseRow:
    return LeaseRow("replica", 0, applied, EPOCHS[epoch], TERMS.ttl_ns)


@cache
def may_answer(
    rows: tuple[LeaseRow, ...], epoch: int, epoch_age: int, position: int, elapsed: int
) -> bool:
    return barrier_verdict(
        rows,
        epoch=EPOCHS[epoch],
        epoch_age_ns=epoch_age,
        position=position,
        elapsed_ns=elapsed,
        terms=TERMS,
    ).may_answer


@cache
def is_reapable(watched: int) -> bool:
    return may_reap(Sighting(0, -watched, TERMS.ttl_ns), 0, TERMS)


class Protocol:
    """The steps, as they are meant to be."""

    def __init__(self, *, incidents: bool = False, eager: bool = True, past: int = 1) -> None:
        """``past``: for how many ticks answers and deadlines that are over are told apart."""
        self.incidents = incidents
        self.eager = eager
        self.past = past
        self.replica_steps = cache(self._replica_steps)
        self.settled_replica = cache(self._settled_replica)
        self.older_replica = cache(self._older_replica)
        self.older_logout = cache(self._older_logout)

    def steps(self, s: State) -> Iterator[Step]:
        """What can happen next."""
        for name, after in self.free_steps(s):
            yield name, self.settled(after) if self.eager else after
        if not self.eager:
            yield from self.prompt_steps(s)

    def free_steps(self, s: State) -> Iterator[Step]:
        yield "tick", self.tick(s)
        for index, replica in enumerate(s.replicas):
            for name, after in self.replica_steps(replica, s.head, s.epoch):
                yield name, with_replica(s, index, after)
        for index, logout in enumerate(s.logouts):
            yield from self.commit_steps(s, index, logout)
        if self.incidents and not s.incident:
            yield from self.incident_steps(s)

    def prompt_steps(self, s: State) -> Iterator[Step]:
        for index, replica in enumerate(s.replicas):
            for name, after in self.row_steps(replica):
                yield name, with_replica(s, index, after)
        for index, logout in enumerate(s.logouts):
            for name, seen in self.prompt_logout_steps(s, logout):
                yield name, with_logout(s, index, seen)

    def settled(self, s: State) -> State:
        """The state after all prompt steps that can be taken."""
        replicas = tuple(sorted(map(self.settled_replica, s.replicas)))
        s = State(replicas, *s[1:])
        while (step := next(self.prompt_steps(s), None)) is not None:
            s = step[1]
        return s

    def _settled_replica(self, r: Replica) -> Replica:
        while (step := next(self.row_steps(r), None)) is not None:
            r = step[1]
        return r

    # Time

    def tick(self, s: State) -> State:
        replicas = tuple(sorted(map(self.older_replica, s.replicas)))
        logouts = tuple(sorted(map(self.older_logout, s.logouts)))
        return State(replicas, logouts, *s[2:])

    def _older_replica(self, r: Replica) -> Replica:
        t0_age, head = (r.t0_age + 1, r.head) if r.t0_age != NO else (NO, NO)
        if t0_age >= TERMS.ttl_ns + self.past:  # a grant would come to nothing
            t0_age, head = NO, NO
        watched = min(r.watched + 1, WAIT) if r.watched != NO else NO
        deadline = max(r.deadline - 1, -self.past)
        return r._replace(deadline=deadline, t0_age=t0_age, head=head, watched=watched)

    def _older_logout(self, g: Logout) -> Logout:
        return g._replace(
            epoch_age=min(g.epoch_age + 1, WAIT),
            elapsed=min(g.elapsed + 1, WAIT) if g.elapsed != NO else NO,
            answered=min(g.answered + 1, self.past) if g.answered != NO else NO,
        )

    # The replica

    def _replica_steps(self, r: Replica, head: int, epoch: int) -> list[tuple[str, Replica]]:
        steps = [
            (f"row written, t0 {age} ticks ago", self.write_row(r, age, head, epoch))
            for age in range(TERMS.ttl_ns + self.past)
        ]
        if r.t0_age != NO and r.head == NO:
            steps.append(("head read", self.read_head(r, head, epoch)))
        if r.head != NO and self.may_grant(r):
            steps.append(("lease granted", self.grant(r)))
        if r.epoch == epoch and r.applied < head:
            steps.append(("event applied", r._replace(applied=r.applied + 1)))
        return steps

    def write_row(self, r: Replica, t0_age: int, head: int, epoch: int) -> Replica:
        return r._replace(t0_age=t0_age, head=NO, row_applied=r.applied, watched=NO)

    def read_head(self, r: Replica, head: int, epoch: int) -> Replica:
        if r.epoch == epoch:
            return r._replace(head=head)
        return Replica(applied=head, epoch=epoch)  # revoked, its row removed, rebuilt

    def may_grant(self, r: Replica) -> bool:
        epoch = EPOCHS[r.epoch]  # read_head went on only in the replica's own epoch
        return may_grant(
            applied_position=r.applied,
            replica_epoch=epoch,
            head_position=r.head,
            head_epoch=epoch,
        )

    def grant(self, r: Replica) -> Replica:
        deadline = max(lease_deadline(-r.t0_age, TERMS), r.deadline)
        return r._replace(deadline=deadline, t0_age=NO, head=NO)

    # Its row

    def row_steps(self, r: Replica) -> Iterator[tuple[str, Replica]]:
        if r.row_applied == NO:
            return
        if r.row_applied < r.applied:
            yield "row acknowledges", r._replace(row_applied=r.applied)
        if r.watched == NO:
            seen = sighted({}, [lease_row(r.row_applied, r.epoch)], 0)["replica"]
            yield "row sighted", r._replace(watched=-seen.since_ns)
        elif self.may_reap(r):
            yield "row removed", r._replace(row_applied=NO, watched=NO)

    def may_reap(self, r: Replica) -> bool:
        return is_reapable(r.watched)

    # The logout

    def commit_steps(self, s: State, index: int, g: Logout) -> Iterator[Step]:
        if g.position == NO:
            committed = g._replace(position=s.head + 1, elapsed=0)
            yield "logout committed", with_logout(s._replace(head=s.head + 1), index, committed)

    def prompt_logout_steps(self, s: State, g: Logout) -> Iterator[tuple[str, Logout]]:
        if g.known_epoch != s.epoch:
            yield "epoch seen", self.see(g, s.epoch)
        elif g.elapsed != NO and self.may_answer(s, g):
            yield "logout answered", g._replace(elapsed=NO, answered=0)

    @staticmethod
    def see(g: Logout, epoch: int) -> Logout:
        seen = epoch_seen(EpochSeen(EPOCHS[g.known_epoch], -g.epoch_age), EPOCHS[epoch], 0)
        return g._replace(known_epoch=epoch, epoch_age=-seen.since_ns)

    def may_answer(self, s: State, g: Logout) -> bool:
        return may_answer(self.rows(s), s.epoch, g.epoch_age, g.position, g.elapsed)

    def rows(self, s: State) -> tuple[LeaseRow, ...]:
        return tuple(lease_row(r.row_applied, r.epoch) for r in s.replicas if r.row_applied != NO)

    # Incidents

    def incident_steps(self, s: State) -> Iterator[Step]:
        after = s._replace(incident=True)
        unacknowledged = (r._replace(row_applied=min(r.row_applied, 0)) for r in s.replicas)
        yield "database restarted", after._replace(replicas=tuple(sorted(unacknowledged)))
        promoted = after._replace(epoch=1, kept=s.head)
        yield "failover", promoted
        rowless = tuple(sorted(r._replace(row_applied=NO, watched=NO) for r in s.replicas))
        yield "failover, rows lost", promoted._replace(replicas=rowless)
        if s.head:
            yield "failover, rows and an event lost", self.lose_event(promoted, rowless)

    @staticmethod
    def lose_event(s: State, replicas: tuple[Replica, ...]) -> State:
        """The last event is gone, and what was promised for its logout with it."""
        logouts = tuple(g for g in s.logouts if g.position < s.head)
        return s._replace(replicas=replicas, logouts=logouts, head=s.head - 1, kept=s.head - 1)


# The search


def stale(s: State) -> bool:
    """Whether a replica may serve a session whose logout was answered."""
    for g in s.logouts:
        if g.answered == NO:
            continue
        for r in s.replicas:
            applied = r.applied if r.epoch == s.epoch else min(r.applied, s.kept)
            if applied < g.position and r.deadline > -g.answered:
                return True
    return False


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


class RepeatedLogout(Protocol):
    """Both logouts are of one session: the later one finds it ended and appends nothing."""

    def commit_steps(self, s: State, index: int, g: Logout) -> Iterator[Step]:
        if s.head == 0:
            yield from super().commit_steps(s, index, g)
        elif g.position == NO:
            yield "logout repeated", with_logout(s, index, self.repeated(s, g))

    def repeated(self, s: State, g: Logout) -> Logout:
        return g._replace(position=s.head, elapsed=0)


# The broken variants


class RowAndHeadInOneSnapshot(Protocol):
    """The transaction that writes the row reads the head too: before the row can be seen."""

    UNCOMMITTED = 100  # added to the head of a transaction that has not committed

    def write_row(self, r: Replica, t0_age: int, head: int, epoch: int) -> Replica:
        return r._replace(t0_age=t0_age, head=self.UNCOMMITTED + head)

    def _replica_steps(self, r: Replica, head: int, epoch: int) -> list[tuple[str, Replica]]:
        steps = super()._replica_steps(r, head, epoch)
        if r.head >= self.UNCOMMITTED:
            read = r.head - self.UNCOMMITTED
            row = r._replace(head=read, row_applied=r.applied, watched=NO)
            steps.append(("row and head committed", row))
        return steps


class DeadlineFromTheReply(Protocol):
    def grant(self, r: Replica) -> Replica:
        return super().grant(r._replace(t0_age=0))


class GrantBeforeCatchingUp(Protocol):
    def may_grant(self, r: Replica) -> bool:
        return True


class TimerBeforeTheCommit(Protocol):
    def commit_steps(self, s: State, index: int, g: Logout) -> Iterator[Step]:
        for name, after in super().commit_steps(s, index, g):
            place = next(i for i, new in enumerate(after.logouts) if new.position == after.head)
            for ago in range(WAIT + 1):
                started = after.logouts[place]._replace(elapsed=ago)
                yield f"{name}, timer {ago} ticks ago", with_logout(after, place, started)


class TrustInAYoungEpoch(Protocol):
    def may_answer(self, s: State, g: Logout) -> bool:
        return may_answer(self.rows(s), s.epoch, WAIT, g.position, g.elapsed)


class GrantInAnotherEpoch(Protocol):
    """Positions are compared although they are of different histories."""

    def read_head(self, r: Replica, head: int, epoch: int) -> Replica:
        return r._replace(head=head)


class LostRowIgnored(Protocol):
    """A renewal that finds no row to update goes on all the same."""

    def _replica_steps(self, r: Replica, head: int, epoch: int) -> list[tuple[str, Replica]]:
        steps = super()._replica_steps(r, head, epoch)
        if r.row_applied == NO:
            steps.append(("no row updated", r._replace(t0_age=0, head=NO)))
        return steps


class RowRemovedTooEarly(Protocol):
    def may_reap(self, r: Replica) -> bool:
        return r.watched > 0


class RenewalSeqRepeats(Protocol):
    """A row that is written anew has the number of the removed one: a late removal hits it."""

    def write_row(self, r: Replica, t0_age: int, head: int, epoch: int) -> Replica:
        written = super().write_row(r, t0_age, head, epoch)
        return written if r.row_applied != NO else written._replace(watched=WAIT)


class RepeatedLogoutAnsweredAtOnce(RepeatedLogout):
    def repeated(self, s: State, g: Logout) -> Logout:
        return g._replace(position=s.head, answered=0)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("protocol", "replicas", "logouts", "states"),
    [
        (Protocol(eager=False), 1, 2, 10_000),
        (Protocol(eager=False), 2, 1, 150_000),
        (Protocol(eager=False, incidents=True, past=0), 1, 2, 100_000),
        (Protocol(), 2, 2, 100_000),
        (Protocol(incidents=True, past=0), 2, 2, 200_000),
        (RepeatedLogout(), 2, 2, 10_000),
    ],
    ids=[
        "one replica, every step",
        "two replicas, every step",
        "one replica and an incident, every step",
        "two and two",
        "two and two and an incident",
        "one session, two logouts",
    ],
)
def test_no_replica_serves_a_session_whose_logout_was_answered(
    protocol: Protocol, replicas: int, logouts: int, states: int
) -> None:
    visited, violation = explore(protocol, world(replicas, logouts))

    assert violation is None, "\n".join(violation or [])
    assert visited >= states, "the search has become smaller than it was"


@pytest.mark.parametrize(
    ("broken", "incidents"),
    [
        (RowAndHeadInOneSnapshot, False),
        (DeadlineFromTheReply, False),
        (GrantBeforeCatchingUp, False),
        (TimerBeforeTheCommit, False),
        (TrustInAYoungEpoch, True),
        (GrantInAnotherEpoch, True),
        (LostRowIgnored, False),
        (RowRemovedTooEarly, False),
        (RenewalSeqRepeats, False),
        (RepeatedLogoutAnsweredAtOnce, False),
    ],
)
def test_every_rule_is_needed(broken: type[Protocol], incidents: bool) -> None:
    _visited, violation = explore(broken(incidents=incidents), world(1, 2))

    assert violation is not None
