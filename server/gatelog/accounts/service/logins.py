"""Passwords: registering, logging in, changing one.

Rules:

- A login by an unknown name does the same work as one with a wrong password: one look-up, one
  admission, one hash, one event. What the hash costs, where some users' are imported, is drawn by
  the name (``accounts.service.decoys``).
- No password is hashed before its try is admitted (``accounts.rules.throttling``) and has its turn.
- A password that is locked is one that no password fits: it takes as long, and is told like that.
- A token exists only in the answer to who gets it.
- What is personal is sealed into the events here: who acted, by name, and from where.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from msgspec.structs import replace

from gatelog.accounts.rules.credentials import (
    check_new_password,
    normalise_login,
    normalise_password,
)
from gatelog.accounts.rules.events import (
    CredentialChanged,
    UserRegistered,
)
from gatelog.accounts.rules.login import (
    ChangeCredential,
    RegisterUser,
    RenewSession,
    Replaced,
    StartSession,
)
from gatelog.accounts.rules.proving import Proof
from gatelog.accounts.service.acting import Act, Acting, who
from gatelog.accounts.service.asking import Asking
from gatelog.accounts.service.blocklist import common_passwords, context_words
from gatelog.accounts.service.decoys import Decoys
from gatelog.accounts.service.failures import Failures
from gatelog.accounts.service.grants import Grant, started_session
from gatelog.accounts.service.notices import Notices
from gatelog.accounts.service.passwords import PasswordPool
from gatelog.accounts.service.throttling import Approach, Throttle
from gatelog.accounts.service.turns import Turns
from gatelog.accounts.service.users import check_role
from gatelog.accounts.store.users import Credential, Users
from gatelog.clock import new_event_id, new_random_id
from gatelog.config import Config
from gatelog.errors import (
    InvalidCredentials,
    InvalidInput,
    NotAuthenticated,
    RegistrationClosed,
    StaleMasterKey,
)
from gatelog.ids import derived_event_id
from gatelog.mail.rules.outbox import mailed
from gatelog.privacy.rules import UNKNOWN_CLIENT, Client
from gatelog.privacy.service.personal import PersonalData
from gatelog.sessions.rules.events import SessionStarted
from gatelog.sessions.rules.record import Session
from gatelog.sessions.rules.tokens import token_digest
from gatelog.sessions.service.tokens import new_token
from gatelog.sessions.store.lookup import SessionList

BY_PASSWORD = ("pwd",)  # RFC 8176, section 2

_Starting = StartSession | ChangeCredential | RenewSession


class Logins:
    """The use cases of who has a password, or wants one."""

    def __init__(
        self,
        config: Config,
        *,
        users: Users,
        sessions: SessionList,
        passwords: PasswordPool,
        personal: PersonalData,
        acting: Acting,
        throttle: Throttle,
        turns: Turns,
        asking: Asking,
        failures: Failures,
        notices: Notices,
    ) -> None:
        self._config = config
        self._asking = asking
        self._throttle = throttle
        self._turns = turns
        self._users = users
        self._sessions = sessions
        self._passwords = passwords
        self._personal = personal
        self._acting = acting
        self._blocklist = common_passwords()
        self._words = context_words(config)
        self._failures = failures
        self._notices = notices
        self._decoys = Decoys(users)

    # --- registering

    async def register(self, login: str, password: str, client: Client = UNKNOWN_CLIENT) -> UUID:
        """Create a user as the public may.

        Raises RegistrationClosed, LoginTaken, InvalidInput, TooManyAttempts, HashingFull.
        """
        if self._config.registration == "closed":
            raise RegistrationClosed("Ask whoever runs this service for an account.")
        only_first = self._config.registration == "first"
        return await self._register(login, password, client, roles=(), only_first=only_first)

    async def register_first(self, login: str, password: str, client: Client) -> UUID:
        """Create the first user, who administers: for who has shown that they may
        (``accounts.service.first_run``).

        Raises RegistrationClosed once there is a user, InvalidInput, TooManyAttempts, HashingFull.
        """
        return await self._register(login, password, client, roles=("admin",), only_first=True)

    async def _register(
        self, login: str, password: str, client: Client, *, roles: tuple[str, ...], only_first: bool
    ) -> UUID:
        self._new_password(password, normalise_login(login))  # what cannot be is no try
        if only_first:
            await self._refuse_second_user()
        approach = await self._throttle.registering(client)
        self._throttle.refuse_again(approach)
        async with self._turns.turn(approach.lane):
            await self._throttle.admit(approach)
            return await self._add_user(login, password, client, roles=roles, only_first=only_first)

    async def is_anybody_there(self) -> bool:
        """Whether there is a user, or ever was one."""
        return bool(await self._users.page(UUID(int=0), 1))

    async def add_user(self, login: str, password: str, roles: tuple[str, ...] = ()) -> UUID:
        """Create a user as an operator may, with roles."""
        for role in roles:
            check_role(role, self._config.role_names)
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
        subject_id = new_random_id()
        key, wrapped = await self._personal.new_subject_key(subject_id)
        event = UserRegistered(
            event_id=new_event_id(), occurred_at=self._acting.now(), subject_id=subject_id
        )
        command = RegisterUser(
            event=self._personal.sealed_with(event, who(login, client), key),
            login=login,
            password_hash=await self._passwords.hash(password),
            key=wrapped,
            only_first=only_first,
            roles=roles,
        )
        try:
            await self._record(command, client)
        except StaleMasterKey:
            wrapped = await self._personal.wrap_again(subject_id, key)
            await self._record(replace(command, key=wrapped), client)
        return subject_id

    async def hash_new(self, password: str, login: str, client: Client) -> str:
        """The hash of a password that this user sets without the old one.

        Raises InvalidInput, WeakPassword, HashingFull.
        """
        password = self._new_password(password, login)
        approach = await self._throttle.stranger(login, client)
        async with self._turns.turn(approach.lane):
            return await self._passwords.hash(password)

    def hash_of_nothing(self) -> str:
        """A hash that no password fits, for a user who has none yet."""
        return self._passwords.fits_nothing()

    async def _refuse_second_user(self) -> None:
        """Spare the hash when registration is over; the decision is made again under the lock."""
        if await self.is_anybody_there():
            raise RegistrationClosed("Registration was open for the first user only.")

    def _new_password(self, password: str, login: str) -> str:
        password = normalise_password(password)
        check_new_password(
            password,
            login=login,
            min_length=self._config.password_min_length,
            blocklist=self._blocklist,
            words=self._words,
        )
        return password

    # --- logging in

    async def log_in(
        self,
        login: str,
        password: str,
        client: Client = UNKNOWN_CLIENT,
        devices: Sequence[str] | None = None,
        *,
        over: bytes | None = None,
    ) -> Grant:
        """Start a session.

        ``devices``: the tokens that the client keeps; None if it keeps none. ``over``: the digest
        of the token that the same browser had; that session ends, in the same append and
        whosesoever it is. Raises InvalidCredentials, TooManyAttempts, HashingFull, TooManySessions;
        and FactorRequired where the password is right and not enough.
        """
        login, typed, password = normalise_login(login), password, normalise_password(password)
        approach = await self._throttle.approach(login, client, devices or ())
        credential, try_id = await self._verified(login, password, approach, typed)
        if credential.factors:
            raise await self._asking.after_password(credential, try_id)
        return await self.start(credential, approach, keeps_tokens=devices is not None, over=over)

    async def start(
        self,
        credential: Credential,
        approach: Approach,
        *,
        keeps_tokens: bool,
        over: bytes | None,
        proof: Proof | None = None,
        amr: tuple[str, ...] = BY_PASSWORD,
    ) -> Grant:
        """Start the session of who has shown what it takes: the password, the ``proof`` or both.

        ``amr``: by which methods (RFC 8176, section 2). Raises what the decision raises
        (``StartSession``).
        """
        client, token, subject_id = approach.client, new_token(), credential.subject_id
        beside, device = self._throttle.succeeded(approach, subject_id, keeps_tokens=keeps_tokens)
        new_device = await self._throttle.is_new_device(
            approach, subject_id, keeps_tokens=keeps_tokens
        )
        if new_device:
            beside += mailed(await self._notices.of("new_device", credential, client))
        guarded = self._config.guarded_roles
        event = self._session_started(new_event_id(), credential, token, client, amr)
        if proof is None and guarded.intersection(event.roles):
            roles = tuple(role for role in event.roles if role not in guarded)
            event = replace(event, roles=roles)
        command = StartSession(
            event=event,
            credential_version=credential.credential_version,
            max_sessions=self._config.max_sessions_per_user,
            refuse=self._config.too_many_sessions == "refuse",
            replaces=await self._replaced(over),
            beside=beside,
            proof=proof,
            guarded_roles=guarded,
            new_device=new_device,
        )
        return replace(await self._grant(token, command, client, credential.login), device=device)

    async def _replaced(self, over: bytes | None) -> Replaced | None:
        if over is None:
            return None
        found, _ = await self._sessions.by_digest(over)
        if found is None:
            return None
        return Replaced(found.session.subject_id, found.session.session_id)

    async def _verified(
        self, login: str, password: str, approach: Approach, typed: str
    ) -> tuple[Credential, UUID]:
        """The credential behind login and password, and the try; a failure is recorded.

        ``typed``: the password before it was normalised.
        """
        self._throttle.refuse_again(approach)
        await self._decoys.refresh()
        async with self._turns.turn(approach.lane):
            credential = await self._users.by_login(login)
            subject_id = credential.subject_id if credential else None
            failures = credential.failures if credential else 0
            locked = self._throttle.is_locked(approach, failures)
            try_id = await self._throttle.admit(approach, subject_id, locked=locked)
            right = await self._passwords.verify(
                credential.password_hash if credential and not locked else None,
                password,
                typed=typed,
                cost=self._decoys.cost(credential, approach.account or b""),
            )
        if credential is None:
            await self._failures.of_nobody("unknown_login", login, approach.client, try_id)
        elif not right:
            await self._failures.of_user(
                credential, "wrong_password", approach.client, try_id, counts=not locked
            )
        elif credential.disabled:
            await self._failures.of_user(credential, "user_disabled", approach.client, try_id)
        else:
            await self._rehash(credential, password)
            return credential, try_id
        raise InvalidCredentials()

    async def _rehash(self, credential: Credential, password: str) -> None:
        if self._passwords.needs_rehash(credential.password_hash):
            fresh = await self._passwords.hash(password)
            await self._users.replace_hash(credential.subject_id, credential.password_hash, fresh)

    def _session_started(
        self,
        event_id: UUID,
        credential: Credential,
        token: str,
        client: Client,
        amr: tuple[str, ...] = BY_PASSWORD,
    ) -> SessionStarted:
        now = self._acting.now()
        lives = self._config.lifetimes_of(credential.roles)
        event = SessionStarted(
            event_id=event_id,
            occurred_at=now,
            subject_id=credential.subject_id,
            session_id=new_random_id(),
            token_digest=token_digest(token),
            expires_at=now + timedelta(seconds=lives.lifetime_s),
            roles=credential.roles,
            idle_s=lives.idle_s or None,
            amr=amr,
        )
        return self._personal.sealed(event, who(credential.login, client), credential.key)

    async def forget_overdue(self) -> int:
        """Destroy the keys of failed logins whose time is over, and forget what was counted.

        Many may call it.
        """
        await self._throttle.sweep()
        await self._asking.sweep()
        return await self._personal.sweep()

    # --- changing a password

    async def change_password(
        self,
        session: Session,
        current: str,
        new: str,
        client: Client = UNKNOWN_CLIENT,
        devices: Sequence[str] | None = None,
    ) -> Grant:
        """Replace the password: ends every session and starts one in place of this one.

        Devices that were known are so no more, but this one. ``devices``: see ``log_in``.
        Raises InvalidCredentials for a wrong current password, WeakPassword, NotAuthenticated,
        TooManyAttempts, HashingFull.
        """
        credential = await self._users.by_id(session.subject_id)
        if credential is None:
            raise NotAuthenticated()
        typed, current = current, normalise_password(current)
        new = self._new_password(new, credential.login)
        if current == new:
            raise InvalidInput("The new password is the old one.")
        approach = await self._throttle.inside(credential.login, session.subject_id, client)
        credential, _ = await self._verified(credential.login, current, approach, typed)
        here = await self._throttle.approach(credential.login, client, devices or ())
        beside, device = self._throttle.succeeded(
            here, session.subject_id, keeps_tokens=devices is not None
        )
        async with self._turns.turn(approach.lane):
            password_hash = await self._passwords.hash(new)
        token = new_token()
        changed = CredentialChanged(
            event_id=new_event_id(), occurred_at=self._acting.now(), subject_id=session.subject_id
        )
        first_id = derived_event_id(changed.event_id, 1)
        mail = await self._notices.of("password_changed", credential, client)
        command = ChangeCredential(
            event=self._personal.sealed(changed, who(credential.login, client), credential.key),
            password_hash=password_hash,
            credential_version=credential.credential_version,
            session_id=session.session_id,
            session=self._session_started(first_id, credential, token, client),
            beside=(*beside, *mailed(mail)),
        )
        return replace(await self._grant(token, command, client, credential.login), device=device)

    # --- a new token for the same login

    async def renew(self, session: Session, client: Client = UNKNOWN_CLIENT) -> Grant:
        """Start a session in place of this one, which ends: neither younger nor longer.

        Raises NotAuthenticated when it has ended.
        """
        credential = await self._users.by_id(session.subject_id)
        if credential is None:
            raise NotAuthenticated()
        token = new_token()
        started = self._session_started(new_event_id(), credential, token, client)
        command = RenewSession(
            event=started,
            session_id=session.session_id,
        )
        return await self._grant(token, command, client, credential.login)

    async def close(self) -> None:
        """End what goes on beside requests."""
        await self._decoys.close()

    # --- what all of them do in the end

    async def _record(self, command: RegisterUser, client: Client) -> None:
        origin = await self._personal.origin_of(client, command.login)
        await self._acting.record(Act(command, origin))

    async def _grant(self, token: str, command: _Starting, client: Client, login: str) -> Grant:
        origin = await self._personal.origin_of(client, login)
        recorded = await self._acting.start(Act(command, origin))
        return Grant(token, started_session(recorded), recorded.first)
