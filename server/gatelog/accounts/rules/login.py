"""To register, to log in, to change a password; and that somebody tried in vain.

Rules:

- A session starts only for a user who is enabled and whose password is still the one that was
  verified (``credential_version``): a login cannot outrun a password change.
- Who has a factor needs a proof of one (``accounts.rules.proving``): the password alone opens
  nothing, whatever a host believed when it looked.
- A role may be for who has proven a factor alone (``GATELOG_ROLES``): other sessions lack it.
- Nothing happens to an erased user any more; a login attempt that was under way is recorded
  without what it knew of the person.
"""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

import msgspec

from gatelog.accounts.rules.acting import UserCommand, ended_by
from gatelog.accounts.rules.challenges import ChallengeOf, WrongAnswer
from gatelog.accounts.rules.events import (
    CredentialChanged,
    DeviceAdded,
    FailureReason,
    LoginFailed,
    PasswordLocked,
    RoleGranted,
    UserRegistered,
)
from gatelog.accounts.rules.logins import Logins, NewCredential, NewPassword, OwnerOf
from gatelog.accounts.rules.proving import BY_FACTORS, Proof, Proven, prove, used_code
from gatelog.accounts.rules.throttling import (
    OneMoreFailure,
    Settled,
    StreakOf,
    Streaks,
    locked_by,
)
from gatelog.accounts.rules.users import Anybody, TheUser, User, Users
from gatelog.errors import (
    Conflict,
    InvalidCredentials,
    LoginTaken,
    NotAuthenticated,
    RegistrationClosed,
    StaleMasterKey,
    TokenNotAllowed,
    TooManySessions,
)
from gatelog.ids import derived_event_id
from gatelog.log.rules.events import UserEvent
from gatelog.log.rules.kinds import Beside, Decision, Need, World
from gatelog.privacy.rules import CurrentMasterKey, NewSubjectKey, SubjectKeys, WrappedKey
from gatelog.sessions.rules.events import SessionStarted
from gatelog.sessions.rules.state import ActiveSession, CrowdOf, Sessions, SessionsOf

# What somebody has guessed wrongly: it counts as a failure in a row.
GUESSES: frozenset[FailureReason] = frozenset({"wrong_password", "wrong_code", "wrong_passkey"})


class RegisterUser(UserCommand, frozen=True, kw_only=True):
    """Create a user, with the key to what is personal. ``only_first``: refuse after any user."""

    event: UserRegistered
    login: str
    password_hash: str
    key: WrappedKey
    only_first: bool = False
    roles: tuple[str, ...] = ()

    @property
    def prepared(self) -> UserRegistered:
        return self.event

    def needs(self) -> Iterator[Need]:
        yield from super().needs()
        yield OwnerOf(self.login)
        yield CurrentMasterKey()
        if self.only_first:
            yield Anybody()

    def decide_permitted(self, world: World) -> Decision:
        event, subject_id = self.event, self.event.subject_id
        if self.only_first and world.of(Users).populated:
            raise RegistrationClosed("Registration was open for the first user only.")
        if self.login in world.of(Logins).owners:
            raise LoginTaken()
        if world.of(Users).find(subject_id) is not None:
            raise Conflict("This user exists already.")
        if world.of(SubjectKeys).current not in (None, self.key.master_key_id):
            raise StaleMasterKey()
        grants = tuple(
            RoleGranted(
                event_id=derived_event_id(event.event_id, index),
                occurred_at=event.occurred_at,
                subject_id=subject_id,
                actor_id=event.actor_id,
                role=role,
            )
            for index, role in enumerate(self.roles, start=1)
        )
        credential = NewCredential(subject_id, self.login, self.password_hash)
        return Decision((event, *grants), (credential, NewSubjectKey(subject_id, self.key)))


class RecordLoginFailure(UserCommand, frozen=True, kw_only=True):
    """Record a login that was refused, and what it was tried for (``try_id``).

    ``most_failures``: in a row, after which the password is locked; None where it does not count.
    ``challenge``: what it was a wrong answer to.
    """

    event: LoginFailed
    try_id: UUID | None = None
    most_failures: int | None = None
    challenge: bytes | None = None

    @property
    def prepared(self) -> LoginFailed:
        return self.event

    def needs(self) -> Iterator[Need]:
        yield from super().needs()
        if self.event.subject_id is not None and self.most_failures is not None:
            yield StreakOf(self.event.subject_id)
        if self.challenge is not None:
            yield ChallengeOf(self.challenge)

    def decide_permitted(self, world: World) -> Decision:
        event, subject_id = self.event, self.event.subject_id
        beside: tuple[Beside, ...] = (Settled(self.try_id),) if self.try_id is not None else ()
        if self.challenge is not None:
            beside += (WrongAnswer(self.challenge),)
        if subject_id is None:
            return Decision((event,), beside)
        if world.of(Users).there(subject_id) is None:
            return Decision((msgspec.structs.replace(event, sealed=None),), beside)
        if event.reason not in GUESSES or self.most_failures is None:
            return Decision((event,), beside)
        failures = world.of(Streaks).of(subject_id) + 1
        reason = locked_by(failures, self.most_failures)
        locked = PasswordLocked(
            event_id=derived_event_id(event.event_id, 1),
            occurred_at=event.occurred_at,
            subject_id=subject_id,
            reason=reason or "all_devices",
        )
        events = (event, locked) if reason is not None else (event,)
        return Decision(events, (*beside, OneMoreFailure(subject_id)))


class Replaced(msgspec.Struct, frozen=True):
    """A session, of whomever, in whose place another one starts."""

    subject_id: UUID
    session_id: UUID


class StartSession(UserCommand, frozen=True, kw_only=True):
    """Start a session; beyond ``max_sessions`` of the user the oldest ones are superseded.

    ``refuse``: it does not start then. ``replaces``: the session that the same browser had.
    ``beside``: what a right password changes beside the log. ``proof``: of a factor, which who has
    one must give; ``guarded_roles`` are for who has given one alone. ``new_device``: the account
    has not been used on this one, and has on others.
    """

    event: SessionStarted
    credential_version: int
    max_sessions: int
    refuse: bool = False
    replaces: Replaced | None = None
    beside: tuple[Beside, ...] = ()
    proof: Proof | None = None
    guarded_roles: frozenset[str] = frozenset()
    new_device: bool = False

    @property
    def prepared(self) -> SessionStarted:
        return self.event

    def needs(self) -> Iterator[Need]:
        yield from super().needs()
        yield CrowdOf(self.event.subject_id, self.max_sessions)
        if self.proof is not None:
            yield from self.proof.needs(self.event.subject_id)
        if self.replaces is not None:
            yield TheUser(self.replaces.subject_id)
            yield SessionsOf(self.replaces.subject_id)

    def decide_permitted(self, world: World) -> Decision:
        event, subject_id = self.event, self.event.subject_id
        user = _loginable(world, subject_id, self.credential_version)
        proven = self._proven(world, user)
        roles = user.roles
        if self.proof is None:
            roles = tuple(role for role in roles if role not in self.guarded_roles)
        if event.roles != roles:
            event = msgspec.structs.replace(event, roles=roles)
        sessions = world.of(Sessions)
        replaced = self._replaced(sessions)
        others = [
            session
            for session in sessions.of(subject_id)
            if not session.is_token and session not in replaced and session.expires_at > world.now
        ]
        surplus = max(0, len(others) + 1 - self.max_sessions)
        if surplus and self.refuse:
            raise TooManySessions(f"You have {len(others)} sessions; end one of them first.")
        ending = [*replaced, *others[:surplus]]
        return self._decision(world, event, proven, ending)

    def _proven(self, world: World, user: User) -> Proven | None:
        """What follows from the proof. Raises InvalidCredentials where one is missing."""
        if self.proof is not None:
            return prove(world, user, self.proof, self.event.occurred_at)
        if user.factors:
            raise InvalidCredentials()
        return None

    def _decision(
        self,
        world: World,
        event: SessionStarted,
        proven: Proven | None,
        ending: list[ActiveSession],
    ) -> Decision:
        events: list[UserEvent] = [event]
        beside = self.beside
        if proven is not None:
            beside += proven.beside
            if proven.codes_left is not None:
                first_id = derived_event_id(event.event_id, 1)
                events.append(
                    used_code(first_id, event.occurred_at, event.subject_id, proven.codes_left)
                )
        if self.new_device:
            events.append(
                DeviceAdded(
                    event_id=derived_event_id(event.event_id, len(events)),
                    occurred_at=event.occurred_at,
                    subject_id=event.subject_id,
                    session_id=event.session_id,
                )
            )
        over = ended_by(event, ending, "superseded", len(events), world.now)
        return Decision((*events, *over), beside)

    def _replaced(self, sessions: Sessions) -> list[ActiveSession]:
        if self.replaces is None:
            return []
        session = sessions.find(self.replaces.subject_id, self.replaces.session_id)
        return [session] if session is not None else []


class ChangeCredential(UserCommand, frozen=True, kw_only=True):
    """Replace the password, end every session, and start ``session`` in place of ``session_id``."""

    event: CredentialChanged
    password_hash: str
    credential_version: int
    session_id: UUID
    session: SessionStarted
    beside: tuple[Beside, ...] = ()

    @property
    def prepared(self) -> CredentialChanged:
        return self.event

    def needs(self) -> Iterator[Need]:
        yield from super().needs()
        yield SessionsOf(self.event.subject_id)

    def decide_permitted(self, world: World) -> Decision:
        event, subject_id = self.event, self.event.subject_id
        sessions = world.of(Sessions)
        old = sessions.find(subject_id, self.session_id)
        if old is None:
            raise NotAuthenticated()
        _loginable(world, subject_id, self.credential_version)
        started = msgspec.structs.replace(
            self.session, event_id=derived_event_id(event.event_id, 1), roles=old.roles
        )
        if BY_FACTORS in old.amr:  # shown when that began, and not again
            amr = tuple(dict.fromkeys((*self.session.amr, *old.amr)))
            started = msgspec.structs.replace(
                started, authenticated_at=old.authenticated_at, amr=amr
            )
        ended = ended_by(event, sessions.of(subject_id), "credential_changed", 2, world.now)
        beside = (NewPassword(subject_id, self.password_hash), *self.beside)
        return Decision((event, started, *ended), beside)


class RenewSession(UserCommand, frozen=True, kw_only=True):
    """Start ``event``'s session in place of ``session_id``, which ends: one login, a new token.

    It starts now, by the clock of the log, and ends when the old one would have. How and when its
    user was authenticated stays: a new token makes no login younger.
    """

    event: SessionStarted
    session_id: UUID

    @property
    def prepared(self) -> SessionStarted:
        return self.event

    def needs(self) -> Iterator[Need]:
        yield from super().needs()
        yield SessionsOf(self.event.subject_id)

    def decide_permitted(self, world: World) -> Decision:
        event, subject_id = self.event, self.event.subject_id
        user = world.of(Users).there(subject_id)
        old = world.of(Sessions).find(subject_id, self.session_id)
        if user is None or user.disabled or old is None or old.expires_at <= world.now:
            raise NotAuthenticated()
        if old.is_token:
            raise TokenNotAllowed()
        event = msgspec.structs.replace(
            event,
            occurred_at=world.now,
            expires_at=old.absolute_at,
            roles=old.roles,
            idle_s=old.idle.limit_s if old.idle else None,
            authenticated_at=old.authenticated_at,
            amr=old.amr,
        )
        return Decision((event, *ended_by(event, [old], "superseded", 1, world.now)))


def _loginable(world: World, subject_id: UUID, credential_version: int) -> User:
    user = world.of(Users).there(subject_id)
    if user is None or user.disabled or user.credential_version != credential_version:
        raise InvalidCredentials()
    return user
