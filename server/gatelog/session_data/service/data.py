"""What applications keep in sessions: read from memory where that is new enough, written by name.

Rules:

- What a request changed is written onto the latest state, whatever others have changed since it
  read: per name, compared and swapped by revision, again until it holds.
- A reader says which revision it has seen (its cookie does): memory that is older, or of unknown
  age, does not answer. So one reads one's own writes, on every host.
- Memory serves only who has passed the check, so nothing of a session is shown after its end. It
  is forgotten after ``CACHED_FOR_S``, and then what others wrote is seen in any case.
- The key of a user is opened when it is needed and not kept.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from uuid import UUID
from weakref import WeakValueDictionary

import msgspec

from gatelog.config import Config
from gatelog.errors import KeysUnavailable, NotAuthenticated, Overloaded
from gatelog.log.store.database import Database
from gatelog.privacy.rules import NONCE_BYTES, WrappedKey, subject_purpose
from gatelog.privacy.service.keyring import Keyring
from gatelog.privacy.store.keys import KeyStore
from gatelog.session_data.rules.data import (
    MAX_BYTES,
    MAX_VISITOR_BYTES,
    VISITOR_AAD,
    Change,
    Content,
    bound_to,
    changed,
    packed,
    seal,
    session_key,
    unseal,
    visitor_key,
)
from gatelog.session_data.store.data import DataStore, Stored

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 32  # of a write that others are quicker than
FIRST_REST_S, LAST_REST_S = 0.002, 0.05  # between them, at random, lest the same ones lose
MAX_CACHED = 2048  # sessions of a worker: 8 MiB at the most
CACHED_FOR_S = 60.0


class Held(msgspec.Struct, frozen=True):
    """What a session holds at a revision; 0 before the first write."""

    revision: int
    content: Content


class SessionData:
    """The use cases of session data, in one process."""

    def __init__(
        self, config: Config, database: Database, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.store = DataStore(database)
        self._keyring = Keyring(config, KeyStore(database))
        self._clock = clock
        self._cache: OrderedDict[UUID, tuple[float, Held]] = OrderedDict()
        self._writing: WeakValueDictionary[UUID, asyncio.Lock] = WeakValueDictionary()
        self._visitor_key: bytes | None = None

    # --- sessions

    async def read(self, session_id: UUID, subject_id: UUID, seen: int | None) -> Held:
        """What is kept in this active session, at the revision that was ``seen`` or a later one.

        None: of unknown age, so that the primary is asked. Raises NotAuthenticated when the
        session has just ended, DatabaseUnavailable, KeysUnavailable.
        """
        held = self._remembered(session_id) if seen is not None else None
        if held is not None and seen is not None and held.revision >= seen:
            return held
        return (await self._latest(session_id, subject_id))[0]

    async def write(self, session_id: UUID, subject_id: UUID, change: Change, created: int) -> Held:
        """Make this change to the latest state; returns what that is then.

        Raises NotAuthenticated when the session has ended, SessionDataTooLarge, Overloaded where
        too many others write the same session, DatabaseUnavailable, KeysUnavailable.
        """
        lock = self._writing.setdefault(session_id, asyncio.Lock())
        async with lock:
            for attempt in range(MAX_ATTEMPTS):
                latest, wrapped = await self._latest(session_id, subject_id)
                content = changed(latest.content, change, created)
                held = Held(latest.revision + 1, content)
                sealed = seal(
                    packed(content, MAX_BYTES),
                    self._key(session_id, subject_id, wrapped),
                    os.urandom(NONCE_BYTES),
                    bound_to(session_id, held.revision),
                )
                if await self.store.write(session_id, latest.revision, sealed):
                    self._remember(session_id, held)
                    return held
                longest_s = min(FIRST_REST_S * 2**attempt, LAST_REST_S)
                await asyncio.sleep(longest_s * random.random())  # noqa: S311
        raise Overloaded("Too many requests change this session at once.")

    async def _latest(self, session_id: UUID, subject_id: UUID) -> tuple[Held, WrappedKey]:
        stored = await self.store.read(session_id)
        if stored is None:
            self._cache.pop(session_id, None)
            raise NotAuthenticated("The session has ended.")
        held = Held(stored.revision, self._opened(session_id, subject_id, stored))
        self._remember(session_id, held)
        return held, stored.key

    def _opened(self, session_id: UUID, subject_id: UUID, stored: Stored) -> Content:
        if stored.sealed is None:
            return Content()
        key = self._key(session_id, subject_id, stored.key)
        try:
            return unseal(stored.sealed, key, bound_to(session_id, stored.revision))
        except ValueError:
            logger.error("what is stored for session %s is not what was written", session_id)
            raise KeysUnavailable("The session's data does not open.") from None

    def _key(self, session_id: UUID, subject_id: UUID, wrapped: WrappedKey) -> bytes:
        return session_key(self._keyring.unwrap(wrapped, subject_purpose(subject_id)), session_id)

    def _remembered(self, session_id: UUID) -> Held | None:
        since, held = self._cache.get(session_id, (0.0, None))
        return held if held is not None and self._clock() - since < CACHED_FOR_S else None

    def _remember(self, session_id: UUID, held: Held) -> None:
        before = self._remembered(session_id)
        if before is not None and before.revision > held.revision:
            return  # a slow reader must not bring back what a later one has replaced
        now = self._clock()
        self._cache[session_id] = now, held
        self._cache.move_to_end(session_id)
        while len(self._cache) > MAX_CACHED or now - self._oldest() >= CACHED_FOR_S:
            self._cache.popitem(last=False)

    def _oldest(self) -> float:
        """Since when the entry is there that has been there for longest."""
        return next(iter(self._cache.values()))[0]

    # --- visitors

    async def seal_for_visitor(self, created: int, values: Mapping[str, str]) -> bytes:
        """What a visitor's cookie may carry. Raises SessionDataTooLarge, KeysUnavailable."""
        plain = packed(Content(created, dict(values)), MAX_VISITOR_BYTES)
        return seal(plain, await self._key_of_visitors(), os.urandom(NONCE_BYTES), VISITOR_AAD)

    async def open_for_visitor(self, sealed: bytes) -> Content | None:
        """What a visitor's cookie carries; None for what was not made here."""
        try:
            return unseal(sealed, await self._key_of_visitors(), VISITOR_AAD)
        except ValueError:
            return None

    async def _key_of_visitors(self) -> bytes:
        if self._visitor_key is None:
            self._visitor_key = visitor_key(await self._keyring.address_key())
        return self._visitor_key
