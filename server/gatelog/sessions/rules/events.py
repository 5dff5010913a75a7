"""What happens to a session."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar, Literal
from uuid import UUID

from gatelog.log.rules.events import UPCASTERS, Event, UserEvent

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
    """A session is active from here on, until it ends or ``expires_at`` passes.

    ``idle_s``: it also ends when it is not used for so many seconds; None: it need not be used.
    ``seen_at``: when it was used last, where that is not when it started. ``authenticated_at``:
    when its user was authenticated, where that is not when it started; ``amr``: by which methods,
    by their registered names (RFC 8176, section 2), empty where that was not recorded.
    """

    VERSION: ClassVar[int] = 3

    v: int = 3
    session_id: UUID
    token_digest: bytes
    expires_at: datetime
    roles: tuple[str, ...] = ()
    idle_s: int | None = None
    seen_at: datetime | None = None
    authenticated_at: datetime | None = None
    amr: tuple[str, ...] = ()


class TokenCreated(UserEvent, frozen=True, kw_only=True, tag="token_created"):
    """A machine may act for the user from here on, with these roles, until ``expires_at`` passes.

    It is a session with a token that its user has made (``session_id`` is the token's id), and it
    ends like one (``SessionEnded``). What it is called stands in ``sealed``. ``authenticated_at``
    and ``amr`` are those of the session that made it.
    """

    session_id: UUID
    token_digest: bytes
    expires_at: datetime
    roles: tuple[str, ...] = ()
    authenticated_at: datetime | None = None
    amr: tuple[str, ...] = ()


class SessionsRenewed(Event, frozen=True, kw_only=True, tag="sessions_renewed"):
    """These sessions and tokens have been used, at ``occurred_at``: by the clock of the log.

    One event for many, of different users: use is no deed of a person, and there is a lot of it.
    """

    subject_id: None = None
    token_digests: tuple[bytes, ...]


class SessionEnded(UserEvent, frozen=True, kw_only=True, tag="session_ended"):
    """The session is over for good.

    ``occurred_at`` of a timeout is when the session's time was over, which is recorded later.
    """

    session_id: UUID
    token_digest: bytes
    reason: EndReason


def _need_not_be_used(fields: dict[str, Any]) -> dict[str, Any]:
    """Sessions that started before there were idle timeouts last as long as was said then."""
    return fields


def _began_with_a_login(fields: dict[str, Any]) -> dict[str, Any]:
    """Of these, ``occurred_at`` is when the user logged in, also where only the token was new.

    By which methods, they do not say, and nobody makes it up.
    """
    return fields


UPCASTERS["session_started", 1] = _need_not_be_used
UPCASTERS["session_started", 2] = _began_with_a_login
