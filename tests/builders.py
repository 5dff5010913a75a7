"""Commands for tests, with fresh ids; everything that a test does not care about has a value."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from gatelog.accounts.rules.ending import EndSession
from gatelog.accounts.rules.events import LoginFailed, UserRegistered
from gatelog.accounts.rules.login import RecordLoginFailure, RegisterUser, Replaced, StartSession
from gatelog.accounts.rules.tokens import CreateToken
from gatelog.clock import new_event_id, new_random_id
from gatelog.config import Config
from gatelog.master_keys import KEY_ID_BYTES
from gatelog.privacy.rules import WRAPPED_BYTES, WrappedKey
from gatelog.sessions.rules.events import SessionStarted, TokenCreated
from gatelog.sessions.rules.record import packed
from gatelog.sessions.rules.state import ActiveSession
from gatelog.sessions.rules.tokens import token_digest
from gatelog.sessions.service.tokens import new_machine_token, new_token

# For services in tests, which have no data directory to make one in.
MASTER_KEY = "A" * 43
UNLIMITED = 100_000
# Of services whose tests log in again and again: the cheapest hashing there is, as many waiting
# and as many failures as they like.
CHEAP_CONFIG = Config(
    master_key=MASTER_KEY,
    argon2_memory_kib=8,
    argon2_time_cost=1,
    login_tries=UNLIMITED,
    registration_tries=UNLIMITED,
    hashing_queue=UNLIMITED,
)
# What is nobody's: it opens nothing.
NO_KEY = WrappedKey(bytes(WRAPPED_BYTES), bytes(KEY_ID_BYTES))
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def session_record(**fields: Any) -> bytes:
    """The packed record of a session with these fields; the token's digest is not in it."""
    return packed(ActiveSession(token_digest=bytes(32), **fields))


def registration(
    login: str, *, roles: tuple[str, ...] = (), only_first: bool = False
) -> RegisterUser:
    event = UserRegistered(event_id=new_event_id(), occurred_at=NOON, subject_id=new_random_id())
    return RegisterUser(
        event=event,
        login=login,
        password_hash="hash",
        key=NO_KEY,
        roles=roles,
        only_first=only_first,
    )


def failure() -> RecordLoginFailure:
    event = LoginFailed(event_id=new_event_id(), occurred_at=NOON, reason="unknown_login")
    return RecordLoginFailure(event=event)


def start(
    subject_id: UUID,
    *,
    token: str | None = None,
    at: datetime = NOON,
    lifetime_s: float = 86_400 * 3650,
    credential_version: int = 1,
    max_sessions: int = 100,
    refuse: bool = False,
    replaces: Replaced | None = None,
    idle_s: int | None = None,
    authenticated_at: datetime | None = None,
    amr: tuple[str, ...] = (),
) -> StartSession:
    event = SessionStarted(
        event_id=new_event_id(),
        occurred_at=at,
        subject_id=subject_id,
        session_id=new_random_id(),
        token_digest=token_digest(token or new_token()),
        expires_at=at + timedelta(seconds=lifetime_s),
        idle_s=idle_s,
        authenticated_at=authenticated_at,
        amr=amr,
    )
    return StartSession(
        event=event,
        credential_version=credential_version,
        max_sessions=max_sessions,
        refuse=refuse,
        replaces=replaces,
    )


def token(
    subject_id: UUID,
    by: UUID,
    *,
    at: datetime = NOON,
    lifetime_s: float = 86_400 * 365,
    roles: tuple[str, ...] = (),
    max_tokens: int = 1000,
) -> CreateToken:
    """A token for a machine, made by the session ``by``."""
    event = TokenCreated(
        event_id=new_event_id(),
        occurred_at=at,
        subject_id=subject_id,
        session_id=new_random_id(),
        token_digest=token_digest(new_machine_token()),
        expires_at=at + timedelta(seconds=lifetime_s),
        roles=roles,
    )
    return CreateToken(event=event, by=by, max_tokens=max_tokens)


def end(started: StartSession | CreateToken) -> EndSession:
    event = started.event
    return EndSession(
        event_id=new_event_id(),
        at=NOON,
        subject_id=event.subject_id,
        session_id=event.session_id,
        reason="logout",
    )
