"""Signed identities over HTTP: who gets them, and the keys by which they are checked.

Only a trusted proxy gets tokens: one is for an API, and no client's to see. The keys are for
everybody.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import msgspec
from aiohttp import hdrs, web

from gatelog.config import Config, variable
from gatelog.errors import Forbidden
from gatelog.http.credentials import is_from_proxy
from gatelog.http.described import describes
from gatelog.http.guard import public
from gatelog.http.settings import CONFIG
from gatelog.sessions.rules.identity_tokens import PublicKey
from gatelog.sessions.rules.record import Session
from gatelog.sessions.service.identity import IdentitySigner
from gatelog.settings import parse_networks

KEYS_PATH: Final = "/.well-known/jwks.json"
IDENTITY_SIGNER: Final = web.AppKey("identity_signer", IdentitySigner)


async def token_for(app: web.Application, peer: str | None, session: Session, audience: str) -> str:
    """A token for this API about an active session, if a proxy asks from this address.

    Raises Forbidden for any other peer, InvalidInput where none are signed at all, and Unavailable
    before the key is known.
    """
    if not _is_proxy(peer, app[CONFIG].trusted_proxies):
        raise Forbidden(f"Identities are signed for {variable('trusted_proxies')} alone.")
    return await app[IDENTITY_SIGNER].token(session, audience)


@lru_cache  # there are few proxies
def _is_proxy(peer: str | None, proxies: str) -> bool:
    return is_from_proxy(peer, parse_networks(proxies))


class KeySet(msgspec.Struct, frozen=True):
    """The list of keys (a JWK Set; RFC 7517, section 5)."""

    keys: list[PublicKey]


_encode = msgspec.json.Encoder().encode


@public
@describes(returns={200: KeySet})
async def keys(request: web.Request) -> web.Response:
    """The keys by which signed identities are checked."""
    listed = await request.app[IDENTITY_SIGNER].keys()
    headers = {hdrs.CONTENT_TYPE: "application/json", hdrs.CACHE_CONTROL: "no-cache"}
    return web.Response(body=_encode(KeySet(listed)), headers=headers)


def key_routes(config: Config) -> list[web.RouteDef]:
    """The route of the keys, where identities are signed."""
    return [web.get(KEYS_PATH, keys)] if config.identity_issuer else []
