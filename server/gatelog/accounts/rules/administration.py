"""To disable, enable and erase users, and to change their roles.

What changes nothing is no event. ``keep_an_admin``: refused, where it would take the last one.
"""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

from gatelog.accounts.rules.acting import UserCommand, ended_by
from gatelog.accounts.rules.events import (
    PasswordUnlocked,
    RoleGranted,
    RoleRevoked,
    UserDisabled,
    UserEnabled,
)
from gatelog.accounts.rules.throttling import StreakOf, Streaks
from gatelog.accounts.rules.users import Administrators, User, Users
from gatelog.errors import LastAdmin, NotFound
from gatelog.log.rules.events import UserEvent
from gatelog.log.rules.kinds import Decision, Need, World
from gatelog.privacy.rules import UserErased
from gatelog.sessions.rules.events import EndReason
from gatelog.sessions.rules.state import ActiveSession, Sessions, SessionsOf

NO_SUCH_USER = "There is no such user."


class ChangeUser(UserCommand, frozen=True, kw_only=True):
    """Disable or enable a user, grant or revoke a role."""

    event: UserDisabled | UserEnabled | RoleGranted | RoleRevoked
    keep_an_admin: bool = False

    @property
    def prepared(self) -> UserEvent:
        return self.event

    def needs(self) -> Iterator[Need]:
        yield from super().needs()
        yield SessionsOf(self.event.subject_id)
        if self.keep_an_admin:
            yield Administrators()

    def decide_permitted(self, world: World) -> Decision:
        event = self.event
        user = world.of(Users).there(event.subject_id)
        if user is None:
            raise NotFound(NO_SUCH_USER)
        if not _is_change(user, event):
            return Decision()
        if self.keep_an_admin and _takes_admin(event):
            _refuse_last_admin(world, event.subject_id)
        if isinstance(event, UserEnabled):
            return Decision((event,))
        reason: EndReason = "user_disabled" if isinstance(event, UserDisabled) else "revoked"
        ending = [s for s in world.of(Sessions).of(event.subject_id) if _ends(event, s)]
        return Decision((event, *ended_by(event, ending, reason, 1, world.now)))


class UnlockPassword(UserCommand, frozen=True, kw_only=True):
    """Forgive the failures in a row, and what was tried at the account."""

    event: PasswordUnlocked

    @property
    def prepared(self) -> PasswordUnlocked:
        return self.event

    def needs(self) -> Iterator[Need]:
        yield from super().needs()
        yield StreakOf(self.event.subject_id)

    def decide_permitted(self, world: World) -> Decision:
        subject_id = self.event.subject_id
        if world.of(Users).there(subject_id) is None:
            raise NotFound(NO_SUCH_USER)
        return Decision((self.event,) if world.of(Streaks).of(subject_id) else ())


class EraseUser(UserCommand, frozen=True, kw_only=True):
    """Forget a person: sessions, credential, key and all."""

    event: UserErased
    keep_an_admin: bool = False

    @property
    def prepared(self) -> UserErased:
        return self.event

    def needs(self) -> Iterator[Need]:
        yield from super().needs()
        yield SessionsOf(self.event.subject_id)
        if self.keep_an_admin:
            yield Administrators()

    def decide_permitted(self, world: World) -> Decision:
        event = self.event
        user = world.of(Users).find(event.subject_id)
        if user is None:
            raise NotFound(NO_SUCH_USER)
        if user.erased:
            return Decision()
        if self.keep_an_admin:
            _refuse_last_admin(world, event.subject_id)
        sessions = world.of(Sessions).of(event.subject_id)
        return Decision((event, *ended_by(event, sessions, "user_erased", 1, world.now)))


def _is_change(user: User, event: UserEvent) -> bool:
    match event:
        case UserDisabled():
            return not user.disabled
        case UserEnabled():
            return user.disabled
        case RoleGranted():
            return event.role not in user.roles
        case RoleRevoked():
            return event.role in user.roles
    return True


def _ends(event: UserEvent, session: ActiveSession) -> bool:
    """Whether this session ends by the event: of tokens those only that would have too much."""
    if isinstance(event, RoleGranted | RoleRevoked) and session.is_token:
        return isinstance(event, RoleRevoked) and event.role in session.roles
    return True


def _takes_admin(event: UserEvent) -> bool:
    """Whether an administrator is none any more after this event."""
    return isinstance(event, UserDisabled) or (
        isinstance(event, RoleRevoked) and event.role == "admin"
    )


def _refuse_last_admin(world: World, subject_id: UUID) -> None:
    if world.of(Users).admins == {subject_id}:
        raise LastAdmin()
