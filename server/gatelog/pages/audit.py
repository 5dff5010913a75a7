"""The audit log: what happened, by every filter, and the page of one event.

Rules:

- What is asked for stands in the address, and nothing else does: every page can be linked to. A
  field that is empty is left out of it, by a redirect.
- Times are UTC, with or without a zone; a day or a minute is enough.
- What the log has is shown even where it is damaged: that is when somebody looks at it.
- Reading is recorded before anything is shown (``record_read``).
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import urlencode

import msgspec
from aiohttp import web
from multidict import MultiDict

from gatelog.audit.rules.formats import KINDS
from gatelog.audit.rules.shown import (
    MAX_POSITION,
    AuditFilter,
    Cursor,
    ShownEvent,
)
from gatelog.audit.service.audit import Audit
from gatelog.audit.store.queries import EventPage
from gatelog.audit.web.events import AUDIT, FILTERS, PAGING, REPEATABLE, parse_filter
from gatelog.audit.web.stream import FILTERS as STREAM_FILTERS
from gatelog.errors import InvalidInput, LogDamaged, NotFound, NotUnderstood, Purged
from gatelog.http.roles import record_read, requires
from gatelog.log.rules.events import EVENT_TYPES
from gatelog.log.store.reading import StoredEvent
from gatelog.pages.door import page
from gatelog.pages.forms import Form, again, onward
from gatelog.pages.layout import show
from gatelog.pages.words import in_words
from gatelog.privacy.rules import networks_of

AUDIT_PATH: Final = "/console/audit"
READERS: Final = ("auditor", "admin")
PAGE_ROWS: Final = 50
_TEMPLATE: Final = "console/audit.html"
_TIMES: Final = frozenset({"from", "to"})
# damaged, or of a version to come
_UNREADABLE: Final = (LogDamaged, NotUnderstood)
# asked for less often: out of the way until somebody does
_MORE: Final = ("address", "session", "after", "before", "order")
_EXPORTED: Final = frozenset(FILTERS)

# a day, perhaps a time, perhaps a zone; the rest of RFC 3339 is the API's to read
_moment = re.compile(
    r"(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d)(:\d\d(?:\.\d{1,9})?)?)?([Zz]|[+-]\d\d:\d\d)?", re.ASCII
).fullmatch


class Row(msgspec.Struct, frozen=True):
    """An event as a row shows it. ``event`` is None where the entry cannot be read."""

    stored: StoredEvent
    event: ShownEvent | None
    words: str
    detail: str


def _named_types() -> list[tuple[str, str]]:
    """All types of events, and what each is called, in the order of that."""
    named = [(name, KINDS[name].name if name in KINDS else name) for name in EVENT_TYPES]
    return sorted(named, key=lambda pair: pair[1])


def whole_moment(text: str) -> str:
    """What was written, as RFC 3339 has it, if it is a moment; a zone that is missing is UTC."""
    found = _moment(text.strip())
    if found is None:
        return text
    day, minute, second, zone = found.groups()
    return f"{day}T{minute or '00:00'}{second or ':00'}{zone or 'Z'}"


def without_empty(request: web.Request) -> web.Response | None:
    """On to the same page without the fields that nobody has filled in; None: there are none."""
    given = [(name, value) for name, value in request.query.items() if value.strip()]
    if len(given) == len(request.query):
        return None
    return onward(request.path + (f"?{urlencode(given)}" if given else ""))


def asked_of(request: web.Request, names: Sequence[str]) -> tuple[Form, MultiDict[str]]:
    """The form as it was sent, and the question in the API's spelling."""
    query = MultiDict(
        (name, whole_moment(value) if name in _TIMES else value)
        for name, value in request.query.items()
    )
    values = {name: request.query[name] for name in names if name in request.query}
    types = tuple(request.query.getall(REPEATABLE, ()))
    form = Form(dict.fromkeys(names, "") | values, lists={REPEATABLE: types})
    for name in (*names, REPEATABLE):
        only = MultiDict((name, value) for value in query.getall(name, ()))
        form.check(name, lambda _, only=only: parse_filter(only, also=PAGING))  # type: ignore[misc]
    return form, query


def link(path: str, question: MultiDict[str] | dict[str, str], **more: str | None) -> str:
    """The address of this question, with these parameters, or without where they are None."""
    asked = [(name, value) for name, value in question.items() if name not in more]
    asked += [(name, value) for name, value in more.items() if value is not None]
    return f"{path}?{urlencode(asked)}" if asked else path


def beside(question: MultiDict[str], cursor: Cursor | None) -> str | None:
    """The address of the page beside this one."""
    if cursor is None:
        return None
    return link(AUDIT_PATH, question, cursor=f"{cursor.side}-{cursor.position}")


@page
@requires(*READERS)
async def audit_page(request: web.Request) -> web.StreamResponse:
    """A page of the events that fit."""
    if (cleaned := without_empty(request)) is not None:
        return cleaned
    names = tuple(name for name in (*FILTERS, "order") if name != REPEATABLE)
    form, question = asked_of(request, names)
    more = bool(form.all(REPEATABLE)) or any(form[name] for name in _MORE)
    context: dict[str, Any] = {"types": _named_types(), "rows": None, "more": more}
    if form.is_wrong:
        return again(request, _TEMPLATE, form, **context)
    try:
        wanted = parse_filter(question, also=PAGING)
    except InvalidInput as error:
        return again(request, _TEMPLATE, form, error, **context)
    if "limit" not in question:
        wanted = msgspec.structs.replace(wanted, limit=PAGE_ROWS)
    await record_read(request, "events")
    audit = request.app[AUDIT]
    _, head = await audit.edges()  # before the page: what comes after it is for who follows
    found = await audit.stored(wanted)
    rows = await rows_of(audit, found.events)
    context |= {"rows": rows} | _of_page(wanted, question, found, head)
    return show(request, _TEMPLATE, form=form, **context)


def _of_page(
    wanted: AuditFilter, question: MultiDict[str], found: EventPage, head: int
) -> dict[str, Any]:
    exported = MultiDict((n, v) for n, v in question.items() if n in _EXPORTED)
    streamed = MultiDict((n, v) for n, v in question.items() if n in STREAM_FILTERS)
    live = wanted.order == "desc" and wanted.cursor is None
    live = live and wanted.until is None and wanted.before is None
    top = max([head, *(each.position for each in found.events)])
    return {
        "newer": beside(question, found.prev if wanted.order == "desc" else found.next),
        "older": beside(question, found.next if wanted.order == "desc" else found.prev),
        "permalink": link(AUDIT_PATH, question, before=str(top + 1)) if live else None,
        "exports": {
            form: link("/v1/audit/export", exported, format=form) for form in ("ndjson", "csv")
        },
        "sealed": link("/v1/audit/export", exported, format="ndjson", personal="sealed"),
        "tail": {"after": top, "question": urlencode(list(streamed.items()))} if live else None,
    }


async def rows_of(audit: Audit, stored: Sequence[StoredEvent]) -> list[Row]:
    """Rows of these events; of what cannot be read, that it cannot."""
    try:
        shown: Sequence[ShownEvent | None] = await audit.opened(stored)
    except _UNREADABLE:
        shown = [await _readable(audit, each) for each in stored]
    return [
        Row(each, event, *(in_words(event) if event else ("Cannot be read", "damaged")))
        for each, event in zip(stored, shown, strict=True)
    ]


async def _readable(audit: Audit, stored: StoredEvent) -> ShownEvent | None:
    try:
        return (await audit.opened([stored]))[0]
    except _UNREADABLE:
        return None


# --- one event


@page
@requires(*READERS)
async def event_page(request: web.Request) -> web.StreamResponse:
    """One event: what it says, its bytes, its leaf, and whether the log's key vouches for it."""
    if request.query:
        raise InvalidInput("There are no parameters here.")
    position = int(request.match_info["position"])
    if not 0 < position < MAX_POSITION:
        raise NotFound()
    await record_read(request, "events")
    audit = request.app[AUDIT]
    first, head = await audit.edges()
    wanted = AuditFilter(after=position - 1, before=position + 1, limit=1)
    found = (await audit.stored(wanted)).events
    if not found:
        if position < first:
            raise Purged(f"The log begins with position {first}.")
        raise NotFound(f"There is no event at this position; the last one is {head}.")
    (row,) = await rows_of(audit, found)
    return show(
        request,
        "console/event.html",
        row=row,
        event=row.event,
        facts=_facts(row.event),
        networks=_networks(row.event),
        entry=row.stored.entry.decode(errors="replace"),
        entry_base64=b64encode(row.stored.entry).decode(),
        leaf=row.stored.leaf_hash.hex(),
        older=position - 1 if position > first else None,
        newer=position + 1 if position < head else None,
    )


# Shown in a way of their own, or with the entry.
_ELSEWHERE: Final = frozenset(
    {"position", "type", "recorded_at", "user_id", "session_id", "actor_id", "login", "address"}
)


def _facts(event: ShownEvent | None) -> list[tuple[str, object]]:
    """What else the event says, by the names of the fields."""
    if event is None:
        return []
    fields = [(name, getattr(event, name)) for name in event.__struct_fields__]
    return [
        (name.replace("_", " ").capitalize(), value)
        for name, value in fields
        if value is not None and name not in _ELSEWHERE
    ]


def _networks(event: ShownEvent | None) -> tuple[str, ...]:
    """The networks that the event's address can be found by."""
    try:
        return networks_of(event.address) if event is not None and event.address else ()
    except InvalidInput:
        return ()


def audit_page_routes() -> list[web.RouteDef]:
    """The routes of the audit log."""
    return [
        web.get(AUDIT_PATH, audit_page),
        web.get(f"{AUDIT_PATH}/{{position:[0-9]{{1,19}}}}", event_page),
    ]
