"""Second factors, recovery codes and challenges as kinds of state, and what is read of them
outside of a batch.

Their secrets do not follow from the log, so ``check`` holds against it how many factors a user has.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec

from gatelog.accounts.rules.challenges import (
    MOST_OF_A_USER,
    Challenge,
    ChallengeOf,
    Challenges,
)
from gatelog.accounts.rules.events import FactorKind
from gatelog.accounts.rules.factors import (
    CodesOf,
    CredentialIs,
    Factor,
    Factors,
    FactorsOf,
    RecoveryCodes,
)
from gatelog.accounts.store import sql
from gatelog.log.store.database import Database
from gatelog.log.store.kinds import Kind, Read, Write

SWEPT_AT_ONCE = 5_000  # rows, in one transaction
KEPT_S = 3_600  # after a challenge is over: whatever the clocks of hosts, no answer comes twice


class StoredFactor(msgspec.Struct, frozen=True):
    """A factor with its secrets, as it is stored."""

    factor_id: UUID
    subject_id: UUID
    kind: FactorKind
    enrolled_at: datetime
    used_at: datetime | None
    counter: int
    sealed: bytes


def _enter_factors(state: Factors, rows: Sequence[Sequence[Any]]) -> None:
    for factor_id, subject_id, kind, counter in rows:
        state.add(Factor(factor_id=factor_id, subject_id=subject_id, kind=kind, counter=counter))


def _enter_credentials(state: Factors, digests: Sequence[bytes]) -> None:
    state.credentials.update(digests)


def _enter_codes(state: RecoveryCodes, rows: Sequence[Sequence[Any]]) -> None:
    for subject_id, digest in rows:
        state.add(subject_id, digest)


def _enter_challenges(state: Challenges, rows: Sequence[Sequence[Any]]) -> None:
    for row in rows:
        state.add(_challenge(row))


def _challenge(row: Sequence[Any]) -> Challenge:
    digest, subject_id, purpose, session_id, version, expires_at, wrong, answered = row
    return Challenge(
        digest=digest,
        subject_id=subject_id,
        purpose=purpose,
        session_id=session_id,
        credential_version=version,
        expires_at=expires_at,
        wrong=wrong,
        answered=answered,
    )


def _new_factors(state: Factors) -> tuple[Sequence[object], ...]:
    new = state.new.values()
    return (
        [one.factor_id for one in new],
        [one.subject_id for one in new],
        [one.kind for one in new],
        [one.enrolled_at for one in new],
        [one.counter for one in new],
        [one.credential_digest for one in new],
        [one.sealed for one in new],
    )


def _new_challenges(state: Challenges) -> tuple[Sequence[object], ...]:
    new = state.new.values()
    return (
        [one.digest for one in new],
        [one.subject_id for one in new],
        [one.purpose for one in new],
        [one.session_id for one in new],
        [one.credential_version for one in new],
        [one.expires_at for one in new],
        [one.wrong for one in new],
        [one.answered for one in new],
    )


def _new_codes(state: RecoveryCodes) -> tuple[Sequence[object], ...]:
    rows = [(owner, digest) for owner, digests in state.replaced.items() for digest in digests]
    return [owner for owner, _ in rows], [digest for _, digest in rows]


FACTORS = Kind(
    state=Factors,
    reads=(
        Read(
            need=FactorsOf,
            expression=sql.FACTORS,
            arguments=lambda needs: (list({need.subject_id for need in needs}),),
            enter=_enter_factors,
        ),
        Read(
            need=CredentialIs,
            expression=sql.ENROLLED,
            arguments=lambda needs: (list({need.credential_digest for need in needs}),),
            enter=_enter_credentials,
        ),
    ),
    writes=(
        Write(
            name="factors_removed",
            statement=sql.REMOVE_FACTORS,
            arguments=lambda state: (state.removed,),
            before=True,
        ),
        Write(name="factors_new", statement=sql.INSERT_FACTORS, arguments=_new_factors),
        Write(
            name="factors_used",
            statement=sql.USE_FACTORS,
            arguments=lambda state: (
                list(state.used),
                [counter for counter, _ in state.used.values()],
                [at for _, at in state.used.values()],
            ),
        ),
    ),
    faults=(sql.WRONG_FACTORS,),
)

RECOVERY_CODES = Kind(
    state=RecoveryCodes,
    reads=(
        Read(
            need=CodesOf,
            expression=sql.CODES,
            arguments=lambda needs: (list({need.subject_id for need in needs}),),
            enter=_enter_codes,
        ),
    ),
    writes=(
        Write(
            name="codes_forgotten",
            statement=sql.FORGET_CODES,
            arguments=lambda state: (list(state.replaced),),
            before=True,
        ),
        Write(name="codes_new", statement=sql.INSERT_CODES, arguments=_new_codes),
        Write(
            name="codes_used",
            statement=sql.USE_CODES,
            arguments=lambda state: (
                [owner for owner, _ in state.used],
                [digest for _, digest in state.used],
            ),
        ),
    ),
)

CHALLENGES = Kind(
    state=Challenges,
    reads=(
        Read(
            need=ChallengeOf,
            expression=sql.CHALLENGES,
            arguments=lambda needs: (list({need.digest for need in needs}),),
            enter=_enter_challenges,
        ),
    ),
    writes=(
        Write(
            name="challenges_used",
            statement=sql.USE_CHALLENGES,
            arguments=lambda state: (state.used,),
            before=True,
        ),
        Write(
            name="challenges_crowded_out",
            statement=sql.CROWD_OUT_CHALLENGES.replace("{1}", str(MOST_OF_A_USER - 1)),
            arguments=lambda state: (
                list({one.subject_id for one in state.new.values() if not one.answered}),
            ),
            before=True,
        ),
        Write(name="challenges_new", statement=sql.INSERT_CHALLENGES, arguments=_new_challenges),
        Write(
            name="challenges_answered_wrongly",
            statement=sql.ANSWER_WRONGLY,
            arguments=lambda state: (list(state.wrong), list(state.wrong.values())),
        ),
    ),
)


class FactorStore:
    """What is read and swept of factors and challenges outside of a batch."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def of_user(self, subject_id: UUID) -> list[StoredFactor]:
        """The user's factors, oldest first."""
        async with self._database.acquire() as connection:
            rows = await connection.fetch(sql.READ_FACTORS, subject_id)
        return [StoredFactor(*row) for row in rows]

    async def passkey(self, credential_digest: bytes) -> StoredFactor | None:
        """The passkey with this credential id, whose ever it is."""
        async with self._database.acquire() as connection:
            row = await connection.fetchrow(sql.FIND_PASSKEY, credential_digest)
        return StoredFactor(*row) if row is not None else None

    async def codes_left(self, subject_id: UUID) -> int:
        """How many recovery codes the user has."""
        async with self._database.acquire() as connection:
            count: int = await connection.fetchval(sql.COUNT_CODES, subject_id)
        return count

    async def challenge(self, digest: bytes) -> Challenge | None:
        """The challenge with this digest, over or not."""
        async with self._database.acquire() as connection:
            row = await connection.fetchrow(sql.READ_CHALLENGE, digest)
        return _challenge(tuple(row)) if row is not None else None

    async def sweep(self, now: datetime) -> None:
        """Forget challenges that are over. Many may call it."""
        before = now - timedelta(seconds=KEPT_S)
        async with self._database.acquire() as connection:
            while (
                await connection.execute(sql.SWEEP_CHALLENGES, before, SWEPT_AT_ONCE) != "DELETE 0"
            ):
                pass
