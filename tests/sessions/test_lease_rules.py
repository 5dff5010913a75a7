"""The arithmetic of the lease, at its edges."""

from __future__ import annotations

import pytest
from gatelog.sessions.rules.lease import (
    NO_EVIDENCE,
    NO_LEASE,
    Evidence,
    Incarnation,
    LeaseRow,
    LeaseTerms,
    Sighting,
    Verdict,
    barrier_verdict,
    full_wait_ns,
    incarnation_seen,
    lease_deadline,
    lease_valid,
    may_grant,
    may_reap,
    sighted,
    worth_noting,
)

S = 1_000_000_000
TERMS = LeaseTerms(ttl_ns=3 * S)
WAIT = 3 * S + 30_000_000 + 50_000_000


def row(
    name: str = "a", *, seq: int = 1, applied: int = 5, epoch: str = "e", ttl_s: int = 3
) -> LeaseRow:
    return LeaseRow(name, seq, applied, epoch, ttl_s * S)


def verdict(
    *rows: LeaseRow,
    elapsed: int = 0,
    age: int = WAIT,
    empty: bool = False,
    of_this_log: bool = True,
    position: int = 5,
) -> Verdict:
    return barrier_verdict(
        rows,
        epoch="e",
        evidence=Evidence(age, empty),
        of_this_log=of_this_log,
        position=position,
        elapsed_ns=elapsed,
        terms=TERMS,
    )


def test_the_full_wait_is_the_lease_and_one_percent_and_fifty_milliseconds() -> None:
    assert TERMS.wait_ns == WAIT
    assert LeaseTerms(ttl_ns=2, drift_ppm=1, slack_ns=0).wait_ns == 3  # rounded up


def test_a_lease_is_renewed_three_times_while_it_lasts() -> None:
    assert TERMS.renewal_ns * 3 == TERMS.ttl_ns


def test_a_lease_counts_from_the_moment_before_its_row_was_written() -> None:
    deadline = lease_deadline(100 * S, TERMS)

    assert lease_valid(deadline, 103 * S - 1)
    assert not lease_valid(deadline, 103 * S)


def test_no_lease_is_never_valid() -> None:
    assert not lease_valid(NO_LEASE, 0)


@pytest.mark.parametrize(
    ("applied", "head_epoch", "granted"),
    [(7, "e", True), (8, "e", True), (6, "e", False), (7, "f", False), (9, "f", False)],
)
def test_a_grant_needs_the_head_and_the_epoch(applied: int, head_epoch: str, granted: bool) -> None:
    assert granted is may_grant(
        applied_position=applied, replica_epoch="e", head_position=7, head_epoch=head_epoch
    )


def test_without_replicas_nothing_is_waited_for() -> None:
    assert verdict() is Verdict.ACKNOWLEDGED


def test_every_row_must_have_the_position() -> None:
    assert verdict(row("a", applied=5), row("b", applied=6)) is Verdict.ACKNOWLEDGED
    assert verdict(row("a", applied=5), row("b", applied=4)) is Verdict.REPLICA_BEHIND


def test_a_row_of_another_epoch_acknowledges_nothing() -> None:
    assert verdict(row(applied=900, epoch="old")) is Verdict.REPLICA_BEHIND


def test_the_wait_ends_after_the_full_time_whatever_the_rows_say() -> None:
    behind = row(applied=1)

    assert verdict(behind, elapsed=WAIT - 1) is Verdict.REPLICA_BEHIND
    assert verdict(behind, elapsed=WAIT) is Verdict.WAITED_OUT


def test_the_longest_lease_among_the_rows_is_waited_for() -> None:
    long = row(applied=1, ttl_s=10)

    assert full_wait_ns([row(), long], TERMS) == 10 * S + 100_000_000 + 50_000_000
    assert verdict(long, elapsed=WAIT, age=11 * S) is Verdict.REPLICA_BEHIND
    assert full_wait_ns([row(ttl_s=1)], TERMS) == WAIT


def test_rows_are_not_trusted_in_a_young_incarnation() -> None:
    assert verdict(row(), age=WAIT - 1) is Verdict.YOUNG_EPOCH
    assert verdict(row(), age=WAIT) is Verdict.ACKNOWLEDGED
    assert verdict(row(), age=0, elapsed=WAIT) is Verdict.WAITED_OUT


def test_in_a_log_that_was_empty_rows_are_complete_for_what_was_ended_in_it() -> None:
    assert verdict(row(), age=0, empty=True) is Verdict.ACKNOWLEDGED
    assert verdict(row(applied=4), age=0, empty=True) is Verdict.REPLICA_BEHIND
    assert verdict(row(), age=0, empty=True, of_this_log=False) is Verdict.YOUNG_EPOCH
    assert verdict(row(), age=WAIT, of_this_log=False) is Verdict.ACKNOWLEDGED


def test_the_longest_lease_decides_when_an_incarnation_is_old_enough() -> None:
    long = row(applied=5, ttl_s=10)

    assert verdict(long, age=WAIT) is Verdict.YOUNG_EPOCH
    assert verdict(long, age=full_wait_ns([long], TERMS)) is Verdict.ACKNOWLEDGED


def test_only_two_verdicts_allow_an_answer() -> None:
    assert [v for v in Verdict if v.may_answer] == [Verdict.ACKNOWLEDGED, Verdict.WAITED_OUT]


def test_an_incarnation_is_as_old_as_its_first_sight() -> None:
    first = incarnation_seen(None, "i", 10, head=7)

    assert first == Incarnation("i", 10, empty=False)
    assert incarnation_seen(first, "i", 50, head=8) == first
    assert incarnation_seen(first, "j", 50, head=8) == Incarnation("j", 50, empty=False)
    assert first.evidence(30) == Evidence(20)


def test_that_the_log_was_empty_is_known_as_long_as_the_incarnation_is() -> None:
    first = incarnation_seen(None, "i", 10, head=0)

    assert incarnation_seen(first, "i", 50, head=8).empty
    assert not incarnation_seen(first, "j", 50, head=8).empty


def test_what_two_know_is_known() -> None:
    assert Evidence(5).and_of(Evidence(9)) == Evidence(9)
    assert Evidence(5, empty=True).and_of(Evidence(9)) == Evidence(9, empty=True)
    assert Evidence(5).and_of(NO_EVIDENCE) == Evidence(5)


def test_what_makes_rows_complete_for_others_is_noted_once() -> None:
    assert not worth_noting(Evidence(WAIT - 1), NO_EVIDENCE, WAIT)
    assert worth_noting(Evidence(WAIT), NO_EVIDENCE, WAIT)
    assert not worth_noting(Evidence(2 * WAIT), Evidence(WAIT), WAIT)
    assert worth_noting(Evidence(0, empty=True), NO_EVIDENCE, WAIT)
    assert not worth_noting(Evidence(0, empty=True), Evidence(0, empty=True), WAIT)
    assert worth_noting(Evidence(WAIT), Evidence(0, empty=True), WAIT)


def test_a_sighting_lasts_while_the_row_does_not_move() -> None:
    first = sighted({}, [row("a", seq=1), row("b", seq=1)], 100)
    second = sighted(first, [row("a", seq=1, applied=9), row("b", seq=2), row("c")], 200)

    assert {name: seen.since_ns for name, seen in second.items()} == {"a": 100, "b": 200, "c": 200}
    assert sighted(second, [], 300) == {}


def test_a_row_is_removed_after_its_own_lease_has_surely_ended() -> None:
    seen = Sighting(renewal_seq=1, since_ns=0, ttl_ns=10 * S)

    assert not may_reap(seen, WAIT, TERMS)
    assert may_reap(seen, 10 * S + 150_000_000, TERMS)
