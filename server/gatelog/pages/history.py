"""My history: what the log has about me, newest first, each with its proof."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlencode

import msgspec
from aiohttp import web

from gatelog.audit.rules.shown import Cursor, ShownEvent
from gatelog.audit.web.events import AUDIT, OWN_FILTERS, PAGING, parse_filter
from gatelog.http.answers import OWN_EVENTS_PATH
from gatelog.http.guard import SESSION
from gatelog.pages.door import HOME_PATH, page
from gatelog.pages.layout import show

HISTORY_PATH: Final = f"{HOME_PATH}/history"
PAGE_ROWS: Final = 25
# What happened, in words. A type that is not here is shown by its name.
WORDS: Final = {
    "user_registered": "The account was made",
    "credential_changed": "The password was changed",
    "login_failed": "Somebody failed to sign in",
    "session_started": "Signed in",
    "session_renewed": "The session was used",
    "session_ended": "A session ended",
    "role_granted": "A role was given",
    "role_revoked": "A role was taken away",
    "user_disabled": "The account was disabled",
    "user_enabled": "The account was enabled",
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
}


def in_words(event: ShownEvent) -> str:
    """What this event says, in words."""
    words = WORDS.get(event.type, event.type)
    detail = event.reason or event.role or event.what or event.factor
    return f"{words} ({detail.replace('_', ' ')})" if detail else words


def beside(request: web.Request, cursor: Cursor | None) -> str | None:
    """The address of the page beside this one: the same question, next to that position."""
    if cursor is None:
        return None
    question = [(name, value) for name, value in request.query.items() if name != "cursor"]
    question.append(("cursor", f"{cursor.side}-{cursor.position}"))
    return f"{request.path}?{urlencode(question)}"


@page
async def history(request: web.Request) -> web.StreamResponse:
    """A page of what is recorded about me. Raises InvalidInput."""
    wanted = parse_filter(request.query, names=OWN_FILTERS, also=PAGING)
    if "limit" not in request.query:
        wanted = msgspec.structs.replace(wanted, limit=PAGE_ROWS)
    me = request[SESSION].subject_id
    found = await request.app[AUDIT].page_of_own(me, wanted)
    return show(
        request,
        "account/history.html",
        events=[(event, in_words(event)) for event in found.events],
        me=me,
        older=beside(request, found.next),
        newer=beside(request, found.prev),
        proof_path=OWN_EVENTS_PATH,
    )


def history_routes() -> list[web.RouteDef]:
    """The route of one's own history."""
    return [web.get(HISTORY_PATH, history)]
