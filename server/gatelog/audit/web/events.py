"""Questions to the log over HTTP: pages of events, for auditors and for everybody about themselves.

Rules:

- Every parameter is known, well-formed and given once (``type`` may be repeated), or the answer
  is a 422 that names it.
- Pages are linked (RFC 8288), in the header and in the body. A link repeats the question and adds
  a ``cursor``: the page lies next to that position, so nothing is missed or seen twice while
  events are appended. A page may be short; what has no ``next`` is the end.
- Reading about others is recorded before anything is shown (``record_read``); reading about
  oneself is not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final
from urllib.parse import urlencode
from uuid import UUID

import msgspec
from aiohttp import hdrs, web
from msgspec import Meta
from multidict import MultiMapping

from gatelog.accounts.rules.credentials import normalise_login
from gatelog.accounts.web.logins import LoginName
from gatelog.audit.rules.shown import (
    MAX_PAGE,
    MAX_POSITION,
    AuditFilter,
    Cursor,
    Order,
    ShownEvent,
)
from gatelog.audit.service.audit import Audit, ShownPage
from gatelog.errors import InvalidInput, NotFound, NotSealed
from gatelog.http.answers import JSON, OWN_EVENTS_PATH, answer
from gatelog.http.described import Reply, describes
from gatelog.http.guard import SESSION
from gatelog.http.roles import record_read, requires
from gatelog.log.rules.events import EVENT_TYPES
from gatelog.moments import Moment
from gatelog.privacy.rules import normalise_address, normalise_network
from gatelog.proofs.web import PROOFS, TEXT

AUDIT: Final = web.AppKey("audit", Audit)

FILTERS = (
    *("user", "login", "session", "type", "from", "to", "address", "network", "after", "before"),
)
OWN_FILTERS = ("type", "from", "to", "after", "before")
PAGING = ("limit", "order", "cursor")
REPEATABLE = "type"

_MAX_SHOWN_NAME = 40  # characters of a parameter's name that an error repeats

_number = re.compile(r"[0-9]{1,19}", re.ASCII).fullmatch
_cursor = re.compile(r"(before|after)-([0-9]{1,19})", re.ASCII).fullmatch
# RFC 3339, section 5.6; a leap second is no moment that anything here is recorded at
_moment = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?"
    r"([Zz]|[+-][0-9]{2}:[0-9]{2})",
    re.ASCII,
).fullmatch


class Events(msgspec.Struct, omit_defaults=True):
    """A page. ``next`` and ``prev`` are where the pages beside it are, when there are any."""

    events: list[ShownEvent]
    next: str | None = None
    prev: str | None = None


# --- parameters


class _Malformed(Exception):
    """What is wrong with a parameter's value; the value is not repeated."""


IpAddress = Annotated[
    str,
    Meta(
        description="From this IP address.",
        extra_json_schema={"anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]},
    ),
]
Network = Annotated[
    str,
    Meta(
        description="From this network: /8, /16, /24 or /32; of IPv6 /32, /48, /64 or /128.",
        extra_json_schema={"pattern": "^[0-9a-fA-F:.]+(/[0-9]{1,3})?$"},
        examples=["10.0.0.0/8", "2001:db8::/32"],
    ),
]
Login = Annotated[
    LoginName,
    Meta(description="With this login name in it, as it was given; also one that nobody has."),
]
PageCursor = Annotated[
    str,
    Meta(
        description="The page that a link leads to.",
        extra_json_schema={"pattern": "^(before|after)-[0-9]{1,18}$"},
    ),
]
Position = Annotated[int, Meta(ge=0, le=MAX_POSITION)]
Time = Annotated[Moment, Meta(description="A plus sign is written %2B.")]


def parse_filter(
    query: MultiMapping[str], *, names: Sequence[str] = FILTERS, also: Sequence[str] = ()
) -> AuditFilter:
    """The question in these parameters.

    ``also`` are the names of others that may be given, once: those of paging are read, too.
    Raises InvalidInput, naming the parameter.
    """
    fields: dict[str, Any] = {}
    for name in dict.fromkeys(query):
        if name not in names and name not in also:
            known = ", ".join((*names, *also))
            raise InvalidInput(
                f"There is no parameter {_shown_name(name)} here; there are {known}."
            )
        given = query.getall(name)
        if name == REPEATABLE:
            fields["types"] = tuple(dict.fromkeys(_read(name, _type, text) for text in given))
        elif len(given) > 1:
            raise InvalidInput(f"The parameter {name} is given twice.")
        elif name in _PARAMETERS:
            field, reader, _ = _PARAMETERS[name]
            fields[field] = _read(name, reader, given[0])
    wanted = AuditFilter(**fields)
    if wanted.since is not None and wanted.until is not None and wanted.since > wanted.until:
        raise InvalidInput("The parameter from is later than the parameter to.")
    if wanted.address is not None and wanted.network is not None:
        raise InvalidInput("Give one of the parameters address and network.")
    return wanted


def _shown_name(name: str) -> str:
    """A name that anybody may have made up, short and in printable ASCII."""
    return ascii(name if len(name) <= _MAX_SHOWN_NAME else name[:_MAX_SHOWN_NAME] + "…")


def _read(name: str, reader: Callable[[str], Any], text: str) -> Any:
    try:
        return reader(text)
    except _Malformed as error:
        raise InvalidInput(f"The parameter {name} must be {error}.") from None


def _uuid(text: str) -> UUID:
    try:
        value = UUID(text)
    except ValueError:
        value = None
    if value is None or str(value) != text.lower():
        raise _Malformed("an id, as it stands in events")
    return value


def _type(text: str) -> str:
    if text not in EVENT_TYPES:
        raise _Malformed("the type of an event, as session_started")
    return text


def _time(text: str) -> datetime:
    what = "a time like 2026-01-31T12:00:00Z (RFC 3339; a plus sign is written %2B)"
    if _moment(text) is None:
        raise _Malformed(what)
    try:
        return datetime.fromisoformat(text.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        raise _Malformed(what) from None


def _address(text: str) -> str:
    try:
        return normalise_address(text)
    except InvalidInput:
        raise _Malformed("an IP address") from None


def _network(text: str) -> str:
    try:
        return normalise_network(text)
    except InvalidInput as error:
        raise _Malformed(f"a network. {error}") from None


def _login(text: str) -> str:
    try:
        return normalise_login(text)
    except InvalidInput:
        raise _Malformed("a login name") from None


def _position(text: str) -> int:
    if _number(text) is None or int(text) > MAX_POSITION:
        raise _Malformed("a position: a number from 0 on")
    return int(text)


def _limit(text: str) -> int:
    if _number(text) is None or not 1 <= int(text) <= MAX_PAGE:
        raise _Malformed(f"a number from 1 to {MAX_PAGE}")
    return int(text)


def _order(text: str) -> str:
    if text not in {"asc", "desc"}:
        raise _Malformed("asc or desc")
    return text


def _page_cursor(text: str) -> Cursor:
    found = _cursor(text)
    if found is None or int(found[2]) > MAX_POSITION:
        raise _Malformed("taken from a link: before- or after- and a position")
    return Cursor("before" if found[1] == "before" else "after", int(found[2]))


def time_parameter(query: MultiMapping[str], name: str) -> datetime | None:
    """The time in this parameter, if it is given. Raises InvalidInput."""
    return _read(name, _time, query[name]) if name in query else None


def position_parameter(query: MultiMapping[str], name: str) -> int | None:
    """The position in this parameter, if it is given. Raises InvalidInput."""
    return _read(name, _position, query[name]) if name in query else None


# Of each its field in the question, how it is read, and what it is said to be.
_PARAMETERS: dict[str, tuple[str, Callable[[str], Any], Any]] = {
    "user": ("user", _uuid, Annotated[UUID, Meta(description="Whom they are about.")]),
    "session": ("session", _uuid, Annotated[UUID, Meta(description="Which session.")]),
    "from": ("since", _time, Annotated[Time, Meta(description="Recorded then or later.")]),
    "to": ("until", _time, Annotated[Time, Meta(description="Recorded earlier.")]),
    "address": ("address", _address, IpAddress),
    "network": ("network", _network, Network),
    "login": ("login", _login, Login),
    "after": ("after", _position, Annotated[Position, Meta(description="Behind this position.")]),
    "before": ("before", _position, Annotated[Position, Meta(description="Before this position.")]),
    "order": ("order", _order, Annotated[Order, Meta(description="The newest first, or last.")]),
    "limit": ("limit", _limit, Annotated[int, Meta(ge=1, le=MAX_PAGE, description="Of a page.")]),
    "cursor": ("cursor", _page_cursor, PageCursor),
}


def parameters(*names: str | Sequence[str]) -> dict[str, Any]:
    """What parameters of these names are, to describe a handler that reads them."""
    flat = [name for each in names for name in ((each,) if isinstance(each, str) else each)]
    kinds = {REPEATABLE: _types(), **{name: kind for name, (*_, kind) in _PARAMETERS.items()}}
    return {name: kinds[name] for name in flat}


def _types() -> Any:
    one = Annotated[str, Meta(extra_json_schema={"enum": sorted(EVENT_TYPES)})]
    return Annotated[list[one], Meta(description="Of these types.")]


# --- pages

PAGE_LINKS: Final[Mapping[str, str]] = {hdrs.LINK: "The pages beside this one (RFC 8288)."}


def _paged(request: web.Request, page: ShownPage) -> web.Response:
    """The page with its links. They are relative: a proxy in front may have other names."""
    links = {"next": _link(request, page.next), "prev": _link(request, page.prev)}
    response = answer(Events(page.events, **links))
    for relation, target in links.items():
        if target is not None:
            response.headers.add(hdrs.LINK, f'<{target}>; rel="{relation}"')
    return response


def _link(request: web.Request, cursor: Cursor | None) -> str | None:
    if cursor is None:
        return None
    question = [(name, value) for name, value in request.query.items() if name != "cursor"]
    question.append(("cursor", f"{cursor.side}-{cursor.position}"))
    return f"{request.path}?{urlencode(question)}"


# --- handlers

_PAGE = {200: Reply(content={JSON[hdrs.CONTENT_TYPE]: Events}, sometimes=PAGE_LINKS)}


@requires("auditor", "admin")
@describes(query=lambda: parameters(FILTERS, PAGING), returns=_PAGE)
async def events(request: web.Request) -> web.StreamResponse:
    """A page of the events that fit."""
    wanted = parse_filter(request.query, also=PAGING)
    await record_read(request, "events")
    return _paged(request, await request.app[AUDIT].page(wanted))


@describes(query=lambda: parameters(OWN_FILTERS, PAGING), returns=_PAGE)
async def own_events(request: web.Request) -> web.StreamResponse:
    """A page of what is recorded about the caller."""
    wanted = parse_filter(request.query, names=OWN_FILTERS, also=PAGING)
    audit = request.app[AUDIT]
    return _paged(request, await audit.page_of_own(request[SESSION].subject_id, wanted))


@describes(
    path={"position": Position},
    returns={200: Reply(content={TEXT: str})},
    raises=(InvalidInput, NotSealed),
)
async def own_proof(request: web.Request) -> web.StreamResponse:
    """The proof that an event about the caller is in the log, once it is sealed."""
    if request.query:
        raise InvalidInput("There are no parameters here.")
    position = int(request.match_info["position"])
    if position > MAX_POSITION:
        raise NotFound()
    await request.app[AUDIT].check_own(request[SESSION].subject_id, position)
    try:
        proof = await request.app[PROOFS].inclusion(position)
    except NotSealed as error:
        raise NotSealed(error.detail, retry_after_s=1) from error
    return web.Response(body=proof.text(), headers={hdrs.CONTENT_TYPE: TEXT})


def audit_routes() -> list[web.RouteDef]:
    """The routes of questions to the log."""
    return [
        web.get("/v1/audit/events", events),
        web.get(OWN_EVENTS_PATH, own_events),
        web.get(f"{OWN_EVENTS_PATH}/{{position:[0-9]{{1,19}}}}/proof", own_proof),
    ]
