"""Random logs with a bit of everything, and what a plain fold says of them."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from gatelog.accounts.rules.administration import ChangeUser
from gatelog.accounts.rules.ending import EndSessions, ExpireSessions
from gatelog.accounts.rules.events import CredentialChanged, UserDisabled, UserEnabled
from gatelog.accounts.rules.login import ChangeCredential, StartSession
from gatelog.accounts.rules.tokens import CreateToken
from gatelog.clock import new_event_id, utc_now
from gatelog.errors import GatelogError
from gatelog.log.rules.kinds import Command
from gatelog.log.store.appender import Appender
from gatelog.log.store.reading import StoredEvent, read_events
from gatelog.sessions.rules.events import SessionEnded
from gatelog.sessions.rules.renewing import RenewSessions
from gatelog.sessions.rules.state import ActiveSession, PutSession, SeenSession, evolve

from tests.builders import end, failure, registration, start, token

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection

Beginning = StartSession | CreateToken

LONG_S = 86_400 * 3650
OVER_S = 7200
OVER = timedelta(seconds=OVER_S)


async def fill(appender: Appender, *, events: int, seed: int, users: int = 5) -> list[UUID]:
    """A log with so many events, or a few more; returns its users."""
    rng = random.Random(seed)
    new = [registration(f"user{seed}-{n}", roles=("admin",) * (n % 2)) for n in range(users)]
    await asyncio.gather(*(appender.submit(command) for command in new))
    subjects = [command.event.subject_id for command in new]
    begun: list[Beginning] = []
    position = 0
    while position < events:
        with suppress(GatelogError):
            recorded = await appender.submit(_command(rng, rng.choice(subjects), begun))
            position = recorded.position
    return subjects


def _command(rng: random.Random, subject_id: UUID, begun: list[Beginning]) -> Command:
    now, event_id = utc_now(), new_event_id()
    kind = rng.random()
    if kind < 0.45 or not begun:
        at, lifetime_s, idle_s = rng.choice(
            [
                (now, LONG_S, None),
                (now, LONG_S, 3600),
                (now - OVER, 3600, None),
                (now - OVER, LONG_S, 3600),  # it has idled too long
                (now - OVER, LONG_S, OVER_S + 3600),  # its use is due
            ]
        )
        version = rng.choice([1, 1, 2])
        begun.append(
            start(
                subject_id,
                at=at,
                lifetime_s=lifetime_s,
                idle_s=idle_s,
                credential_version=version,
            )
        )
        return begun[-1]
    if kind < 0.48:
        by = rng.choice(begun).event
        begun.append(
            token(by.subject_id, by.session_id, at=now, roles=("admin",) * rng.choice((0, 1)))
        )
        return begun[-1]
    if kind < 0.55:
        used = rng.choices(begun, k=5)
        digests = tuple(command.event.token_digest for command in used)
        return RenewSessions(event_id=event_id, token_digests=digests)
    if kind < 0.7:
        return end(rng.choice(begun))
    if kind < 0.78:
        return ExpireSessions(event_id=event_id, subject_id=subject_id)
    if kind < 0.84:
        return EndSessions(
            event_id=event_id,
            at=now,
            subject_id=subject_id,
            reason="revoked",
            tokens=rng.random() < 0.3,
        )
    if kind < 0.88:
        return _changed_password(subject_id, rng.choice(begun))
    if kind < 0.93:
        event: UserDisabled | UserEnabled = UserEnabled(
            event_id=event_id, occurred_at=now, subject_id=subject_id
        )
        if rng.random() < 0.3:
            event = UserDisabled(event_id=event_id, occurred_at=now, subject_id=subject_id)
        return ChangeUser(event=event)
    return failure()


def _changed_password(subject_id: UUID, begun: Beginning) -> ChangeCredential:
    now = utc_now()
    return ChangeCredential(
        event=CredentialChanged(
            event_id=new_event_id(), occurred_at=now, subject_id=begun.event.subject_id
        ),
        password_hash="hash",
        credential_version=1,
        session_id=begun.event.session_id,
        session=start(begun.event.subject_id, at=now).event,
    )


class Told:
    """What a plain fold of ``evolve`` over the whole log says of each position."""

    def __init__(self, log: list[StoredEvent]) -> None:
        self.log = log
        self.recorded_at = {stored.position: stored.recorded_at for stored in log}
        self.states: dict[int, dict[int, ActiveSession]] = {}  # by position: by start
        self.ends: dict[UUID, tuple[int, str]] = {}
        state: dict[int, ActiveSession] = {}
        for stored in log:
            event = stored.event()
            for change in evolve(event):
                if isinstance(change, PutSession):
                    state = {**state, stored.position: change.session}
                elif isinstance(change, SeenSession):
                    seen = [k for k, v in state.items() if v.token_digest == change.token_digest]
                    state = {k: v.seen(change.at) if k in seen else v for k, v in state.items()}
                else:
                    gone = change.session_id
                    state = {k: v for k, v in state.items() if v.session_id != gone}
                    assert isinstance(event, SessionEnded)
                    self.ends[gone] = (stored.position, event.reason)
            self.states[stored.position] = state

    @property
    def head(self) -> int:
        return self.log[-1].position

    def active(self, position: int, at: datetime) -> list[tuple[int, ActiveSession]]:
        """The sessions that were active, those that started last first."""
        state = self.states[position]
        return [(k, state[k]) for k in sorted(state, reverse=True) if state[k].expires_at > at]

    def position_at(self, at: datetime) -> int:
        return max((p for p, when in self.recorded_at.items() if when <= at), default=0)


async def told(connection: Connection) -> Told:
    """Fold the log as it is now."""
    return Told(await read_events(connection, 0, 10_000))
