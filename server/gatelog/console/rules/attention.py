"""What needs somebody's attention, in words, from how things stand.

Rules: each has a ``code`` that never changes. ``bad`` is what keeps the service from doing what it
promises, ``warn`` what may come to that. What is as it should be is not told.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, Literal

import msgspec

Level = Literal["bad", "warn"]

LATE_S: Final = 10.0  # a sealer signs every second, a replica applies within milliseconds
MANY_FAILURES: Final = 50  # in the minutes that are looked at,
LOOKED_AT_MINUTES: Final = 5  # which are these


class Attention(msgspec.Struct, frozen=True):
    """What needs attention; ``text``: in words."""

    code: str
    level: Level
    text: str


class HostFacts(msgspec.Struct, frozen=True):
    """Of a host's replica: whether its lease is good, and how far it is behind the log."""

    name: str
    in_memory: bool
    renewed_s_ago: float
    lease_s: float
    lag: int
    lag_s: float


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """How things stand.

    ``strict``: every check asks the database, as configured. ``unsealed``: events that no
    checkpoint has, the oldest ``unsealed_s`` old. Counts are of the last minutes
    (``LOOKED_AT_MINUTES``); of locked passwords of the last hour.
    """

    strict: bool
    hosts: tuple[HostFacts, ...]
    unsealed: int
    unsealed_s: float
    logins: int
    failures: int
    throttled: int
    locked: int
    administrators: int


def attention(facts: Facts) -> list[Attention]:
    """All that needs attention, the bad first."""
    found = [*_hosts(facts), *_seal(facts), *_logins(facts), *_administrators(facts)]
    return sorted(found, key=lambda each: each.level != "bad")


def _hosts(facts: Facts) -> Iterator[Attention]:
    if facts.strict:
        return
    if not facts.hosts:
        yield Attention(
            "no_replica",
            "warn",
            "No host checks sessions from memory: every check asks the database.",
        )
    for host in facts.hosts:
        yield from _host(host)


def _host(host: HostFacts) -> Iterable[Attention]:
    if host.renewed_s_ago >= host.lease_s:
        ago = in_words(host.renewed_s_ago)
        late = f"The host {host.name} has not renewed its lease for {ago}"
        text = f"{late}: its workers ask the database."
        return [Attention("lease_over", "bad", text)]
    if not host.in_memory:
        text = f"The host {host.name} has a copy of another log: it is made anew."
        return [Attention("other_log", "warn", text)]
    if host.lag and host.lag_s > LATE_S:
        events, since = number(host.lag, "event"), in_words(host.lag_s)
        text = f"The host {host.name} is {events} behind the log, since {since}."
        return [Attention("replica_lag", "bad", text)]
    return []


def _seal(facts: Facts) -> Iterator[Attention]:
    if facts.unsealed and facts.unsealed_s > LATE_S:
        events, since = number(facts.unsealed, "event"), in_words(facts.unsealed_s)
        verb = "is" if facts.unsealed == 1 else "are"
        text = f"{events} {verb} not signed, the oldest for {since}. Does a sealer run?"
        yield Attention("not_sealed", "bad", text)


def _logins(facts: Facts) -> Iterator[Attention]:
    if facts.failures >= MANY_FAILURES and facts.failures > 2 * facts.logins:
        failures, logins = number(facts.failures, "login"), number(facts.logins, "login")
        text = f"{failures} failed in the last {LOOKED_AT_MINUTES} minutes; {logins} succeeded."
        yield Attention("many_failures", "warn", text)
    if facts.throttled:
        text = f"Logins are slowed down: {number(facts.throttled, 'place')} tried too often."
        yield Attention("throttled", "warn", text)
    if facts.locked:
        verb = "was" if facts.locked == 1 else "were"
        text = f"{number(facts.locked, 'password')} {verb} locked in the last hour, by guesses."
        yield Attention("locked", "warn", text)


def _administrators(facts: Facts) -> Iterator[Attention]:
    if facts.administrators == 0:
        text = "Nobody administers this service. The command line gives somebody the role."
        yield Attention("no_admin", "bad", text)
    elif facts.administrators == 1:
        text = "There is one administrator only. Give somebody else the role as well."
        yield Attention("one_admin", "warn", text)


def number(count: int, what: str) -> str:
    """``1,234 events``."""
    return f"{count:,} {what}" + ("" if count == 1 else "s")


def in_words(seconds: float) -> str:
    """A time, roughly: ``12 seconds``, ``3 minutes``, ``2 hours``, ``4 days``."""
    for unit, size_s in (("day", 86_400), ("hour", 3600), ("minute", 60)):
        if seconds >= 2 * size_s:
            return number(int(seconds // size_s), unit)
    return number(max(1, int(seconds)), "second")
