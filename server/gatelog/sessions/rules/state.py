"""Which sessions are active, and how events change that.

``evolve`` is the one place that says what an event does to sessions. Every sink uses it: the
``active_sessions`` table, the replica on each host, a rebuild, an as-of query. It answers with
changes (put, drop, seen), so that a sink never needs to know the rules.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

import msgspec

from gatelog.errors import LogDamaged
from gatelog.log.rules.events import Event, known
from gatelog.log.rules.kinds import Need, State, Trace
from gatelog.sessions.rules.events import (
    EndReason,
    SessionEnded,
    SessionsRenewed,
    SessionStarted,
    TokenCreated,
)
from gatelog.sessions.rules.lifetimes import Idle, next_day


class ActiveSession(msgspec.Struct, frozen=True, kw_only=True):
    """A session that has started and not ended (it may have expired).

    ``expires_at``: when it is over, if it is not used until then. ``idle``: None for one that need
    not be used. ``authenticated``: when its user was authenticated, where that is not when it
    started; ``amr``: by which methods (RFC 8176), as far as known. ``is_token``: it is a machine's,
    and ``used_at`` is when it was used last, if ever.
    """

    session_id: UUID
    subject_id: UUID
    token_digest: bytes
    started_at: datetime
    expires_at: datetime
    roles: tuple[str, ...] = ()
    idle: Idle | None = None
    authenticated: datetime | None = None
    amr: tuple[str, ...] = ()
    is_token: bool = False
    used_at: datetime | None = None

    @property
    def authenticated_at(self) -> datetime:
        """When its user was authenticated."""
        return self.authenticated or self.started_at

    @property
    def absolute_at(self) -> datetime:
        """When it is over at the latest."""
        return self.idle.absolute_at if self.idle else self.expires_at

    @property
    def last_seen_at(self) -> datetime:
        """When it was used last, as far as that is recorded."""
        return self.idle.seen_at if self.idle else self.used_at or self.started_at

    @property
    def due_at(self) -> datetime:
        """From when on its use is worth an event; ``expires_at``, if it never is."""
        if self.idle is not None:
            return min(self.idle.due_at, self.expires_at)
        if not self.is_token:
            return self.expires_at
        due_at = next_day(self.used_at) if self.used_at is not None else self.started_at
        return min(due_at, self.expires_at)

    def renews(self, now: datetime) -> bool:
        """Whether use at this moment is to be recorded: not too soon, and not too late."""
        return self.due_at <= now < self.expires_at

    @property
    def timeout(self) -> EndReason:
        """Why it is over when its time is."""
        return "idle_timeout" if self.expires_at < self.absolute_at else "absolute_timeout"

    def seen(self, at: datetime) -> ActiveSession:
        """The same session after it was used then."""
        if self.is_token:
            return msgspec.structs.replace(self, used_at=max(self.used_at or at, at))
        if self.idle is None:
            return self
        idle = self.idle.seen(at)
        return msgspec.structs.replace(self, idle=idle, expires_at=idle.expires_at)


class PutSession(msgspec.Struct, frozen=True):
    session: ActiveSession

    @property
    def token_digest(self) -> bytes:
        return self.session.token_digest


class DropSession(msgspec.Struct, frozen=True):
    session_id: UUID
    token_digest: bytes


class SeenSession(msgspec.Struct, frozen=True):
    """The session, where it is active, was used at that moment."""

    token_digest: bytes
    at: datetime


Change = PutSession | DropSession | SeenSession


def evolve(event: Event) -> tuple[Change, ...]:
    """The changes that this event makes to the active sessions.

    Raises LogDamaged for an event that nobody knows; skipping one would be a guess.
    """
    match event:
        case SessionStarted():
            return (PutSession(_started(event)),)
        case TokenCreated():
            return (PutSession(_created(event)),)
        case SessionEnded():
            return (DropSession(event.session_id, event.token_digest),)
        case SessionsRenewed():
            return tuple(SeenSession(digest, event.occurred_at) for digest in event.token_digests)
    if not known(event):
        raise LogDamaged(f"evolve does not know {event!r}")
    return ()


def evolve_session(session: ActiveSession | None, change: Change) -> ActiveSession | None:
    """The same for one session, which the change is about: None once it has ended.

    Raises LogDamaged for the use of a session that is not active: nothing revives one.
    """
    match change:
        case PutSession():
            return change.session
        case DropSession():
            return None
        case SeenSession():
            if session is None:
                raise LogDamaged("a session is renewed that is not active")
            return session.seen(change.at)


def _started(event: SessionStarted) -> ActiveSession:
    idle = None
    if event.idle_s is not None:
        idle = Idle(event.idle_s, event.seen_at or event.occurred_at, event.expires_at)
    return ActiveSession(
        session_id=event.session_id,
        subject_id=event.subject_id,
        token_digest=event.token_digest,
        started_at=event.occurred_at,
        expires_at=idle.expires_at if idle else event.expires_at,
        roles=event.roles,
        idle=idle,
        authenticated=event.authenticated_at,
        amr=event.amr,
    )


def _created(event: TokenCreated) -> ActiveSession:
    return ActiveSession(
        session_id=event.session_id,
        subject_id=event.subject_id,
        token_digest=event.token_digest,
        started_at=event.occurred_at,
        expires_at=event.expires_at,
        roles=event.roles,
        authenticated=event.authenticated_at,
        amr=event.amr,
        is_token=True,
    )


class SessionsOf(Need, frozen=True):
    """All active sessions of a user, tokens too."""

    subject_id: UUID


class CrowdOf(Need, frozen=True):
    """All active sessions of a user but tokens, if one more would be more than ``most``."""

    subject_id: UUID
    most: int


class SessionsBehind(Need, frozen=True):
    """The active sessions behind these token digests."""

    token_digests: tuple[bytes, ...]


class Sessions(State):
    """Active sessions of some users, and what a batch changes of them."""

    concerns = (SessionStarted, TokenCreated, SessionEnded, SessionsRenewed)

    def __init__(self, sessions: Iterable[ActiveSession] = ()) -> None:
        self.put: dict[bytes, ActiveSession] = {}
        self.dropped: list[bytes] = []
        self.seen: dict[bytes, ActiveSession] = {}
        self._behind: dict[bytes, ActiveSession] = {}
        self._of: dict[UUID, dict[UUID, ActiveSession]] = {}
        for session in sessions:
            self.add(session)

    def add(self, session: ActiveSession) -> None:
        """Take in a session that is active already."""
        self._of.setdefault(session.subject_id, {})[session.session_id] = session
        self._behind[session.token_digest] = session

    def behind(self, token_digest: bytes) -> ActiveSession | None:
        """The active session with this token."""
        return self._behind.get(token_digest)

    def of(self, subject_id: UUID) -> tuple[ActiveSession, ...]:
        """The active sessions of a user, oldest first."""
        sessions = self._of.get(subject_id, {}).values()
        return tuple(sorted(sessions, key=lambda s: (s.started_at, s.session_id)))

    def find(self, subject_id: UUID, session_id: UUID) -> ActiveSession | None:
        return self._of.get(subject_id, {}).get(session_id)

    def count(self, subject_id: UUID) -> int:
        return len(self._of.get(subject_id, {}))

    def apply(self, event: Event, position: int, trace: Trace | None) -> None:
        for change in evolve(event):
            digest = change.token_digest
            before = self._behind.get(digest)
            after = evolve_session(before, change)
            if after is not None:
                self.add(after)
                changed = self.put if before is None or digest in self.put else self.seen
                changed[digest] = after
            else:
                self._forget(before)
                self.seen.pop(digest, None)
                if self.put.pop(digest, None) is None:
                    self.dropped.append(digest)

    def _forget(self, session: ActiveSession | None) -> None:
        if session is not None:
            del self._behind[session.token_digest]
            del self._of[session.subject_id][session.session_id]
