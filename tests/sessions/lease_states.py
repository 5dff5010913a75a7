"""The parties of the small world that ``test_lease_model`` explores, as tuples of numbers."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from gatelog.sessions.rules.lease import (
    Evidence,
    LeaseRow,
    LeaseTerms,
    Sighting,
    barrier_verdict,
    may_reap,
)

TERMS = LeaseTerms(ttl_ns=2, drift_ppm=0, slack_ns=0)
WAIT = TERMS.wait_ns
EPOCHS = ("first", "second")
INCARNATIONS = ("before", "after")
NO = -1  # instead of None: states are tuples of numbers, quick to hash and to sort


class Replica(NamedTuple):
    """A replica, its projector and its row.

    ``epoch`` is the log that it follows: the one of before the incident, or that of after.
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
    """A logout and the process that it runs in.

    ``known``: the incarnation that the process has seen, for ``age`` ticks; ``empty``: the log was
    empty then. ``elapsed``: ticks since the commit; ``answered``: ticks since the answer.
    ``session``: the log in which its session began. ``ended_in``: the incarnation that was known
    when the session was found and ended; NO when there was nothing to end.
    """

    known: int = 0
    age: int = WAIT
    empty: bool = False
    position: int = NO
    elapsed: int = NO
    answered: int = NO
    session: int = 0
    ended_in: int = NO
    unknown: bool = False  # to the log that it looked into


class Log(NamedTuple):
    """The log now: ``head`` events, and of the first log's events the first ``kept``.

    ``epoch``: 1 when it is another one than the first; then ``renamed``: its epoch has another
    name, and ``new``: it began empty.
    """

    head: int = 0
    epoch: int = 0
    kept: int = 0
    renamed: bool = True
    new: bool = False

    def name(self, epoch: int) -> str:
        return EPOCHS[epoch and self.renamed]

    @property
    def position(self) -> int:
        """As a look finds it: the first log has had events before."""
        return self.head if self.new else self.head + 1

    def continues(self, epoch: int, applied: int) -> bool:
        """Whether it is found to be the log that this much was applied of, by name and by hash."""
        if epoch == self.epoch:
            return True
        return not self.renamed and not self.new and applied <= self.kept


class State(NamedTuple):
    """``lost``: the log lacks sessions that replicas of the first one know.

    ``seen``: for how many ticks the witness has seen the incarnation; ``seen_empty``: the log was
    empty then. ``noted``, ``noted_empty``: the same, as the note has it.
    """

    replicas: tuple[Replica, ...]
    logouts: tuple[Logout, ...]
    log: Log = Log()
    incarnation: int = 0
    lost: bool = False
    seen: int = WAIT
    seen_empty: bool = False
    noted: int = WAIT
    noted_empty: bool = False


NOTHING_LEFT = State(replicas=(), logouts=())


def accepts(r: Replica, g: Logout, log: Log) -> bool:
    """Whether a replica knows the session and not its end."""
    of_first_log = r.epoch < log.epoch
    if of_first_log and g.session == 1:
        return False
    if g.unknown or (log.new and g.session == 0):  # it is, or was, in the first log only
        return r.epoch == 0 and (g.unknown or r.applied < g.position)
    applied = min(r.applied, log.kept) if of_first_log else r.applied
    return applied < g.position


def with_replica(s: State, index: int, replica: Replica) -> State:
    """The state with this replica changed; replicas are alike, so they are kept in order."""
    others = s.replicas[:index] + s.replicas[index + 1 :]
    return s._replace(replicas=tuple(sorted((*others, replica))))


def with_logout(s: State, index: int, logout: Logout) -> State:
    others = s.logouts[:index] + s.logouts[index + 1 :]
    return s._replace(logouts=tuple(sorted((*others, logout))))


@cache
def lease_row(applied: int, epoch: str) -> LeaseRow:
    return LeaseRow("replica", 0, applied, epoch, TERMS.ttl_ns)


class Look(NamedTuple):
    """What a look finds for a logout."""

    rows: tuple[LeaseRow, ...]
    epoch: str
    evidence: Evidence
    of_this_log: bool
    position: int
    elapsed: int


@cache
def may_answer(look: Look) -> bool:
    return barrier_verdict(
        look.rows,
        epoch=look.epoch,
        evidence=look.evidence,
        of_this_log=look.of_this_log,
        position=look.position,
        elapsed_ns=look.elapsed,
        terms=TERMS,
    ).may_answer


@cache
def is_reapable(watched: int) -> bool:
    return may_reap(Sighting(0, -watched, TERMS.ttl_ns), 0, TERMS)


def older(ticks: int) -> int:
    return min(ticks + 1, WAIT) if ticks != NO else NO


def answered(g: Logout) -> Logout:
    """Its process is of no more interest."""
    return Logout(position=g.position, answered=0, session=g.session, unknown=g.unknown)


@cache
def known(age: int, empty: bool) -> Evidence:
    return Evidence(age, empty)
