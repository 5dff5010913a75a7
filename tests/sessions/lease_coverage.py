"""Whether a state stands for another: whatever can go wrong from that one, can from this one.

It compares numbers and knows nothing of how ``lease_protocol`` leaves states out; the test that
uses it sees whether what is left stands for everything.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator
from itertools import permutations
from typing import TypeVar

from tests.sessions.lease_states import NO, TERMS, WAIT, Log, Logout, Replica, State, accepts

T = TypeVar("T")


def uncovered(states: Iterable[State], explored: Iterable[State]) -> Iterator[State]:
    """Those of the states that no explored one stands for."""
    candidates: dict[Hashable, list[State]] = defaultdict(list)
    for state in explored:
        candidates[_kind(state)].append(state)
    for state in states:
        if not _is_over(state) and not any(covers(c, state) for c in candidates[_kind(state)]):
            yield state


def _kind(s: State) -> Hashable:
    return s.incarnation, s.log.head, s.log.epoch, s.log.new


def _is_over(s: State) -> bool:
    """Nobody will ever accept a session here: each is ended in all that may be asked."""
    return all(
        g.position != NO and not any(accepts(r, g, s.log) for r in s.replicas) for g in s.logouts
    )


def covers(c: State, s: State) -> bool:
    """Whether ``c``, of the same kind, stands for ``s``."""
    if (c.log, c.lost) != (s.log, s.lost) and not (
        s.log.epoch and all(r.epoch for r in s.replicas)
    ):
        return False  # what the first log held concerns a replica of it
    if c.seen < s.seen or c.noted < WAIT <= s.noted:
        return False
    if c.noted < WAIT and (c.seen_empty < s.seen_empty or c.noted_empty < s.noted_empty):
        return False

    def replica(a: Replica, b: Replica) -> bool:
        return _covers_replica(a, b, c.log)

    def logout(a: Logout, b: Logout) -> bool:
        return _covers_logout(a, b, noted=c.noted == WAIT)

    alive = [r for r in s.replicas if not _is_through(r, s)]
    ending = [g for g in s.logouts if not _is_accepted_by_none(g, c)]
    return _each(replica, c.replicas, alive) and _each(logout, c.logouts, ending)


def _each(covers: Callable[[T, T], bool], these: tuple[T, ...], those: list[T]) -> bool:
    """Whether each of those has one of its own among these that covers it."""
    return any(all(map(covers, chosen, those)) for chosen in permutations(these, len(those)))


def _is_through(r: Replica, s: State) -> bool:
    """Whether it has applied all that there will ever be."""
    ended = all(g.position != NO for g in s.logouts)
    return ended and r.epoch == s.log.epoch and r.applied == s.log.head


def _is_accepted_by_none(g: Logout, c: State) -> bool:
    return g.position != NO and not any(accepts(r, g, c.log) for r in c.replicas)


def _covers_replica(c: Replica, s: Replica, log: Log) -> bool:
    """It may answer for as long at least, has a lease as soon, and no row that is more in the way.

    One that still counts as following the first log accepts what one does that has noticed that it
    follows the second, if that goes on from the first.
    """
    if c.applied != s.applied or c.deadline < s.deadline:
        return False
    if c.epoch != s.epoch and not (c.epoch == 0 and log.continues(0, c.applied)):
        return False
    if c.row_applied != NO and (c.row_applied < s.row_applied or c.watched < s.watched):
        return False
    if c.row_applied != NO and s.row_applied == NO:
        return False
    if s.t0_age == NO or TERMS.ttl_ns - s.t0_age <= c.deadline:
        return True
    read_before = c.head != NO and (s.head == NO or c.head <= s.head)
    return NO != c.t0_age <= s.t0_age and (read_before or c.head == s.head == NO)


def _covers_logout(c: Logout, s: Logout, *, noted: bool) -> bool:
    """It is answered as early at least, or may be as soon."""
    if (c.position, c.session, c.unknown) != (s.position, s.session, s.unknown):
        return False
    if s.answered != NO or c.answered != NO:
        return c.answered >= s.answered
    if c.elapsed < s.elapsed:
        return False
    if noted or c.elapsed == WAIT or (c.known == 1 and c.age == WAIT):
        return True
    knows = c.known > s.known or (c.known == s.known and c.age >= s.age and c.empty >= s.empty)
    return knows and c.ended_in >= s.ended_in
