"""That somebody read about others."""

from __future__ import annotations

from typing import Literal

from gatelog.log.rules.events import UserEvent

AuditedRead = Literal["events", "export", "stream", "sessions", "log", "user_sessions", "users"]


class AuditRead(UserEvent, frozen=True, kw_only=True, tag="audit_read"):
    """The user read about others, as an auditor or administrator: the first time in a minute."""

    what: AuditedRead
