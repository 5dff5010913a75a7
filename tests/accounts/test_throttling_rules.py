"""Brute-force limits as rules: against an obvious model, and by the figures that are promised."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from uuid import UUID

import pytest
from gatelog.accounts.rules.events import LoginsThrottled
from gatelog.accounts.rules.throttling import (
    DAY_S,
    FOR_KNOWN_DEVICES,
    HOUR_S,
    AdmitTry,
    Forgotten,
    Limit,
    Limits,
    NoteThrottled,
    RightPassword,
    Settled,
    Streaks,
    Try,
    limits,
    locked_by,
)
from gatelog.accounts.rules.users import User, Users
from gatelog.clock import new_event_id, new_random_id
from gatelog.errors import TooManyAttempts
from gatelog.log.rules.kinds import World
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import NOON

LIMITS = limits(tries=5, failures=100, registrations=20)
ALICE, BOB = b"alice", b"bob"
HOME, WORK = b"home", b"work"


def a_try(
    at: datetime,
    account: bytes | None = ALICE,
    *,
    place: bytes = HOME,
    device: bytes | None = None,
    subject_id: UUID | None = None,
) -> Try:
    return Try(
        try_id=new_event_id(),
        at=at,
        account=account,
        place=None if device else place,
        device=device,
        subject_id=subject_id,
    )


def admit(world: World, one: Try, allowed: Limits = LIMITS) -> int:
    """0 when it is admitted, else after how many seconds to try again."""
    try:
        world.take(AdmitTry(admitted=one, limits=allowed).decide(world))
    except TooManyAttempts as refusal:
        assert refusal.retry_after_s is not None
        return refusal.retry_after_s
    return 0


def serially(world: World, begin: datetime, seconds: int) -> int:
    """How many tries one client gets that tries again as soon as it is told to."""
    now, admitted = begin, 0
    while now < begin + timedelta(seconds=seconds):
        wait_s = admit(world, a_try(now))
        if wait_s:
            now += timedelta(seconds=wait_s)
        else:
            admitted += 1
    return admitted


def eagerly(world: World, begin: datetime, seconds: int, clients: int) -> int:
    """How many tries many clients get that try all the time, each from the same place."""
    admitted = 0
    for second in range(seconds):
        for client in range(clients):
            at = begin + timedelta(seconds=second, microseconds=client)
            admitted += not admit(world, a_try(at))
    return admitted


def test_the_curve() -> None:
    """Five at once, then 1 s, 2 s, 4 s … after the last one."""
    world, now, waits = World(), NOON, []
    for _ in range(12):
        wait_s = admit(world, a_try(now))
        waits.append(wait_s)
        if wait_s:
            now += timedelta(seconds=wait_s)
            assert admit(world, a_try(now)) == 0
    assert waits[:5] == [0] * 5
    assert waits[5:] == [2**n for n in range(7)]


def test_many_clients_get_as_many_tries_as_one() -> None:
    one = serially(World(), NOON, 120)
    assert one == 5 + 6  # after 1, 3, 7, 15, 31 and 63 s
    assert eagerly(World(), NOON, 120, clients=50) == one


@pytest.mark.parametrize(
    ("seconds", "most"), [(HOUR_S, 5 + 12), (DAY_S, 5 + 17), (7 * DAY_S, 7 * 22)]
)
def test_what_one_place_gets_at_one_account(seconds: int, most: int) -> None:
    assert serially(World(), NOON, seconds) <= most


def test_one_account_from_many_places() -> None:
    world = World()
    admitted = sum(
        not admit(world, a_try(NOON + timedelta(seconds=n), place=b"place %d" % n))
        for n in range(HOUR_S)
    )
    assert 20 <= admitted <= 20 + 12


def test_many_accounts_from_one_place() -> None:
    world = World()
    admitted = sum(
        not admit(world, a_try(NOON + timedelta(seconds=n), b"account %d" % n))
        for n in range(HOUR_S)
    )
    assert 100 <= admitted <= 100 + 12


def test_a_known_device_has_its_own_budget() -> None:
    """Whatever strangers do, and whatever other devices do; and no more than that."""
    world = World()
    for n in range(1000):
        admit(world, a_try(NOON, place=b"place %d" % n))
    assert admit(world, a_try(NOON, place=WORK)) > 0
    for device in (b"phone", b"laptop"):
        assert [admit(world, a_try(NOON, device=device)) for _ in range(6)] == [0] * 5 + [1]


def test_registrations_have_a_budget_by_place() -> None:
    world = World()
    mine = [admit(world, a_try(NOON, None)) for _ in range(21)]
    assert mine == [0] * 20 + [1]
    assert admit(world, a_try(NOON, None, place=WORK)) == 0


def test_a_right_password_forgives_what_was_tried_from_there_only() -> None:
    """In the store; here that nothing else is asked to be forgotten."""
    world = World()
    user = new_random_id()
    world.of(Streaks).enter(user, 7)
    forgotten = Forgotten(ALICE, HOME, None)
    RightPassword(user, forgotten).enter(world)
    assert world.of(Streaks).of(user) == 0
    assert world.of(Streaks).changed == {user: 0}


def test_the_same_try_again_is_let_through() -> None:
    """A commit whose outcome nobody knows is run again."""
    world = World()
    tries = [a_try(NOON) for _ in range(5)]
    for one in tries:
        assert admit(world, one) == 0
    assert admit(world, tries[-1]) == 0
    assert admit(world, a_try(NOON)) == 1


def test_a_clock_that_is_ahead_delays_nobody_for_long() -> None:
    world = World()
    for _ in range(5):
        admit(world, a_try(NOON + timedelta(seconds=2)))
    assert admit(world, a_try(NOON)) == 3


@given(st.lists(st.integers(0, 4000), max_size=40), st.integers(0, 4000), st.integers(1, 6))
def test_a_limit_is_what_it_says(ages: list[int], now: int, free: int) -> None:
    limit = Limit(free, 1000)
    moments = [NOON + timedelta(seconds=age) for age in ages]
    wait_s = limit.wait_s(moments, NOON + timedelta(seconds=now))
    counted = [age for age in ages if age > now - 1000]
    if len(counted) < free:
        assert wait_s == 0
    else:
        due = max(counted) + min(1000, 2 ** (len(counted) - free))
        assert wait_s == max(0, due - now)


@given(st.lists(st.tuples(st.integers(0, 20), st.sampled_from([HOME, WORK])), max_size=60))
def test_no_order_of_arrival_gets_more_than_a_serial_client(
    arrivals: Iterable[tuple[int, bytes]],
) -> None:
    """Whoever comes when: at each place no more than one client that never waits too long."""
    world, now, admitted = World(), NOON, {HOME: 0, WORK: 0}
    for pause, place in arrivals:
        now += timedelta(seconds=pause)
        if not admit(world, a_try(now, place=place)):
            admitted[place] += 1
    seconds = int((now - NOON).total_seconds()) + 1
    most = serially(World(), NOON, seconds)
    assert all(count <= most for count in admitted.values())


# --- failures in a row


def world_of(user: UUID, failures: int) -> World:
    world = World()
    world.of(Users).add(User(subject_id=user, registered_at=NOON))
    world.of(Streaks).enter(user, failures)
    return world


@pytest.mark.parametrize(("device", "most"), [(None, 90), (b"phone", 100)])
@pytest.mark.parametrize("settled", [0, 80])
def test_no_more_try_at_once_than_may_still_fail(
    device: bytes | None, most: int, settled: int
) -> None:
    generous = limits(tries=10_000, failures=100, registrations=1)
    user = new_random_id()
    world = world_of(user, settled)
    admitted = sum(
        not admit(world, a_try(NOON, device=device, subject_id=user), generous) for _ in range(150)
    )
    assert admitted == most - settled


def test_who_failed_is_not_under_way_any_more() -> None:
    generous = limits(tries=10_000, failures=100, registrations=1)
    user = new_random_id()
    world = world_of(user, 88)
    first, second = (a_try(NOON, subject_id=user) for _ in range(2))
    assert [admit(world, first, generous), admit(world, second, generous)] == [0, 0]
    assert admit(world, a_try(NOON, subject_id=user), generous) == 1
    Settled(first.try_id).enter(world)
    assert admit(world, a_try(NOON, subject_id=user), generous) == 0


def test_when_a_password_is_locked() -> None:
    reasons = [locked_by(failures, 100) for failures in range(1, 120)]
    assert reasons.index("unknown_devices") + 1 == 100 - FOR_KNOWN_DEVICES
    assert reasons.index("all_devices") + 1 == 100
    assert reasons.count(None) == len(reasons) - 2


def test_an_erased_user_leaves_no_tries() -> None:
    world = World()
    one = a_try(NOON, subject_id=new_random_id())
    (beside,) = AdmitTry(admitted=one, limits=LIMITS).decide(world).beside
    assert getattr(beside, "admitted", one).subject_id is None


# --- what is told


def test_a_place_is_told_of_once_a_minute() -> None:
    world, told = World(), []
    for second in range(0, 200, 7):
        at = NOON + timedelta(seconds=second)
        event = LoginsThrottled(event_id=new_event_id(), occurred_at=at, count=1)
        decision = NoteThrottled(event=event, place=HOME).decide(world)
        world.take(decision)
        told += [second] * len(decision.events)
    assert told == [0, 63, 126, 189]
