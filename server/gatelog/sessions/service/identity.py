"""Signs identities for the APIs behind a proxy, and lists the keys by which they are checked.

Rules:

- Nobody has to make, keep or distribute a key: it is derived from the master key, so that all hosts
  sign with the same one, and the rotation of the master key brings a new one.
- Which master key is current is looked up beside the requests, every ``LOOK_EVERY_S``; as long as
  the database does not answer, the key that is known goes on signing. Before any is known there is
  no token: 503.
- A token is used again for the same session and API for half of its life, so that a signature is
  paid for once, and whoever gets a token has the other half to use it. It is asked for after the
  session's check: who is logged out gets no token, and the last one is over ``ttl_s`` after it was
  signed, whatever came meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import msgspec

from gatelog.clock import utc_now_us
from gatelog.config import Config, variable
from gatelog.errors import GatelogError, InvalidInput
from gatelog.privacy.service.keyring import Keyring
from gatelog.sessions.rules.identity_tokens import PublicKey, SigningKey, SigningKeys, claims_of
from gatelog.sessions.rules.record import Session

logger = logging.getLogger(__name__)

PURPOSE = b"signed identity"
LOOK_EVERY_S = 10.0
LOOK_AGAIN_US = 1_000_000  # at the soonest, for who fetches the list
MAX_TOKENS = 8192  # that a worker keeps: some 8 MiB


class Token(msgspec.Struct, frozen=True):
    """A token, and from when until when it is handed out, in microseconds since 1970 (UTC)."""

    text: str
    since_us: int
    until_us: int


class IdentitySigner:
    """Makes tokens, in one process."""

    def __init__(
        self, config: Config, keyring: Keyring, now_us: Callable[[], int] = utc_now_us
    ) -> None:
        self._issuer, self._ttl_s = config.identity_issuer, config.identity_ttl_s
        self._keyring = keyring
        self._now_us = now_us
        self._keys = SigningKeys()
        self._made: dict[bytes, SigningKey] = {}  # by the master keys that they are derived from
        self._looked_us = 0
        self._looking = asyncio.Lock()
        self._tokens: OrderedDict[tuple[bytes, str], Token] = OrderedDict()

    async def token(self, session: Session, audience: str) -> str:
        """A token for this API about an active session.

        Raises InvalidInput where none are signed at all, and Unavailable before the key is known.
        """
        if not self._issuer:
            raise InvalidInput(f"{variable('identity_issuer')} is empty: no identity is signed.")
        now_us, key = self._now_us(), (session.record, audience)
        kept = self._tokens.get(key)
        if kept is not None and kept.since_us <= now_us < kept.until_us:
            return kept.text
        return self._keep(key, await self._sign(session, audience, now_us))

    async def _sign(self, session: Session, audience: str, now_us: int) -> Token:
        if self._keys.signing is None:
            await self.look()
        signing = self._keys.signing
        assert signing is not None  # noqa: S101 (or looking has raised)
        claims = claims_of(
            session, issuer=self._issuer, audience=audience, now_us=now_us, ttl_s=self._ttl_s
        )
        return Token(signing.sign(claims), now_us, now_us + self._ttl_s * 500_000)

    def _keep(self, key: tuple[bytes, str], token: Token) -> str:
        self._tokens[key] = token
        self._tokens.move_to_end(key)
        while len(self._tokens) > MAX_TOKENS:
            self._tokens.popitem(last=False)
        return token.text

    async def keys(self) -> list[PublicKey]:
        """The keys that tokens may be signed with. Raises Unavailable before any is known."""
        if self._now_us() - self._looked_us >= LOOK_AGAIN_US:
            try:
                await self.look()
            except GatelogError:
                if self._keys.signing is None:
                    raise
        return self._keys.listed(self._now_us())

    async def look(self) -> None:
        """Look which master key is current. Raises DatabaseUnavailable, KeysUnavailable."""
        begun_us = self._now_us()
        async with self._looking:
            if self._looked_us > begun_us:
                return  # somebody has, meanwhile
            current, seeds = await self._keyring.derived(PURPOSE)
            known = self._made
            self._made = {
                key_id: known.get(key_id) or SigningKey(seed) for key_id, seed in seeds.items()
            }
            self._looked_us = self._now_us()
            self._keys.update(self._made[current], self._made.values(), self._looked_us)

    @asynccontextmanager
    async def looking(self) -> AsyncIterator[None]:
        """Meanwhile, look now and then, if identities are signed at all."""
        if not self._issuer:
            yield
            return
        task = asyncio.create_task(self._look_on(), name="identity keys")
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _look_on(self) -> None:
        while True:
            try:
                await self.look()
            except GatelogError as error:
                logger.warning("signed identities: %s", error)
            await asyncio.sleep(LOOK_EVERY_S)
