"""My second factors: an authenticator program, passkeys, recovery codes.

Rules: seeds and recovery codes are shown once, in the answer to who asked for them, and are in no
address. Passkeys are made by a script (``enrol.js``); everything else works without.
"""

from __future__ import annotations

from typing import Any, Final

from aiohttp import web

from gatelog.accounts.web import ACCOUNTS
from gatelog.errors import GatelogError, InvalidInput
from gatelog.http.bodies import id_in_path
from gatelog.http.caller import caller_of
from gatelog.http.guard import SESSION
from gatelog.http.roles import refuse_old_login
from gatelog.http.settings import CONFIG
from gatelog.pages.account import done, what_is_done
from gatelog.pages.door import HOME_PATH, page
from gatelog.pages.forms import Form, again, read_form
from gatelog.pages.layout import show

FACTORS_PATH: Final = f"{HOME_PATH}/factors"
_TOTP_PATH: Final = f"{FACTORS_PATH}/totp"
_LIST: Final = "account/factors.html"
_OFFER: Final = "account/totp.html"
_CODES: Final = "account/codes.html"


@page
async def factors_page(request: web.Request) -> web.StreamResponse:
    """My factors, and how to add one."""
    return show(request, _LIST, form=Form(), **await _of_factors(request))


async def _of_factors(request: web.Request) -> dict[str, Any]:
    found, left = await request.app[ACCOUNTS].factors.described(request[SESSION].subject_id)
    return {
        "factors": found,
        "codes_left": left,
        "passkeys": bool(request.app[CONFIG].public_url),
        "done": what_is_done(request),
    }


@page
async def offer_seed(request: web.Request) -> web.StreamResponse:
    """A fresh seed for an authenticator program, to be confirmed by one of its codes."""
    await read_form(request)
    refuse_old_login(request)
    offer = await request.app[ACCOUNTS].factors.offer_seed(request[SESSION])
    return show(request, _OFFER, form=Form(), offer=offer)


@page
async def enrol_seed(request: web.Request) -> web.StreamResponse:
    """Enrol the seed that was offered; with the first factor come recovery codes."""
    form = await read_form(request, "challenge", "code", "name", "end_others")
    refuse_old_login(request)
    factors, here = request.app[ACCOUNTS].factors, request[SESSION]
    offer = await factors.offered_seed(here, form["challenge"])
    try:
        enrolled = await factors.enrol_seed(
            here,
            form["challenge"],
            form["code"].replace(" ", ""),
            name=form["name"] or "Authenticator",
            end_others=bool(form["end_others"]),
            client=caller_of(request).client,
        )
    except GatelogError as error:
        at = "name" if type(error) is InvalidInput else None
        return again(request, _OFFER, form, error, at=at, offer=offer)
    if enrolled.recovery_codes:
        return show(request, _CODES, codes=enrolled.recovery_codes)
    return done(FACTORS_PATH, "factor_added")


@page
async def remove_factor(request: web.Request) -> web.StreamResponse:
    """Remove one of my factors. With the last one the password is enough again."""
    factor_id = id_in_path(request, "factor_id", "You have no such factor.")
    await read_form(request)
    refuse_old_login(request)
    factors, client = request.app[ACCOUNTS].factors, caller_of(request).client
    await factors.remove(request[SESSION], factor_id, client=client)
    return done(FACTORS_PATH, "factor_removed")


@page
async def make_codes(request: web.Request) -> web.StreamResponse:
    """Fresh recovery codes; those of before are none any more."""
    await read_form(request)
    refuse_old_login(request)
    factors, client = request.app[ACCOUNTS].factors, caller_of(request).client
    codes, _ = await factors.make_codes(request[SESSION], client)
    return show(request, _CODES, codes=codes)


def factor_page_routes() -> list[web.RouteDef]:
    """The routes of one's own factors."""
    return [
        web.get(FACTORS_PATH, factors_page),
        web.post(_TOTP_PATH, offer_seed),
        web.post(f"{_TOTP_PATH}/confirm", enrol_seed),
        web.post(f"{FACTORS_PATH}/recovery_codes", make_codes),
        web.post(f"{FACTORS_PATH}/{{factor_id:[0-9A-Fa-f-]{{36}}}}/remove", remove_factor),
    ]
