"""What users and operators do: register, log in, log out, end sessions, change passwords.

Each use case makes a command, with ids, times and hashes, and submits it to the log. Rules:

- A login by an unknown name does the same work as one with a wrong password: one look-up, one
  hash, one event.
- A token exists only in the answer to who gets it.
- Nothing is answered as done before the log has it.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from uuid import UUID

import msgspec

from server.config import Config
from server.core import events as ev
from server.core.commands import (
    ROLES,
    ChangeCredential,
    ChangeUser,
    Command,
    EndSession,
    EndSessions,
    ExpireSessions,
    RecordLoginFailure,
    RegisterUser,
    StartSession,
)
from server.core.credentials import check_new_password, normalise_login, normalise_password
from server.core.errors import (
    InvalidCredentials,
    InvalidInput,
    NotAuthenticated,
    NotFound,
    RegistrationClosed,
)
from server.core.sessions import Session
from server.core.state import ActiveSession, PutSession, evolve
from server.core.tokens import token_digest
from server.service.clock import new_event_id, new_random_id, new_token, utc_now
from server.service.passwords import PasswordPool, common_passwords
from server.store.database import Database
from server.store.log import Appender, Recorded, read_head
from server.store.sessions import SessionList
from server.store.users import Credential, ListedUser, Users

MAX_EXPIRED_USERS = 256  # in one sweep


class Grant(msgspec.Struct, frozen=True):
    """A fresh session and its token, which exists nowhere else."""

    token: str
    session: ActiveSession
    position: int


class Ended(msgspec.Struct, frozen=True):
    """How many sessions a command ended, and the position that says so."""

    ended: int
    position: int


class Accounts:
    """The use cases of users and sessions."""

    def __init__(
        self,
        config: Config,
        *,
        database: Database,
        appender: Appender,
        passwords: PasswordPool,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._config = config
        self._database = database
        self._appender = appender
        self._passwords = passwords
        self._now = now
        self._blocklist = common_passwords()
        self._users = Users(database)
        self._sessions = SessionList(database)

    async def ready(self) -> None:
        """Raises Unavailable, with the reason, while the service cannot do its work."""
        async with self._database.acquire() as connection:
            await read_head(connection)

    # --- users ---

    async def register(self, login: str, password: str) -> UUID:
        """Create a user as the public may. Raises RegistrationClosed, LoginTaken, InvalidInput."""
        if self._config.registration == "closed":
            raise RegistrationClosed("Ask whoever runs this service for an account.")
        return await self._add_user(
            login, password, roles=(), only_first=self._config.registration == "first"
        )

    async def add_user(self, login: str, password: str, roles: tuple[str, ...] = ()) -> UUID:
        """Create a user as an operator may, with roles."""
        for role in roles:
            check_role(role)
        return await self._add_user(login, password, roles=roles, only_first=False)

    async def _add_user(
        self, login: str, password: str, *, roles: tuple[str, ...], only_first: bool
    ) -> UUID:
        login = normalise_login(login)
        password = self._new_password(password, login)
        if only_first:
            await self._refuse_second_user()
        subject_id = new_random_id()
        event = ev.UserRegistered(
            event_id=new_event_id(), occurred_at=self._now(), subject_id=subject_id
        )
        await self._submit(
            RegisterUser(
                event=event,
                login=login,
                password_hash=await self._passwords.hash(password),
                only_first=only_first,
                roles=roles,
            )
        )
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

    async def disable(self, subject_id: UUID, actor_id: UUID | None = None) -> Ended:
        """Keep a user from logging in, and end all sessions. Raises NotFound."""
        event = ev.UserDisabled(
            event_id=new_event_id(),
            occurred_at=self._now(),
            subject_id=subject_id,
            actor_id=actor_id,
        )
        return await self._end(ChangeUser(event=event))

    async def enable(self, subject_id: UUID, actor_id: UUID | None = None) -> Ended:
        """Let a disabled user log in again. Raises NotFound."""
        event = ev.UserEnabled(
            event_id=new_event_id(),
            occurred_at=self._now(),
            subject_id=subject_id,
            actor_id=actor_id,
        )
        return await self._end(ChangeUser(event=event))

    # --- login and logout ---

    async def log_in(self, login: str, password: str) -> Grant:
        """Start a session. Raises InvalidCredentials, HashingFull."""
        credential = await self._verified(normalise_login(login), normalise_password(password))
        token = new_token()
        recorded = await self._submit(
            StartSession(
                event=self._session_started(credential, token),
                credential_version=credential.credential_version,
                max_sessions=self._config.max_sessions_per_user,
            )
        )
        return _grant(token, recorded)

    async def _verified(self, login: str, password: str) -> Credential:
        """The credential behind login and password; a failure is recorded."""
        credential = await self._users.by_login(login)
        right = await self._passwords.verify(
            credential.password_hash if credential else None, password
        )
        if credential is None:
            await self._record_failure(None, "unknown_login")
        elif not right:
            await self._record_failure(credential.subject_id, "wrong_password")
        elif credential.disabled:
            await self._record_failure(credential.subject_id, "user_disabled")
        else:
            await self._rehash(credential, password)
            return credential
        raise InvalidCredentials()

    async def _record_failure(self, subject_id: UUID | None, reason: ev.FailureReason) -> None:
        event = ev.LoginFailed(
            event_id=new_event_id(), occurred_at=self._now(), subject_id=subject_id, reason=reason
        )
        await self._submit(RecordLoginFailure(event=event))

    async def _rehash(self, credential: Credential, password: str) -> None:
        if self._passwords.needs_rehash(credential.password_hash):
            fresh = await self._passwords.hash(password)
            await self._users.replace_hash(credential.subject_id, credential.password_hash, fresh)

    def _session_started(self, credential: Credential, token: str) -> ev.SessionStarted:
        now = self._now()
        return ev.SessionStarted(
            event_id=new_event_id(),
            occurred_at=now,
            subject_id=credential.subject_id,
            session_id=new_random_id(),
            token_digest=token_digest(token),
            expires_at=now + timedelta(seconds=self._config.session_lifetime_s),
            roles=credential.roles,
        )

    async def log_out(self, digest: bytes) -> Ended:
        """End the session behind this token digest, if there is one; never an error if not."""
        session, position = await self._sessions.by_digest(digest)
        if session is None:
            return Ended(0, position)
        return await self._end_one(session.subject_id, session.session_id, "logout")

    # --- sessions ---

    async def list_sessions(self, subject_id: UUID) -> list[ActiveSession]:
        """The user's sessions that have not expired, oldest first."""
        return await self._sessions.of_user(subject_id, self._now())

    async def list_all_sessions(self, after: UUID, limit: int) -> list[ActiveSession]:
        """A page of everybody's sessions, by id, for operators."""
        return await self._sessions.page(after, limit, self._now())

    async def list_users(self, after: UUID, limit: int) -> list[ListedUser]:
        """A page of users, by id, for operators."""
        return await self._users.page(after, limit)

    async def end_session(self, session: Session, session_id: UUID) -> Ended:
        """End one session of the same user. Raises NotFound for what is not theirs."""
        found = await self._sessions.by_id(session_id)
        if found is None or found.subject_id != session.subject_id:
            raise NotFound("You have no such session.")
        return await self._end_one(found.subject_id, session_id, "revoked")

    async def revoke_session(self, session_id: UUID) -> Ended:
        """End any session, as an operator may. Raises NotFound."""
        found = await self._sessions.by_id(session_id)
        if found is None:
            raise NotFound("There is no such session.")
        return await self._end_one(found.subject_id, session_id, "revoked")

    async def end_others(self, session: Session) -> Ended:
        """End all sessions of the user but this one. Raises NotAuthenticated if it has ended."""
        return await self._end_all(session.subject_id, keep=session.session_id)

    async def end_all(self, session: Session) -> Ended:
        """End all sessions of the user, this one too."""
        return await self._end_all(session.subject_id)

    async def revoke_all(self, subject_id: UUID) -> Ended:
        """End all sessions of any user, as an operator may."""
        return await self._end_all(subject_id)

    async def change_password(self, session: Session, current: str, new: str) -> Grant:
        """Replace the password: ends every session and starts one in place of this one.

        Raises InvalidCredentials for a wrong current password, WeakPassword, NotAuthenticated.
        """
        credential = await self._users.by_id(session.subject_id)
        if credential is None:
            raise NotAuthenticated()
        current, new = normalise_password(current), self._new_password(new, credential.login)
        if not await self._passwords.verify(credential.password_hash, current):
            await self._record_failure(credential.subject_id, "wrong_password")
            raise InvalidCredentials()
        if current == new:
            raise InvalidInput("The new password is the old one.")
        token = new_token()
        changed = ev.CredentialChanged(
            event_id=new_event_id(), occurred_at=self._now(), subject_id=session.subject_id
        )
        recorded = await self._submit(
            ChangeCredential(
                event=changed,
                password_hash=await self._passwords.hash(new),
                credential_version=credential.credential_version,
                session_id=session.session_id,
                session=self._session_started(credential, token),
            )
        )
        return _grant(token, recorded)

    async def end_expired(self) -> int:
        """Record the end of sessions whose time is over; returns how many. Many may call it."""
        now = self._now()
        ended = 0
        for subject_id in await self._sessions.expired_users(now, MAX_EXPIRED_USERS):
            command = ExpireSessions(event_id=new_event_id(), at=now, subject_id=subject_id)
            ended += (await self._submit(command)).ended
        return ended

    async def _end_one(self, subject_id: UUID, session_id: UUID, reason: ev.EndReason) -> Ended:
        return await self._end(
            EndSession(
                event_id=new_event_id(),
                at=self._now(),
                subject_id=subject_id,
                session_id=session_id,
                reason=reason,
            )
        )

    async def _end_all(self, subject_id: UUID, keep: UUID | None = None) -> Ended:
        return await self._end(
            EndSessions(
                event_id=new_event_id(),
                at=self._now(),
                subject_id=subject_id,
                reason="revoked",
                keep=keep,
            )
        )

    async def _end(self, command: Command) -> Ended:
        recorded = await self._submit(command)
        return Ended(recorded.ended, recorded.position)

    async def _submit(self, command: Command) -> Recorded:
        return await self._appender.submit(command)


def _grant(token: str, recorded: Recorded) -> Grant:
    for event in recorded.events:
        for change in evolve(event):
            if isinstance(change, PutSession):
                return Grant(token, change.session, recorded.position)
    raise AssertionError("a login without a session")


def check_role(role: str) -> None:
    """Raises InvalidInput for a role that does not exist."""
    if role not in ROLES:
        raise InvalidInput(f"There is no role {role!r}; there are {', '.join(ROLES)}.")
