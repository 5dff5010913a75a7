"""Recording events of the operator's own types (``app.…``), as composed endpoints do.

Rules:

- It is an event of the user whose session is presented, and of nobody else; the session is active
  when it is appended, so nothing is recorded of who is erased.
- Fields that are personal are sealed under the user's key, with the address and the agent.
- A user is recorded at most so often in an hour under one name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from gatelog.accounts.service.acting import Act, Acting
from gatelog.clock import new_event_id
from gatelog.composer.rules.events import AppRecorded
from gatelog.composer.rules.state import RecordApp
from gatelog.errors import NotAuthenticated
from gatelog.privacy.rules import Client, Personal
from gatelog.privacy.service.personal import PersonalData
from gatelog.sessions.rules.record import Session


class Recorder:
    """Appends events of the operator's own types."""

    def __init__(self, *, acting: Acting, personal: PersonalData) -> None:
        self._acting = acting
        self._personal = personal

    async def record(
        self,
        name: str,
        session: Session,
        token_digest: bytes,
        client: Client,
        *,
        open_fields: Mapping[str, Any],
        personal_fields: Mapping[str, Any],
        per_hour: int,
    ) -> int:
        """Append one; returns its position.

        Raises NotAuthenticated where the session is over, TooManyRecords, Unavailable.
        """
        key = await self._personal.wrapped_key_of(session.subject_id)
        if key is None:
            raise NotAuthenticated("The session has just ended.")
        event = AppRecorded(
            event_id=new_event_id(),
            occurred_at=self._acting.now(),
            subject_id=session.subject_id,
            session_id=session.session_id,
            name=name,
            data=msgspec.json.encode(dict(open_fields)).decode(),
        )
        more = tuple(personal_fields.items()) or None
        personal = Personal(None, client.address, client.agent, more=more)
        event = self._personal.sealed(event, personal, key)
        command = RecordApp(event=event, token_digest=token_digest, per_hour=per_hour)
        origin = await self._personal.origin_of(client)
        return (await self._acting.record(Act(command, origin))).position
