"""What proves that somebody has a factor, and what becomes of it: decided once, for all hosts.

A host has looked at the answer by then: the code is that of a step, the signature is right. What
only the lock of the log's head can tell is decided here: that the challenge still waits, that the
factor is still enrolled, and that the same answer has not been taken before.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Literal
from uuid import UUID

import msgspec

from gatelog.accounts.rules.challenges import (
    Challenge,
    ChallengeOf,
    Challenges,
    ChallengeUsed,
    NewChallenge,
    refuse_unless_open,
)
from gatelog.accounts.rules.events import RecoveryCodeUsed
from gatelog.accounts.rules.factors import (
    CodesOf,
    CodeUsed,
    Factor,
    Factors,
    FactorsOf,
    FactorUsed,
    RecoveryCodes,
)
from gatelog.accounts.rules.users import User
from gatelog.errors import AnswerRefused, ChallengeOver
from gatelog.log.rules.kinds import Beside, Need, World

BY_FACTORS = "mfa"  # of a session's methods: more than one factor (RFC 8176, section 2)
Means = Literal["totp", "passkey", "recovery_code"]


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """An answer that is right as far as its host can tell.

    ``counter``: the code's time step, or the passkey's signature counter. ``alone``: the passkey
    came in the place of the password; ``expires_at`` is when its challenge is over.
    """

    challenge: bytes
    means: Means
    factor_id: UUID | None = None
    counter: int = 0
    code_digest: bytes = b""
    alone: bool = False
    expires_at: datetime | None = None

    def needs(self, subject_id: UUID) -> Iterator[Need]:
        """What it is decided on."""
        yield ChallengeOf(self.challenge)
        yield CodesOf(subject_id) if self.means == "recovery_code" else FactorsOf(subject_id)


class Proven(msgspec.Struct, frozen=True):
    """What follows: the number of recovery codes that are left, where one was used; and what is
    written beside the log."""

    codes_left: int | None
    beside: tuple[Beside, ...]


def prove(world: World, user: User, proof: Proof, at: datetime) -> Proven:
    """What follows from this proof.

    Raises ChallengeOver, or AnswerRefused for an answer that was taken before, or whose factor is
    not enrolled any more.
    """
    challenge = _used_up(world, user, proof)
    if proof.means == "recovery_code":
        codes = world.of(RecoveryCodes).of(user.subject_id)
        if proof.code_digest not in codes:
            raise AnswerRefused()
        return Proven(len(codes) - 1, (challenge, CodeUsed(user.subject_id, proof.code_digest)))
    factor = world.of(Factors).find(proof.factor_id) if proof.factor_id is not None else None
    if factor is None or factor.subject_id != user.subject_id or not _is_new(factor, proof):
        raise AnswerRefused()
    return Proven(None, (challenge, FactorUsed(factor.factor_id, proof.counter, at)))


def _used_up(world: World, user: User, proof: Proof) -> Beside:
    """That its challenge is answered. Raises ChallengeOver."""
    if not proof.alone:
        refuse_unless_open(
            world,
            proof.challenge,
            subject_id=user.subject_id,
            purpose="login",
            credential_version=user.credential_version,
        )
        return ChallengeUsed(proof.challenge)
    answered = world.of(Challenges).find(proof.challenge)
    if answered is not None or proof.expires_at is None or proof.expires_at <= world.now:
        raise ChallengeOver()
    return NewChallenge(
        Challenge(
            digest=proof.challenge,
            subject_id=user.subject_id,
            purpose="passkey_login",
            credential_version=user.credential_version,
            expires_at=proof.expires_at,
            answered=True,
        )
    )


def _is_new(factor: Factor, proof: Proof) -> bool:
    """Whether this factor has not been used for that before."""
    if factor.kind != proof.means:
        return False
    if factor.kind == "passkey" and factor.counter == 0 == proof.counter:
        return True  # the authenticator keeps no counter
    return proof.counter > factor.counter


def used_code(
    event_id: UUID, occurred_at: datetime, subject_id: UUID, codes_left: int
) -> RecoveryCodeUsed:
    """That a recovery code was used."""
    return RecoveryCodeUsed(
        event_id=event_id, occurred_at=occurred_at, subject_id=subject_id, count=codes_left
    )
