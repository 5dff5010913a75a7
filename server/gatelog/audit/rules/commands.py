"""Recorded before it happens: that somebody reads about others, that old events are given up."""

from __future__ import annotations

from gatelog.accounts.rules.acting import UserCommand
from gatelog.accounts.rules.users import Users
from gatelog.audit.rules.events import AuditRead
from gatelog.errors import NotAuthenticated
from gatelog.log.rules.events import LogPurged
from gatelog.log.rules.kinds import Command, Decision, World

AUDITING = frozenset({"admin", "auditor"})


class RecordRead(UserCommand, frozen=True, kw_only=True):
    """Record that somebody reads about others, who must be an auditor or administrator then."""

    event: AuditRead

    @property
    def prepared(self) -> AuditRead:
        return self.event

    def decide_permitted(self, world: World) -> Decision:
        user = world.of(Users).there(self.event.subject_id)
        if user is None or user.disabled or not AUDITING & set(user.roles):
            raise NotAuthenticated()
        return Decision((self.event,))


class RecordPurge(Command, frozen=True, kw_only=True):
    """Record that the oldest events are given up."""

    event: LogPurged

    @property
    def prepared(self) -> LogPurged:
        return self.event

    def decide(self, world: World) -> Decision:
        return Decision((self.event,))
