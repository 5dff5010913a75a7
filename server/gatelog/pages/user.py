"""One user: who it is, where they are in, what happened to them, and what an administrator may do.

Rules: what an administrator does to others takes a recent sign-in. Who is erased is erased for
good, so that takes the login as well, or the id of who has none.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final
from uuid import UUID

from aiohttp import web

from gatelog.accounts.service.acting import NO_SUCH_USER
from gatelog.accounts.web import ACCOUNTS
from gatelog.audit.rules.shown import AuditFilter
from gatelog.audit.web.events import AUDIT
from gatelog.console.service.sessions import Wanted
from gatelog.console.web import FIND_USERS, WHO_IS_IN
from gatelog.console.web.users import AUDITED
from gatelog.errors import GatelogError, InvalidInput, NotFound
from gatelog.http.bodies import id_in_path
from gatelog.http.guard import SESSION
from gatelog.http.roles import record_read, refuse_old_login, requires
from gatelog.http.settings import CONFIG
from gatelog.pages.account import done, what_is_done
from gatelog.pages.door import page
from gatelog.pages.forms import Form, again, read_form
from gatelog.pages.layout import show
from gatelog.pages.overview import READERS
from gatelog.pages.users import USERS_PATH, actor, is_admin, show_link, user_path
from gatelog.pages.words import in_words

SHOWN_EVENTS: Final = 20
SHOWN_SESSIONS: Final = 50
_TEMPLATE: Final = "console/user.html"

_Doing = Callable[[web.Request, UUID, Form], Awaitable[str]]


def user_in_path(request: web.Request) -> UUID:
    """Whom it is about. Raises NotFound."""
    return id_in_path(request, "user_id", NO_SUCH_USER)


@requires(*READERS)
@page
async def user_page(request: web.Request) -> web.StreamResponse:
    """Who it is, their sessions, and what happened."""
    await record_read(request, AUDITED)
    return show(request, _TEMPLATE, form=Form(), **await _of_user(request, user_in_path(request)))


async def _of_user(request: web.Request, user_id: UUID) -> dict[str, Any]:
    app, config = request.app, request.app[CONFIG]
    state = await app[FIND_USERS].by_id(user_id)
    user, tokens, here = state.user, [], []
    if not user.erased:
        tokens = await app[ACCOUNTS].tokens.listed(user_id)
        page = await app[WHO_IS_IN].page(Wanted(limit=SHOWN_SESSIONS, user=user_id))
        here = page.sessions
    happened = await app[AUDIT].page(AuditFilter(user=user_id, limit=SHOWN_EVENTS))
    return {
        "user": user,
        "state": state,
        "sessions": here,
        "tokens": tokens,
        "events": [(event, *in_words(event)) for event in happened.events],
        "more": happened.next is not None,
        "lacks": [role for role in config.role_names if role not in user.roles],
        "may_change": is_admin(request) and not user.erased,
        "is_me": user_id == request[SESSION].subject_id,
        "erase_word": user.login or str(user_id),
        "done": what_is_done(request),
    }


# --- what an administrator does


def _changing(doing: _Doing, *names: str) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """The handler of a form with these fields that does this to the user in the path."""

    @requires("admin")
    @page
    async def change(request: web.Request) -> web.StreamResponse:
        user_id = user_in_path(request)
        form = await read_form(request, *names)
        refuse_old_login(request)
        try:
            what = await doing(request, user_id, form)
        except NotFound:
            raise
        except GatelogError as error:
            context = await _of_user(request, user_id)
            at = "confirm" if type(error) is InvalidInput else None
            return again(request, _TEMPLATE, form, error, at=at, **context)
        return done(user_path(user_id), what)

    change.__doc__ = doing.__doc__
    return change


async def _disable(request: web.Request, user_id: UUID, _: Form) -> str:
    """Keep the user from signing in, and end all sessions and tokens."""
    await request.app[ACCOUNTS].users.disable(user_id, actor(request))
    return "disabled"


async def _enable(request: web.Request, user_id: UUID, _: Form) -> str:
    """Let the user sign in again."""
    await request.app[ACCOUNTS].users.enable(user_id, actor(request))
    return "enabled"


async def _unlock(request: web.Request, user_id: UUID, _: Form) -> str:
    """Forgive failed logins."""
    await request.app[ACCOUNTS].users.unlock(user_id, actor(request))
    return "unlocked"


async def _grant(request: web.Request, user_id: UUID, form: Form) -> str:
    """Give the user a role, and end all sessions."""
    await request.app[ACCOUNTS].users.grant_role(user_id, form["role"], actor(request))
    return "granted"


async def _revoke(request: web.Request, user_id: UUID, form: Form) -> str:
    """Take a role away, and end all sessions."""
    await request.app[ACCOUNTS].users.revoke_role(user_id, form["role"], actor(request))
    return "revoked"


async def _remove_factors(request: web.Request, user_id: UUID, _: Form) -> str:
    """Remove all second factors of who has lost them, and end all sessions."""
    await request.app[ACCOUNTS].factors.reset(user_id, actor(request))
    return "factors"


async def _end_sessions(request: web.Request, user_id: UUID, form: Form) -> str:
    """End all sessions of the user; if ticked, tokens, too."""
    sessions = request.app[ACCOUNTS].sessions
    await sessions.revoke_all(user_id, actor(request), tokens=bool(form["tokens"]))
    return "ended"


async def _erase(request: web.Request, user_id: UUID, form: Form) -> str:
    """Forget the user for good, now that the login has been written."""
    found = await request.app[FIND_USERS].by_id(user_id)
    word = found.user.login or str(user_id)
    if form["confirm"].strip().casefold() != word.casefold():
        raise InvalidInput(f"Write {word} to erase this user.")
    await request.app[ACCOUNTS].users.erase(user_id, actor(request))
    return "erased"


@requires("admin")
@page
async def make_link(request: web.Request) -> web.StreamResponse:
    """Make a link by which the user sets a password; it is shown once, or goes out by mail."""
    user_id = user_in_path(request)
    await read_form(request)
    refuse_old_login(request)
    made = await request.app[ACCOUNTS].recovery.reset(user_id, actor(request))
    found = await request.app[FIND_USERS].by_id(user_id)
    return show_link(request, made, found.user.login, "reset")


def user_page_routes() -> list[web.RouteDef]:
    """The routes of one user."""
    user = f"{USERS_PATH}/{{user_id:[0-9A-Fa-f-]{{36}}}}"
    return [
        web.get(user, user_page),
        web.post(f"{user}/disable", _changing(_disable)),
        web.post(f"{user}/enable", _changing(_enable)),
        web.post(f"{user}/unlock", _changing(_unlock)),
        web.post(f"{user}/grant", _changing(_grant, "role")),
        web.post(f"{user}/revoke", _changing(_revoke, "role")),
        web.post(f"{user}/remove_factors", _changing(_remove_factors)),
        web.post(f"{user}/end_sessions", _changing(_end_sessions, "tokens")),
        web.post(f"{user}/erase", _changing(_erase, "confirm")),
        web.post(f"{user}/link", make_link),
    ]
