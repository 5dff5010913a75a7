"""What happens to a session."""

from __future__ import annotations

from datetime import datetime
from typing import Literal
from uuid import UUID

from gatelog.log.rules.events import UserEvent

EndReason = Literal[
    "logout",
    "revoked",
    "superseded",
    "idle_timeout",
    "absolute_timeout",
    "credential_changed",
    "user_disabled",
    "user_erased",
]


class SessionStarted(UserEvent, frozen=True, kw_only=True, tag="session_started"):
    """A session is active from here on, until it ends or ``expires_at`` passes."""

    session_id: UUID
    token_digest: bytes
    expires_at: datetime
    roles: tuple[str, ...] = ()


class SessionEnded(UserEvent, frozen=True, kw_only=True, tag="session_ended"):
    """The session is over for good."""

    session_id: UUID
    token_digest: bytes
    reason: EndReason
