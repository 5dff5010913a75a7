"""Receipts: where the log says what was just done, and the proof of it once there is one.

``Prefer: receipt`` (RFC 7240) asks for one with a login, a logout and what else ends one's own
sessions. Rules:

- Nobody waits for a receipt, and nothing fails for want of one: what was done is done. The log is
  sealed up to a second after it; until then the receipt says where the proof will be.
- The proof of an event is for whom it is about, as well as for auditors and administrators.
"""

from __future__ import annotations

import asyncio
import logging
import re
from typing import Final

import msgspec
from aiohttp import web
from multidict import istr

from gatelog.errors import GatelogError
from gatelog.proofs.service.proofs import Proofs

logger = logging.getLogger(__name__)

OWN_EVENTS_PATH: Final = "/v1/me/events"
PREFER: Final = istr("Prefer")
PREFERENCE_APPLIED: Final = istr("Preference-Applied")
PREFERENCE: Final = "receipt"
PATIENCE_S = 0.1  # for the look at whether there is a proof already

_quoted = re.compile(r'"(?:[^"\\]|\\.)*"')


class Receipt(msgspec.Struct, frozen=True, omit_defaults=True):
    """The position of an event, where its proof is to be had, and the proof (a tlog-proof)."""

    position: int
    proof_at: str
    proof: str | None = None


def prefers_receipt(lines: list[str]) -> bool:
    """Whether these ``Prefer`` headers have the preference ``receipt``, which takes no value."""
    for line in lines:
        for preference in _quoted.sub('""', line).split(","):
            name, _, value = preference.partition(";")[0].partition("=")
            if name.strip().lower() == PREFERENCE and value.strip() in {"", '""'}:
                return True
    return False


async def receipt_for(request: web.Request, proofs: Proofs, position: int) -> Receipt | None:
    """The receipt for an event about the caller, if the request prefers to have one."""
    if not prefers_receipt(request.headers.getall(PREFER, [])):
        return None
    proof = None
    try:
        async with asyncio.timeout(PATIENCE_S):
            proof = (await proofs.receipt(position)).proof
    except (GatelogError, TimeoutError) as error:
        logger.warning("a receipt without its proof: %s", str(error) or "it took too long")
    return Receipt(position, f"{OWN_EVENTS_PATH}/{position}/proof", proof)


def apply_preference(response: web.StreamResponse, receipt: Receipt | None) -> None:
    """Say that the preference was heard, where it was."""
    if receipt is not None:
        response.headers[PREFERENCE_APPLIED] = PREFERENCE
