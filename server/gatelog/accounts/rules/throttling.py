"""How often somebody may try to log in: brute-force limits.

A try is *admitted* before any password is hashed, and counts as a failure from then on. A right
password takes it back; nothing else does, so that a try whose end nobody saw (a crash, a client
that went away) has failed. Admissions are decided under the lock of the log's head: a thousand
clients on many hosts get as many as one client would. Rules:

- Tries are counted over sliding windows: by place and account, by account, by place, and by known
  device. A place is an IPv4 address or the /64 of an IPv6 address.
- Of the first ``free`` ones in a window none waits. After that, the next one is admitted 1 s after
  the last one, then 2 s, 4 s, 8 s …, twice as long after each, and at most a window. What comes
  before its time is refused, is not hashed and does not count.
- A known device (one that has logged in to this account before) has a budget of its own, and no
  other: no stranger can use it up. A session in which the password is changed is like one.
- A name that nobody has is counted like any other.
- The failures in a row at an account are counted for themselves (``Streaks``), and without a
  window: see ``MOST_FAILURES``.
- Clocks: ``at`` is the clock of the host that asks. Hosts whose clocks differ by 2 s let through
  what one client could have tried 2 s earlier.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from uuid import UUID

import msgspec

from gatelog.accounts.rules.devices import MAX_DEVICES
from gatelog.accounts.rules.events import (
    CredentialChanged,
    LockedFor,
    LoginsThrottled,
    PasswordUnlocked,
)
from gatelog.accounts.rules.users import TheUser, Users
from gatelog.errors import TooManyAttempts
from gatelog.log.rules.events import Event, UserEvent
from gatelog.log.rules.kinds import Beside, Command, Decision, Need, State, Trace, World
from gatelog.privacy.rules import UserErased

HOUR_S, DAY_S = 3_600, 86_400
# How many times the tries of one place at one account an account has, and a place.
OF_AN_ACCOUNT, OF_A_PLACE = 4, 20
# Of the failures in a row after which a password is locked, the last ones are for known devices:
# a stranger who uses up all others leaves these.
FOR_KNOWN_DEVICES = 10
NOTED_EVERY_S = 60
_MOST_DOUBLINGS = 20  # 2^20 s are longer than any window


class Limit(msgspec.Struct, frozen=True):
    """So many tries in a window before delays begin."""

    free: int
    window_s: int

    def wait_s(self, tries: Iterable[datetime], now: datetime) -> float:
        """How many seconds from now the next try is admitted; 0 for at once."""
        begin = now - timedelta(seconds=self.window_s)
        recent = [at for at in tries if at > begin]
        beyond = len(recent) - self.free
        if beyond < 0:
            return 0.0
        delay_s = min(1 << min(beyond, _MOST_DOUBLINGS), self.window_s)
        return max(0.0, (max(recent) - now).total_seconds() + delay_s)

    @property
    def most(self) -> int:
        """More tries than a window can hold, whenever they came: the delays double."""
        return self.free + _MOST_DOUBLINGS


class Limits(msgspec.Struct, frozen=True):
    """All limits. ``failures``: in a row at an account, from anywhere."""

    here: Limit
    account: Limit
    place: Limit
    device: Limit
    registrations: Limit
    failures: int

    @property
    def most_at_account(self) -> int:
        """More tries than there can be at an account, of strangers and all known devices."""
        return self.account.most + (MAX_DEVICES + 1) * self.device.most

    def failures_for(self, *, known: bool) -> int:
        """After how many in a row the password is locked, for known devices or for strangers."""
        return self.failures if known else self.failures - FOR_KNOWN_DEVICES


def limits(tries: int, failures: int, registrations: int) -> Limits:
    """The limits that these settings make."""
    return Limits(
        here=Limit(tries, DAY_S),
        account=Limit(tries * OF_AN_ACCOUNT, DAY_S),
        place=Limit(tries * OF_A_PLACE, HOUR_S),
        device=Limit(tries, DAY_S),
        registrations=Limit(registrations, HOUR_S),
        failures=failures,
    )


def limits_of_asking(usual: Limits, tries: int) -> Limits:
    """The limits of who asks for a link: an account's mailbox is not to be filled by anybody."""
    return msgspec.structs.replace(
        usual,
        here=Limit(tries, DAY_S),
        account=Limit(tries, DAY_S),
        place=Limit(tries * OF_A_PLACE, HOUR_S),
    )


# --- tries


class Try(msgspec.Struct, frozen=True, kw_only=True):
    """A try: what it counts for is told by blind indexes.

    One of a known device has ``device`` in the place of ``place``. A registration has only a
    ``place``, of its own sort. ``settled``: it is known to have failed. ``subject_id``: whose the
    account is, if it is anybody's.
    """

    try_id: UUID
    at: datetime
    account: bytes | None = None
    place: bytes | None = None
    device: bytes | None = None
    subject_id: UUID | None = None
    settled: bool = False


class TriesAt(Need, frozen=True):
    """The tries at an account since then."""

    account: bytes
    since: datetime
    most: int


class TriesFrom(Need, frozen=True):
    """The tries from a place since then."""

    place: bytes
    since: datetime
    most: int


class Forgotten(msgspec.Struct, frozen=True):
    """Tries at an account from a place, or with a device."""

    account: bytes
    place: bytes | None
    device: bytes | None


class Tries(State):
    """Some tries, and what a batch changes of them."""

    concerns = (UserErased, CredentialChanged, PasswordUnlocked)

    def __init__(self) -> None:
        self.new: dict[UUID, Try] = {}
        self.settled: list[UUID] = []
        self.forgotten: list[Forgotten] = []
        self.cleared: list[UUID] = []
        self._known: dict[UUID, Try] = {}
        self._at: dict[bytes, dict[UUID, Try]] = {}
        self._from: dict[bytes, dict[UUID, Try]] = {}

    def add(self, one: Try) -> None:
        """Take in a try as it is."""
        self._known[one.try_id] = one
        if one.account is not None:
            self._at.setdefault(one.account, {})[one.try_id] = one
        if one.place is not None:
            self._from.setdefault(one.place, {})[one.try_id] = one

    def settle(self, try_id: UUID) -> None:
        """This one has failed."""
        self.settled.append(try_id)
        if try_id in self._known:
            self.add(msgspec.structs.replace(self._known[try_id], settled=True))

    def at_account(self, account: bytes) -> list[Try]:
        return list(self._at.get(account, {}).values())

    def from_place(self, place: bytes) -> list[Try]:
        return list(self._from.get(place, {}).values())

    def apply(self, event: Event, position: int, trace: Trace | None) -> None:
        if event.subject_id is not None:
            self.cleared.append(event.subject_id)
            self.new = {k: t for k, t in self.new.items() if t.subject_id != event.subject_id}


class NewTry(Beside, frozen=True):
    """An admitted try."""

    admitted: Try

    def enter(self, world: World) -> None:
        tries = world.of(Tries)
        tries.new[self.admitted.try_id] = self.admitted
        tries.add(self.admitted)


class Settled(Beside, frozen=True):
    """A try that has failed, for sure."""

    try_id: UUID

    def enter(self, world: World) -> None:
        world.of(Tries).settle(self.try_id)


class RightPassword(Beside, frozen=True):
    """Somebody knew the password: what they tried before, from there, was theirs.

    What others tried from elsewhere, and at other accounts from there, stays counted.
    """

    subject_id: UUID
    tries: Forgotten

    def enter(self, world: World) -> None:
        world.of(Tries).forgotten.append(self.tries)
        world.of(Streaks).put(self.subject_id, 0)


# --- failures in a row


class StreakOf(Need, frozen=True):
    """How many failures in a row a user has."""

    subject_id: UUID


class Streaks(State):
    """The failures in a row of some users, and what a batch changes of them."""

    concerns = (UserErased, CredentialChanged, PasswordUnlocked)

    def __init__(self) -> None:
        self.changed: dict[UUID, int] = {}
        self._failures: dict[UUID, int] = {}

    def enter(self, subject_id: UUID, failures: int) -> None:
        """Take in how it is."""
        self._failures[subject_id] = failures

    def of(self, subject_id: UUID) -> int:
        return self._failures.get(subject_id, 0)

    def put(self, subject_id: UUID, failures: int) -> None:
        """Change it."""
        self._failures[subject_id] = self.changed[subject_id] = failures

    def apply(self, event: Event, position: int, trace: Trace | None) -> None:
        if isinstance(event, UserEvent):
            self.put(event.subject_id, 0)


class OneMoreFailure(Beside, frozen=True):
    """A wrong password."""

    subject_id: UUID

    def enter(self, world: World) -> None:
        streaks = world.of(Streaks)
        streaks.put(self.subject_id, streaks.of(self.subject_id) + 1)


def locked_by(failures: int, limit: int) -> LockedFor | None:
    """For whom the failure that makes it so many in a row locks the password, if for anybody."""
    if failures == limit:
        return "all_devices"
    return "unknown_devices" if failures == limit - FOR_KNOWN_DEVICES else None


# --- admission


class AdmitTry(Command, frozen=True, kw_only=True):
    """Let somebody try, or refuse: TooManyAttempts, and after how many seconds to try again.

    ``locked``: whoever asks has seen that the password is, and will let nothing fit it; or it is
    about what no lock is for.
    It has no event: the try's end has one. Tried again after a lost connection, it finds its own
    try and lets it through.
    """

    admitted: Try
    limits: Limits
    locked: bool = False

    @property
    def first_event_id(self) -> UUID:
        return self.admitted.try_id

    def needs(self) -> Iterator[Need]:
        one = self.admitted
        if one.account is not None:
            since = one.at - timedelta(seconds=DAY_S)
            yield TriesAt(one.account, since, self.limits.most_at_account)
        if one.place is not None:
            since = one.at - timedelta(seconds=self._of_place.window_s)
            yield TriesFrom(one.place, since, self._of_place.most)
        if one.subject_id is not None:
            yield TheUser(one.subject_id)
            yield StreakOf(one.subject_id)

    @property
    def _of_place(self) -> Limit:
        registers = self.admitted.account is None
        return self.limits.registrations if registers else self.limits.place

    def decide(self, world: World) -> Decision:
        one, tries = self.admitted, world.of(Tries)
        at_account = [] if one.account is None else tries.at_account(one.account)
        from_place = [] if one.place is None else tries.from_place(one.place)
        others = [other for other in at_account if other.try_id != one.try_id]
        counted: list[tuple[str, Limit, list[Try]]] = [
            ("place", self._of_place, [t for t in from_place if t.try_id != one.try_id])
        ]
        if one.device is not None:
            own = [other for other in others if other.device == one.device]
            counted = [("device", self.limits.device, own)]
        elif one.account is not None:
            strange = [other for other in others if other.device is None]
            here = [other for other in strange if other.place == one.place]
            counted += [("account", self.limits.account, strange), ("here", self.limits.here, here)]
        wait_s, budget = max(
            (limit.wait_s([other.at for other in tries], one.at), name)
            for name, limit, tries in counted
        )
        if wait_s > 0:
            raise TooManyAttempts(budget, retry_after_s=math.ceil(wait_s))
        self._keep_below_the_lock(world, others)
        if one.subject_id is not None and world.of(Users).there(one.subject_id) is None:
            one = msgspec.structs.replace(one, subject_id=None)  # erased meanwhile
        return Decision((), (NewTry(one),))

    def _keep_below_the_lock(self, world: World, others: Sequence[Try]) -> None:
        """Let no more try at once than may still fail; where nothing can fit, all may."""
        one = self.admitted
        if one.subject_id is None or self.locked:
            return
        failures = world.of(Streaks).of(one.subject_id)
        most = self.limits.failures_for(known=one.device is not None)
        under_way = sum(not other.settled for other in others)
        if failures + under_way >= most:
            raise TooManyAttempts()


# --- what is told of refusals


class NotedAt(Need, frozen=True):
    """When the log was told last that a place is throttled."""

    place: bytes


class Noted(State):
    """When the log was told of some places, and what a batch changes of that."""

    def __init__(self) -> None:
        self.at: dict[bytes, datetime] = {}
        self.changed: dict[bytes, datetime] = {}

    def apply(self, event: Event, position: int, trace: Trace | None) -> None:
        """Nothing follows from an event: none says which place it is about."""


class NotedNow(Beside, frozen=True):
    """The log has just been told of this place."""

    place: bytes
    at: datetime

    def enter(self, world: World) -> None:
        noted = world.of(Noted)
        noted.at[self.place] = noted.changed[self.place] = self.at


class NoteThrottled(Command, frozen=True, kw_only=True):
    """Tell the log how many tries of a place were refused: once a minute, whoever asks.

    It has no events when that was done within the last minute, by any host.
    """

    event: LoginsThrottled
    place: bytes

    @property
    def prepared(self) -> LoginsThrottled:
        return self.event

    def needs(self) -> Iterator[Need]:
        yield NotedAt(self.place)

    def decide(self, world: World) -> Decision:
        last = world.of(Noted).at.get(self.place)
        at = self.event.occurred_at
        if last is not None and abs((at - last).total_seconds()) < NOTED_EVERY_S:
            return Decision()
        return Decision((self.event,), (NotedNow(self.place, at),))
