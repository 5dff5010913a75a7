"""To ask for a factor, to enrol and remove factors, and to make recovery codes.

Rules:

- Who enrols or removes has a session, and may end all others in the same decision. Who has a factor
  does so in a session that began with one: a password that was stolen binds nothing to an account.
- With the first factor the password alone opens nothing more, and that holds at once, everywhere:
  ``credential_version`` moves on, so a login that is under way has failed.
- An older program that runs beside this one knows no factors. The password's hash is put where it
  does not look (``Guard``), in the same transaction.
"""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

import msgspec

from gatelog.accounts.rules.acting import UserCommand, ended_by
from gatelog.accounts.rules.challenges import (
    Challenge,
    ChallengeOf,
    ChallengeUsed,
    NewChallenge,
    Purpose,
    WrongAnswer,
    refuse_unless_open,
)
from gatelog.accounts.rules.events import FactorEnrolled, FactorRemoved, RecoveryCodesMade
from gatelog.accounts.rules.factors import (
    MOST_FACTORS,
    CodesOf,
    CredentialIs,
    Factors,
    FactorsOf,
    NewCodes,
    NewFactor,
)
from gatelog.accounts.rules.logins import Guard
from gatelog.accounts.rules.proving import BY_FACTORS
from gatelog.accounts.rules.throttling import Settled
from gatelog.accounts.rules.users import User, Users
from gatelog.errors import (
    Conflict,
    FactorLoginRequired,
    Forbidden,
    InvalidCredentials,
    NotAuthenticated,
    NotFound,
    TooManyFactors,
)
from gatelog.ids import derived_event_id
from gatelog.log.rules.events import Event, UserEvent
from gatelog.log.rules.kinds import Beside, Decision, Need, World
from gatelog.mail.rules.outbox import Mail, mailed
from gatelog.sessions.rules.state import Sessions, SessionsOf

NO_SUCH_FACTOR = "You have no such factor."


class Ask(UserCommand, frozen=True, kw_only=True):
    """Ask a user for something: for a factor after the password, or to confirm a new one.

    ``try_id``: the try that the password was; it goes on counting until the factor is right too.
    It has no event: what comes of it has one.
    """

    event_id: UUID
    challenge: Challenge
    try_id: UUID | None = None

    @property
    def first_event_id(self) -> UUID:
        return self.event_id

    @property
    def subject(self) -> UUID:
        return self.challenge.subject_id

    @property
    def actor(self) -> None:
        return None

    def needs(self) -> Iterator[Need]:
        yield from super().needs()
        if self.challenge.session_id is not None:
            yield SessionsOf(self.subject)

    def decide_permitted(self, world: World) -> Decision:
        challenge = self.challenge
        user = world.of(Users).there(challenge.subject_id)
        if user is None or user.disabled or user.credential_version != challenge.credential_version:
            raise InvalidCredentials()
        if challenge.session_id is not None:
            _entitled(world, challenge.subject_id, challenge.session_id)
        beside: tuple[Beside, ...] = (NewChallenge(challenge),)
        return Decision((), beside if self.try_id is None else (Settled(self.try_id), *beside))


class NoteWrongAnswer(UserCommand, frozen=True, kw_only=True):
    """What was to confirm a new factor was not right."""

    event_id: UUID
    subject_id: UUID
    challenge: bytes

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
        yield ChallengeOf(self.challenge)

    def decide_permitted(self, world: World) -> Decision:
        return Decision((), (WrongAnswer(self.challenge),))


class EnrolFactor(UserCommand, frozen=True, kw_only=True):
    """Enrol a factor from within a session; ``end_others``: and end all others.

    ``codes``: the recovery codes that the user gets, by their digests, if this is the first one;
    ``cover``: what an older program finds in the place of the password's hash from then on.
    """

    event: FactorEnrolled
    factor: NewFactor
    challenge: bytes
    purpose: Purpose
    credential_version: int
    session_id: UUID
    codes: frozenset[bytes]
    cover: str
    end_others: bool = False
    mail: Mail | None = None

    @property
    def prepared(self) -> FactorEnrolled:
        return self.event

    def needs(self) -> Iterator[Need]:
        subject_id = self.event.subject_id
        yield from super().needs()
        yield ChallengeOf(self.challenge)
        yield FactorsOf(subject_id)
        yield SessionsOf(subject_id)
        if self.factor.credential_digest is not None:
            yield CredentialIs(self.factor.credential_digest)

    def decide_permitted(self, world: World) -> Decision:
        event, subject_id = self.event, self.event.subject_id
        user = _entitled(world, subject_id, self.session_id)
        refuse_unless_open(
            world,
            self.challenge,
            subject_id=subject_id,
            purpose=self.purpose,
            credential_version=user.credential_version,
            session_id=self.session_id,
        )
        if user.factors >= MOST_FACTORS:
            raise TooManyFactors(f"You have {user.factors} factors; remove one of them first.")
        if self.factor.credential_digest in world.of(Factors).credentials:
            raise Conflict("This passkey is enrolled already.")
        events: list[UserEvent] = [event]
        beside: list[Beside] = [self.factor, ChallengeUsed(self.challenge)]
        if not user.factors:
            events.append(_codes_made(event, len(self.codes), len(events)))
            beside += [NewCodes(subject_id, self.codes), Guard(subject_id, self.cover)]
        return _with_others_ended(world, events, beside, self)


class RemoveFactor(UserCommand, frozen=True, kw_only=True):
    """Remove a factor of one's own, from within a session; ``end_others``: and end all others.
    ``mail`` tells the user.
    """

    event: FactorRemoved
    session_id: UUID
    end_others: bool = False
    mail: Mail | None = None

    @property
    def prepared(self) -> FactorRemoved:
        return self.event

    def needs(self) -> Iterator[Need]:
        yield from super().needs()
        yield FactorsOf(self.event.subject_id)
        yield SessionsOf(self.event.subject_id)

    def decide_permitted(self, world: World) -> Decision:
        event, subject_id = self.event, self.event.subject_id
        user = _entitled(world, subject_id, self.session_id)
        factor = world.of(Factors).find(event.factor_id)
        if factor is None or factor.subject_id != subject_id:
            raise NotFound(NO_SUCH_FACTOR)
        if event.factor != factor.kind:
            event = msgspec.structs.replace(event, factor=factor.kind)
        beside = _after_the_last(subject_id) if user.factors == 1 else []
        return _with_others_ended(world, [event], beside, self)


class ResetFactors(UserCommand, frozen=True, kw_only=True):
    """Remove all factors of a user who has lost them, and end all sessions: for administrators.

    ``event`` is made for the first factor, and its like for each other one. ``mail`` tells the
    user.
    """

    event: FactorRemoved
    mail: Mail | None = None

    @property
    def prepared(self) -> FactorRemoved:
        return self.event

    def needs(self) -> Iterator[Need]:
        yield from super().needs()
        yield FactorsOf(self.event.subject_id)
        yield SessionsOf(self.event.subject_id)

    def decide_permitted(self, world: World) -> Decision:
        event, subject_id = self.event, self.event.subject_id
        if world.of(Users).there(subject_id) is None:
            raise NotFound("There is no such user.")
        factors = sorted(world.of(Factors).of(subject_id), key=lambda one: one.factor_id)
        if not factors:
            return Decision()
        removed = [
            msgspec.structs.replace(
                event,
                event_id=derived_event_id(event.event_id, index),
                factor_id=factor.factor_id,
                factor=factor.kind,
                sealed=None if index else event.sealed,
            )
            for index, factor in enumerate(factors)
        ]
        sessions = world.of(Sessions).of(subject_id)
        over = ended_by(event, sessions, "revoked", len(removed), world.now)
        beside = (*_after_the_last(subject_id), *mailed(self.mail))
        return Decision((*removed, *over), beside)


class MakeCodes(UserCommand, frozen=True, kw_only=True):
    """Replace one's recovery codes by these; ``mail`` says so."""

    event: RecoveryCodesMade
    session_id: UUID
    codes: frozenset[bytes]
    mail: Mail | None = None

    @property
    def prepared(self) -> RecoveryCodesMade:
        return self.event

    def needs(self) -> Iterator[Need]:
        yield from super().needs()
        yield CodesOf(self.event.subject_id)
        yield SessionsOf(self.event.subject_id)

    def decide_permitted(self, world: World) -> Decision:
        subject_id = self.event.subject_id
        if not _entitled(world, subject_id, self.session_id).factors:
            raise Conflict("Recovery codes stand in for a factor: enrol one first.")
        return Decision((self.event,), (NewCodes(subject_id, self.codes), *mailed(self.mail)))


def _after_the_last(subject_id: UUID) -> list[Beside]:
    """What follows when a user has no factor any more: the password is enough again."""
    return [NewCodes(subject_id, frozenset()), Guard(subject_id, None)]


def _codes_made(cause: UserEvent, count: int, index: int) -> RecoveryCodesMade:
    return RecoveryCodesMade(
        event_id=derived_event_id(cause.event_id, index),
        occurred_at=cause.occurred_at,
        subject_id=cause.subject_id,
        count=count,
    )


def _entitled(world: World, subject_id: UUID, session_id: UUID) -> User:
    """The user, in whose session it is done.

    Raises NotAuthenticated, Forbidden for a machine's token, FactorLoginRequired.
    """
    session = world.of(Sessions).find(subject_id, session_id)
    user = world.of(Users).there(subject_id)
    if session is None or session.expires_at <= world.now or user is None or user.disabled:
        raise NotAuthenticated()
    if session.is_token:
        raise Forbidden("A machine's token changes no factors.")
    if user.factors and BY_FACTORS not in session.amr:
        raise FactorLoginRequired("You have a second factor: log in again, with it.")
    return user


def _with_others_ended(
    world: World,
    events: list[UserEvent],
    beside: list[Beside],
    command: EnrolFactor | RemoveFactor,
) -> Decision:
    """These, the mail that tells, and the end of the user's other sessions if they are to end."""
    cause, over = events[0], tuple[Event, ...]()
    if command.end_others:
        others = [
            s for s in world.of(Sessions).of(cause.subject_id) if s.session_id != command.session_id
        ]
        over = ended_by(cause, others, "credential_changed", len(events), world.now)
    return Decision((*events, *over), (*beside, *mailed(command.mail)))
