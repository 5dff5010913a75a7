"""The administration of users: who may log in, with which roles, and who is forgotten.

What takes a right away ends the user's sessions in the same decision. Who did it over HTTP, and
from where, is sealed into the event under the key of that person.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TypeVar
from uuid import UUID

import msgspec

from gatelog.accounts.rules.administration import ChangeUser, EraseUser, UnlockPassword
from gatelog.accounts.rules.credentials import normalise_login
from gatelog.accounts.rules.events import (
    PasswordUnlocked,
    RoleGranted,
    RoleRevoked,
    UserDisabled,
    UserEnabled,
)
from gatelog.accounts.rules.users import is_admin
from gatelog.accounts.service.acting import NO_SUCH_USER, Act, Acting, Actor, Ended, client_of
from gatelog.accounts.store.users import Credential, ListedUser, Users
from gatelog.config import Config
from gatelog.errors import NoSuchRole, NotFound
from gatelog.log.rules import events as ev
from gatelog.log.store.batch import Recorded
from gatelog.privacy.rules import UserErased
from gatelog.privacy.service.personal import PersonalData

UserEventT = TypeVar("UserEventT", bound=ev.UserEvent)


class Administration:
    """The use cases of administrators and operators."""

    def __init__(
        self, config: Config, *, users: Users, personal: PersonalData, acting: Acting
    ) -> None:
        self._config = config
        self._users = users
        self._personal = personal
        self._acting = acting

    async def find_user(self, login: str) -> Credential:
        """The user with this login. Raises NotFound."""
        credential = await self._users.by_login(normalise_login(login))
        if credential is None:
            raise NotFound("There is no user with this login.")
        return credential

    async def login_of(self, subject_id: UUID) -> str | None:
        """The login of a user; None for who is erased, or never was."""
        credential = await self._users.by_id(subject_id)
        return credential.login if credential is not None else None

    async def logins_of(self, subject_ids: Collection[UUID]) -> dict[UUID, str]:
        """The logins of some users at once, for who may read about others."""
        return await self._users.logins(subject_ids) if subject_ids else {}

    async def list_users(self, after: UUID, limit: int) -> list[ListedUser]:
        """A page of users, by id, for operators."""
        return await self._users.page(after, limit)

    async def disable(self, subject_id: UUID, by: Actor | None = None) -> Ended:
        """Keep a user from logging in, and end all sessions. Raises NotFound, LastAdmin."""
        return await self._change(UserDisabled(**self._acting.about(subject_id, by)), by)

    async def enable(self, subject_id: UUID, by: Actor | None = None) -> Ended:
        """Let a disabled user log in again. Raises NotFound."""
        return await self._change(UserEnabled(**self._acting.about(subject_id, by)), by)

    async def unlock(self, subject_id: UUID, by: Actor | None = None) -> Recorded:
        """Forgive a user's failed logins: the password opens again what it opened. No session ends.

        Raises NotFound.
        """
        event = await self._acted(PasswordUnlocked(**self._acting.about(subject_id, by)), by)
        origin = await self._personal.origin_of(client_of(by))
        return await self._acting.record(Act(UnlockPassword(event=event), origin))

    async def grant_role(self, subject_id: UUID, role: str, by: Actor | None = None) -> Ended:
        """Give a user a role, and end all sessions. Raises NotFound, NoSuchRole."""
        check_role(role, self._config.role_names)
        event = RoleGranted(**self._acting.about(subject_id, by), role=role)
        return await self._change(event, by)

    async def revoke_role(self, subject_id: UUID, role: str, by: Actor | None = None) -> Ended:
        """Take a role away, and end all sessions. Raises NotFound, NoSuchRole, LastAdmin.

        A role that is configured no more can be taken away as long as somebody has it.
        """
        user = await self._users.state(subject_id)
        check_role(role, (*self._config.role_names, *(user.roles if user is not None else ())))
        event = RoleRevoked(**self._acting.about(subject_id, by), role=role)
        return await self._change(event, by)

    async def erase(self, subject_id: UUID, by: Actor | None = None) -> Ended:
        """Forget a person for good; sessions end. Raises NotFound, LastAdmin.

        What is left are events about a number. The login name can be registered again.
        """
        user = await self._users.state(subject_id)
        if user is None:
            raise NotFound(NO_SUCH_USER)
        if by is None or not is_admin(user):  # an administrator's may still be refused
            await self._personal.before_erasing(subject_id)
        event = UserErased(**self._acting.about(subject_id, by))
        if event.actor_id is not None:  # what is their own would not be opened by anybody
            event = await self._acted(event, by)
        return await self._end(EraseUser(event=event, keep_an_admin=by is not None), by)

    async def _change(
        self,
        event: UserDisabled | UserEnabled | RoleGranted | RoleRevoked,
        by: Actor | None,
    ) -> Ended:
        event = await self._acted(event, by)
        return await self._end(ChangeUser(event=event, keep_an_admin=by is not None), by)

    async def _acted(self, event: UserEventT, by: Actor | None) -> UserEventT:
        """The event with where it was done from."""
        if by is None:
            return event
        sealed = await self._personal.field(by.user_id, by.client, event.event_id, event.type)
        return msgspec.structs.replace(event, sealed=sealed)

    async def _end(self, command: ChangeUser | EraseUser, by: Actor | None) -> Ended:
        origin = await self._personal.origin_of(client_of(by))
        return await self._acting.end(Act(command, origin))


def check_role(role: str, known: Collection[str]) -> None:
    """Raises NoSuchRole for a role that is none of these."""
    if role not in known:
        raise NoSuchRole(f"There is no role {role!r}; there are {', '.join(known)}.")
