"""The setup code: who has it makes the first account, which administers.

Rules:

- It is derived from the master key: all hosts know the same one, and it is kept nowhere. Who has
  read the start of the service, or its log, has it. It is worth nothing once there is a user, and
  the decision that there is none is made under the lock of the log's head.
- It has 120 bits, is compared in constant time, and is looked at before anything is hashed.
"""

from __future__ import annotations

import hmac
from typing import Final
from uuid import UUID

from gatelog.accounts.rules.factor_secrets import CODE_BYTES, spell_code
from gatelog.accounts.service.logins import Logins
from gatelog.errors import Forbidden, RegistrationClosed
from gatelog.privacy.rules import Client
from gatelog.privacy.service.keyring import Keyring

PURPOSE: Final = b"setup code"
_LONGEST_TEXT = 64


class FirstRun:
    """The use cases of a service that nobody has an account at."""

    def __init__(self, keyring: Keyring, logins: Logins) -> None:
        self._keyring = keyring
        self._logins = logins

    async def is_over(self) -> bool:
        """Whether there is a user, or ever was one."""
        return await self._logins.is_anybody_there()

    async def code(self) -> str:
        """The setup code, as it is shown. Raises KeysUnavailable."""
        return await setup_code(self._keyring)

    async def make_admin(
        self, login: str, password: str, client: Client, *, code: str | None
    ) -> UUID:
        """Create the first user, with the role ``admin``.

        ``code``: what was typed; None for who need not show one. Raises RegistrationClosed once
        there is a user, Forbidden for a wrong code, InvalidInput, WeakPassword, TooManyAttempts,
        HashingFull, KeysUnavailable.
        """
        if await self.is_over():
            raise RegistrationClosed("There is an account already.")
        if code is not None and not hmac.compare_digest(_plain(code), _plain(await self.code())):
            raise Forbidden("This is not the setup code of this service.")
        return await self._logins.register_first(login, password, client)


async def setup_code(keyring: Keyring) -> str:
    """The code of the database with this ring. Raises KeysUnavailable."""
    current, derived = await keyring.derived(PURPOSE)
    return spell_code(derived[current][:CODE_BYTES])


def _plain(text: str) -> bytes:
    """A code, however it is typed."""
    return "".join(char for char in text[:_LONGEST_TEXT] if char.isalnum()).lower().encode()
