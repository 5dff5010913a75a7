"""Events in words: as one reads about others, and as one reads about oneself."""

from __future__ import annotations

from typing import Final

from gatelog.audit.rules.formats import KINDS
from gatelog.audit.rules.shown import ShownEvent

# What happened to oneself.
OWN: Final = {
    "user_registered": "The account was made",
    "credential_changed": "The password was changed",
    "login_failed": "Somebody failed to sign in",
    "session_started": "Signed in",
    "session_ended": "A session ended",
    "device_added": "Signed in on a new device",
    "role_granted": "A role was given",
    "role_revoked": "A role was taken away",
    "user_disabled": "The account was disabled",
    "user_enabled": "The account was enabled",
    "user_erased": "The account was erased",
    "password_locked": "The password was locked",
    "password_unlocked": "The password was unlocked",
    "factor_enrolled": "A second factor was added",
    "factor_removed": "A second factor was removed",
    "recovery_codes_made": "Recovery codes were made",
    "recovery_code_used": "A recovery code was used",
    "token_created": "A token was created",
    "link_made": "A link was made",
    "link_used": "A link was used",
    "mail_address_verified": "The address of mail was verified",
    "mail_address_removed": "The address of mail was removed",
    "audit_read": "You read about others",
    "composer_draft_changed": "You changed the draft of the composition",
    "composition_built": "You built the composition",
    "app_recorded": "An application recorded something",
}


def in_words(event: ShownEvent) -> tuple[str, str]:
    """What happened, and what more is said of it; one's own events are told in ``own_words``."""
    kind = KINDS.get(event.type)
    return kind.name if kind is not None else _type_in_words(event), _detail(event)


def own_words(event: ShownEvent) -> tuple[str, str]:
    """What happened to oneself, and what more is said of it."""
    return OWN.get(event.type) or _type_in_words(event), _detail(event)


def _type_in_words(event: ShownEvent) -> str:
    """For a type that this version does not know, or that is about nobody."""
    return event.type.replace("_", " ").capitalize()


def _detail(event: ShownEvent) -> str:
    if event.name is not None:
        return f"{event.name} {event.data}"
    if event.build is not None:
        return f"build {event.build}"
    detail = event.reason or event.role or event.what or event.factor or ""
    if event.count is not None:
        detail = f"{detail} {event.count}".strip()
    return detail.replace("_", " ")
