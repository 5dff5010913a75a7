"""How an event becomes the bytes of the log, and which types of events there are.

Each room has the types of what it is about, and registers them (``gatelog.kinds`` does it for all
rooms). Rules:

- An event is named in the past tense; its name never changes. Its fields change only together
  with its schema version ``v``, and old versions are upcast when they are read.
- ``encode`` is called once per event. The bytes it returns are what is stored and hashed, and
  they are never encoded again: JSON, fields in the order of the class, ``type`` first.
- No event holds a token, a password or a password hash; a session is known by the SHA-256 of its
  token. The position is not part of the entry (leaf index = position - 1).
- What is personal stands in ``sealed`` and nowhere else (see ``privacy.rules``).
- A type that nobody registered is unknown, and an unknown event is never skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from functools import reduce
from hashlib import sha256
from operator import or_
from types import MappingProxyType
from typing import Any, ClassVar
from uuid import UUID

import msgspec

from gatelog.errors import LogDamaged

MAX_ENTRY_BYTES = 65_535  # C2SP tlog-tiles: an entry's length is a big-endian uint16


class Event(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="type", forbid_unknown_fields=True
):
    """What all events share.

    ``event_id`` makes a retry idempotent. ``occurred_at`` is the clock of the process that decided
    (UTC); the position and ``recorded_at``, which order the log, stand beside the entry.
    ``sealed`` is who it was by name and from where, encrypted, when that is known. ``subject_id``
    is the user whom it is about, where there is one.
    """

    VERSION: ClassVar[int] = 1

    v: int = 1
    event_id: UUID
    occurred_at: datetime
    sealed: bytes | None = None
    subject_id: UUID | None = None

    @property
    def type(self) -> str:
        return str(self.__struct_config__.tag)


class UserEvent(Event, frozen=True, kw_only=True):
    """An event about one user; ``actor_id`` is who did it, when it was not that user."""

    subject_id: UUID
    actor_id: UUID | None = None


class Announcement(Event, frozen=True, kw_only=True):
    """An event whose newest one, of its ``TOPIC``, every worker goes by from its moment on.

    ``announced`` is what they go by: a few bytes. It reaches them with the sessions, in the same
    replicas, so who appends one can wait as for the end of a session.
    """

    TOPIC: ClassVar[str]

    @property
    def announced(self) -> bytes:
        raise NotImplementedError


class LogPurged(Event, frozen=True, kw_only=True, tag="log_purged"):
    """The events up to and with ``up_to`` are given up; all were recorded before ``before``.

    An operator did it, and nobody's session: ``subject_id`` is always missing.
    """

    subject_id: None = None
    up_to: int
    before: datetime


# (type, version) -> a function from that version's fields to those of the next version
Upcaster = Callable[[dict[str, Any]], dict[str, Any]]
UPCASTERS: dict[tuple[str, int], Upcaster] = {}


class _Header(msgspec.Struct):
    type: str
    v: int


class _Registry:
    """The registered types by name, and one decoder for all of them."""

    def __init__(self) -> None:
        self.types: dict[str, type[Event]] = {}
        self.decode: Callable[[bytes], Event] = msgspec.json.Decoder(Event).decode

    def add(self, cls: type[Event]) -> None:
        name = str(cls.__struct_config__.tag)
        if self.types.setdefault(name, cls) is not cls:
            raise ValueError(f"there are two types of events named {name!r}")
        self.decode = msgspec.json.Decoder(self.any_event()).decode

    def any_event(self) -> Any:
        return reduce(or_, self.types.values())


_registry = _Registry()
_encoder = msgspec.json.Encoder()
_header = msgspec.json.Decoder(_Header)

EVENT_TYPES: Mapping[str, type[Event]] = MappingProxyType(_registry.types)
"""All registered types by their names, in the order of their registration."""


def register_events(*types: type[Event]) -> None:
    """Make these types known to ``decode``. Raises ValueError for a name that another type has."""
    for cls in types:
        _registry.add(cls)


def known(event: Event) -> bool:
    """Whether the event's type is registered."""
    return EVENT_TYPES.get(event.type) is type(event)


def encode(event: Event) -> bytes:
    """The entry: the event's bytes for the log. Raises ValueError when they are too many."""
    entry = _encoder.encode(event)
    if len(entry) > MAX_ENTRY_BYTES:
        raise ValueError(f"a {event.type} entry of {len(entry)} bytes; {MAX_ENTRY_BYTES} at most")
    return entry


def decode(entry: bytes) -> Event:
    """The event in these bytes, upcast to its current version.

    Raises LogDamaged for bytes that are no known event: guessing would change who is logged in.
    """
    try:
        header = _header.decode(entry)
        cls = EVENT_TYPES.get(header.type)
        if cls is None:
            raise LogDamaged(f"unknown event type {header.type!r}")
        if header.v == cls.VERSION:
            return _registry.decode(entry)
        return _upcast(header, entry, cls.VERSION)
    except msgspec.DecodeError as error:
        raise LogDamaged(f"an entry cannot be decoded: {error}") from error


def _upcast(header: _Header, entry: bytes, current: int) -> Event:
    fields: dict[str, Any] = msgspec.json.decode(entry)
    for version in range(header.v, current):
        upcaster = UPCASTERS.get((header.type, version))
        if upcaster is None:
            raise LogDamaged(f"{header.type} version {version} has no upcaster")
        fields = upcaster(fields) | {"type": header.type, "v": version + 1}
    if fields["v"] != current:
        raise LogDamaged(f"{header.type} version {header.v} is newer than this program")
    event: Event = msgspec.convert(fields, _registry.any_event(), strict=False)
    return event


def leaf_hash(entry: bytes) -> bytes:
    """What is stored is what is hashed: SHA-256(0x00 ‖ entry) (RFC 9162, section 2.1.1)."""
    return sha256(b"\x00" + entry).digest()
