"""What is personal: sealing it into new events, opening it for who may see it, letting it go.

Rules:

- The keys of persons are read when they are needed and kept nowhere. An event whose person has
  no key any more opens to nothing, for every process, from the moment of the erasure on.
- The key of the current day is kept in memory while that day lasts: it seals what people type
  who have no account, and an attack types a lot.
- What is sealed during a request has the request's trace, so that an event leads to the lines of
  other logs about it.
- Nobody waits for a key in order to lose a right: what ends sessions goes on without a seal when
  the master key is not there. Everything else is refused then.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Literal, TypeVar
from uuid import UUID

import msgspec

from gatelog.clock import utc_now
from gatelog.config import Config
from gatelog.errors import KeysUnavailable
from gatelog.log.rules import events as ev
from gatelog.log.store.database import Database
from gatelog.privacy.rules import (
    NONCE_BYTES,
    Client,
    Origin,
    Personal,
    WrappedKey,
    address_index,
    blind_index,
    day_of,
    day_purpose,
    found_by,
    origin_of,
    person_of,
    seal,
    subject_purpose,
    unseal,
)
from gatelog.privacy.service.keyring import Keyring
from gatelog.privacy.store.keys import KeyStore
from gatelog.traces import CURRENT

logger = logging.getLogger(__name__)

OPENED_AT_ONCE = 256  # events, before others get a turn
KEYS_AT_ONCE = 5_000  # in one query
DAY_KEY_ATTEMPTS = 3

EventT = TypeVar("EventT", bound=ev.Event)
OwnerT = TypeVar("OwnerT", UUID, date)


class PersonalData:
    """Seals, opens and forgets."""

    def __init__(
        self, config: Config, database: Database, now: Callable[[], datetime] = utc_now
    ) -> None:
        self._retention = timedelta(days=config.failed_login_retention_days)
        self._store = KeyStore(database)
        self._keyring = Keyring(config, self._store)
        self._now = now
        self._today: tuple[date, bytes] | None = None
        self._making_day_key = asyncio.Lock()

    async def ready(self) -> None:
        """Raises KeysUnavailable while nothing can be sealed."""
        await self._keyring.address_key()

    # --- new persons

    async def new_subject_key(self, subject_id: UUID) -> tuple[bytes, WrappedKey]:
        """A fresh key for a new user. Raises KeysUnavailable."""
        return await self._keyring.new_key(subject_purpose(subject_id))

    async def wrap_again(self, subject_id: UUID, key: bytes) -> WrappedKey:
        """The same key after the master key has changed. Raises KeysUnavailable."""
        await self._keyring.reload()
        return await self._keyring.wrap(key, subject_purpose(subject_id))

    # --- sealing

    def sealed(self, event: EventT, personal: Personal, key: WrappedKey | None) -> EventT:
        """The event of a person with this data, under the person's key.

        Without a key, or when nothing is known, it stays as it is. Raises KeysUnavailable.
        """
        person = person_of(event)
        if key is None or person is None or personal == Personal():
            return event
        return self.sealed_with(event, personal, self._keyring.unwrap(key, subject_purpose(person)))

    def sealed_with(self, event: EventT, personal: Personal, key: bytes) -> EventT:
        """The event with this data, under this key."""
        if personal == Personal():
            return event
        field = _seal_traced(personal, key, event.event_id, event.type)
        return msgspec.structs.replace(event, sealed=field)

    async def sealed_for_person(self, event: EventT, personal: Personal) -> EventT:
        """The event of a person with this data, under the person's key, which is read for it.

        Raises KeysUnavailable.
        """
        person = person_of(event)
        keys = await self._store.subject_keys([person] if person is not None else [])
        return self.sealed(event, personal, keys.get(person) if person is not None else None)

    async def sealed_for_nobody(self, event: EventT, personal: Personal) -> EventT:
        """The event with this data, under the key of its day. Raises KeysUnavailable."""
        return self.sealed_with(event, personal, await self._day_key(day_of(event)))

    async def field(
        self, person: UUID, client: Client, event_id: UUID, event_type: str
    ) -> bytes | None:
        """The ``sealed`` field of an event that takes rights away, if it can be made."""
        personal = Personal(None, client.address, client.agent)
        if personal == Personal():
            return None
        key = await self.wrapped_key_of(person)
        return self.field_with(person, client, event_id, event_type, key)

    def field_with(
        self,
        person: UUID,
        client: Client,
        event_id: UUID,
        event_type: str,
        key: WrappedKey | None,
    ) -> bytes | None:
        """The same, with a key that has been read."""
        personal = Personal(None, client.address, client.agent)
        if key is None or personal == Personal():
            return None
        try:
            opened = self._keyring.unwrap(key, subject_purpose(person))
        except KeysUnavailable as error:
            logger.error("an event is not sealed: %s", error)
            return None
        return _seal_traced(personal, opened, event_id, event_type)

    async def _day_key(self, day: date) -> bytes:
        if self._today is None or self._today[0] != day:
            async with self._making_day_key:
                if self._today is None or self._today[0] != day:
                    self._today = day, await self._make_day_key(day)
        return self._today[1]

    async def _make_day_key(self, day: date) -> bytes:
        """The key of this day, by whomever it was made."""
        for _ in range(DAY_KEY_ATTEMPTS):
            found = (await self._store.day_keys([day])).get(day)
            if found is not None:
                return self._keyring.unwrap(found, day_purpose(day))
            _, fresh = await self._keyring.new_key(day_purpose(day))
            await self._store.create_day_key(day, fresh)
            await self._keyring.reload()  # the master key may just have changed
        raise KeysUnavailable("The key of the day cannot be made.")

    async def wrapped_key_of(self, person: UUID) -> WrappedKey | None:
        """The key of a person as it is stored, for ``field_with``."""
        return (await self._store.subject_keys([person])).get(person)

    async def key_of(self, person: UUID) -> bytes | None:
        """The key of a person; None when there is none (any more). Raises KeysUnavailable."""
        keys = await self._open_keys([person], self._store.subject_keys, subject_purpose)
        return keys.get(person)

    # --- finding

    async def address_index(self, address: str) -> bytes:
        """What the events from this address are found by (``event_addresses``).

        Raises InvalidInput for what is no IP address, KeysUnavailable.
        """
        return address_index(address, await self._keyring.address_key())

    async def found_by(self, purpose: Literal["network", "login"], text: str) -> int:
        """What the events are found by that have to do with this normalised network or login name
        (``event_origins``). Raises KeysUnavailable.
        """
        return found_by(purpose, text, await self._keyring.address_key())

    async def origin_of(self, client: Client, login: str | None = None) -> Origin | None:
        """What an event of this client is found by, and of this login name if that is in it."""
        if client.address is None and login is None:
            return None
        try:
            return origin_of(client.address, login, await self._keyring.address_key())
        except KeysUnavailable as error:
            logger.error("an event will not be found by address or login: %s", error)
            return None

    async def blind_indexes(self, texts: Mapping[str, str]) -> dict[str, bytes]:
        """What each of these texts is counted by, under the purpose that it stands for.

        Raises KeysUnavailable.
        """
        key = await self._keyring.address_key()
        return {purpose: blind_index(purpose, text, key) for purpose, text in texts.items()}

    # --- opening

    async def open_personal(self, events: Sequence[ev.Event]) -> list[Personal | None]:
        """What is sealed in each of these events; None where nothing is, or is left.

        For callers who have seen to it that whoever asks may know. One query for all users and
        one for all days, whatever the number of events. Raises KeysUnavailable.
        """
        sealed = [event for event in events if event.sealed is not None]
        persons = {person for event in sealed if (person := person_of(event)) is not None}
        days = {day_of(event) for event in sealed if person_of(event) is None}
        person_keys = await self._open_keys(persons, self._store.subject_keys, subject_purpose)
        day_keys = await self._open_keys(days, self._store.day_keys, day_purpose)
        opened: list[Personal | None] = []
        for start in range(0, len(events), OPENED_AT_ONCE):
            for event in events[start : start + OPENED_AT_ONCE]:
                if event.sealed is None:
                    opened.append(None)
                    continue
                person = person_of(event)
                key = day_keys.get(day_of(event)) if person is None else person_keys.get(person)
                opened.append(unseal(event, key) if key is not None else None)
            await asyncio.sleep(0)
        return opened

    async def _open_keys(
        self,
        owners: Collection[OwnerT],
        read: Callable[[Collection[OwnerT]], Awaitable[dict[OwnerT, WrappedKey]]],
        purpose: Callable[[OwnerT], bytes],
    ) -> dict[OwnerT, bytes]:
        ordered = list(owners)
        keys: dict[OwnerT, bytes] = {}
        for start in range(0, len(ordered), KEYS_AT_ONCE):
            for owner, key in (await read(ordered[start : start + KEYS_AT_ONCE])).items():
                keys[owner] = self._keyring.unwrap(key, purpose(owner))
            await asyncio.sleep(0)
        return keys

    # --- forgetting

    async def before_erasing(self, subject_id: UUID) -> None:
        """Clear what would take long under the lock of the log's head."""
        await self._store.clear_origins_of(subject_id)

    async def sweep(self) -> int:
        """Destroy the day keys whose time is over; returns how many. Many may call it."""
        today = self._now().astimezone(UTC).date()
        if self._today is not None and self._today[0] < today:
            self._today = None
        return await self._store.destroy_day_keys(today - self._retention)


def _seal_traced(personal: Personal, key: bytes, event_id: UUID, event_type: str) -> bytes:
    """The ``sealed`` field with this data, and with the trace of the request that is served."""
    trace = CURRENT.get()
    if trace is not None:
        personal = msgspec.structs.replace(personal, trace=bytes.fromhex(trace.id))
    return seal(personal, key, os.urandom(NONCE_BYTES), event_id, event_type)
