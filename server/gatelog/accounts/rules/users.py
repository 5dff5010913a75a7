"""Users, whose state is one small row each, and how events change them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from uuid import UUID

import msgspec

from gatelog.accounts.rules.events import (
    CredentialChanged,
    FactorEnrolled,
    FactorRemoved,
    RoleGranted,
    RoleRevoked,
    UserDisabled,
    UserEnabled,
    UserRegistered,
)
from gatelog.errors import LogDamaged
from gatelog.log.rules.events import Event, UserEvent
from gatelog.log.rules.kinds import Need, State, Trace
from gatelog.privacy.rules import UserErased
from gatelog.sessions.rules.events import SessionEnded


class User(msgspec.Struct, frozen=True, kw_only=True):
    """A user, without anything personal.

    ``credential_version`` counts changes of what it takes to log in: of the password, and of second
    ``factors``, of which so many are enrolled. Who is ``erased`` is a number that nothing happens
    to any more.
    """

    subject_id: UUID
    registered_at: datetime
    disabled: bool = False
    credential_version: int = 1
    roles: tuple[str, ...] = ()
    erased: bool = False
    factors: int = 0


def evolve_user(user: User | None, event: Event) -> User | None:
    """The user after this event; the same object when the event does not change a user.

    Raises LogDamaged when the event needs a user who is not there, or registers one twice, or when
    anything but the end of their sessions happens to one who is erased.
    """
    if isinstance(event, UserRegistered):
        if user is not None:
            raise LogDamaged(f"user {event.subject_id} is registered twice")
        return User(subject_id=event.subject_id, registered_at=event.occurred_at)
    if not isinstance(event, UserEvent):
        return user
    if user is None:
        raise LogDamaged(f"{event.type} of the unknown user {event.subject_id}")
    if user.erased and not isinstance(event, SessionEnded):
        raise LogDamaged(f"{event.type} of the erased user {event.subject_id}")
    fields = _user_fields(user, event)
    return msgspec.structs.replace(user, **fields) if fields else user


def _user_fields(user: User, event: UserEvent) -> dict[str, object]:
    match event:
        case CredentialChanged():
            return {"credential_version": user.credential_version + 1}
        case FactorEnrolled():
            return _factors(user, user.factors + 1)
        case FactorRemoved():
            return _factors(user, user.factors - 1)
        case RoleGranted():
            return {"roles": tuple(sorted({*user.roles, event.role}))}
        case RoleRevoked():
            return {"roles": tuple(role for role in user.roles if role != event.role)}
        case UserDisabled():
            return {"disabled": True}
        case UserEnabled():
            return {"disabled": False}
        case UserErased():
            return {"erased": True, "roles": ()}
    return {}


def _factors(user: User, count: int) -> dict[str, object]:
    if count < 0:
        raise LogDamaged(f"user {user.subject_id} loses a factor that was not enrolled")
    return {"factors": count, "credential_version": user.credential_version + 1}


def is_admin(user: User) -> bool:
    """Whether the user may administer, and log in for it."""
    return "admin" in user.roles and not user.disabled and not user.erased


class TheUser(Need, frozen=True):
    """A user by id."""

    subject_id: UUID


class Anybody(Need, frozen=True):
    """Whether there is any user at all."""


class Administrators(Need, frozen=True):
    """The enabled administrators: all, or more than a batch can take away."""


class Users(State):
    """Some users, and what a batch changes of them.

    ``populated`` says whether any user exists at all, ``admins`` are the enabled administrators;
    both are there when they were asked for.
    """

    concerns = (UserEvent,)

    def __init__(self, users: Iterable[User] = ()) -> None:
        self.populated = False
        self.admins: set[UUID] = set()
        self.changed: dict[UUID, User] = {}
        self._users: dict[UUID, User] = {}
        for user in users:
            self.add(user)

    def add(self, user: User) -> None:
        """Take in a user as it is."""
        self._users[user.subject_id] = user

    def find(self, subject_id: UUID) -> User | None:
        """The user, erased or not."""
        return self._users.get(subject_id)

    def there(self, subject_id: UUID) -> User | None:
        """The user, unless there is none or none any more."""
        user = self._users.get(subject_id)
        return None if user is None or user.erased else user

    def __iter__(self) -> Iterator[User]:
        return iter(self._users.values())

    def apply(self, event: Event, position: int, trace: Trace | None) -> None:
        if event.subject_id is None:
            return
        known = self._users.get(event.subject_id)
        user = evolve_user(known, event)
        if user is None or user is known:
            return
        self._users[user.subject_id] = self.changed[user.subject_id] = user
        self.populated = True
        if is_admin(user):
            self.admins.add(user.subject_id)
        else:
            self.admins.discard(user.subject_id)
