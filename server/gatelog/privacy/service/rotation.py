"""A new master key: every key in the database is wrapped anew, nothing that it seals changes.

The order, each step safe to be interrupted after, and done again by the next call:

1. The new master key stands in front of the old one, in the file or in the variable.
2. The ring names it current, under the lock of the log's head. Whoever wraps a key with the old
   one from now on is refused, reads the file once more, and succeeds.
3. Keys are wrapped anew, a page at a time. A key that is destroyed meanwhile stays so.
4. When no key is left under the old master key, it leaves the file. With it goes every copy of a
   destroyed key that a backup, the write-ahead log or a dead row may still hold.

A master key that is lost (``lost``) takes with it what is sealed so far. The same steps then give
every user a fresh key, so that the service can go on.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from datetime import date
from typing import TYPE_CHECKING, TypeVar
from uuid import UUID

import msgspec

from gatelog.config import Config
from gatelog.errors import KeysUnavailable, OperatorError
from gatelog.log.store.database import connect, translated_errors
from gatelog.master_keys import MasterKeys, format_master_keys, master_key_id
from gatelog.privacy.rules import (
    ADDRESS_PURPOSE,
    KEY_BYTES,
    NONCE_BYTES,
    WrappedKey,
    day_purpose,
    subject_purpose,
    unwrap,
    wrap,
)
from gatelog.privacy.service.keyring import SETTING, MasterKeySource
from gatelog.privacy.store import keys as store
from gatelog.secrets import ensure_directory, replace_secret

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection

PAGE = 1000  # keys of users

Progress = Callable[[int, int], None]  # keys done, keys there were at the start
OwnerT = TypeVar("OwnerT", UUID, date)


class Rotated(msgspec.Struct, frozen=True):
    """What a rotation did. ``lost`` keys could not be opened and were replaced by fresh ones."""

    master_key_id: str
    rewrapped: int
    lost: int
    resumed: bool
    in_file: bool


class Rotation:
    """One run of a rotation, on a connection of its own."""

    def __init__(self, connection: Connection, config: Config, *, lost: bool) -> None:
        self._connection = connection
        self._source = MasterKeySource(config)
        self._replace_lost = lost
        self._masters: MasterKeys = {}
        self._new_id = b""
        self._rewrapped = 0
        self._lost = 0

    async def run(self, progress: Progress) -> Rotated:
        """Rotate, or finish an interrupted rotation. Raises KeysUnavailable, OperatorError."""
        ring = await store.read_ring(self._connection)
        if ring is None:
            raise OperatorError("there are no keys yet; there is nothing to rotate")
        if not await store.lock_rotation(self._connection):
            raise OperatorError("another rotation is running")
        self._masters = self._source.read()
        if ring.master_key_id not in self._masters and not self._replace_lost:
            raise self._missing(ring.master_key_id)
        resumed = await self._choose(ring)
        if self._new_id != ring.master_key_id:
            await self._activate(ring)
        await self._rewrap_all(progress)
        if self._source.in_file:
            only = {self._new_id: self._masters[self._new_id]}
            replace_secret(self._source.path, format_master_keys(only))
        return Rotated(
            self._new_id.hex(), self._rewrapped, self._lost, resumed, self._source.in_file
        )

    async def _choose(self, ring: store.KeyRing) -> bool:
        """Decide on the new master key, making it if need be; whether one was waiting already."""
        newest = next(iter(self._masters), None)
        unfinished = len(self._masters) > 1 or await store.any_old_key(self._connection)
        if newest is not None and (newest != ring.master_key_id or unfinished):
            self._new_id = newest
            return True
        if not self._source.in_file:
            raise OperatorError(
                f"{SETTING}: put the new key in front of the current one, separated by a space,"
                " start the service again everywhere, and then rotate"
            )
        ensure_directory(self._source.path.parent, 0o700)
        fresh = os.urandom(KEY_BYTES)
        self._new_id = master_key_id(fresh)
        self._masters = {self._new_id: fresh} | self._masters
        replace_secret(self._source.path, format_master_keys(self._masters))
        return False

    async def _activate(self, ring: store.KeyRing) -> None:
        old = WrappedKey(ring.address_key, ring.master_key_id)
        await store.change_master_key(
            self._connection, ring.master_key_id, self._wrapped_anew(old, ADDRESS_PURPOSE)
        )

    async def _rewrap_all(self, progress: Progress) -> None:
        total, done = await store.count_subject_keys(self._connection), 0
        days = await store.all_day_keys(self._connection)
        await store.rewrap_day_keys(self._connection, self._fresh(days, day_purpose))
        after = store.NOBODY
        while page := await store.page_of_subject_keys(self._connection, after, PAGE):
            await store.rewrap_subject_keys(self._connection, self._fresh(page, subject_purpose))
            after = page[-1][0]
            done += len(page)
            progress(done, max(total, done))
        if await store.any_old_key(self._connection):
            raise OperatorError("some keys have not been rewrapped; rotate again")

    def _fresh(
        self, page: list[tuple[OwnerT, WrappedKey]], purpose: Callable[[OwnerT], bytes]
    ) -> list[tuple[OwnerT, WrappedKey]]:
        fresh = [
            (owner, self._wrapped_anew(old, purpose(owner)))
            for owner, old in page
            if old.master_key_id != self._new_id
        ]
        self._rewrapped += len(fresh)
        return fresh

    def _wrapped_anew(self, old: WrappedKey, purpose: bytes) -> WrappedKey:
        master_key = self._masters.get(old.master_key_id)
        key: bytes | None = None
        if master_key is not None:
            with suppress(ValueError):
                key = unwrap(old.wrapped, purpose, master_key)
        if key is None:
            if not self._replace_lost:
                raise self._missing(old.master_key_id)
            self._lost += 1
            key = os.urandom(KEY_BYTES)
        return wrap(key, purpose, self._masters[self._new_id], os.urandom(NONCE_BYTES))

    def _missing(self, key_id: bytes) -> KeysUnavailable:
        return KeysUnavailable(
            f"{SETTING}: keys in the database are wrapped with the master key {key_id.hex()},"
            f" which {self._source.place} does not hold. Put it back; if it is lost for good,"
            " 'keys rotate --lost' gives up what it sealed."
        )


async def rotate(
    config: Config, dsn: str, *, lost: bool = False, progress: Progress = lambda done, total: None
) -> Rotated:
    """Put every key under a new master key, beside the running service.

    Raises KeysUnavailable when a master key is missing, OperatorError when there is nothing to do.
    """
    connection = await connect(dsn)
    try:
        with translated_errors():
            return await Rotation(connection, config, lost=lost).run(progress)
    finally:
        await connection.close()
