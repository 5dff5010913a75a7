"""People who register, log in and fail to, and what the log then has of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from gatelog.accounts.service.accounts import Accounts
from gatelog.accounts.service.grants import Grant
from gatelog.config import Config
from gatelog.errors import InvalidCredentials
from gatelog.log.store.reading import StoredEvent, read_events
from gatelog.privacy.rules import Client
from gatelog.privacy.service.personal import PersonalData
from gatelog.sessions.rules.record import Session

from tests.builders import CHEAP_CONFIG, session_record

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection

PASSWORD = "a long enough password"
CONFIG = msgspec.structs.replace(
    CHEAP_CONFIG,
    registration="open",
    failed_login_retention_days=3,
    hashing_threads=2,  # two logins are at it at the same time
)
HOME = Client("192.0.2.1", "firefox")
WORK = Client("198.51.100.2", "chrome")

MakeAccounts = Callable[[Config], Accounts]


async def log_of(connection: Connection) -> list[StoredEvent]:
    return await read_events(connection, 0)


async def opened(connection: Connection, personal: PersonalData) -> list[tuple[str, Any]]:
    """What everybody who may sees of the log: types and what is sealed."""
    events = [stored.event() for stored in await log_of(connection)]
    return [
        (event.type, found)
        for event, found in zip(events, await personal.open_personal(events), strict=True)
    ]


def session_of(grant: Grant) -> Session:
    session = grant.session
    return Session(
        session_record(
            session_id=session.session_id,
            subject_id=session.subject_id,
            started_at=session.started_at,
            expires_at=session.expires_at,
        )
    )


async def fail(accounts: Accounts, login: str, client: Client) -> None:
    with pytest.raises(InvalidCredentials):
        await accounts.logins.log_in(login, "wrong " + PASSWORD, client)
