"""The master key of this process, and the key ring of the database that it opens.

The master key comes from GATELOG_MASTER_KEY or, without that, from a file in the data directory
that is made at first use; never from the database. Rules:

- The database says which master key is current (the ring). A process that has not got it, reads
  its file once more; then it says so and guesses nothing.
- A master key is made only for a database that has no ring yet: a lost key is never replaced by
  a fresh one behind the operator's back.
"""

from __future__ import annotations

import os
from pathlib import Path

from gatelog.config import Config, variable
from gatelog.errors import ConfigError, KeysUnavailable
from gatelog.log.store.database import Database
from gatelog.master_keys import MasterKeys, parse_master_keys
from gatelog.privacy.rules import (
    ADDRESS_PURPOSE,
    KEY_BYTES,
    NONCE_BYTES,
    WrappedKey,
    derive,
    unwrap,
    wrap,
)
from gatelog.privacy.store.keys import KeyRing, KeyStore
from gatelog.secrets import ensure_secret, read_secret

SETTING = variable("master_key")


class MasterKeySource:
    """Where this process finds its master keys, the newest first."""

    def __init__(self, config: Config) -> None:
        self._text = config.master_key
        self.path = config.data_path / "secrets" / "master_key"

    @property
    def in_file(self) -> bool:
        return not self._text

    @property
    def place(self) -> Path | str:
        return self.path if self.in_file else "the variable"

    def read(self, *, make: bool = False) -> MasterKeys:
        """The master keys; ``make``: a fresh one, if there is no file yet. Raises ConfigError."""
        if not self.in_file:
            return _parse(self._text)
        if make:
            return _parse(ensure_secret(self.path))
        return _parse(read_secret(self.path)) if self.path.exists() else {}


def _parse(text: str) -> MasterKeys:
    try:
        return parse_master_keys(text)
    except ValueError as error:
        raise ConfigError(SETTING, str(error)) from error


class Keyring:
    """Makes, wraps and opens keys."""

    def __init__(self, config: Config, store: KeyStore) -> None:
        self._source = MasterKeySource(config)
        self._store = store
        self._masters: MasterKeys = {}
        self._ring: KeyRing | None = None

    async def address_key(self) -> bytes:
        """The key of the blind index. Raises KeysUnavailable."""
        return self._address_key(self._ring or await self.reload())

    async def new_key(self, purpose: bytes) -> tuple[bytes, WrappedKey]:
        """A fresh key for this purpose. Raises KeysUnavailable."""
        key = os.urandom(KEY_BYTES)
        return key, await self.wrap(key, purpose)

    async def wrap(self, key: bytes, purpose: bytes) -> WrappedKey:
        """The key, wrapped with the current master key as far as this process knows it."""
        ring = self._ring or await self.reload()
        return wrap(key, purpose, self._master_key(ring.master_key_id), os.urandom(NONCE_BYTES))

    def unwrap(self, key: WrappedKey, purpose: bytes) -> bytes:
        """The key. Raises KeysUnavailable."""
        try:
            return unwrap(key.wrapped, purpose, self._master_key(key.master_key_id))
        except ValueError as error:
            raise KeysUnavailable(f"{SETTING}: {error}") from error

    async def derived(self, purpose: bytes) -> tuple[bytes, dict[bytes, bytes]]:
        """The current master key's id; and of each master key that is at hand, by its id, what is
        derived from it for this purpose. Raises KeysUnavailable.
        """
        ring = await self.reload()
        current = self._master_key(ring.master_key_id)
        masters = self._read() | {ring.master_key_id: current}
        return ring.master_key_id, {i: derive(key, purpose) for i, key in masters.items()}

    async def reload(self) -> KeyRing:
        """Read the ring again, and make it for a new database. Raises KeysUnavailable."""
        ring = await self._store.ring() or await self._create()
        self._address_key(ring)  # it opens
        self._ring = ring
        return ring

    def _address_key(self, ring: KeyRing) -> bytes:
        return self.unwrap(WrappedKey(ring.address_key, ring.master_key_id), ADDRESS_PURPOSE)

    async def _create(self) -> KeyRing:
        self._masters = self._read(make=True)
        newest = next(iter(self._masters.values()))
        address_key = wrap(os.urandom(KEY_BYTES), ADDRESS_PURPOSE, newest, os.urandom(NONCE_BYTES))
        await self._store.create_ring(address_key)
        ring = await self._store.ring()  # perhaps somebody else's, who was quicker
        if ring is None:
            raise KeysUnavailable("The key ring vanished.")
        return ring

    def _master_key(self, wanted: bytes) -> bytes:
        """The master key of this id, if need be from what the source holds by now."""
        if wanted not in self._masters:
            self._masters = self._read() | self._masters
        if wanted in self._masters:
            return self._masters[wanted]
        held = ", ".join(key_id.hex() for key_id in self._masters) or "none"
        raise KeysUnavailable(
            f"{SETTING}: the keys in the database are wrapped with the master key {wanted.hex()};"
            f" {self._source.place} holds {held}. Put it back, or see 'keys rotate --lost'."
        )

    def _read(self, *, make: bool = False) -> MasterKeys:
        try:
            return self._source.read(make=make)
        except ConfigError as error:
            raise KeysUnavailable(str(error)) from error


async def check_keys(config: Config, dsn: str) -> None:
    """See that this process has the master key of the database; make both for a new one.

    Raises KeysUnavailable, in one line that names the setting.
    """
    database = Database(dsn, timeout_s=config.database_timeout_s, pool_size=1)
    try:
        await Keyring(config, KeyStore(database)).reload()
    finally:
        await database.close()
