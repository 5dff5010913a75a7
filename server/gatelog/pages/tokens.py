"""My tokens for machines: create one, which is shown once, list them, end one."""

from __future__ import annotations

from typing import Any, Final

from aiohttp import web

from gatelog.accounts.rules.tokens import MAX_LIFETIME_S
from gatelog.accounts.web import ACCOUNTS
from gatelog.errors import Forbidden, GatelogError, InvalidInput
from gatelog.http.bodies import id_in_path
from gatelog.http.caller import caller_of
from gatelog.http.guard import SESSION
from gatelog.http.roles import refuse_old_login
from gatelog.pages.account import done, what_is_done
from gatelog.pages.door import HOME_PATH, page
from gatelog.pages.forms import Form, again, read_form
from gatelog.pages.layout import show

TOKENS_PATH: Final = f"{HOME_PATH}/tokens"
_DAY_S: Final = 86_400
MAX_DAYS: Final = MAX_LIFETIME_S // _DAY_S
_TEMPLATE: Final = "account/tokens.html"


@page
async def tokens_page(request: web.Request) -> web.StreamResponse:
    """My tokens, and the form for a new one."""
    return show(request, _TEMPLATE, form=Form(), created=None, **await _of_tokens(request))


async def _of_tokens(request: web.Request) -> dict[str, Any]:
    here = request[SESSION]
    return {
        "tokens": await request.app[ACCOUNTS].tokens.of_user(here.subject_id),
        "roles": [(role, role) for role in sorted(here.roles)],
        "max_days": MAX_DAYS,
        "done": what_is_done(request),
    }


@page
async def create_token(request: web.Request) -> web.StreamResponse:
    """Create a token; it is shown in this answer, and never again."""
    form = await read_form(request, "name", "days", lists=("roles",))
    refuse_old_login(request)
    days = form["days"].strip()
    if not (days.isascii() and days.isdigit() and len(days) < 6 and 1 <= int(days) <= MAX_DAYS):
        form.faults["days"] = f"It is a number of days, from 1 to {MAX_DAYS}."
        return again(request, _TEMPLATE, form, created=None, **await _of_tokens(request))
    try:
        created = await request.app[ACCOUNTS].tokens.create(
            request[SESSION],
            form["name"],
            int(days) * _DAY_S,
            form.all("roles"),
            caller_of(request).client,
        )
    except GatelogError as error:
        at = {InvalidInput.code: "name", Forbidden.code: "roles"}.get(error.code)
        context = await _of_tokens(request)
        return again(request, _TEMPLATE, form, error, at=at, created=None, **context)
    return show(request, _TEMPLATE, form=Form(), created=created, **await _of_tokens(request))


@page
async def end_token(request: web.Request) -> web.StreamResponse:
    """End one of my tokens."""
    token_id = id_in_path(request, "token_id", "You have no such token.")
    await read_form(request)
    refuse_old_login(request)
    tokens, client = request.app[ACCOUNTS].tokens, caller_of(request).client
    await tokens.end(request[SESSION], token_id, client)
    return done(TOKENS_PATH, "token_ended")


def token_page_routes() -> list[web.RouteDef]:
    """The routes of one's own tokens."""
    return [
        web.get(TOKENS_PATH, tokens_page),
        web.post(TOKENS_PATH, create_token),
        web.post(f"{TOKENS_PATH}/{{token_id:[0-9A-Fa-f-]{{36}}}}/end", end_token),
    ]
