"""Paging by key, counts by minute, and what needs attention."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest
from gatelog.console.rules.attention import Facts, HostFacts, attention, in_words, number
from gatelog.console.rules.minutes import KEPT, MINUTE, TYPES, Counted, Minutes, this_minute
from gatelog.console.rules.paging import FIRST, Key, parse_key, parse_position
from gatelog.errors import InvalidInput
from hypothesis import given
from hypothesis import strategies as st

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
HOST = HostFacts(name="a", in_memory=True, renewed_s_ago=0.5, lease_s=3.0, lag=0, lag_s=0.0)
WELL = Facts(
    strict=False,
    hosts=(HOST,),
    unsealed=3,
    unsealed_s=0.4,
    logins=100,
    failures=49,
    throttled=0,
    locked=0,
    administrators=2,
)


# --- paging


@given(
    st.datetimes(
        datetime(1970, 1, 1),  # noqa: DTZ001 - hypothesis wants them without a zone
        datetime(9999, 1, 1),  # noqa: DTZ001
        timezones=st.just(UTC),
    ),
    st.uuids(),
)
def test_a_key_comes_back_from_its_cursor(at: datetime, number: UUID) -> None:
    key = Key(at, number)
    assert parse_key(str(key)) == key
    assert key <= FIRST


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "x",
        "1." + "g" * 32,
        "9" * 18 + "." + "0" * 32,
        "-1." + "0" * 32,
        "\uff11." + "0" * 32,
    ],
)
def test_what_is_no_cursor(text: str) -> None:
    with pytest.raises(InvalidInput, match="cursor"):
        parse_key(text)


@pytest.mark.parametrize("text", ["", "-1", "1.5", "9" * 19, "٣"])
def test_what_is_no_position(text: str) -> None:
    with pytest.raises(InvalidInput, match="cursor"):
        parse_position(text)


# --- counts by minute


@pytest.mark.parametrize("seed", range(20))
def test_counts_are_those_of_a_plain_loop(seed: int) -> None:
    """Read in parts of any size: what is told is what happened, and never a part of a minute."""
    rng = random.Random(seed)
    moment, events = NOON, []
    for _ in range(2000):
        moment += timedelta(seconds=rng.choice([0, 0, 1, 5, 40]))
        events.append((moment, rng.choice([*TYPES, "audit_read"])))
    now = moment
    known_from = rng.choice([None, NOON, NOON + timedelta(seconds=1)])
    minutes, read = Minutes(), 0
    minutes.begin(0, known_from)
    while read < len(events):
        part = events[read : read + rng.randint(1, 300)]
        counts: dict[tuple[datetime, str], int] = {}
        for at, kind in part:
            if kind in TYPES:
                counts[this_minute(at), kind] = counts.get((this_minute(at), kind), 0) + 1
        read += len(part)
        minutes.add(
            read, sorted((Counted(*key, n) for key, n in counts.items()), key=lambda c: c.minute)
        )
        minutes.forget(now)
    for kind in TYPES:
        told = minutes.of(kind, now)
        assert len(told) == KEPT
        for back, count in enumerate(reversed(told)):
            minute = this_minute(now) - back * MINUTE
            happened = sum(this_minute(at) == minute and kind == which for at, which in events)
            assert count in (None, happened)
            known = minute >= (known_from or NOON) + (MINUTE if known_from is None else timedelta())
            assert (count is not None) == known, (back, count)
        assert minutes.sum_of(kind, now, 5) == sum(count or 0 for count in told[-5:])


def test_before_anything_is_known_nothing_is_told() -> None:
    assert set(Minutes().of("session_started", NOON)) == {None}


# --- what needs attention


def codes(**facts: Any) -> dict[str, str]:
    return {each.code: each.level for each in attention(msgspec.structs.replace(WELL, **facts))}


def host(**facts: Any) -> tuple[HostFacts, ...]:
    return (HOST, msgspec.structs.replace(HOST, name="b", **facts))


@pytest.mark.parametrize(
    ("facts", "found"),
    [
        ({}, {}),
        ({"hosts": ()}, {"no_replica": "warn"}),
        ({"hosts": (), "strict": True}, {}),
        ({"hosts": host(renewed_s_ago=3.0, in_memory=False)}, {"lease_over": "bad"}),
        ({"hosts": host(in_memory=False)}, {"other_log": "warn"}),
        ({"hosts": host(lag=1, lag_s=10.1)}, {"replica_lag": "bad"}),
        ({"hosts": host(lag=10**6, lag_s=9.9)}, {}),
        ({"unsealed_s": 10.1}, {"not_sealed": "bad"}),
        ({"unsealed": 0, "unsealed_s": 99.0}, {}),
        ({"logins": 24, "failures": 49}, {}),
        ({"logins": 24, "failures": 50}, {"many_failures": "warn"}),
        ({"logins": 25, "failures": 50}, {}),
        ({"throttled": 1}, {"throttled": "warn"}),
        ({"locked": 1}, {"locked": "warn"}),
        ({"administrators": 1}, {"one_admin": "warn"}),
        ({"administrators": 0}, {"no_admin": "bad"}),
    ],
)
def test_what_needs_attention(facts: dict[str, Any], found: dict[str, str]) -> None:
    assert codes(**facts) == found


def test_the_bad_comes_first_and_in_words() -> None:
    facts = {"locked": 2, "hosts": host(lag=1234, lag_s=130.0), "unsealed": 1, "unsealed_s": 11.0}
    told = attention(msgspec.structs.replace(WELL, **facts))
    assert [each.text for each in told] == [
        "The host b is 1,234 events behind the log, since 2 minutes.",
        "1 event is not signed, the oldest for 11 seconds. Does a sealer run?",
        "2 passwords were locked in the last hour, by guesses.",
    ]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "1 second"),
        (119, "119 seconds"),
        (120, "2 minutes"),
        (7200, "2 hours"),
        (10**6, "11 days"),
    ],
)
def test_times_in_words(seconds: float, words: str) -> None:
    assert in_words(seconds) == words
    assert number(1, "event") == "1 event"
