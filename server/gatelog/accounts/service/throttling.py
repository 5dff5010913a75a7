"""Brute-force limits at work: what a try counts for, its admission, and what the log is told.

Rules:

- Who was refused is refused again from memory, for a moment, without a look at the database: a
  flood costs nearly nothing. The moment is short, because a right password or an administrator may
  have forgiven meanwhile, on another host.
- Refused tries are counted in memory, by place, and told in one event a minute of each place. What
  a process has counted and not told dies with it.
- Nothing here depends on whether an account exists.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Sequence
from time import monotonic
from uuid import UUID

import msgspec
from prometheus_client import Counter

from gatelog.accounts.rules.devices import SeenDevice, place_digest
from gatelog.accounts.rules.events import LoginsThrottled
from gatelog.accounts.rules.throttling import (
    AdmitTry,
    Forgotten,
    NoteThrottled,
    RightPassword,
    Try,
    limits,
    limits_of_asking,
)
from gatelog.accounts.rules.turns import Lane
from gatelog.accounts.service.acting import Act, Acting
from gatelog.accounts.store.throttling import Throttled
from gatelog.clock import new_event_id
from gatelog.config import Config
from gatelog.errors import GatelogError, TooManyAttempts
from gatelog.log.rules.kinds import Beside
from gatelog.privacy.rules import Client, Personal, place_of
from gatelog.privacy.service.personal import PersonalData
from gatelog.sessions.rules.tokens import token_digest
from gatelog.sessions.service.tokens import new_token

logger = logging.getLogger(__name__)

REMEMBERED_S = 2.0
MOST_REMEMBERED = 10_000
MOST_PLACES = 10_000  # whose refusals one process counts; those of all others are one more
ELSEWHERE = b""

TRIES = Counter(
    "gatelog_login_tries_total",
    "Logins and such by who tries (known, stranger, registering, recovering) and what came of it.",
    ["who", "outcome"],
)


class Approach(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody who wants to try: at which account, from where, on which known device.

    All by blind index but ``token`` and its digest, which are of a device that is known. ``asks``:
    for a link, and not to log in.
    """

    client: Client
    place: bytes
    account: bytes | None = None
    device: bytes | None = None
    token: str | None = None
    asks: bool = False

    @property
    def known(self) -> bool:
        return self.device is not None

    @property
    def lane(self) -> Lane:
        """The line that they stand in."""
        return Lane(self.device or self.place, self.known)

    @property
    def who(self) -> str:
        """How they are counted."""
        if self.account is None:
            return "registering"
        if self.asks:
            return "recovering"
        return "known" if self.known else "stranger"

    @property
    def budgets(self) -> dict[str, tuple[bytes | None, ...]]:
        """What they use up, by name: who shares one of these is refused with them."""
        if self.device is not None:
            return {"device": (b"device", self.device)}
        if self.account is None:
            return {"place": (b"place", self.place)}
        return {
            "place": (b"place", self.place),
            "account": (b"account", self.account),
            "here": (self.place, self.account),
        }


class Throttle:
    """Admits tries, and counts those that it refuses."""

    def __init__(
        self,
        config: Config,
        *,
        store: Throttled,
        personal: PersonalData,
        acting: Acting,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.limits = limits(
            config.login_tries, config.password_failures, config.registration_tries
        )
        self.limits_of_asking = limits_of_asking(self.limits, config.recovery_tries)
        self._store = store
        self._personal = personal
        self._acting = acting
        self._clock = clock
        self._refused: dict[tuple[bytes | None, ...], tuple[float, float]] = {}
        self._untold: dict[bytes, _Untold] = {}
        self._telling: set[asyncio.Task[None]] = set()

    # --- who comes

    async def stranger(self, login: str, client: Client) -> Approach:
        """Somebody with a login name, of whom no more is known. Raises KeysUnavailable."""
        found = await self._personal.blind_indexes(
            {"login": login, "place": place_of(client.address)}
        )
        return Approach(client=client, place=found["place"], account=found["login"])

    async def approach(self, login: str, client: Client, tokens: Sequence[str]) -> Approach:
        """Somebody with a login name, and with the tokens of devices, known or not.

        Raises KeysUnavailable.
        """
        found = await self.stranger(login, client)
        if not tokens:
            return found
        by_digest = {token_digest(token): token for token in tokens}
        digest = await self._store.known_device(login, by_digest.keys(), self._acting.now())
        if digest is None:
            return found
        device = (await self._personal.blind_indexes({"device": digest.hex()}))["device"]
        return msgspec.structs.replace(found, device=device, token=by_digest[digest])

    async def inside(self, login: str, subject_id: UUID, client: Client) -> Approach:
        """The same from within a session of the account, which is like a known device."""
        found = await self.stranger(login, client)
        device = (await self._personal.blind_indexes({"session": subject_id.hex}))["session"]
        return msgspec.structs.replace(found, device=device)

    async def registering(self, client: Client) -> Approach:
        """Somebody who wants an account. Raises KeysUnavailable."""
        place = place_of(client.address)
        found = await self._personal.blind_indexes({"registrations": place})
        return Approach(client=client, place=found["registrations"])

    async def recovering(self, login: str, client: Client) -> Approach:
        """Somebody who wants a link for a login, counted for itself. Raises KeysUnavailable."""
        found = await self._personal.blind_indexes(
            {"recovery": login, "recovery_place": place_of(client.address)}
        )
        return Approach(
            client=client, place=found["recovery_place"], account=found["recovery"], asks=True
        )

    # --- admission

    def refuse_again(self, approach: Approach) -> None:
        """Raises TooManyAttempts where that was said a moment ago."""
        now_s = self._clock()
        for budget in approach.budgets.values():
            until_s, retry_at_s = self._refused.get(budget, (0.0, 0.0))
            if now_s < until_s:
                self._count(approach)
                raise TooManyAttempts(retry_after_s=max(1, math.ceil(retry_at_s - now_s)))

    def is_locked(self, approach: Approach, failures: int) -> bool:
        """Whether so many failures in a row have locked the password for who comes."""
        return failures >= self.limits.failures_for(known=approach.known)

    async def admit(
        self, approach: Approach, subject_id: UUID | None = None, *, locked: bool = False
    ) -> UUID:
        """Have the try counted, as a failure for now; returns its id.

        ``locked``: no password will be let fit. Raises TooManyAttempts.
        """
        command = self._admission(approach, subject_id, locked=locked)
        await self.record(approach, Act(command))
        return command.admitted.try_id

    def asking(self, approach: Approach) -> AdmitTry:
        """What has somebody counted who asks for a link: a part of another command."""
        return self._admission(approach, None, locked=False)

    async def record(self, approach: Approach, act: Act) -> None:
        """Record what has a try counted. Raises TooManyAttempts, and again for a moment."""
        try:
            await self._acting.record(act)
        except TooManyAttempts as refusal:
            self._remember(approach.budgets.get(refusal.budget), refusal.retry_after_s or 1)
            self._count(approach)
            raise
        TRIES.labels(approach.who, "admitted").inc()

    def _admission(self, approach: Approach, subject_id: UUID | None, *, locked: bool) -> AdmitTry:
        admitted = Try(
            try_id=new_event_id(),
            at=self._acting.now(),
            account=approach.account,
            place=None if approach.known else approach.place,
            device=approach.device,
            subject_id=subject_id,
        )
        limits = self.limits_of_asking if approach.asks else self.limits
        return AdmitTry(admitted=admitted, limits=limits, locked=locked)

    def _remember(self, budget: tuple[bytes | None, ...] | None, wait_s: int) -> None:
        now_s = self._clock()
        if len(self._refused) >= MOST_REMEMBERED:
            self._refused = {k: v for k, v in self._refused.items() if v[0] > now_s}
        if budget is not None and len(self._refused) < MOST_REMEMBERED:
            # what was told is rounded up: a second of it may be nothing
            self._refused[budget] = now_s + min(REMEMBERED_S, wait_s - 1), now_s + wait_s

    # --- what a right password changes

    def succeeded(
        self, approach: Approach, subject_id: UUID, *, keeps_tokens: bool
    ) -> tuple[tuple[Beside, ...], str | None]:
        """What is written beside a login; and the token by which its device is known from now on,
        unless the client keeps none."""
        place = None if approach.known else approach.place
        tries = Forgotten(approach.account or b"", place, approach.device)
        now = self._acting.now()
        right = RightPassword(subject_id, tries)
        seen_place = SeenDevice(subject_id, place_digest(approach.place), now, is_place=True)
        if not keeps_tokens:
            return (right, seen_place), None
        token = approach.token or new_token()
        return (right, seen_place, SeenDevice(subject_id, token_digest(token), now)), token

    async def is_new_device(
        self, approach: Approach, subject_id: UUID, *, keeps_tokens: bool
    ) -> bool:
        """Whether the account has been used before, and not on this device; of a client that keeps
        no tokens: not from this place."""
        if approach.known:
            return False
        digest = place_digest(approach.place)
        known = await self._store.known(subject_id, digest, self._acting.now())
        return known.is_new(keeps_tokens=keeps_tokens)

    # --- what is told

    def _count(self, approach: Approach) -> None:
        TRIES.labels(approach.who, "throttled").inc()
        place, client = approach.place, approach.client
        if place not in self._untold and len(self._untold) >= MOST_PLACES:
            place, client = ELSEWHERE, Client()
        untold = self._untold.setdefault(place, _Untold(client.address))
        untold.count += 1
        if untold.count == 1 and not untold.told:
            untold.told = True
            task = asyncio.create_task(self._tell(place), name="throttled logins")
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)

    async def tell(self) -> None:
        """Tell the log what was refused since the last time: now and then, by each process."""
        for place, untold in list(self._untold.items()):
            if untold.count:
                await self._tell(place)
            elif self._untold.get(place) is untold:
                del self._untold[place]

    async def _tell(self, place: bytes) -> None:
        untold = self._untold[place]
        count = untold.count
        event = LoginsThrottled(
            event_id=new_event_id(), occurred_at=self._acting.now(), count=count
        )
        try:
            personal = Personal(None, untold.address, None)
            event = await self._personal.sealed_for_nobody(event, personal)
            origin = await self._personal.origin_of(Client(untold.address))
            recorded = await self._acting.record(
                Act(NoteThrottled(event=event, place=place), origin)
            )
        except GatelogError as error:
            logger.warning("refused logins are not told yet: %s", error)
            return
        if recorded.events:
            untold.count -= count

    async def sweep(self) -> None:
        """Forget what no limit reaches any more, and tell what is untold. Many may call it."""
        await self.tell()
        await self._store.sweep(self._acting.now())

    async def close(self) -> None:
        """Tell no more."""
        for task in self._telling:
            task.cancel()
        await asyncio.gather(*self._telling, return_exceptions=True)


class _Untold:
    """The refused tries of a place that the log has not been told of."""

    __slots__ = ("address", "count", "told")

    def __init__(self, address: str | None) -> None:
        self.address = address
        self.count = 0
        self.told = False
