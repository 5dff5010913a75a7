"""Failed logins, each an event: of whom, why, from where, and what they count for."""

from __future__ import annotations

from uuid import UUID

from gatelog.accounts.rules.events import FailureReason, LoginFailed
from gatelog.accounts.rules.login import RecordLoginFailure
from gatelog.accounts.service.acting import Act, Acting, who
from gatelog.accounts.service.throttling import Throttle
from gatelog.accounts.store.users import Credential
from gatelog.clock import new_event_id
from gatelog.privacy.rules import Client
from gatelog.privacy.service.personal import PersonalData


class Failures:
    """Records them."""

    def __init__(self, *, personal: PersonalData, acting: Acting, throttle: Throttle) -> None:
        self._personal = personal
        self._acting = acting
        self._throttle = throttle

    async def of_user(
        self,
        credential: Credential,
        reason: FailureReason,
        client: Client,
        try_id: UUID,
        *,
        counts: bool = True,
        challenge: bytes | None = None,
    ) -> None:
        """The failure of a user; ``counts``: as one of those in a row. ``challenge``: what was
        answered wrongly."""
        event = LoginFailed(
            event_id=new_event_id(),
            occurred_at=self._acting.now(),
            subject_id=credential.subject_id,
            reason=reason,
        )
        personal = who(credential.login, client)
        command = RecordLoginFailure(
            event=self._personal.sealed(event, personal, credential.key),
            try_id=try_id,
            most_failures=self._throttle.limits.failures if counts else None,
            challenge=challenge,
        )
        await self._record(command, client, credential.login)

    async def of_nobody(
        self, reason: FailureReason, login: str | None, client: Client, try_id: UUID
    ) -> None:
        """The failure of somebody of whom nothing is known but what they typed."""
        event = LoginFailed(event_id=new_event_id(), occurred_at=self._acting.now(), reason=reason)
        personal = who(login, client)
        sealed = await self._personal.sealed_for_nobody(event, personal)
        await self._record(RecordLoginFailure(event=sealed, try_id=try_id), client, login)

    async def _record(self, command: RecordLoginFailure, client: Client, login: str | None) -> None:
        origin = await self._personal.origin_of(client, login)
        await self._acting.record(Act(command, origin))
