"""New users whom an administrator creates, with a password that they have agreed on.

Who shall choose a password of their own is invited instead (``accounts.service.recovery``).
"""

from __future__ import annotations

from uuid import UUID

import msgspec

from gatelog.accounts.rules.credentials import normalise_login
from gatelog.accounts.rules.events import UserRegistered
from gatelog.accounts.rules.login import RegisterUser
from gatelog.accounts.service.acting import Act, Acting, Actor
from gatelog.accounts.service.logins import Logins
from gatelog.accounts.service.users import check_role
from gatelog.clock import new_random_id
from gatelog.config import Config
from gatelog.errors import StaleMasterKey
from gatelog.log.store.batch import Recorded
from gatelog.privacy.rules import Origin
from gatelog.privacy.service.personal import PersonalData


class Created(msgspec.Struct, frozen=True):
    """A user who is new, and where the log says so."""

    subject_id: UUID
    position: int


class Creating:
    """The use case of administrators who create users."""

    def __init__(
        self, config: Config, *, personal: PersonalData, acting: Acting, logins: Logins
    ) -> None:
        self._config = config
        self._personal = personal
        self._acting = acting
        self._logins = logins

    async def create(self, login: str, password: str, roles: tuple[str, ...], by: Actor) -> Created:
        """Create a user with these roles. From where it was done is sealed under ``by``'s key.

        Raises NoSuchRole, LoginTaken, InvalidInput, WeakPassword, HashingFull, NotAuthenticated
        when ``by`` is no administrator any more.
        """
        for role in roles:
            check_role(role, self._config.role_names)
        login = normalise_login(login)
        password_hash = await self._logins.hash_new(password, login, by.client)
        subject_id = new_random_id()
        key, wrapped = await self._personal.new_subject_key(subject_id)
        event = UserRegistered(**self._acting.about(subject_id, by))
        sealed = await self._personal.field(by.user_id, by.client, event.event_id, event.type)
        command = RegisterUser(
            event=msgspec.structs.replace(event, sealed=sealed),
            login=login,
            password_hash=password_hash,
            key=wrapped,
            roles=tuple(dict.fromkeys(roles)),
        )
        origin = await self._personal.origin_of(by.client)
        try:
            recorded = await self._acting.record(Act(command, origin))
        except StaleMasterKey:
            recorded = await self._again(command, key, origin)
        return Created(subject_id, recorded.position)

    async def _again(self, command: RegisterUser, key: bytes, origin: Origin | None) -> Recorded:
        """The same, after the master key has changed."""
        wrapped = await self._personal.wrap_again(command.event.subject_id, key)
        return await self._acting.record(Act(msgspec.structs.replace(command, key=wrapped), origin))
