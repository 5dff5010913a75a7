"""Users: the newest, who is looked for, and somebody new.

Auditors look; administrators also invite and create. Reading is recorded first.
"""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

from aiohttp import web

from gatelog.accounts.rules.events import LinkPurpose
from gatelog.accounts.service.acting import Actor
from gatelog.accounts.service.recovery import MadeLink
from gatelog.accounts.web import ACCOUNTS
from gatelog.console.rules.paging import parse_key
from gatelog.console.web import FIND_USERS
from gatelog.console.web.parameters import only
from gatelog.console.web.users import AUDITED
from gatelog.errors import GatelogError, InvalidInput
from gatelog.http.caller import caller_of
from gatelog.http.guard import SESSION
from gatelog.http.roles import record_read, refuse_old_login, requires
from gatelog.http.settings import CONFIG
from gatelog.pages.door import page
from gatelog.pages.forms import Form, again, onward, read_form
from gatelog.pages.layout import show
from gatelog.pages.overview import READERS
from gatelog.pages.recovery import WELCOME_PATH

USERS_PATH: Final = "/console/users"
NEW_PATH: Final = f"{USERS_PATH}/new"
PAGE_ROWS: Final = 50
_LIST: Final = "console/users.html"
_NEW: Final = "console/new_user.html"
_LINK: Final = "console/link.html"
NOBODY: Final = "Nobody has this login or this id. Who was erased has no login any more."


def user_path(user_id: UUID) -> str:
    """The page of this user."""
    return f"{USERS_PATH}/{user_id}"


def actor(request: web.Request) -> Actor:
    """Who acts on others here."""
    return Actor(request[SESSION].subject_id, caller_of(request).client)


def is_admin(request: web.Request) -> bool:
    """Whether the reader may change something here."""
    return "admin" in request[SESSION].roles


@requires(*READERS)
@page
async def users_page(request: web.Request) -> web.StreamResponse:
    """The newest users; or on to the one who is looked for."""
    only(request.query, ("find", "cursor"))
    await record_read(request, AUDITED)
    wanted = request.query.get("find", "").strip()
    if wanted:
        found = await request.app[FIND_USERS].named(wanted)
        if found is not None:
            return onward(user_path(found.user.subject_id))
    form = Form({"find": wanted})
    context = await _of_list(request)
    if wanted:
        form.faults["find"] = NOBODY
        return again(request, _LIST, form, **context)
    return show(request, _LIST, form=form, **context)


async def _of_list(request: web.Request) -> dict[str, Any]:
    text = request.query.get("cursor")
    before = parse_key(text) if text is not None else None
    found = await request.app[FIND_USERS].newest(PAGE_ROWS, before)
    return {
        "users": found.users,
        "older": f"{USERS_PATH}?cursor={found.next}" if found.next is not None else None,
        "newest": USERS_PATH if before is not None else None,
        "may_change": is_admin(request),
    }


# --- links


def show_link(
    request: web.Request, made: MadeLink, login: str | None, purpose: LinkPurpose
) -> web.Response:
    """The page with a link that was made: it is shown this once, unless it goes out by mail."""
    link = made.link
    if made.token is not None and link is None:
        origin = request.app[CONFIG].public_url or f"{request.scheme}://{request.host}"
        link = f"{origin.rstrip('/')}{WELCOME_PATH}#{purpose}={made.token}"
    return show(request, _LINK, made=made, link=link, login=login, purpose=purpose)


# --- somebody new


@requires("admin")
@page
async def new_page(request: web.Request) -> web.StreamResponse:
    """The form for a new user."""
    return show(request, _NEW, form=Form(), **_of_new(request))


def _of_new(request: web.Request) -> dict[str, Any]:
    config = request.app[CONFIG]
    return {
        "roles": [(role, role) for role in config.role_names],
        "mails": config.mails,
        "min_length": config.password_min_length,
    }


@requires("admin")
@page
async def add_user(request: web.Request) -> web.StreamResponse:
    """Invite somebody, who chooses a password by a link; or create them with a password."""
    form = await read_form(request, "login", "address", "password", lists=("roles",))
    refuse_old_login(request)
    accounts, by, roles = request.app[ACCOUNTS], actor(request), form.all("roles")
    try:
        if form["password"]:
            created = await accounts.creating.create(form["login"], form["password"], roles, by)
            return onward(f"{user_path(created.subject_id)}?done=created")
        address = form["address"].strip() or None
        made = await accounts.recovery.invite(form["login"], roles, address, by)
    except GatelogError as error:
        at = _field_of(form, error)
        return again(request, _NEW, form, error, at=at, **_of_new(request))
    return show_link(request, made, form["login"], "invitation")


def _field_of(form: Form, error: GatelogError) -> str | None:
    """The field that an error is about, where its code does not tell."""
    if type(error) is not InvalidInput:
        return None
    said = str(error).lower()
    if form["password"] and "password" in said:
        return "password"
    return "address" if form["address"] and "address" in said else "login"


def users_page_routes() -> list[web.RouteDef]:
    """The routes of the list and of somebody new."""
    return [
        web.get(USERS_PATH, users_page),
        web.get(NEW_PATH, new_page),
        web.post(NEW_PATH, add_user),
    ]
