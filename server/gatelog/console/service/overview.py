"""How things stand, looked at once a second while somebody wants to know.

Rules:

- Whoever looks, looks at one picture: a process makes one a second, however many watch.
- Nothing is counted but what is new. When nobody has looked for long, at most ``LOOKED_BACK``
  events are read to catch up; what lies before is not known.
- What cannot be known is said to be so.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import msgspec

from gatelog.config import Config
from gatelog.console.rules.attention import (
    LOOKED_AT_MINUTES,
    Attention,
    Facts,
    HostFacts,
    attention,
)
from gatelog.console.rules.minutes import KEPT, Minutes, this_minute
from gatelog.console.store.overview import (
    HeadNow,
    Standing,
    read_head,
    read_minutes,
    read_standing,
)
from gatelog.errors import Overloaded, Unavailable
from gatelog.log.store.database import Database
from gatelog.moments import Moment
from gatelog.proofs.rules.notes import parse_note
from gatelog.proofs.rules.tlog import parse_checkpoint
from gatelog.sessions.service.hosts import HostStatus, host_status

if TYPE_CHECKING:
    from gatelog.log.store.database import PooledConnection

LOOK_EVERY_S: Final = 1.0
LOOKED_BACK: Final = 100_000  # events
READ_AT_ONCE: Final = 10_000  # events
COME_AGAIN_S: Final = 5


class Rates(msgspec.Struct, frozen=True):
    """Logins, failed logins and ends of sessions in each of the last 60 minutes, this one last.

    The last of them begins at ``minute``; null: not known.
    """

    minute: Moment
    logins: list[int | None]
    failures: list[int | None]
    ends: list[int | None]


class LogHead(msgspec.Struct, frozen=True):
    """The last event of the log; ``recorded_at``: null while there is none."""

    position: int
    recorded_at: Moment | None


class SignedCheckpoint(msgspec.Struct, frozen=True):
    """The last signed checkpoint: ``size`` events of the log ``origin``."""

    origin: str
    size: int
    signed_at: Moment


class Unsealed(msgspec.Struct, frozen=True):
    """Events that no checkpoint has yet, and how old the first of them is, in seconds."""

    events: int
    seconds: float


class Overview(msgspec.Struct, frozen=True):
    """How things stand.

    ``at``: by the database's clock. ``sessions``: active ones and tokens, as the host that has got
    furthest told when it renewed its lease; null: no host tells.
    """

    at: Moment
    sessions: int | None
    rates: Rates
    hosts: list[HostStatus]
    head: LogHead
    checkpoint: SignedCheckpoint | None
    unsealed: Unsealed
    attention: list[Attention]


class Looking:
    """Makes a picture of how things stand, once a second while somebody watches."""

    def __init__(self, config: Config, database: Database) -> None:
        self._strict = config.check == "strict"
        self._limit = config.streams
        self._database = database
        self._minutes = Minutes()
        self._making = asyncio.Lock()
        self._made: tuple[float, Overview] | None = None
        self._watchers = 0
        self._closed = False
        self._ended = asyncio.Event()

    async def now(self) -> Overview:
        """How things stand now, or stood within the last second. Raises Unavailable."""
        async with self._making:
            time = asyncio.get_running_loop().time
            if self._made is None or time() - self._made[0] >= LOOK_EVERY_S:
                self._made = None  # what fails is not told as if it were of now
                begun = time()
                self._made = begun, await self._look()
            return self._made[1]

    # --- watching

    def come(self) -> None:
        """Somebody watches from now on, until they leave. Raises Overloaded, Unavailable."""
        if self._closed:
            raise Unavailable("The service stops.")
        if self._watchers >= self._limit:
            raise Overloaded("There are too many streams already.", retry_after_s=COME_AGAIN_S)
        self._watchers += 1

    def leave(self) -> None:
        self._watchers -= 1

    async def rest(self, within_s: float) -> bool:
        """Wait for so long; False when the service stops."""
        try:
            async with asyncio.timeout(within_s):
                await self._ended.wait()
        except TimeoutError:
            return True
        return False

    def close(self) -> None:
        """Nobody watches any more."""
        self._closed = True
        self._ended.set()

    # --- looking

    async def _look(self) -> Overview:
        async with self._database.acquire() as connection:
            standing = await read_standing(connection)
            head = await read_head(connection)
            await self._read_on(connection, head)
        self._minutes.forget(head.now)
        return _picture(standing, head, self._minutes, strict=self._strict)

    async def _read_on(self, connection: PooledConnection, head: HeadNow) -> None:
        """Count what is new, or begin anew where that is too much, or another log."""
        minutes, window, nearest = self._minutes, head.first - 1, head.position - LOOKED_BACK
        at = minutes.position
        if at is None or not max(window, nearest) <= at <= head.position:
            if nearest <= window:
                minutes.begin(min(window, head.position), head.window)
            else:
                minutes.begin(nearest, None)
        while (after := minutes.position or 0) < head.position:
            up_to = min(after + READ_AT_ONCE, head.position)
            minutes.add(up_to, await read_minutes(connection, after, up_to))


def _picture(standing: Standing, head: HeadNow, minutes: Minutes, *, strict: bool) -> Overview:
    look, now = standing.look, head.now
    hosts = sorted((host_status(each, look) for each in look.leases), key=lambda h: h.host)
    unsealed = max(0, look.head - standing.sealed)
    unsealed_s = standing.ages_s.get(standing.sealed + 1, 0.0) if unsealed else 0.0
    facts = Facts(
        strict=strict,
        hosts=tuple(_facts(host, standing) for host in hosts),
        unsealed=unsealed,
        unsealed_s=unsealed_s,
        logins=minutes.sum_of("session_started", now, LOOKED_AT_MINUTES),
        failures=minutes.sum_of("login_failed", now, LOOKED_AT_MINUTES),
        throttled=minutes.sum_of("logins_throttled", now, LOOKED_AT_MINUTES),
        locked=minutes.sum_of("password_locked", now, KEPT),
        administrators=standing.administrators,
    )
    return Overview(
        at=now,
        sessions=_sessions(hosts),
        rates=Rates(
            minute=this_minute(now),
            logins=minutes.of("session_started", now),
            failures=minutes.of("login_failed", now),
            ends=minutes.of("session_ended", now),
        ),
        hosts=hosts,
        head=LogHead(head.position, head.recorded_at),
        checkpoint=_checkpoint(standing),
        unsealed=Unsealed(unsealed, round(unsealed_s, 1)),
        attention=attention(facts),
    )


def _sessions(hosts: list[HostStatus]) -> int | None:
    """What the host tells that is furthest, of those whose lease is good."""
    telling = [host for host in hosts if host.mode == "memory" and host.sessions is not None]
    return max(telling, key=lambda host: host.applied).sessions if telling else None


def _facts(host: HostStatus, standing: Standing) -> HostFacts:
    return HostFacts(
        name=host.host,
        in_memory=host.mode == "memory",
        renewed_s_ago=host.renewed_s_ago,
        lease_s=host.lease_s,
        lag=host.lag,
        lag_s=standing.ages_s.get(host.applied + 1, 0.0) if host.lag else 0.0,
    )


def _checkpoint(standing: Standing) -> SignedCheckpoint | None:
    stored = standing.checkpoint
    if stored is None:
        return None
    origin = parse_checkpoint(parse_note(stored.note).text).origin
    return SignedCheckpoint(origin, stored.size, stored.signed_at)
