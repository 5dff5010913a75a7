"""What decisions are made on, and how events change it.

``evolve`` is the one place that says what an event does to sessions. Every sink uses it: the
``active_sessions`` table, the replica on each host, a rebuild, an as-of query. It answers with
changes (put, drop), so that a sink never needs to know the rules. ``evolve_user`` does the same
for users, whose state is one small row.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

import msgspec

from gatelog.errors import LogDamaged
from gatelog.log.rules import events as ev


class ActiveSession(msgspec.Struct, frozen=True, kw_only=True):
    """A session that has started and not ended (it may have expired)."""

    session_id: UUID
    subject_id: UUID
    token_digest: bytes
    started_at: datetime
    expires_at: datetime
    roles: tuple[str, ...] = ()


class User(msgspec.Struct, frozen=True, kw_only=True):
    """A user, without anything personal. ``credential_version`` counts password changes.

    Who is ``erased`` is a number that nothing happens to any more.
    """

    subject_id: UUID
    registered_at: datetime
    disabled: bool = False
    credential_version: int = 1
    roles: tuple[str, ...] = ()
    erased: bool = False


class PutSession(msgspec.Struct, frozen=True):
    session: ActiveSession


class DropSession(msgspec.Struct, frozen=True):
    session_id: UUID
    token_digest: bytes


Change = PutSession | DropSession


def evolve(event: ev.Event) -> tuple[Change, ...]:
    """The changes that this event makes to the active sessions.

    Raises LogDamaged for an event that it does not know; skipping one would be a guess.
    """
    match event:
        case ev.SessionStarted():
            return (PutSession(_started(event)),)
        case ev.SessionEnded():
            return (DropSession(event.session_id, event.token_digest),)
        case (
            ev.UserRegistered()
            | ev.CredentialChanged()
            | ev.LoginFailed()
            | ev.RoleGranted()
            | ev.RoleRevoked()
            | ev.UserDisabled()
            | ev.UserEnabled()
            | ev.UserErased()
            | ev.AuditRead()
            | ev.LogPurged()
        ):
            return ()
    raise LogDamaged(f"evolve does not know {event!r}")


def _started(event: ev.SessionStarted) -> ActiveSession:
    return ActiveSession(
        session_id=event.session_id,
        subject_id=event.subject_id,
        token_digest=event.token_digest,
        started_at=event.occurred_at,
        expires_at=event.expires_at,
        roles=event.roles,
    )


def evolve_user(user: User | None, event: ev.Event) -> User | None:
    """The user after this event; the same object when the event does not change a user.

    Raises LogDamaged when the event needs a user who is not there, or registers one twice, or when
    anything but the end of their sessions happens to one who is erased.
    """
    if isinstance(event, ev.UserRegistered):
        if user is not None:
            raise LogDamaged(f"user {event.subject_id} is registered twice")
        return User(subject_id=event.subject_id, registered_at=event.occurred_at)
    if not isinstance(event, ev.UserEvent):
        return user
    if user is None:
        raise LogDamaged(f"{event.type} of the unknown user {event.subject_id}")
    if user.erased and not isinstance(event, ev.SessionEnded):
        raise LogDamaged(f"{event.type} of the erased user {event.subject_id}")
    fields = _user_fields(user, event)
    return msgspec.structs.replace(user, **fields) if fields else user


def _user_fields(user: User, event: ev.UserEvent) -> dict[str, object]:
    match event:
        case ev.CredentialChanged():
            return {"credential_version": user.credential_version + 1}
        case ev.RoleGranted():
            return {"roles": tuple(sorted({*user.roles, event.role}))}
        case ev.RoleRevoked():
            return {"roles": tuple(role for role in user.roles if role != event.role)}
        case ev.UserDisabled():
            return {"disabled": True}
        case ev.UserEnabled():
            return {"disabled": False}
        case ev.UserErased():
            return {"erased": True, "roles": ()}
    return {}


def is_admin(user: User) -> bool:
    """Whether the user may administer, and log in for it."""
    return "admin" in user.roles and not user.disabled and not user.erased


class World:
    """The part of the state that a batch of commands is decided on, kept current as it goes.

    ``populated`` says whether any user exists at all; ``logins`` tells, for the logins that the
    batch asks about, whose they are. ``admins`` are the enabled administrators, all of them or more
    than a batch can take away; they are there when the batch asks for them. ``master_key_id`` is
    the key that new keys are wrapped with; None before the first one.
    """

    def __init__(
        self,
        *,
        populated: bool = False,
        users: Iterable[User] = (),
        sessions: Iterable[ActiveSession] = (),
        logins: dict[str, UUID] | None = None,
        admins: Iterable[UUID] = (),
        master_key_id: bytes | None = None,
    ) -> None:
        self.populated = populated
        self.admins = set(admins)
        self.master_key_id = master_key_id
        self.users = {user.subject_id: user for user in users}
        self.logins = dict(logins or {})
        self._sessions: dict[UUID, dict[UUID, ActiveSession]] = {}
        for session in sessions:
            self._put(session)

    def sessions_of(self, subject_id: UUID) -> tuple[ActiveSession, ...]:
        """The active sessions of a user, oldest first."""
        sessions = self._sessions.get(subject_id, {}).values()
        return tuple(sorted(sessions, key=lambda s: (s.started_at, s.session_id)))

    def session(self, subject_id: UUID, session_id: UUID) -> ActiveSession | None:
        return self._sessions.get(subject_id, {}).get(session_id)

    def count_sessions(self, subject_id: UUID) -> int:
        return len(self._sessions.get(subject_id, {}))

    def apply(self, event: ev.AnyEvent) -> tuple[Change, ...]:
        """Take the event in; returns the changes to the sessions."""
        changes = evolve(event)
        for change in changes:
            if isinstance(change, PutSession):
                self._put(change.session)
            elif event.subject_id is not None:
                self._sessions.get(event.subject_id, {}).pop(change.session_id, None)
        if event.subject_id is not None:
            user = evolve_user(self.users.get(event.subject_id), event)
            if user is not None:
                self._put_user(user)
        return changes

    def _put_user(self, user: User) -> None:
        self.users[user.subject_id] = user
        self.populated = True
        if is_admin(user):
            self.admins.add(user.subject_id)
        else:
            self.admins.discard(user.subject_id)
        if user.erased:
            self.logins = {k: v for k, v in self.logins.items() if v != user.subject_id}

    def _put(self, session: ActiveSession) -> None:
        self._sessions.setdefault(session.subject_id, {})[session.session_id] = session
