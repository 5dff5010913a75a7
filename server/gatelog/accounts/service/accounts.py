"""What users and operators do: register, log in, log out, end sessions, change passwords.

Each use case makes a command, with ids, times and hashes, and submits it to the log. Rules:

- A login by an unknown name does the same work as one with a wrong password: one look-up, one
  hash, one event.
- A token exists only in the answer to who gets it.
- What is personal is sealed into the events here, before they are submitted: who acted, by name
  where it is at hand, and from where.
- Who acts on a user is an ``Actor`` over HTTP, the user or an administrator, or an operator at the
  command line (None). Over HTTP nobody can leave the service without an administrator.
- Nothing is answered as done before the log has it, and no session as ended before no replica
  accepts it any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

import msgspec

from gatelog.accounts.rules.commands import (
    ROLES,
    ChangeCredential,
    ChangeUser,
    Command,
    EndSession,
    EndSessions,
    EraseUser,
    ExpireSessions,
    RecordLoginFailure,
    RegisterUser,
    StartSession,
)
from gatelog.accounts.rules.credentials import (
    check_new_password,
    normalise_login,
    normalise_password,
)
from gatelog.accounts.service.passwords import PasswordPool, common_passwords
from gatelog.accounts.store.users import Credential, ListedUser, Users
from gatelog.clock import new_event_id, new_random_id, utc_now
from gatelog.config import Config
from gatelog.errors import (
    InvalidCredentials,
    InvalidInput,
    NotAuthenticated,
    NotFound,
    RegistrationClosed,
    StaleMasterKey,
)
from gatelog.ids import derived_event_id
from gatelog.log.rules import events as ev
from gatelog.log.rules.state import ActiveSession, PutSession, evolve, is_admin
from gatelog.log.store.appender import Appender
from gatelog.log.store.batch import Recorded
from gatelog.log.store.database import Database
from gatelog.log.store.reading import read_head, settle
from gatelog.privacy.rules import UNKNOWN_CLIENT, Client, Personal
from gatelog.privacy.service.personal import PersonalData
from gatelog.sessions.rules.record import Session
from gatelog.sessions.rules.tokens import token_digest
from gatelog.sessions.service.barrier import Barrier
from gatelog.sessions.service.metrics import COMMAND_TIME
from gatelog.sessions.service.tokens import new_token
from gatelog.sessions.store.lookup import FoundSession, SessionList
from gatelog.sessions.store.replica import boottime_ns

MAX_EXPIRED_USERS = 256  # in one sweep
MAX_SUBJECTS = 256  # whose sessions are ended at once
SESSION_ENDED = "session_ended"
NO_SUCH_USER = "There is no such user."

UserEventT = TypeVar("UserEventT", bound=ev.UserEvent)


class Grant(msgspec.Struct, frozen=True):
    """A fresh session and its token, which exists nowhere else."""

    token: str
    session: ActiveSession
    position: int


class Ended(msgspec.Struct, frozen=True):
    """How many sessions a command ended, and the position that says so."""

    ended: int
    position: int


class Actor(msgspec.Struct, frozen=True):
    """Who acts over HTTP, on themselves or as an administrator, and from where."""

    user_id: UUID
    client: Client


class Accounts:
    """The use cases of users and sessions."""

    def __init__(
        self,
        config: Config,
        *,
        database: Database,
        appender: Appender,
        passwords: PasswordPool,
        barrier: Barrier,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._config = config
        self._database = database
        self._appender = appender
        self._passwords = passwords
        self._barrier = barrier
        self._now = now
        self._blocklist = common_passwords()
        self._users = Users(database)
        self._sessions = SessionList(database)
        self._personal = PersonalData(config, database, now)

    async def ready(self) -> None:
        """Raises Unavailable, with the reason, while the service cannot do its work."""
        async with self._database.acquire() as connection:
            await read_head(connection)
        await self._personal.ready()

    # --- users ---

    async def register(self, login: str, password: str, client: Client = UNKNOWN_CLIENT) -> UUID:
        """Create a user as the public may. Raises RegistrationClosed, LoginTaken, InvalidInput."""
        if self._config.registration == "closed":
            raise RegistrationClosed("Ask whoever runs this service for an account.")
        only_first = self._config.registration == "first"
        return await self._add_user(login, password, client, roles=(), only_first=only_first)

    async def add_user(self, login: str, password: str, roles: tuple[str, ...] = ()) -> UUID:
        """Create a user as an operator may, with roles."""
        for role in roles:
            check_role(role)
        return await self._add_user(login, password, UNKNOWN_CLIENT, roles=roles, only_first=False)

    async def _add_user(
        self,
        login: str,
        password: str,
        client: Client,
        *,
        roles: tuple[str, ...],
        only_first: bool,
    ) -> UUID:
        login = normalise_login(login)
        password = self._new_password(password, login)
        if only_first:
            await self._refuse_second_user()
        subject_id = new_random_id()
        key, wrapped = await self._personal.new_subject_key(subject_id)
        event = ev.UserRegistered(
            event_id=new_event_id(), occurred_at=self._now(), subject_id=subject_id
        )
        command = RegisterUser(
            event=self._personal.sealed_with(event, _who(login, client), key),
            login=login,
            password_hash=await self._passwords.hash(password),
            key=wrapped,
            only_first=only_first,
            roles=roles,
        )
        try:
            await self._submit(command, client)
        except StaleMasterKey:
            wrapped = await self._personal.wrap_again(subject_id, key)
            await self._submit(msgspec.structs.replace(command, key=wrapped), client)
        return subject_id

    async def _refuse_second_user(self) -> None:
        """Spare the hash when registration is over; the decision is made again under the lock."""
        if await self._users.page(UUID(int=0), 1):
            raise RegistrationClosed("Registration was open for the first user only.")

    def _new_password(self, password: str, login: str) -> str:
        password = normalise_password(password)
        check_new_password(
            password,
            login=login,
            min_length=self._config.password_min_length,
            blocklist=self._blocklist,
        )
        return password

    async def find_user(self, login: str) -> Credential:
        """The user with this login. Raises NotFound."""
        credential = await self._users.by_login(normalise_login(login))
        if credential is None:
            raise NotFound("There is no user with this login.")
        return credential

    async def disable(self, subject_id: UUID, by: Actor | None = None) -> Ended:
        """Keep a user from logging in, and end all sessions. Raises NotFound, LastAdmin."""
        return await self._change_user(ev.UserDisabled(**self._act(subject_id, by)), by)

    async def enable(self, subject_id: UUID, by: Actor | None = None) -> Ended:
        """Let a disabled user log in again. Raises NotFound."""
        return await self._change_user(ev.UserEnabled(**self._act(subject_id, by)), by)

    async def grant_role(self, subject_id: UUID, role: str, by: Actor | None = None) -> Ended:
        """Give a user a role, and end all sessions. Raises NotFound, InvalidInput."""
        check_role(role)
        event = ev.RoleGranted(**self._act(subject_id, by), role=role)
        return await self._change_user(event, by)

    async def revoke_role(self, subject_id: UUID, role: str, by: Actor | None = None) -> Ended:
        """Take a role away, and end all sessions. Raises NotFound, InvalidInput, LastAdmin."""
        check_role(role)
        event = ev.RoleRevoked(**self._act(subject_id, by), role=role)
        return await self._change_user(event, by)

    async def erase(self, subject_id: UUID, by: Actor | None = None) -> Ended:
        """Forget a person for good; sessions end. Raises NotFound, LastAdmin.

        What is left are events about a number. The login name can be registered again.
        """
        user = await self._users.state(subject_id)
        if user is None:
            raise NotFound(NO_SUCH_USER)
        if by is None or not is_admin(user):  # an administrator's may still be refused
            await self._personal.before_erasing(subject_id)
        event = ev.UserErased(**self._act(subject_id, by))
        if event.actor_id is not None:  # what is their own would not be opened by anybody
            event = await self._acted(event, by)
        command = EraseUser(event=event, keep_an_admin=by is not None)
        return await self._end(command, _client(by))

    async def _existing(self, subject_id: UUID) -> None:
        user = await self._users.state(subject_id)
        if user is None or user.erased:
            raise NotFound(NO_SUCH_USER)

    def _act(self, subject_id: UUID, by: Actor | None) -> dict[str, Any]:
        """The fields of an event that is about a user and done by somebody."""
        actor_id = by.user_id if by is not None and by.user_id != subject_id else None
        return {
            "event_id": new_event_id(),
            "occurred_at": self._now(),
            "subject_id": subject_id,
            "actor_id": actor_id,
        }

    async def _acted(self, event: UserEventT, by: Actor | None) -> UserEventT:
        """The event with where it was done from."""
        if by is None:
            return event
        sealed = await self._personal.field(by.user_id, by.client, event.event_id, event.type)
        return msgspec.structs.replace(event, sealed=sealed)

    async def _change_user(
        self,
        event: ev.UserDisabled | ev.UserEnabled | ev.RoleGranted | ev.RoleRevoked,
        by: Actor | None,
    ) -> Ended:
        event = await self._acted(event, by)
        command = ChangeUser(event=event, keep_an_admin=by is not None)
        return await self._end(command, _client(by))

    # --- login and logout ---

    async def log_in(self, login: str, password: str, client: Client = UNKNOWN_CLIENT) -> Grant:
        """Start a session. Raises InvalidCredentials, HashingFull."""
        login, password = normalise_login(login), normalise_password(password)
        credential = await self._verified(login, password, client)
        token = new_token()
        command = StartSession(
            event=self._session_started(new_event_id(), credential, token, client),
            credential_version=credential.credential_version,
            max_sessions=self._config.max_sessions_per_user,
        )
        return await self._grant(token, command, client)

    async def _verified(self, login: str, password: str, client: Client) -> Credential:
        """The credential behind login and password; a failure is recorded."""
        credential = await self._users.by_login(login)
        right = await self._passwords.verify(
            credential.password_hash if credential else None, password
        )
        if credential is None:
            await self._record_unknown_login(login, client)
        elif not right:
            await self._record_failure(credential, "wrong_password", client)
        elif credential.disabled:
            await self._record_failure(credential, "user_disabled", client)
        else:
            await self._rehash(credential, password)
            return credential
        raise InvalidCredentials()

    async def _record_failure(
        self, credential: Credential, reason: ev.FailureReason, client: Client
    ) -> None:
        event = ev.LoginFailed(
            event_id=new_event_id(),
            occurred_at=self._now(),
            subject_id=credential.subject_id,
            reason=reason,
        )
        sealed = self._personal.sealed(event, _who(credential.login, client), credential.key)
        await self._submit(RecordLoginFailure(event=sealed), client)

    async def _record_unknown_login(self, login: str, client: Client) -> None:
        event = ev.LoginFailed(
            event_id=new_event_id(), occurred_at=self._now(), reason="unknown_login"
        )
        sealed = await self._personal.sealed_for_nobody(event, _who(login, client))
        await self._submit(RecordLoginFailure(event=sealed), client)

    async def _rehash(self, credential: Credential, password: str) -> None:
        if self._passwords.needs_rehash(credential.password_hash):
            fresh = await self._passwords.hash(password)
            await self._users.replace_hash(credential.subject_id, credential.password_hash, fresh)

    def _session_started(
        self, event_id: UUID, credential: Credential, token: str, client: Client
    ) -> ev.SessionStarted:
        now = self._now()
        event = ev.SessionStarted(
            event_id=event_id,
            occurred_at=now,
            subject_id=credential.subject_id,
            session_id=new_random_id(),
            token_digest=token_digest(token),
            expires_at=now + timedelta(seconds=self._config.session_lifetime_s),
            roles=credential.roles,
        )
        return self._personal.sealed(event, _who(credential.login, client), credential.key)

    async def log_out(self, digest: bytes, client: Client = UNKNOWN_CLIENT) -> Ended:
        """End the session behind this token digest, if there is one; never an error if not."""
        found, position = await self._sessions.by_digest(digest)
        if found is None:
            await self._wait_for_what_ended(position)
            return Ended(0, position)
        return await self._end_one(found, "logout", client)

    # --- sessions ---

    async def list_sessions(self, subject_id: UUID) -> list[ActiveSession]:
        """The user's sessions that have not expired, oldest first."""
        return await self._sessions.of_user(subject_id, self._now())

    async def sessions_of(self, subject_id: UUID) -> list[ActiveSession]:
        """The same of any user, for administrators. Raises NotFound."""
        await self._existing(subject_id)
        return await self.list_sessions(subject_id)

    async def list_all_sessions(self, after: UUID, limit: int) -> list[ActiveSession]:
        """A page of everybody's sessions, by id, for operators."""
        return await self._sessions.page(after, limit, self._now())

    async def list_users(self, after: UUID, limit: int) -> list[ListedUser]:
        """A page of users, by id, for operators."""
        return await self._users.page(after, limit)

    async def end_session(
        self, session: Session, session_id: UUID, client: Client = UNKNOWN_CLIENT
    ) -> Ended:
        """End one session of the same user. Raises NotFound for what is not theirs."""
        found, position = await self._sessions.by_id(session_id)
        if found is None or found.session.subject_id != session.subject_id:
            await self._wait_for_what_ended(position)  # for others', too: time must not tell
            raise NotFound("You have no such session.")
        return await self._end_one(found, "revoked", client)

    async def revoke_session(self, session_id: UUID) -> Ended:
        """End any session, as an operator may. Raises NotFound."""
        found, position = await self._sessions.by_id(session_id)
        if found is None:
            await self._wait_for_what_ended(position)
            raise NotFound("There is no such session.")
        return await self._end_one(found, "revoked", UNKNOWN_CLIENT)

    async def end_others(self, session: Session, client: Client = UNKNOWN_CLIENT) -> Ended:
        """End all sessions of the user but this one. Raises NotAuthenticated if it has ended."""
        own = Actor(session.subject_id, client)
        return await self._end_all(session.subject_id, own, keep=session.session_id)

    async def end_all(self, session: Session, client: Client = UNKNOWN_CLIENT) -> Ended:
        """End all sessions of the user, this one too."""
        return await self._end_all(session.subject_id, Actor(session.subject_id, client))

    async def revoke_all(self, subject_id: UUID, by: Actor | None = None) -> Ended:
        """End all sessions of any user, as an operator or administrator may. Raises NotFound."""
        await self._existing(subject_id)
        return await self._end_all(subject_id, by)

    async def end_everybody(self) -> int:
        """End all sessions of all users, as an operator may; returns how many."""
        ended, position, last = 0, 0, UUID(int=0)
        while subjects := await self._sessions.subjects(last, MAX_SUBJECTS):
            commands = [
                EndSessions(
                    event_id=new_event_id(), at=self._now(), subject_id=subject, reason="revoked"
                )
                for subject in subjects
            ]
            for recorded in await asyncio.gather(*map(self._submit, commands)):
                ended, position = ended + recorded.ended, max(position, recorded.position)
            last = subjects[-1]
        await self._wait_for_replicas(position)
        return ended

    async def change_password(
        self, session: Session, current: str, new: str, client: Client = UNKNOWN_CLIENT
    ) -> Grant:
        """Replace the password: ends every session and starts one in place of this one.

        Raises InvalidCredentials for a wrong current password, WeakPassword, NotAuthenticated.
        """
        credential = await self._users.by_id(session.subject_id)
        if credential is None:
            raise NotAuthenticated()
        current, new = normalise_password(current), self._new_password(new, credential.login)
        if not await self._passwords.verify(credential.password_hash, current):
            await self._record_failure(credential, "wrong_password", client)
            raise InvalidCredentials()
        if current == new:
            raise InvalidInput("The new password is the old one.")
        token = new_token()
        changed = ev.CredentialChanged(
            event_id=new_event_id(), occurred_at=self._now(), subject_id=session.subject_id
        )
        first_id = derived_event_id(changed.event_id, 1)
        command = ChangeCredential(
            event=self._personal.sealed(changed, _who(credential.login, client), credential.key),
            password_hash=await self._passwords.hash(new),
            credential_version=credential.credential_version,
            session_id=session.session_id,
            session=self._session_started(first_id, credential, token, client),
        )
        return await self._grant(token, command, client)

    async def end_expired(self) -> int:
        """Record the end of sessions whose time is over; returns how many. Many may call it."""
        now = self._now()
        ended = 0
        for subject_id in await self._sessions.expired_users(now, MAX_EXPIRED_USERS):
            command = ExpireSessions(event_id=new_event_id(), at=now, subject_id=subject_id)
            ended += (await self._submit(command)).ended
        return ended

    async def forget_overdue(self) -> int:
        """Destroy the keys of failed logins whose time is over. Many may call it."""
        return await self._personal.sweep()

    async def _end_one(self, found: FoundSession, reason: ev.EndReason, client: Client) -> Ended:
        session, event_id = found.session, new_event_id()
        command = EndSession(
            event_id=event_id,
            at=self._now(),
            subject_id=session.subject_id,
            session_id=session.session_id,
            reason=reason,
            sealed=self._personal.field_with(
                session.subject_id, client, event_id, SESSION_ENDED, found.key
            ),
        )
        return await self._end(command, client)

    async def _end_all(self, subject_id: UUID, by: Actor | None, keep: UUID | None = None) -> Ended:
        """End a user's sessions; ``by`` is an administrator or the user, None an operator."""
        act = self._act(subject_id, by)
        sealed = None
        if by is not None:
            sealed = await self._personal.field(
                by.user_id, by.client, act["event_id"], SESSION_ENDED
            )
        command = EndSessions(
            event_id=act["event_id"],
            at=act["occurred_at"],
            subject_id=subject_id,
            actor_id=act["actor_id"],
            reason="revoked",
            keep=keep,
            sealed=sealed,
        )
        return await self._end(command, _client(by))

    async def _end(self, command: Command, client: Client) -> Ended:
        """Record the command; returns when no replica accepts any more what it ended."""
        recorded = await self._submit(command, client)
        if recorded.events:
            await self._wait_for_replicas(recorded.position)
        else:
            await self._wait_for_what_ended(recorded.position)
        return Ended(recorded.ended, recorded.position)

    async def _grant(self, token: str, command: Command, client: Client) -> Grant:
        """The same for a command that also starts a session, which needs no wait of its own."""
        recorded = await self._submit(command, client)
        if recorded.ended:
            await self._wait_for_replicas(recorded.position)
        for event in recorded.events:
            for change in evolve(event):
                if isinstance(change, PutSession):
                    return Grant(token, change.session, recorded.position)
        raise AssertionError("a login without a session")

    async def _wait_for_what_ended(self, position: int) -> None:
        """Before it is said that there is nothing to end: the end may be a millisecond old.

        Replicas may not know of it yet, and a failover could take it back.
        """
        async with self._database.acquire() as connection:
            await settle(connection)
        await self._wait_for_replicas(position)

    async def _wait_for_replicas(self, position: int) -> None:
        await self._barrier.wait(position, boottime_ns())

    async def _submit(self, command: Command, client: Client = UNKNOWN_CLIENT) -> Recorded:
        """Record the command; its sealed events can be found by the client's address."""
        address_index = await self._personal.index_of(client)
        with COMMAND_TIME.time():
            return await self._appender.submit(command, address_index)


def _client(actor: Actor | None) -> Client:
    return actor.client if actor is not None else UNKNOWN_CLIENT


def _who(login: str, client: Client) -> Personal:
    return Personal(login, client.address, client.agent)


def check_role(role: str) -> None:
    """Raises InvalidInput for a role that does not exist."""
    if role not in ROLES:
        raise InvalidInput(f"There is no role {role!r}; there are {', '.join(ROLES)}.")
