"""To end sessions. Ending what has ended is no error and no event.

A session whose time was over by then has ended of that, whatever else would have ended it now.

``sealed`` goes into the first event that a command causes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from uuid import UUID

from gatelog.accounts.rules.acting import UserCommand, ended
from gatelog.errors import NotAuthenticated
from gatelog.log.rules.kinds import Decision, Need, World
from gatelog.sessions.rules.events import EndReason
from gatelog.sessions.rules.state import ActiveSession, Sessions, SessionsOf


class EndingCommand(UserCommand, frozen=True, kw_only=True):
    """What ends sessions of a user, and nothing else."""

    event_id: UUID
    at: datetime
    subject_id: UUID
    reason: EndReason
    actor_id: UUID | None = None
    sealed: bytes | None = None

    @property
    def first_event_id(self) -> UUID:
        return self.event_id

    @property
    def subject(self) -> UUID:
        return self.subject_id

    @property
    def actor(self) -> UUID | None:
        return self.actor_id

    def needs(self) -> Iterator[Need]:
        yield from super().needs()
        yield SessionsOf(self.subject_id)

    def decide_permitted(self, world: World) -> Decision:
        ending = self.ending(world.of(Sessions))
        return Decision(
            ended(
                self.event_id,
                self.at,
                self.actor_id,
                ending,
                self.reason,
                now=world.now,
                sealed=self.sealed,
            )
        )

    def ending(self, sessions: Sessions) -> Iterable[ActiveSession]:
        """The sessions to end, of those that are active."""
        raise NotImplementedError


class EndSession(EndingCommand, frozen=True, kw_only=True):
    """End one session of a user, if it is still active."""

    session_id: UUID

    def ending(self, sessions: Sessions) -> Iterable[ActiveSession]:
        session = sessions.find(self.subject_id, self.session_id)
        return [session] if session else []


class EndSessions(EndingCommand, frozen=True, kw_only=True):
    """End all sessions of a user, or all but the one to ``keep`` (which must be active).

    ``tokens``: those of machines, too.
    """

    keep: UUID | None = None
    tokens: bool = False

    def ending(self, sessions: Sessions) -> Iterable[ActiveSession]:
        if self.keep and sessions.find(self.subject_id, self.keep) is None:
            raise NotAuthenticated()
        return [
            session
            for session in sessions.of(self.subject_id)
            if session.session_id != self.keep and (self.tokens or not session.is_token)
        ]


class ExpireSessions(UserCommand, frozen=True, kw_only=True):
    """Record the end of a user's sessions whose time is over by the clock of the log."""

    event_id: UUID
    subject_id: UUID

    @property
    def first_event_id(self) -> UUID:
        return self.event_id

    @property
    def subject(self) -> UUID:
        return self.subject_id

    @property
    def actor(self) -> None:
        return None

    def needs(self) -> Iterator[Need]:
        yield from super().needs()
        yield SessionsOf(self.subject_id)

    def decide_permitted(self, world: World) -> Decision:
        over = [s for s in world.of(Sessions).of(self.subject_id) if s.expires_at <= world.now]
        return Decision(
            ended(self.event_id, world.now, None, over, "absolute_timeout", now=world.now)
        )
