"""The tokens that users make for machines: creating, listing and ending them.

A token is a session in all but how it began: checked in the same way, ended in the same way, and
its end waited for by the same barrier.
"""

from __future__ import annotations

from datetime import date, timedelta
from uuid import UUID

import msgspec

from gatelog.accounts.rules.names import normalise_name
from gatelog.accounts.rules.tokens import MAX_LIFETIME_S, CreateToken
from gatelog.accounts.service.acting import Act, Acting, Ended
from gatelog.accounts.service.sessions import UserSessions
from gatelog.accounts.store.users import Users
from gatelog.clock import new_event_id, new_random_id
from gatelog.config import Config
from gatelog.errors import InvalidInput, NotAuthenticated
from gatelog.privacy.rules import UNKNOWN_CLIENT, Client, Personal
from gatelog.privacy.service.personal import PersonalData
from gatelog.sessions.rules.events import TokenCreated
from gatelog.sessions.rules.record import Session
from gatelog.sessions.rules.state import ActiveSession, PutSession, evolve
from gatelog.sessions.rules.tokens import token_digest
from gatelog.sessions.service.tokens import new_machine_token


class CreatedToken(msgspec.Struct, frozen=True):
    """A fresh token, whose text exists nowhere else, and what is known of it."""

    token: str
    session: ActiveSession
    name: str
    position: int


class DescribedToken(msgspec.Struct, frozen=True):
    """A token as its user sees it; ``name``: None where it cannot be read any more."""

    session: ActiveSession
    name: str | None

    @property
    def last_used_on(self) -> date | None:
        """The day (UTC) on which it was used last, as far as that is recorded; None: never."""
        return last_used_on(self.session)


def last_used_on(token: ActiveSession) -> date | None:
    """The day (UTC) on which a token was used last; None: never."""
    return token.used_at.date() if token.used_at is not None else None


class Tokens:
    """The use cases of tokens."""

    def __init__(
        self,
        config: Config,
        *,
        users: Users,
        sessions: UserSessions,
        personal: PersonalData,
        acting: Acting,
    ) -> None:
        self._max_tokens = config.max_tokens_per_user
        self._users = users
        self._sessions = sessions
        self._personal = personal
        self._acting = acting

    async def create(
        self,
        by: Session,
        name: str,
        lifetime_s: int,
        roles: tuple[str, ...] = (),
        client: Client = UNKNOWN_CLIENT,
    ) -> CreatedToken:
        """Create a token with roles of the session ``by``, for ``lifetime_s`` seconds.

        Raises InvalidInput, Forbidden for a role that the session does not have, TooManyTokens,
        TokenNotAllowed, NotAuthenticated when the session has ended, KeysUnavailable.
        """
        kept = normalise_name(name)
        if not 1 <= lifetime_s <= MAX_LIFETIME_S:
            raise InvalidInput(f"A token lives for 1 to {MAX_LIFETIME_S} seconds.")
        credential = await self._users.by_id(by.subject_id)
        if credential is None:
            raise NotAuthenticated()
        token, now = new_machine_token(), self._acting.now()
        event = TokenCreated(
            event_id=new_event_id(),
            occurred_at=now,
            subject_id=by.subject_id,
            session_id=new_random_id(),
            token_digest=token_digest(token),
            expires_at=now + timedelta(seconds=lifetime_s),
            roles=tuple(sorted({*roles})),
        )
        known = Personal(credential.login, client.address, client.agent, name=kept)
        event = self._personal.sealed(event, known, credential.key)
        command = CreateToken(event=event, by=by.session_id, max_tokens=self._max_tokens)
        origin = await self._personal.origin_of(client, credential.login)
        recorded = await self._acting.start(Act(command, origin))
        session = _created(recorded.events[0])
        # Beside the event, because a token may outlive the part of the log that has it.
        await self._sessions.keep_name(session, kept)
        return CreatedToken(token, session, kept, recorded.position)

    async def of_user(self, subject_id: UUID) -> list[DescribedToken]:
        """The user's tokens that have not expired, oldest first. For that person's own eyes."""
        described = await self._sessions.described(subject_id, tokens=True)
        return [DescribedToken(each.session, each.name) for each in described]

    async def listed(self, subject_id: UUID) -> list[ActiveSession]:
        """The same without their names, for administrators and operators. Raises NotFound."""
        return await self._sessions.sessions_of(subject_id, tokens=True)

    async def end(self, session: Session, token_id: UUID, client: Client = UNKNOWN_CLIENT) -> Ended:
        """End one token of the same user. Raises NotFound for what is not theirs."""
        return await self._sessions.end_session(session, token_id, client, token=True)


def _created(event: object) -> ActiveSession:
    if isinstance(event, TokenCreated):
        for change in evolve(event):
            if isinstance(change, PutSession):
                return change.session
    raise AssertionError("a token that is none")
