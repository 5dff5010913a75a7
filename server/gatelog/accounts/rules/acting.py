"""Who may ask for what: the rules that all commands about users share.

- Whoever acts on others (``actor_id``) must be an administrator at that moment.
- What takes a right away (a changed password, a disabled user, a changed role) ends the user's
  sessions in the same decision, one event each.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from gatelog.accounts.rules.users import TheUser, Users, is_admin
from gatelog.errors import NotAuthenticated
from gatelog.ids import derived_event_id
from gatelog.log.rules.events import UserEvent
from gatelog.log.rules.kinds import Command, Decision, Need, World
from gatelog.sessions.rules.events import SessionEnded

if TYPE_CHECKING:
    from gatelog.sessions.rules.events import EndReason
    from gatelog.sessions.rules.state import ActiveSession


class UserCommand(Command, frozen=True, kw_only=True):
    """A command that is decided on the state of one user."""

    @property
    def subject(self) -> UUID | None:
        """The user whose state it is decided on."""
        return self.prepared.subject_id if self.prepared is not None else None

    @property
    def actor(self) -> UUID | None:
        """Who acts, when it is not that user."""
        return self.prepared.actor_id if isinstance(self.prepared, UserEvent) else None

    def needs(self) -> Iterator[Need]:
        if self.subject is not None:
            yield TheUser(self.subject)
        if self.actor is not None:
            yield TheUser(self.actor)

    def decide(self, world: World) -> Decision:
        if self.actor is not None:
            actor = world.of(Users).find(self.actor)
            if actor is None or not is_admin(actor):
                raise NotAuthenticated()
        return self.decide_permitted(world)

    def decide_permitted(self, world: World) -> Decision:
        """The same, for who may."""
        raise NotImplementedError


def ended(
    first_id: UUID,
    at: datetime,
    actor_id: UUID | None,
    sessions: Iterable[ActiveSession],
    reason: EndReason,
    *,
    now: datetime,
    first_index: int = 0,
    sealed: bytes | None = None,
) -> tuple[SessionEnded, ...]:
    """One event per session; their ids derive from ``first_id``, counted from ``first_index``.

    One that was over by time, by the clock of the log (``now``), has ended of that, and then:
    nobody has done it. ``sealed`` goes into the first of the others.
    """
    events = []
    for index, session in enumerate(sessions, start=first_index):
        over = session.expires_at <= now
        events.append(
            SessionEnded(
                event_id=derived_event_id(first_id, index),
                occurred_at=session.expires_at if over else at,
                subject_id=session.subject_id,
                actor_id=None if over else actor_id,
                session_id=session.session_id,
                token_digest=session.token_digest,
                reason=session.timeout if over else reason,
                sealed=None if over else sealed,
            )
        )
        if not over:
            sealed = None
    return tuple(events)


def ended_by(
    cause: UserEvent,
    sessions: Iterable[ActiveSession],
    reason: EndReason,
    first_index: int,
    now: datetime,
) -> tuple[SessionEnded, ...]:
    """The ends that another event causes, which follow it."""
    at, actor_id = cause.occurred_at, cause.actor_id
    return ended(cause.event_id, at, actor_id, sessions, reason, now=now, first_index=first_index)
