"""Accounts on a real database with a real mail server beside them: what tests of both share."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from gatelog.accounts.service.accounts import Accounts
from gatelog.config import Config
from gatelog.errors import LinkUnusable
from gatelog.log.rules.events import Event
from gatelog.log.store.reading import read_events
from gatelog.privacy.rules import Client
from gatelog.sessions.rules.record import Session, packed
from gatelog.sessions.rules.state import ActiveSession

from tests.mail.server import Inbox

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection

PASSWORD, NEW = "a long enough password", "quite another password"
HERE = Client("192.0.2.1", "a browser")

Opened = Callable[[Config], AbstractAsyncContextManager[Accounts]]


class House:
    """Accounts, with a mail server beside them."""

    def __init__(self, accounts: Accounts, inbox: Inbox, connection: Connection) -> None:
        self.accounts = accounts
        self.inbox = inbox
        self.connection = connection

    async def user(self, login: str, address: str | None = None) -> UUID:
        """A user, with an address that is verified as users verify it."""
        user_id = await self.accounts.logins.add_user(login, PASSWORD)
        if address is not None:
            grant = await self.accounts.logins.log_in(login, PASSWORD, HERE)
            await self.accounts.recovery.propose_address(as_session(grant.session), address)
            await self.accounts.mailer.look()
            await self.accounts.recovery.verify_address(self.inbox.mails[-1].token)
            self.inbox.mails.clear()
        return user_id

    async def asked(self, login: str) -> str:
        """The token that comes by mail for who asks."""
        await self.accounts.recovery.ask(login, HERE)
        await self.accounts.mailer.look()
        return self.inbox.mails[-1].token

    async def events(self) -> list[Event]:
        return [item.event() for item in await read_events(self.connection, 0, limit=10_000)]

    async def refused(self, token: str) -> None:
        """The link does nothing, and says no more than any other one that does nothing."""
        before = len(await self.events())
        with pytest.raises(LinkUnusable) as refusal:
            await self.accounts.recovery.set_password(token, NEW, HERE)
        assert str(refusal.value) == LinkUnusable.title
        assert len(await self.events()) == before

    async def rows(self, table: str) -> int:
        count: int = await self.connection.fetchval(f"SELECT count(*) FROM {table}")
        return count


def as_session(session: ActiveSession) -> Session:
    return Session(packed(session))
