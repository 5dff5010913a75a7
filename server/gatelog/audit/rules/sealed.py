"""An entry as it is shown without opening or checking it, for exports of the whole log: its fields
pass as the text that they are, which costs a quarter of decoding them."""

from __future__ import annotations

from datetime import datetime

import msgspec

from gatelog.audit.rules.shown import ShownEvent, shown
from gatelog.log.rules import events as ev


class SealedEvent(msgspec.Struct, frozen=True, omit_defaults=True):
    """A ``ShownEvent`` with nothing opened, its fields as the texts that the entry has."""

    position: int
    event_id: str
    type: str
    recorded_at: datetime
    occurred_at: str
    user_id: str | None = None
    session_id: str | None = None
    actor_id: str | None = None
    reason: str | None = None
    role: str | None = None
    what: str | None = None
    expires_at: str | None = None
    idle_s: int | None = None
    sessions: int | None = None
    count: int | None = None
    up_to: int | None = None
    before: str | None = None
    factor: str | None = None
    factor_id: str | None = None
    name: str | None = None
    data: str | None = None
    build: int | None = None


class _Entry(msgspec.Struct):
    """Of an entry's fields, those that are shown."""

    type: str
    v: int
    event_id: str
    occurred_at: str
    subject_id: str | None = None
    session_id: str | None = None
    actor_id: str | None = None
    reason: str | None = None
    role: str | None = None
    what: str | None = None
    expires_at: str | None = None
    idle_s: int | None = None
    token_digests: list[msgspec.Raw] = []
    count: int | None = None
    up_to: int | None = None
    before: str | None = None
    factor: str | None = None
    factor_id: str | None = None
    name: str | None = None
    data: str | None = None
    build: int | None = None


_read = msgspec.json.Decoder(_Entry).decode


def sealed_event(position: int, recorded_at: datetime, entry: bytes) -> ShownEvent | SealedEvent:
    """The event of an entry with nothing opened. Raises LogDamaged."""
    try:
        e = _read(entry)
    except msgspec.DecodeError:
        return shown(position, recorded_at, ev.decode(entry))
    cls = ev.EVENT_TYPES.get(e.type)
    if cls is None or e.v != cls.VERSION:
        return shown(position, recorded_at, ev.decode(entry))
    return SealedEvent(
        position,
        e.event_id,
        e.type,
        recorded_at,
        e.occurred_at,
        e.subject_id,
        e.session_id,
        e.actor_id,
        e.reason,
        e.role,
        e.what,
        e.expires_at,
        e.idle_s,
        len(e.token_digests) or None,
        e.count,
        e.up_to,
        e.before,
        e.factor,
        e.factor_id,
        e.name,
        e.data,
        e.build,
    )
