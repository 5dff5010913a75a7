"""The second step of a login, a passkey in the place of the password, and what comes of both.

Rules:

- An answer is a try like a password: admitted before it is looked at, a failure until it is right,
  and one of the failures in a row if it is wrong. A right password alone takes no try back.
- Too many failures in a row lock what can be guessed, and no passkey that comes alone: strangers
  who try passwords do not lock out who needs none. It is admitted like all else.
- What is wrong is told alike: a wrong code, one that was taken before, a passkey of somebody else.
- Whether an answer was taken before is decided under the lock of the log's head.
"""

from __future__ import annotations

import asyncio
import hmac
import os
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from gatelog.accounts.rules.challenges import LIFETIME_S
from gatelog.accounts.rules.events import FailureReason
from gatelog.accounts.rules.factor_secrets import FactorSecret, code_digest
from gatelog.accounts.rules.proving import Proof
from gatelog.accounts.rules.totp import matching_step
from gatelog.accounts.service.acting import Acting
from gatelog.accounts.service.asking import Asking
from gatelog.accounts.service.failures import Failures
from gatelog.accounts.service.grants import Grant
from gatelog.accounts.service.logins import Logins
from gatelog.accounts.service.passkeys import (
    Answer,
    credential_digest,
    credential_id_of,
    user_of,
)
from gatelog.accounts.service.throttling import Approach, Throttle
from gatelog.accounts.store.factors import StoredFactor
from gatelog.accounts.store.users import Credential, Users
from gatelog.errors import AnswerRefused, ChallengeOver
from gatelog.privacy.rules import UNKNOWN_CLIENT, Client
from gatelog.privacy.service.personal import PersonalData
from gatelog.sessions.rules.tokens import is_well_formed, token_digest

_NONCE_BYTES = 16
_STAMP_BYTES = 8  # whole seconds since 1970, big-endian
_SEAL_PURPOSE = "passkey challenge"


class FactorAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody gives for a factor: one of these."""

    code: str | None = None
    recovery_code: str | None = None
    passkey: Answer | None = None


class Asked(msgspec.Struct, frozen=True):
    """What a browser is asked for in the place of a password, and until when (UTC)."""

    challenge: str
    expires_at: datetime
    public_key: dict[str, Any]


class _Shown(msgspec.Struct, frozen=True):
    """What an answer has shown, as far as this host can tell; no ``proof``: it is wrong."""

    proof: Proof | None
    amr: tuple[str, ...]
    reason: FailureReason


class SecondSteps:
    """The use cases of who shows a factor to log in."""

    def __init__(
        self,
        *,
        logins: Logins,
        failures: Failures,
        asking: Asking,
        users: Users,
        personal: PersonalData,
        acting: Acting,
        throttle: Throttle,
    ) -> None:
        self._logins = logins
        self._failures = failures
        self._asking = asking
        self._users = users
        self._personal = personal
        self._acting = acting
        self._throttle = throttle

    # --- after the password

    async def log_in(
        self,
        challenge: str,
        answer: FactorAnswer,
        client: Client = UNKNOWN_CLIENT,
        devices: Sequence[str] | None = None,
        *,
        over: bytes | None = None,
    ) -> Grant:
        """Start the session of who answers what was asked after the password.

        ``devices`` and ``over``: see ``Logins.log_in``. Raises ChallengeOver, AnswerRefused,
        TooManyAttempts, TooManySessions, PasskeysOff.
        """
        digest = token_digest(challenge) if is_well_formed(challenge) else b""
        asked = await self._asking.store.challenge(digest) if digest else None
        if (
            asked is None
            or asked.purpose != "login"
            or asked.answered
            or asked.expires_at <= self._acting.now()
        ):
            raise ChallengeOver()
        credential = await self._users.by_id(asked.subject_id)
        if credential is None or credential.credential_version != asked.credential_version:
            raise ChallengeOver()
        if answer.passkey is not None:
            self._asking.passkeys.refuse_if_off()
        return await self._answered(
            challenge, credential, answer, client, devices=devices, over=over
        )

    # --- in the place of the password

    async def ask_for_passkey(self) -> Asked:
        """What any browser may be asked for. Nothing is kept of it. Raises PasskeysOff."""
        self._asking.passkeys.refuse_if_off()
        expires_s = int(self._acting.now().timestamp()) + LIFETIME_S
        stamp = expires_s.to_bytes(_STAMP_BYTES, "big") + os.urandom(_NONCE_BYTES)
        challenge = stamp.hex() + (await self._seal(stamp)).hex()
        options = await asyncio.to_thread(self._asking.passkeys.request_options, challenge)
        expires_at = datetime.fromtimestamp(expires_s, self._acting.now().tzinfo)
        return Asked(challenge, expires_at, options)

    async def log_in_by_passkey(
        self,
        challenge: str,
        passkey: Answer,
        client: Client = UNKNOWN_CLIENT,
        devices: Sequence[str] | None = None,
        *,
        over: bytes | None = None,
    ) -> Grant:
        """Start the session of whose passkey answers, and who was seen by it.

        ``devices`` and ``over``: see ``Logins.log_in``. Raises ChallengeOver, AnswerRefused,
        TooManyAttempts, TooManySessions, PasskeysOff.
        """
        self._asking.passkeys.refuse_if_off()
        expires_at = await self._expiry_of(challenge)
        digest = credential_digest(credential_id_of(passkey))
        factor = await self._asking.store.passkey(digest)
        credential = await self._users.by_id(factor.subject_id) if factor is not None else None
        if credential is None:
            await self._record_unknown(digest, client)
            raise AnswerRefused()
        answer = FactorAnswer(passkey=passkey)
        return await self._answered(
            challenge,
            credential,
            answer,
            client,
            devices=devices,
            over=over,
            alone_until=expires_at,
        )

    async def _seal(self, stamp: bytes) -> bytes:
        found = await self._personal.blind_indexes({_SEAL_PURPOSE: stamp.hex()})
        return found[_SEAL_PURPOSE]

    async def _expiry_of(self, challenge: str) -> datetime:
        """When a challenge of ours is over, which it is not. Raises ChallengeOver."""
        try:
            raw = bytes.fromhex(challenge)
        except ValueError:
            raise ChallengeOver() from None
        stamp, seal = raw[: _STAMP_BYTES + _NONCE_BYTES], raw[_STAMP_BYTES + _NONCE_BYTES :]
        now = self._acting.now()
        if raw.hex() != challenge or not hmac.compare_digest(seal, await self._seal(stamp)):
            raise ChallengeOver()
        expires_at = datetime.fromtimestamp(int.from_bytes(stamp[:_STAMP_BYTES], "big"), now.tzinfo)
        if expires_at <= now:
            raise ChallengeOver()
        return expires_at

    async def _record_unknown(self, digest: bytes, client: Client) -> None:
        """A passkey that nobody has is a failed try from its place."""
        # (no login name has a space in it)
        approach = await self._throttle.stranger(f"passkey {digest.hex()}", client)
        self._throttle.refuse_again(approach)
        try_id = await self._throttle.admit(approach)
        await self._failures.of_nobody("unknown_passkey", None, client, try_id)

    # --- both

    async def _answered(
        self,
        challenge: str,
        credential: Credential,
        answer: FactorAnswer,
        client: Client,
        *,
        devices: Sequence[str] | None,
        over: bytes | None,
        alone_until: datetime | None = None,
    ) -> Grant:
        """Start the session, or record the failure."""
        approach = await self._throttle.approach(credential.login, client, devices or ())
        self._throttle.refuse_again(approach)
        alone = alone_until is not None
        locked = not alone and self._throttle.is_locked(approach, credential.failures)
        try_id = await self._throttle.admit(approach, credential.subject_id, locked=locked or alone)
        shown = await self._shown(challenge, credential, answer, alone_until)
        reason = shown.reason
        if shown.proof is not None and credential.disabled:
            reason = "user_disabled"
        elif shown.proof is not None and not locked:
            try:
                return await self._logins.start(
                    credential,
                    approach,
                    keeps_tokens=devices is not None,
                    over=over,
                    proof=shown.proof,
                    amr=shown.amr,
                )
            except AnswerRefused:
                pass  # it was taken before: recorded like a wrong one
        await self._record_failure(
            credential, approach, reason, try_id, challenge, counts=not (locked or alone)
        )
        raise AnswerRefused()

    async def _record_failure(
        self,
        credential: Credential,
        approach: Approach,
        reason: FailureReason,
        try_id: UUID,
        challenge: str,
        *,
        counts: bool,
    ) -> None:
        await self._failures.of_user(
            credential,
            reason,
            approach.client,
            try_id,
            counts=counts,
            challenge=token_digest(challenge),
        )

    async def _shown(
        self,
        challenge: str,
        credential: Credential,
        answer: FactorAnswer,
        alone_until: datetime | None,
    ) -> _Shown:
        """What the answer shows. Raises KeysUnavailable."""
        digest = token_digest(challenge)
        if answer.recovery_code is not None:
            kept = code_digest(answer.recovery_code, credential.subject_id)
            proof = Proof(challenge=digest, means="recovery_code", code_digest=kept or b"")
            return _Shown(proof if kept else None, ("pwd", "mfa"), "wrong_code")
        factors = await self._asking.opened(credential.subject_id)
        if answer.code is not None:
            found = self._by_code(answer.code, factors)
            proof_of_code = found and Proof(
                challenge=digest, means="totp", factor_id=found[0], counter=found[1]
            )
            return _Shown(proof_of_code, ("pwd", "otp", "mfa"), "wrong_code")
        return await self._by_passkey(
            challenge, credential, answer.passkey or {}, factors, alone_until
        )

    def _by_code(
        self, code: str, factors: Sequence[tuple[StoredFactor, FactorSecret]]
    ) -> tuple[UUID, int] | None:
        """The seed that has this code now, and the time step."""
        now = self._acting.now()
        for factor, secret in factors:
            if (
                factor.kind == "totp"
                and (step := matching_step(secret.seed, code, now)) is not None
            ):
                return factor.factor_id, step
        return None

    async def _by_passkey(
        self,
        challenge: str,
        credential: Credential,
        answer: Answer,
        factors: Sequence[tuple[StoredFactor, FactorSecret]],
        alone_until: datetime | None,
    ) -> _Shown:
        wrong = _Shown(None, (), "wrong_passkey")
        wanted, owner = credential_id_of(answer), user_of(answer)
        alone = alone_until is not None
        # Whose it is, is said by a passkey that came alone, and may be said by another one
        # (WebAuthn, section 7.2, step 6).
        if owner != credential.subject_id.bytes and (owner or alone):
            return wrong
        for factor, secret in factors:
            if factor.kind != "passkey" or secret.credential_id != wanted:
                continue
            found = await asyncio.to_thread(
                self._asking.passkeys.asserted, challenge, answer, secret
            )
            if found is None:
                return wrong
            proof = Proof(
                challenge=token_digest(challenge),
                means="passkey",
                factor_id=factor.factor_id,
                counter=found.counter,
                alone=alone,
                expires_at=alone_until,
            )
            return _Shown(proof, found.amr if alone else ("pwd", *found.amr), wrong.reason)
        return wrong
