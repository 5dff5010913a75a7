"""What can be asked for, and what is decided.

``decide(world, command)`` answers with the events that the command causes, or raises one of
``core.errors`` and changes nothing. It is called under the lock of the log's head, so the world
is the truth at that moment. Times, ids, digests and hashes come with the command.

Rules:

- A command that carries a finished event (``event``) is answered with that very object where it
  is allowed, so that its bytes, made before the lock was taken, can be used.
- A session starts only for a user who is enabled and whose password is still the one that was
  verified (``credential_version``): a login cannot outrun a password change.
- Ending what has ended is no error and no event.
- What takes a right away (a changed password, a disabled user, a changed role) ends the user's
  sessions in the same decision, one event each.
- Whoever acts on others (``actor_id``) must be an administrator at that moment.
- Nothing happens to an erased user any more; a login attempt that was under way is recorded
  without what it knew of the person.
- ``sealed`` of a command without a finished event goes into the first event that it causes.
- Only an auditor or administrator reads about others, and is one at that moment.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

import msgspec

from gatelog.errors import (
    Conflict,
    InvalidCredentials,
    LastAdmin,
    LoginTaken,
    NotAuthenticated,
    NotFound,
    RegistrationClosed,
    StaleMasterKey,
)
from gatelog.ids import derived_event_id
from gatelog.log.rules import events as ev
from gatelog.log.rules.state import ActiveSession, User, World, is_admin
from gatelog.privacy.rules import WrappedKey

ROLES = ("admin", "auditor")
AUDITING = frozenset({"admin", "auditor"})


class RegisterUser(msgspec.Struct, frozen=True, kw_only=True):
    """Create a user, with the key to what is personal. ``only_first``: refuse after any user."""

    event: ev.UserRegistered
    login: str
    password_hash: str
    key: WrappedKey
    only_first: bool = False
    roles: tuple[str, ...] = ()


class RecordLoginFailure(msgspec.Struct, frozen=True, kw_only=True):
    event: ev.LoginFailed


class RecordRead(msgspec.Struct, frozen=True, kw_only=True):
    """Record that somebody reads about others, before anything is shown."""

    event: ev.AuditRead


class RecordPurge(msgspec.Struct, frozen=True, kw_only=True):
    """Record that the oldest events are given up, before they are."""

    event: ev.LogPurged


class StartSession(msgspec.Struct, frozen=True, kw_only=True):
    """Start a session; beyond ``max_sessions`` of the user the oldest ones are superseded."""

    event: ev.SessionStarted
    credential_version: int
    max_sessions: int


class EndSession(msgspec.Struct, frozen=True, kw_only=True):
    """End one session of a user, if it is still active."""

    event_id: UUID
    at: datetime
    subject_id: UUID
    session_id: UUID
    reason: ev.EndReason
    actor_id: UUID | None = None
    sealed: bytes | None = None


class EndSessions(msgspec.Struct, frozen=True, kw_only=True):
    """End all sessions of a user, or all but the one to ``keep`` (which must be active)."""

    event_id: UUID
    at: datetime
    subject_id: UUID
    reason: ev.EndReason
    keep: UUID | None = None
    actor_id: UUID | None = None
    sealed: bytes | None = None


class ExpireSessions(msgspec.Struct, frozen=True, kw_only=True):
    """Record the end of a user's sessions whose ``expires_at`` has passed."""

    event_id: UUID
    at: datetime
    subject_id: UUID


class ChangeCredential(msgspec.Struct, frozen=True, kw_only=True):
    """Replace the password, end every session, and start ``session`` in place of ``session_id``."""

    event: ev.CredentialChanged
    password_hash: str
    credential_version: int
    session_id: UUID
    session: ev.SessionStarted


class ChangeUser(msgspec.Struct, frozen=True, kw_only=True):
    """Disable or enable a user, grant or revoke a role. ``keep_an_admin``: not the last one."""

    event: ev.UserDisabled | ev.UserEnabled | ev.RoleGranted | ev.RoleRevoked
    keep_an_admin: bool = False


class EraseUser(msgspec.Struct, frozen=True, kw_only=True):
    """Forget a person: sessions, credential, key and all. ``keep_an_admin``: not the last one."""

    event: ev.UserErased
    keep_an_admin: bool = False


Command = (
    RegisterUser
    | RecordLoginFailure
    | RecordRead
    | RecordPurge
    | StartSession
    | EndSession
    | EndSessions
    | ExpireSessions
    | ChangeCredential
    | ChangeUser
    | EraseUser
)


class NewCredential(msgspec.Struct, frozen=True):
    """The login, the password's hash and the key of a new user."""

    subject_id: UUID
    login: str
    password_hash: str
    key: WrappedKey


class NewPassword(msgspec.Struct, frozen=True):
    """The hash of a user's new password."""

    subject_id: UUID
    password_hash: str


class Erasure(msgspec.Struct, frozen=True):
    """Everything personal of this user goes: credential, key, blind index."""

    subject_id: UUID


class Decision(msgspec.Struct, frozen=True):
    """The events, in order, and what must be written beside the log in the same transaction."""

    events: tuple[ev.AnyEvent, ...] = ()
    beside: NewCredential | NewPassword | Erasure | None = None


def command_event_id(command: Command) -> UUID:
    """The id of the first event that the command may cause; all its ids derive from it."""
    match command:
        case EndSession() | EndSessions() | ExpireSessions():
            return command.event_id
    return command.event.event_id


def command_subject(command: Command) -> UUID | None:
    """The user whose state the command is decided on."""
    match command:
        case EndSession() | EndSessions() | ExpireSessions():
            return command.subject_id
    return command.event.subject_id


def command_actor(command: Command) -> UUID | None:
    """Who acts, when it is not the user whose state the command is decided on."""
    match command:
        case EndSession() | EndSessions():
            return command.actor_id
        case ExpireSessions() | RecordLoginFailure() | RecordPurge():
            return None
    return command.event.actor_id


def decide(world: World, command: Command) -> Decision:
    """The events that this command causes in this world. Raises a GatelogError to refuse."""
    actor_id = command_actor(command)
    if actor_id is not None:
        actor = world.users.get(actor_id)
        if actor is None or not is_admin(actor):
            raise NotAuthenticated()
    match command:
        case RegisterUser():
            return _register(world, command)
        case ChangeCredential():
            return _change_credential(world, command)
        case EraseUser():
            return _erase(world, command)
        case _:
            return Decision(_decide_events(world, command))


def _decide_events(
    world: World,
    command: RecordLoginFailure
    | RecordRead
    | RecordPurge
    | StartSession
    | EndSession
    | EndSessions
    | ExpireSessions
    | ChangeUser,
) -> tuple[ev.AnyEvent, ...]:
    match command:
        case RecordLoginFailure():
            return (_failure(world, command.event),)
        case RecordRead():
            return (_read(world, command.event),)
        case RecordPurge():
            return (command.event,)
        case StartSession():
            return _start(world, command)
        case EndSession():
            return _end_one(world, command)
        case EndSessions():
            return _end_all(world, command)
        case ExpireSessions():
            return _expire(world, command)
        case ChangeUser():
            return _change_user(world, command)


def _register(world: World, command: RegisterUser) -> Decision:
    event = command.event
    if command.only_first and world.populated:
        raise RegistrationClosed("Registration was open for the first user only.")
    if command.login in world.logins:
        raise LoginTaken()
    if event.subject_id in world.users:
        raise Conflict("This user exists already.")
    if world.master_key_id not in (None, command.key.master_key_id):
        raise StaleMasterKey()
    grants = tuple(
        ev.RoleGranted(
            event_id=derived_event_id(event.event_id, index),
            occurred_at=event.occurred_at,
            subject_id=event.subject_id,
            role=role,
        )
        for index, role in enumerate(command.roles, start=1)
    )
    new = NewCredential(event.subject_id, command.login, command.password_hash, command.key)
    return Decision((event, *grants), new)


def _failure(world: World, event: ev.LoginFailed) -> ev.LoginFailed:
    if event.subject_id is None or _there(world, event.subject_id) is not None:
        return event
    return msgspec.structs.replace(event, sealed=None)


def _read(world: World, event: ev.AuditRead) -> ev.AuditRead:
    user = _there(world, event.subject_id)
    if user is None or user.disabled or not AUDITING & set(user.roles):
        raise NotAuthenticated()
    return event


def _there(world: World, subject_id: UUID) -> User | None:
    """The user, unless there is none or none any more."""
    user = world.users.get(subject_id)
    return None if user is None or user.erased else user


def _start(world: World, command: StartSession) -> tuple[ev.AnyEvent, ...]:
    event = command.event
    user = _loginable(world, event.subject_id, command.credential_version)
    if event.roles != user.roles:
        event = msgspec.structs.replace(event, roles=user.roles)
    surplus = world.count_sessions(event.subject_id) + 1 - command.max_sessions
    if surplus <= 0:
        return (event,)
    oldest = world.sessions_of(event.subject_id)[:surplus]
    return (event, *_ended_by(event, oldest, "superseded", 1))


def _loginable(world: World, subject_id: UUID, credential_version: int) -> User:
    user = _there(world, subject_id)
    if user is None or user.disabled or user.credential_version != credential_version:
        raise InvalidCredentials()
    return user


def _ended(
    first_id: UUID,
    at: datetime,
    actor_id: UUID | None,
    sessions: Iterable[ActiveSession],
    reason: ev.EndReason,
    *,
    first_index: int = 0,
    sealed: bytes | None = None,
) -> tuple[ev.SessionEnded, ...]:
    """One event per session; their ids derive from ``first_id``, counted from ``first_index``."""
    return tuple(
        ev.SessionEnded(
            event_id=derived_event_id(first_id, index),
            occurred_at=at,
            subject_id=session.subject_id,
            actor_id=actor_id,
            session_id=session.session_id,
            token_digest=session.token_digest,
            reason=reason,
            sealed=sealed if index == 0 else None,
        )
        for index, session in enumerate(sessions, start=first_index)
    )


def _ended_by(
    cause: ev.UserEvent, sessions: Iterable[ActiveSession], reason: ev.EndReason, first_index: int
) -> tuple[ev.SessionEnded, ...]:
    at, actor_id = cause.occurred_at, cause.actor_id
    return _ended(cause.event_id, at, actor_id, sessions, reason, first_index=first_index)


def _end_one(world: World, command: EndSession) -> tuple[ev.AnyEvent, ...]:
    session = world.session(command.subject_id, command.session_id)
    found = [session] if session else []
    return _ended_on_demand(command, found)


def _expire(world: World, command: ExpireSessions) -> tuple[ev.AnyEvent, ...]:
    over = [s for s in world.sessions_of(command.subject_id) if s.expires_at <= command.at]
    return _ended(command.event_id, command.at, None, over, "absolute_timeout")


def _end_all(world: World, command: EndSessions) -> tuple[ev.AnyEvent, ...]:
    if command.keep and world.session(command.subject_id, command.keep) is None:
        raise NotAuthenticated()
    ending = [s for s in world.sessions_of(command.subject_id) if s.session_id != command.keep]
    return _ended_on_demand(command, ending)


def _ended_on_demand(
    command: EndSession | EndSessions, sessions: Iterable[ActiveSession]
) -> tuple[ev.SessionEnded, ...]:
    at, actor_id, reason = command.at, command.actor_id, command.reason
    return _ended(command.event_id, at, actor_id, sessions, reason, sealed=command.sealed)


def _change_credential(world: World, command: ChangeCredential) -> Decision:
    event = command.event
    if world.session(event.subject_id, command.session_id) is None:
        raise NotAuthenticated()
    user = _loginable(world, event.subject_id, command.credential_version)
    started = msgspec.structs.replace(
        command.session, event_id=derived_event_id(event.event_id, 1), roles=user.roles
    )
    sessions = world.sessions_of(event.subject_id)
    ended = _ended_by(event, sessions, "credential_changed", 2)
    new = NewPassword(event.subject_id, command.password_hash)
    return Decision((event, started, *ended), new)


def _change_user(world: World, command: ChangeUser) -> tuple[ev.AnyEvent, ...]:
    event = command.event
    user = _there(world, event.subject_id)
    if user is None:
        raise NotFound("There is no such user.")
    if not _is_change(user, event):
        return ()
    if command.keep_an_admin and _takes_admin(event):
        _refuse_last_admin(world, event.subject_id)
    if isinstance(event, ev.UserEnabled):
        return (event,)
    reason: ev.EndReason = "user_disabled" if isinstance(event, ev.UserDisabled) else "revoked"
    return (event, *_ended_by(event, world.sessions_of(event.subject_id), reason, 1))


def _is_change(user: User, event: ev.UserEvent) -> bool:
    match event:
        case ev.UserDisabled():
            return not user.disabled
        case ev.UserEnabled():
            return user.disabled
        case ev.RoleGranted():
            return event.role not in user.roles
        case ev.RoleRevoked():
            return event.role in user.roles
    return True


def _takes_admin(event: ev.UserEvent) -> bool:
    """Whether an administrator is none any more after this event."""
    return isinstance(event, ev.UserDisabled) or (
        isinstance(event, ev.RoleRevoked) and event.role == "admin"
    )


def _refuse_last_admin(world: World, subject_id: UUID) -> None:
    if world.admins == {subject_id}:
        raise LastAdmin()


def _erase(world: World, command: EraseUser) -> Decision:
    event = command.event
    user = world.users.get(event.subject_id)
    if user is None:
        raise NotFound("There is no such user.")
    if user.erased:
        return Decision()
    if command.keep_an_admin:
        _refuse_last_admin(world, event.subject_id)
    ended = _ended_by(event, world.sessions_of(event.subject_id), "user_erased", 1)
    return Decision((event, *ended), Erasure(event.subject_id))
