"""What is asked of somebody between password and factor: a challenge, and what may answer it."""

from __future__ import annotations

import asyncio
from uuid import UUID

from gatelog.accounts.rules.challenges import Purpose, new_challenge
from gatelog.accounts.rules.enrolling import Ask
from gatelog.accounts.rules.factor_secrets import FactorSecret, open_secret
from gatelog.accounts.rules.proving import Means
from gatelog.accounts.service.acting import Act, Acting
from gatelog.accounts.service.passkeys import Passkeys
from gatelog.accounts.store.factors import FactorStore, StoredFactor
from gatelog.accounts.store.users import Credential
from gatelog.clock import new_event_id
from gatelog.errors import FactorRequired, KeysUnavailable
from gatelog.privacy.service.personal import PersonalData
from gatelog.sessions.rules.tokens import token_digest
from gatelog.sessions.service.tokens import new_token


class Asking:
    """Asks for factors, and knows which ones there are."""

    def __init__(
        self, *, store: FactorStore, personal: PersonalData, acting: Acting, passkeys: Passkeys
    ) -> None:
        self.store = store
        self.passkeys = passkeys
        self._personal = personal
        self._acting = acting

    async def after_password(self, credential: Credential, try_id: UUID) -> FactorRequired:
        """Ask who knows the password; what the caller has to raise.

        Raises InvalidCredentials where the credential has changed meanwhile.
        """
        factors = await self.opened(credential.subject_id)
        challenge = new_token()
        command = self._ask(
            challenge, credential.subject_id, credential.credential_version, try_id=try_id
        )
        await self._acting.record(Act(command))
        kinds = {factor.kind for factor, _ in factors}
        keys = [secret for factor, secret in factors if factor.kind == "passkey"]
        asks_key = bool(keys) and self.passkeys.on
        means: list[Means] = ["totp"] if "totp" in kinds else []
        if asks_key:
            means.append("passkey")
        if await self.store.codes_left(credential.subject_id):
            means.append("recovery_code")
        options = None
        if asks_key:
            options = await asyncio.to_thread(self.passkeys.request_options, challenge, keys)
        return FactorRequired(
            challenge,
            expires_at=command.challenge.expires_at,
            means=tuple(means),
            passkey=options,
        )

    async def within(
        self, subject_id: UUID, session_id: UUID, credential_version: int, purpose: Purpose
    ) -> tuple[str, Ask]:
        """Ask who has this session to confirm a new factor: the challenge, and what was recorded.

        Raises NotAuthenticated where the session is over, InvalidCredentials where the credential
        has changed meanwhile.
        """
        challenge = new_token()
        command = self._ask(
            challenge, subject_id, credential_version, purpose, session_id=session_id
        )
        await self._acting.record(Act(command))
        return challenge, command

    def _ask(
        self,
        challenge: str,
        subject_id: UUID,
        credential_version: int,
        purpose: Purpose = "login",
        *,
        session_id: UUID | None = None,
        try_id: UUID | None = None,
    ) -> Ask:
        asked = new_challenge(
            token_digest(challenge),
            subject_id,
            purpose,
            credential_version=credential_version,
            now=self._acting.now(),
            session_id=session_id,
        )
        return Ask(event_id=new_event_id(), challenge=asked, try_id=try_id)

    async def opened(self, subject_id: UUID) -> list[tuple[StoredFactor, FactorSecret]]:
        """The user's factors with their secrets, oldest first. Raises KeysUnavailable."""
        factors = await self.store.of_user(subject_id)
        if not factors:
            return []
        key = await self._personal.key_of(subject_id)
        return [(factor, opened(factor, key)) for factor in factors]

    async def opened_one(self, factor: StoredFactor) -> FactorSecret:
        """The secret of a factor. Raises KeysUnavailable."""
        return opened(factor, await self._personal.key_of(factor.subject_id))

    async def sweep(self) -> None:
        """Forget challenges that are over. Many may call it."""
        await self.store.sweep(self._acting.now())


def opened(factor: StoredFactor, key: bytes | None) -> FactorSecret:
    """The factor's secret, by its user's key. Raises KeysUnavailable where that does not fit."""
    secret = open_secret(factor.sealed, key, factor.factor_id) if key is not None else None
    if secret is None:
        raise KeysUnavailable("A factor does not open with its user's key.")
    return secret
