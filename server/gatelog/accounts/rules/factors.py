"""Second factors as state: what is enrolled, how far it has been used, and recovery codes.

That a factor is enrolled follows from the log (``Users`` count them); its secrets and its counter
do not, and stand beside it. Rules:

- ``counter`` only grows. Of a TOTP seed it is the time step of the last code that was taken, so
  that no code is taken twice (RFC 6238, section 5.2); of a passkey its signature counter, which
  tells of a copy where the authenticator keeps one (WebAuthn level 2, section 6.1.1).
- Recovery codes are there as long as there is a factor whose place they can take.
- All of it goes with the user.
"""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import msgspec

from gatelog.accounts.rules.events import FactorKind, FactorRemoved
from gatelog.log.rules.events import Event
from gatelog.log.rules.kinds import Beside, Need, State, Trace, World
from gatelog.privacy.rules import UserErased

MOST_FACTORS = 10  # of a user
RECOVERY_CODES = 10


class Factor(msgspec.Struct, frozen=True, kw_only=True):
    """An enrolled factor, as a command is decided on it."""

    factor_id: UUID
    subject_id: UUID
    kind: FactorKind
    counter: int


class FactorsOf(Need, frozen=True):
    """The factors of a user."""

    subject_id: UUID


class CodesOf(Need, frozen=True):
    """The recovery codes of a user."""

    subject_id: UUID


class CredentialIs(Need, frozen=True):
    """Whether a passkey with this credential id, by its SHA-256, is enrolled with anybody."""

    credential_digest: bytes


class NewFactor(Beside, frozen=True, kw_only=True):
    """A factor with its secrets; ``counter``: what it has been used for, enrolling it."""

    factor_id: UUID
    subject_id: UUID
    kind: FactorKind
    enrolled_at: datetime
    counter: int
    sealed: bytes
    credential_digest: bytes | None = None

    def enter(self, world: World) -> None:
        world.of(Factors).enrol(self)


class Factors(State):
    """Factors of some users, and what a batch changes of them."""

    concerns = (FactorRemoved, UserErased)

    def __init__(self) -> None:
        self.new: dict[UUID, NewFactor] = {}
        self.removed: list[UUID] = []
        self.used: dict[UUID, tuple[int, datetime]] = {}
        self.credentials: set[bytes] = set()
        self._known: dict[UUID, Factor] = {}

    def add(self, factor: Factor) -> None:
        """Take in a factor as it is."""
        self._known[factor.factor_id] = factor

    def find(self, factor_id: UUID) -> Factor | None:
        return self._known.get(factor_id)

    def of(self, subject_id: UUID) -> list[Factor]:
        return [factor for factor in self._known.values() if factor.subject_id == subject_id]

    def enrol(self, new: NewFactor) -> None:
        self.new[new.factor_id] = new
        self.add(
            Factor(
                factor_id=new.factor_id,
                subject_id=new.subject_id,
                kind=new.kind,
                counter=new.counter,
            )
        )
        if new.credential_digest is not None:
            self.credentials.add(new.credential_digest)

    def use(self, factor_id: UUID, counter: int, at: datetime) -> None:
        """It was used, and its counter is this from now on."""
        self._known[factor_id] = msgspec.structs.replace(self._known[factor_id], counter=counter)
        if factor_id in self.new:
            self.new[factor_id] = msgspec.structs.replace(self.new[factor_id], counter=counter)
        else:
            self.used[factor_id] = counter, at

    def apply(self, event: Event, position: int, trace: Trace | None) -> None:
        if isinstance(event, FactorRemoved):
            self.removed.append(event.factor_id)
            self._forget(event.factor_id)
        elif event.subject_id is not None:  # erased: what there was goes with the credential
            for factor in self.of(event.subject_id):
                self._forget(factor.factor_id)

    def _forget(self, factor_id: UUID) -> None:
        self._known.pop(factor_id, None)
        self.new.pop(factor_id, None)
        self.used.pop(factor_id, None)


class FactorUsed(Beside, frozen=True):
    """A factor that has just opened something."""

    factor_id: UUID
    counter: int
    at: datetime

    def enter(self, world: World) -> None:
        world.of(Factors).use(self.factor_id, self.counter, self.at)


class RecoveryCodes(State):
    """Recovery codes of some users, by their SHA-256, and what a batch changes of them."""

    concerns = (UserErased,)

    def __init__(self) -> None:
        self.replaced: dict[UUID, frozenset[bytes]] = {}
        self.used: list[tuple[UUID, bytes]] = []
        self._known: dict[UUID, set[bytes]] = {}

    def add(self, subject_id: UUID, digest: bytes) -> None:
        """Take in a code as it is."""
        self._known.setdefault(subject_id, set()).add(digest)

    def of(self, subject_id: UUID) -> frozenset[bytes]:
        return frozenset(self._known.get(subject_id, ()))

    def replace(self, subject_id: UUID, digests: frozenset[bytes]) -> None:
        """These are the user's codes from now on, and no others."""
        self.replaced[subject_id] = digests
        self._known[subject_id] = set(digests)
        self.used = [(owner, digest) for owner, digest in self.used if owner != subject_id]

    def use(self, subject_id: UUID, digest: bytes) -> None:
        """This one is used up."""
        self._known[subject_id].discard(digest)
        if subject_id in self.replaced:
            self.replaced[subject_id] -= {digest}
        else:
            self.used.append((subject_id, digest))

    def apply(self, event: Event, position: int, trace: Trace | None) -> None:
        if event.subject_id is not None:
            self.replaced.pop(event.subject_id, None)
            self._known.pop(event.subject_id, None)
            self.used = [one for one in self.used if one[0] != event.subject_id]


class NewCodes(Beside, frozen=True):
    """A user's recovery codes; none: there are none any more."""

    subject_id: UUID
    digests: frozenset[bytes]

    def enter(self, world: World) -> None:
        world.of(RecoveryCodes).replace(self.subject_id, self.digests)


class CodeUsed(Beside, frozen=True):
    """A recovery code that has just opened something."""

    subject_id: UUID
    digest: bytes

    def enter(self, world: World) -> None:
        world.of(RecoveryCodes).use(self.subject_id, self.digest)
