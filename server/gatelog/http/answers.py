"""What goes back to a caller: JSON, with a receipt and a cookie where they belong to it.

What is for one caller is not for caches (``keep_private``).

A receipt says where the log tells what was just done, and proves it once there is a proof. Who
prefers one (``Caller.wants_receipt``) gets it with a login, a logout and what else ends one's own
sessions. Rules:

- Nobody waits for a receipt, and nothing fails for want of one: what was done is done. The log is
  sealed up to a second after it; until then the receipt says where the proof will be.
- Proofs are a capability of their own: the application says who makes them (``PROVER``).
- The cookie is ``__Host-gatelog``, or ``gatelog`` where the caller is local
  (``gatelog.http.credentials``).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Annotated, Any, Final, Protocol

import msgspec
from aiohttp import hdrs, web
from multidict import istr

from gatelog.errors import GatelogError
from gatelog.http.caller import PREFER, RECEIPT, Caller
from gatelog.http.credentials import LOCAL_COOKIE, SECURE_COOKIE
from gatelog.http.described import Reply
from gatelog.http.encoded import Encoded
from gatelog.http.problems import VARY_BY_CREDENTIALS
from gatelog.http.settings import CONFIG

logger = logging.getLogger(__name__)

JSON: Final = {hdrs.CONTENT_TYPE: "application/json"}
OWN_EVENTS_PATH: Final = "/v1/me/events"
PREFERENCE_APPLIED: Final = istr("Preference-Applied")
CLEAR_SITE_DATA: Final = istr("Clear-Site-Data")
STRICT_TRANSPORT_SECURITY: Final = istr("Strict-Transport-Security")
PATIENCE_S = 0.1  # for the look at whether there is a proof already


class Prover(Protocol):
    """Who makes proofs of events."""

    async def proof_of(self, position: int) -> str | None:
        """The proof (a tlog-proof) of the event at this position; None before it is sealed."""


PROVER: Final[web.AppKey[Prover]] = web.AppKey("prover")

encode = msgspec.json.Encoder().encode


def answer(content: msgspec.Struct, status: int = 200) -> web.Response:
    """A JSON response."""
    return web.Response(status=status, body=encode(content), headers=JSON)


def private(content: msgspec.Struct, status: int = 200) -> web.Response:
    """A JSON response that is for one caller only."""
    response = answer(content, status)
    keep_private(response)
    return response


def keep_private(response: web.StreamResponse) -> None:
    """Keep what was answered for one session out of every cache."""
    if isinstance(response, Encoded):
        return  # its bytes say so already
    headers = response.headers
    headers.setdefault(hdrs.CACHE_CONTROL, "no-store")
    if headers.setdefault(hdrs.VARY, VARY_BY_CREDENTIALS) != VARY_BY_CREDENTIALS:
        headers.add(hdrs.VARY, VARY_BY_CREDENTIALS)


# --- receipts


class Receipt(msgspec.Struct, frozen=True, omit_defaults=True):
    """The position of an event, where its proof is to be had, and the proof (a tlog-proof)."""

    position: int
    proof_at: str
    proof: str | None = None


class Outcome(msgspec.Struct, omit_defaults=True, kw_only=True):
    """What was done for a caller, and the receipt, if they prefer one."""

    receipt: Receipt | None = None


# Of handlers that answer with ``told``, to describe them.
PREFERENCE: Final[Mapping[str, Any]] = {
    PREFER: Annotated[
        str,
        msgspec.Meta(description="`receipt`: where the log says so, with a proof (RFC 7240)."),
    ]
}


def told_reply(outcome: type[Outcome], **sometimes: str) -> Reply:
    """What ``told`` answers with, and headers that may come along."""
    content: dict[str, Any] = {JSON[hdrs.CONTENT_TYPE]: outcome}
    applied: dict[str, str] = {
        PREFERENCE_APPLIED: "`receipt`, where there is one.",
        STRICT_TRANSPORT_SECURITY: "To callers elsewhere, unless it is switched off.",
    }
    return Reply(content=content, sometimes=applied | sometimes)


async def told(
    request: web.Request, caller: Caller, outcome: Outcome, position: int | None
) -> web.Response:
    """The answer to a caller for whom something was done; None: nothing, which has no receipt."""
    receipt = position if caller.wants_receipt else None
    if receipt is not None:
        outcome.receipt = await _receipt(request, receipt)
    response = private(outcome)
    if receipt is not None:
        response.headers[PREFERENCE_APPLIED] = RECEIPT
    insist_on_tls(request, response, local=caller.local)
    return response


def insist_on_tls(request: web.Request, response: web.StreamResponse, *, local: bool) -> None:
    """Tell the browser to come by TLS only from now on: HTTP Strict Transport Security (RFC 6797).

    For this host alone: what lies below it is not ours. A browser heeds it over TLS alone.
    """
    lasts_s = request.config_dict[CONFIG].hsts_s
    if lasts_s and not local:
        response.headers[STRICT_TRANSPORT_SECURITY] = f"max-age={lasts_s}"


async def _receipt(request: web.Request, position: int) -> Receipt:
    """The receipt for an event about the caller."""
    proof = None
    try:
        async with asyncio.timeout(PATIENCE_S):
            proof = await request.app[PROVER].proof_of(position)
    except (GatelogError, TimeoutError) as error:
        logger.warning("a receipt without its proof: %s", str(error) or "it took too long")
    return Receipt(position, f"{OWN_EVENTS_PATH}/{position}/proof", proof)


# --- the cookie

COOKIE_IS_FORGOTTEN: Final[Mapping[str, str]] = {
    hdrs.SET_COOKIE: "The session cookie, emptied, if one was sent.",
    CLEAR_SITE_DATA: "What pages have kept in the browser goes too (over TLS, with the cookie).",
}


def set_session_cookie(
    response: web.StreamResponse, caller: Caller, token: str, max_age_s: int
) -> None:
    """Give the browser its token. ``max_age_s``: for as long as the session lives at the most, so
    that use need not send the token again; that it idles is for the server to see."""
    name, secure = (LOCAL_COOKIE, "") if caller.local else (SECURE_COOKIE, "; Secure")
    response.headers.add(
        hdrs.SET_COOKIE,
        f"{name}={token}; Max-Age={max_age_s}; Path=/{secure}; HttpOnly; SameSite=Lax",
    )


def forget_session_cookie(response: web.StreamResponse, caller: Caller) -> None:
    """Make the browser forget its token, if it has sent one, and what pages have kept there.

    Not all cookies: those of neighbouring hosts would go as well, and what a browser is known by.
    A browser heeds it over TLS alone (Clear Site Data, W3C, section 3.1).
    """
    if caller.by_cookie:
        set_session_cookie(response, caller, "", 0)
        if not caller.local:
            response.headers[CLEAR_SITE_DATA] = '"cache", "storage"'
