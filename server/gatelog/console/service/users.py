"""Finding users: by login, by id, or the newest first."""

from __future__ import annotations

from uuid import UUID

import msgspec

from gatelog.accounts.rules.credentials import normalise_login
from gatelog.console.rules.paging import FIRST, Key
from gatelog.console.store.users import Directory, UserRow, UserState
from gatelog.errors import InvalidInput, NotFound

NO_SUCH_USER = "There is no such user."


class UserPage(msgspec.Struct, frozen=True):
    """Some users, and where the next ones begin; None at the end."""

    users: list[UserRow]
    next: Key | None


class FindUsers:
    """The use cases of who looks for users."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    async def newest(self, limit: int, before: Key | None = None) -> UserPage:
        """A page of users, those that came last first."""
        found = await self._directory.newest(before or FIRST, limit + 1)
        shown = found[:limit]
        return UserPage(shown, shown[-1].key if len(found) > limit else None)

    async def by_id(self, subject_id: UUID) -> UserState:
        """The user with this id, erased or not. Raises NotFound."""
        found = await self._directory.by_id(subject_id)
        if found is None:
            raise NotFound(NO_SUCH_USER)
        return found

    async def by_login(self, login: str) -> UserState | None:
        """The user with this login, if there is one. What cannot be a login is nobody's."""
        try:
            subject_id = await self._directory.by_login(normalise_login(login))
        except InvalidInput:
            return None
        return await self._directory.by_id(subject_id) if subject_id is not None else None

    async def named(self, text: str) -> UserState | None:
        """The user whom somebody means by this text: an id, as it stands in events, or a login."""
        text = text.strip()
        try:
            found = await self._directory.by_id(UUID(text)) if len(text) == 36 else None
        except ValueError:
            found = None
        return found or await self.by_login(text)
