"""The sessions of users: listing them and ending them, by whoever may.

Rules:

- A logout, or an end of what has ended, is no error: it says that nothing ended, after the wait
  that everything has which says so.
- Who acted, and from where, is sealed into the event under the key of that person.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping
from uuid import UUID

import msgspec

from gatelog.accounts.rules.ending import EndSession, EndSessions, ExpireSessions
from gatelog.accounts.rules.names import normalise_name, open_name, seal_name
from gatelog.accounts.service.acting import (
    NO_SUCH_USER,
    SESSION_ENDED,
    Act,
    Acting,
    Actor,
    Ended,
    client_of,
)
from gatelog.accounts.service.devices import devices_of
from gatelog.accounts.store.names import SessionNames
from gatelog.accounts.store.users import Users
from gatelog.clock import new_event_id
from gatelog.errors import GatelogError, NotFound
from gatelog.privacy.rules import NONCE_BYTES, UNKNOWN_CLIENT, Client, Personal
from gatelog.privacy.service.personal import PersonalData
from gatelog.sessions.rules.events import EndReason, SessionEnded
from gatelog.sessions.rules.record import Session
from gatelog.sessions.rules.state import ActiveSession
from gatelog.sessions.store.lookup import FoundSession, SessionList, Sweep

logger = logging.getLogger(__name__)

NO_SUCH_SESSION = "There is no such session."
MAX_EXPIRED_SESSIONS = 128  # at once: half of a commit, so that others find room in it
MAX_SUBJECTS = 256  # whose sessions are ended at once


class DescribedSession(msgspec.Struct, frozen=True):
    """A session as its user sees it.

    ``address`` and ``device`` are those of the login; None where that is not known (any more).
    """

    session: ActiveSession
    name: str | None
    device: str | None
    address: str | None


def _described(
    session: ActiveSession,
    personal: Personal | None,
    devices: Mapping[str, str | None],
    names: Mapping[UUID, bytes],
    key: bytes | None,
) -> DescribedSession:
    known, sealed = personal or Personal(), names.get(session.session_id)
    name = open_name(sealed, key, session.session_id) if sealed and key else known.name
    device = devices.get(known.agent) if known.agent else None
    return DescribedSession(session, name, device, known.address)


def _is_of(found: FoundSession, session: Session, *, token: bool) -> bool:
    """Whether it is the same user's, and a token, or none."""
    there = found.session
    return there.subject_id == session.subject_id and there.is_token == token


class UserSessions:
    """The use cases of sessions."""

    def __init__(
        self,
        *,
        users: Users,
        sessions: SessionList,
        names: SessionNames,
        personal: PersonalData,
        acting: Acting,
    ) -> None:
        self._users = users
        self._names = names
        self._sessions = sessions
        self._personal = personal
        self._acting = acting

    # --- listing

    async def list_sessions(self, subject_id: UUID, *, tokens: bool = False) -> list[ActiveSession]:
        """The user's sessions, or the tokens, that have not expired, oldest first."""
        return await self._sessions.of_user(subject_id, self._acting.now(), tokens=tokens)

    async def described(self, subject_id: UUID, *, tokens: bool = False) -> list[DescribedSession]:
        """The same, with what tells a person which is which. For that person's own eyes."""
        sessions = await self.list_sessions(subject_id, tokens=tokens)
        ids = [session.session_id for session in sessions]
        starts, names = await self._names.starts(ids), await self._names.read(ids)
        opened = await self._personal.open_personal(list(starts.values()))
        personal = dict(zip(starts, opened, strict=True))
        devices = await devices_of(p.agent for p in opened if p is not None and p.agent)
        key = await self._personal.key_of(subject_id) if names else None
        return [
            _described(session, personal.get(session.session_id), devices, names, key)
            for session in sessions
        ]

    async def rename(self, session: Session, session_id: UUID, name: str | None) -> str | None:
        """Give one session of the same user a name, or none; returns it as it is kept.

        Raises NotFound for what is not theirs, InvalidInput, KeysUnavailable.
        """
        kept = normalise_name(name) if name is not None else None
        found, position = await self._sessions.by_id(session_id)
        if found is not None and _is_of(found, session, token=False):
            sealed = await self._sealed_name(session.subject_id, session_id, kept)
            if await self._names.write(session_id, sealed):
                return kept
        await self._acting.wait_for_what_ended(position)
        raise NotFound("You have no such session.")

    async def keep_name(self, session: ActiveSession, name: str) -> None:
        """Keep the name of a session that is active; whatever goes wrong, nothing is kept."""
        try:
            sealed = await self._sealed_name(session.subject_id, session.session_id, name)
            await self._names.write(session.session_id, sealed)
        except GatelogError as error:
            logger.warning("a name is not kept: %s", error)

    async def _sealed_name(self, person: UUID, session_id: UUID, name: str | None) -> bytes | None:
        if name is None:
            return None
        key = await self._personal.key_of(person)
        if key is None:
            raise NotFound("You have no such session.")  # nor anything else any more
        return seal_name(name, key, session_id, os.urandom(NONCE_BYTES))

    async def sessions_of(self, subject_id: UUID, *, tokens: bool = False) -> list[ActiveSession]:
        """The same of any user, for administrators. Raises NotFound."""
        await self._existing(subject_id)
        return await self.list_sessions(subject_id, tokens=tokens)

    async def list_all_sessions(self, after: UUID, limit: int) -> list[ActiveSession]:
        """A page of everybody's sessions, by id, for operators."""
        return await self._sessions.page(after, limit, self._acting.now())

    async def _existing(self, subject_id: UUID) -> None:
        user = await self._users.state(subject_id)
        if user is None or user.erased:
            raise NotFound(NO_SUCH_USER)

    # --- ending one

    async def log_out(self, digest: bytes, client: Client = UNKNOWN_CLIENT) -> Ended:
        """End the session behind this token digest, if there is one; never an error if not."""
        found, position = await self._sessions.by_digest(digest)
        if found is None:
            await self._acting.wait_for_what_ended(position)
            return Ended(0, position)
        return await self._end_one(found, "logout", client)

    async def end_session(
        self,
        session: Session,
        session_id: UUID,
        client: Client = UNKNOWN_CLIENT,
        *,
        token: bool = False,
    ) -> Ended:
        """End one session, or token, of the same user. Raises NotFound for what is not theirs."""
        found, position = await self._sessions.by_id(session_id)
        if found is None or not _is_of(found, session, token=token):
            # for others', too: time must not tell
            await self._acting.wait_for_what_ended(position)
            raise NotFound(f"You have no such {'token' if token else 'session'}.")
        return await self._end_one(found, "revoked", client)

    async def revoke_session(self, session_id: UUID, by: Actor | None = None) -> Ended:
        """End any session, as an operator or administrator may. Raises NotFound."""
        found, position = await self._sessions.by_id(session_id)
        if found is None:
            await self._acting.wait_for_what_ended(position)
            raise NotFound(NO_SUCH_SESSION)
        if by is None or by.user_id == found.session.subject_id:
            return await self._end_one(found, "revoked", client_of(by))
        about = self._acting.about(found.session.subject_id, by)
        command = EndSession(
            event_id=about["event_id"],
            at=about["occurred_at"],
            subject_id=found.session.subject_id,
            actor_id=by.user_id,
            session_id=session_id,
            reason="revoked",
            sealed=await self._sealed_by(by, about["event_id"]),
        )
        return await self._acting.end(Act(command, await self._personal.origin_of(by.client)))

    async def _end_one(self, found: FoundSession, reason: EndReason, client: Client) -> Ended:
        session, event_id = found.session, new_event_id()
        command = EndSession(
            event_id=event_id,
            at=self._acting.now(),
            subject_id=session.subject_id,
            session_id=session.session_id,
            reason=reason,
            sealed=self._personal.field_with(
                session.subject_id, client, event_id, SESSION_ENDED, found.key
            ),
        )
        origin = await self._personal.origin_of(client)
        return await self._acting.end(Act(command, origin))

    async def _sealed_by(self, by: Actor | None, event_id: UUID) -> bytes | None:
        """From where it is done, for the first end that it causes; of an operator nothing."""
        if by is None:
            return None
        return await self._personal.field(by.user_id, by.client, event_id, SESSION_ENDED)

    # --- ending many

    async def end_others(self, session: Session, client: Client = UNKNOWN_CLIENT) -> Ended:
        """End all sessions of the user but this one. Raises NotAuthenticated if it has ended."""
        own = Actor(session.subject_id, client)
        return await self._end_all(session.subject_id, own, keep=session.session_id)

    async def end_all(
        self, session: Session, client: Client = UNKNOWN_CLIENT, *, tokens: bool = False
    ) -> Ended:
        """End all sessions of the user, this one too; ``tokens``: and those of machines."""
        own = Actor(session.subject_id, client)
        return await self._end_all(session.subject_id, own, tokens=tokens)

    async def revoke_all(
        self, subject_id: UUID, by: Actor | None = None, *, tokens: bool = False
    ) -> Ended:
        """The same of any user, as an operator or administrator may. Raises NotFound."""
        await self._existing(subject_id)
        return await self._end_all(subject_id, by, tokens=tokens)

    async def _end_all(
        self,
        subject_id: UUID,
        by: Actor | None,
        *,
        keep: UUID | None = None,
        tokens: bool = False,
    ) -> Ended:
        """End a user's sessions; ``by`` is an administrator or the user, None an operator."""
        about = self._acting.about(subject_id, by)
        command = EndSessions(
            event_id=about["event_id"],
            at=about["occurred_at"],
            subject_id=subject_id,
            actor_id=about["actor_id"],
            reason="revoked",
            keep=keep,
            tokens=tokens,
            sealed=await self._sealed_by(by, about["event_id"]),
        )
        origin = await self._personal.origin_of(client_of(by))
        return await self._acting.end(Act(command, origin))

    async def end_everybody(self, by: Actor | None = None, *, tokens: bool = True) -> Ended:
        """End all sessions of all users, as an operator or administrator may; ``tokens``: and those
        of machines.

        An administrator's own end last: who is broken off can go on. The position is that of the
        last one.
        """
        act = await self._ending_all(by, tokens=tokens)
        own = by.user_id if by is not None else None
        incarnation = await self._acting.incarnation()
        ended, position, last = 0, 0, UUID(int=0)
        while subjects := await self._sessions.subjects(last, MAX_SUBJECTS):
            acts = [act(subject) for subject in subjects if subject != own]
            for recorded in await asyncio.gather(*map(self._acting.record, acts)):
                ended += recorded.count(SessionEnded)
                position = max(position, recorded.position)
            last = subjects[-1]
        if own is not None:
            recorded = await self._acting.record(act(own))
            ended, position = ended + recorded.count(SessionEnded), recorded.position
        if ended:
            await self._acting.wait_for_replicas(position, ended_in=incarnation)
        else:
            await self._acting.wait_for_what_ended(position)
        return Ended(ended, position)

    async def _ending_all(self, by: Actor | None, *, tokens: bool) -> Callable[[UUID], Act]:
        """What ends all of one user after the other; what it takes of who acts is read once."""
        client = client_of(by)
        origin = await self._personal.origin_of(client)
        key = await self._personal.wrapped_key_of(by.user_id) if by is not None else None

        def act(subject_id: UUID) -> Act:
            about = self._acting.about(subject_id, by)
            event_id, sealed = about["event_id"], None
            if by is not None:
                sealed = self._personal.field_with(by.user_id, client, event_id, SESSION_ENDED, key)
            command = EndSessions(
                event_id=event_id,
                at=about["occurred_at"],
                subject_id=subject_id,
                actor_id=about["actor_id"],
                reason="revoked",
                tokens=tokens,
                sealed=sealed,
            )
            return Act(command, origin)

        return act

    async def end_expired(self) -> int:
        """Record the end of sessions whose time is over; returns how many.

        Many may call it, in all processes of all hosts: one at a time does it, and the others do
        nothing. It goes on, a bounded part at a time, until nothing is left.
        """
        ended = 0
        async with self._sessions.sweeping() as sweep:
            if sweep is not None:
                while now_ended := await self._end_some_expired(sweep):
                    ended += now_ended
        return ended

    async def _end_some_expired(self, sweep: Sweep) -> int:
        subjects = await sweep.expired_users(self._acting.now(), MAX_EXPIRED_SESSIONS)
        acts = [
            Act(ExpireSessions(event_id=new_event_id(), subject_id=subject)) for subject in subjects
        ]
        recorded = await asyncio.gather(*map(self._acting.record, acts))
        return sum(each.count(SessionEnded) for each in recorded)
