"""Ways back in: a link by mail for who does not know their password, what the link opens, and my
address of mail.

Rules:

- Who asks for a link is told the same, whoever has the login.
- A link's token is in its fragment, which no browser sends and no log has. A script takes it from
  there into the form and out of the address (``link.js``); without scripts it is typed.
- Nothing is done by opening a link: what it is for is done by its form.
"""

from __future__ import annotations

from typing import Any, Final

from aiohttp import web

from gatelog.accounts.web import ACCOUNTS
from gatelog.errors import GatelogError, InvalidInput, LinkUnusable
from gatelog.http.caller import caller_of
from gatelog.http.guard import SESSION, public
from gatelog.http.roles import refuse_old_login
from gatelog.http.settings import CONFIG
from gatelog.pages.account import done, what_is_done
from gatelog.pages.door import HOME_PATH, page
from gatelog.pages.forms import Form, again, read_form
from gatelog.pages.layout import show, visitor

RECOVER_PATH: Final = "/recover"
WELCOME_PATH: Final = "/welcome"
ADDRESS_PATH: Final = f"{HOME_PATH}/address"
_WELCOME: Final = "welcome.html"
_ADDRESS: Final = "account/address.html"


# --- asking for a link


@public
@page
async def recover_page(request: web.Request) -> web.StreamResponse:
    """The form to ask for a link, where mails are sent."""
    await visitor(request)
    return show(request, "recover.html", form=Form(), **_of_asking(request))


def _of_asking(request: web.Request, *, asked: bool = False) -> dict[str, Any]:
    return {"asked": asked, "mails": request.app[CONFIG].mails}


@public
@page
async def recover(request: web.Request) -> web.StreamResponse:
    """Have a link sent to the user's address, if there are such a user and an address."""
    form = await read_form(request, "login")
    try:
        await request.app[ACCOUNTS].recovery.ask(form["login"], caller_of(request).client)
    except GatelogError as error:
        at = "login" if type(error) is InvalidInput else None
        return again(request, "recover.html", form, error, at=at, **_of_asking(request))
    return show(request, "recover.html", form=Form(), **_of_asking(request, asked=True))


# --- what a link opens


@public
@page
async def welcome_page(request: web.Request) -> web.StreamResponse:
    """The page that links in mails open (``GATELOG_LINK_URL``)."""
    await visitor(request)
    return show(request, _WELCOME, form=Form(), **_of_welcome(request, ""))


def _of_welcome(request: web.Request, done_with: str) -> dict[str, Any]:
    return {"done_with": done_with, "min_length": request.app[CONFIG].password_min_length}


@public
@page
async def set_password(request: web.Request) -> web.StreamResponse:
    """Set a password by a link: all sessions end, and the form to sign in is next."""
    form = await read_form(request, "token", "new_password")
    try:
        await request.app[ACCOUNTS].recovery.set_password(
            form["token"], form["new_password"], caller_of(request).client
        )
    except GatelogError as error:
        at = {LinkUnusable.code: "token", InvalidInput.code: "new_password"}.get(error.code)
        return again(request, _WELCOME, form, error, at=at, **_of_welcome(request, ""))
    return show(request, _WELCOME, form=Form(), **_of_welcome(request, "password"))


@public
@page
async def confirm_address(request: web.Request) -> web.StreamResponse:
    """Verify an address of mail by the link that was sent there."""
    form = await read_form(request, "address_token")
    await visitor(request)
    try:
        await request.app[ACCOUNTS].recovery.verify_address(
            form["address_token"], caller_of(request).client
        )
    except GatelogError as error:
        at = "address_token" if isinstance(error, LinkUnusable) else None
        return again(request, _WELCOME, form, error, at=at, **_of_welcome(request, ""))
    return show(request, _WELCOME, form=Form(), **_of_welcome(request, "address"))


# --- my address


@page
async def address_page(request: web.Request) -> web.StreamResponse:
    """My address of mail, by which I get back in."""
    return show(request, _ADDRESS, form=Form(), **await _of_address(request))


async def _of_address(request: web.Request) -> dict[str, Any]:
    found = await request.app[ACCOUNTS].recovery.address_of(request[SESSION].subject_id)
    mails = request.app[CONFIG].mails
    return {"found": found, "mails": mails, "done": what_is_done(request)}


@page
async def propose_address(request: web.Request) -> web.StreamResponse:
    """Have a link sent to an address; it is mine when the link is used."""
    form = await read_form(request, "address")
    refuse_old_login(request)
    try:
        await request.app[ACCOUNTS].recovery.propose_address(
            request[SESSION], form["address"], caller_of(request).client
        )
    except GatelogError as error:
        at = "address" if type(error) is InvalidInput else None
        return again(request, _ADDRESS, form, error, at=at, **await _of_address(request))
    return done(ADDRESS_PATH, "address_asked")


@page
async def remove_address(request: web.Request) -> web.StreamResponse:
    """Forget my address of mail."""
    await read_form(request)
    refuse_old_login(request)
    recovery = request.app[ACCOUNTS].recovery
    await recovery.remove_address(request[SESSION], caller_of(request).client)
    return done(ADDRESS_PATH, "address_removed")


def recovery_page_routes() -> list[web.RouteDef]:
    """The routes of links and of one's address."""
    return [
        web.get(RECOVER_PATH, recover_page),
        web.post(RECOVER_PATH, recover),
        web.get(WELCOME_PATH, welcome_page),
        web.post(f"{WELCOME_PATH}/password", set_password),
        web.post(f"{WELCOME_PATH}/address", confirm_address),
        web.get(ADDRESS_PATH, address_page),
        web.post(ADDRESS_PATH, propose_address),
        web.post(f"{ADDRESS_PATH}/remove", remove_address),
    ]
