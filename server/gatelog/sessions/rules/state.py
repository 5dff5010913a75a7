"""Which sessions are active, and how events change that.

``evolve`` is the one place that says what an event does to sessions. Every sink uses it: the
``active_sessions`` table, the replica on each host, a rebuild, an as-of query. It answers with
changes (put, drop), so that a sink never needs to know the rules.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

import msgspec

from gatelog.errors import LogDamaged
from gatelog.log.rules.events import Event, known
from gatelog.log.rules.kinds import Need, State
from gatelog.sessions.rules.events import SessionEnded, SessionStarted


class ActiveSession(msgspec.Struct, frozen=True, kw_only=True):
    """A session that has started and not ended (it may have expired)."""

    session_id: UUID
    subject_id: UUID
    token_digest: bytes
    started_at: datetime
    expires_at: datetime
    roles: tuple[str, ...] = ()


class PutSession(msgspec.Struct, frozen=True):
    session: ActiveSession


class DropSession(msgspec.Struct, frozen=True):
    session_id: UUID
    token_digest: bytes


Change = PutSession | DropSession


def evolve(event: Event) -> tuple[Change, ...]:
    """The changes that this event makes to the active sessions.

    Raises LogDamaged for an event that nobody knows; skipping one would be a guess.
    """
    match event:
        case SessionStarted():
            return (PutSession(_started(event)),)
        case SessionEnded():
            return (DropSession(event.session_id, event.token_digest),)
    if not known(event):
        raise LogDamaged(f"evolve does not know {event!r}")
    return ()


def evolve_session(
    _: ActiveSession | None, event: SessionStarted | SessionEnded
) -> ActiveSession | None:
    """The same for one session, which the event concerns: None once it has ended."""
    (change,) = evolve(event)
    return change.session if isinstance(change, PutSession) else None


def _started(event: SessionStarted) -> ActiveSession:
    return ActiveSession(
        session_id=event.session_id,
        subject_id=event.subject_id,
        token_digest=event.token_digest,
        started_at=event.occurred_at,
        expires_at=event.expires_at,
        roles=event.roles,
    )


class SessionsOf(Need, frozen=True):
    """All active sessions of a user."""

    subject_id: UUID


class CrowdOf(Need, frozen=True):
    """All active sessions of a user, if one more would be more than ``most``."""

    subject_id: UUID
    most: int


class Sessions(State):
    """Active sessions of some users, and what a batch changes of them."""

    concerns = (SessionStarted, SessionEnded)

    def __init__(self, sessions: Iterable[ActiveSession] = ()) -> None:
        self.put: dict[bytes, ActiveSession] = {}
        self.dropped: list[bytes] = []
        self._of: dict[UUID, dict[UUID, ActiveSession]] = {}
        for session in sessions:
            self.add(session)

    def add(self, session: ActiveSession) -> None:
        """Take in a session that is active already."""
        self._of.setdefault(session.subject_id, {})[session.session_id] = session

    def of(self, subject_id: UUID) -> tuple[ActiveSession, ...]:
        """The active sessions of a user, oldest first."""
        sessions = self._of.get(subject_id, {}).values()
        return tuple(sorted(sessions, key=lambda s: (s.started_at, s.session_id)))

    def find(self, subject_id: UUID, session_id: UUID) -> ActiveSession | None:
        return self._of.get(subject_id, {}).get(session_id)

    def count(self, subject_id: UUID) -> int:
        return len(self._of.get(subject_id, {}))

    def apply(self, event: Event, position: int, trace: bytes | None) -> None:
        for change in evolve(event):
            if isinstance(change, PutSession):
                self.put[change.session.token_digest] = change.session
                self.add(change.session)
            else:
                if event.subject_id is not None:
                    self._of.get(event.subject_id, {}).pop(change.session_id, None)
                if self.put.pop(change.token_digest, None) is None:
                    self.dropped.append(change.token_digest)
