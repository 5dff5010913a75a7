"""What can happen: the event types, and how an event becomes the bytes of the log.

Rules:

- An event is named in the past tense; its name never changes. Its fields change only together
  with its schema version ``v``, and old versions are upcast when they are read.
- ``encode`` is called once per event. The bytes it returns are what is stored and hashed, and
  they are never encoded again: JSON, fields in the order of the class, ``type`` first.
- No event holds a token, a password or a password hash; a session is known by the SHA-256 of its
  token. The position is not part of the entry (leaf index = position - 1).
- What is personal stands in ``sealed`` and nowhere else (see ``core.personal``).
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from hashlib import sha256
from typing import Any, ClassVar, Literal
from uuid import UUID

import msgspec

from gatelog.errors import LogDamaged

MAX_ENTRY_BYTES = 65_535  # C2SP tlog-tiles: an entry's length is a big-endian uint16

EndReason = Literal[
    "logout",
    "revoked",
    "superseded",
    "idle_timeout",
    "absolute_timeout",
    "credential_changed",
    "user_disabled",
    "user_erased",
]
FailureReason = Literal["unknown_login", "wrong_password", "user_disabled"]
AuditedRead = Literal["events", "export", "stream", "sessions", "log", "user_sessions"]


class Event(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="type", forbid_unknown_fields=True
):
    """What all events share.

    ``event_id`` makes a retry idempotent. ``occurred_at`` is the clock of the process that decided
    (UTC); the position and ``recorded_at``, which order the log, stand beside the entry.
    ``sealed`` is who it was by name and from where, encrypted, when that is known.
    """

    VERSION: ClassVar[int] = 1

    v: int = 1
    event_id: UUID
    occurred_at: datetime
    sealed: bytes | None = None

    @property
    def type(self) -> str:
        return str(self.__struct_config__.tag)


class UserEvent(Event, frozen=True, kw_only=True):
    """An event about one user; ``actor_id`` is who did it, when it was not that user."""

    subject_id: UUID
    actor_id: UUID | None = None


class UserRegistered(UserEvent, frozen=True, kw_only=True, tag="user_registered"):
    """A user exists from here on."""


class CredentialChanged(UserEvent, frozen=True, kw_only=True, tag="credential_changed"):
    """The user's password was replaced."""


class LoginFailed(Event, frozen=True, kw_only=True, tag="login_failed"):
    """A login was refused; ``subject_id`` is missing when nobody has that login."""

    subject_id: UUID | None = None
    reason: FailureReason


class SessionStarted(UserEvent, frozen=True, kw_only=True, tag="session_started"):
    """A session is active from here on, until it ends or ``expires_at`` passes."""

    session_id: UUID
    token_digest: bytes
    expires_at: datetime
    roles: tuple[str, ...] = ()


class SessionEnded(UserEvent, frozen=True, kw_only=True, tag="session_ended"):
    """The session is over for good."""

    session_id: UUID
    token_digest: bytes
    reason: EndReason


class RoleGranted(UserEvent, frozen=True, kw_only=True, tag="role_granted"):
    role: str


class RoleRevoked(UserEvent, frozen=True, kw_only=True, tag="role_revoked"):
    role: str


class UserDisabled(UserEvent, frozen=True, kw_only=True, tag="user_disabled"):
    """The user cannot log in until enabled again."""


class UserEnabled(UserEvent, frozen=True, kw_only=True, tag="user_enabled"):
    pass


class UserErased(UserEvent, frozen=True, kw_only=True, tag="user_erased"):
    """The user is gone for good, and the key to everything personal with them."""


class AuditRead(UserEvent, frozen=True, kw_only=True, tag="audit_read"):
    """The user read about others, as an auditor or administrator: the first time in a minute."""

    what: AuditedRead


class LogPurged(Event, frozen=True, kw_only=True, tag="log_purged"):
    """The events up to and with ``up_to`` are given up; all were recorded before ``before``.

    An operator did it, and nobody's session: ``subject_id`` is always missing.
    """

    subject_id: None = None
    up_to: int
    before: datetime


AnyEvent = (
    UserRegistered
    | CredentialChanged
    | LoginFailed
    | SessionStarted
    | SessionEnded
    | RoleGranted
    | RoleRevoked
    | UserDisabled
    | UserEnabled
    | UserErased
    | AuditRead
    | LogPurged
)
EVENT_TYPES: dict[str, type[Event]] = {
    str(cls.__struct_config__.tag): cls for cls in AnyEvent.__args__
}

# (type, version) -> a function from that version's fields to those of the next version
Upcaster = Callable[[dict[str, Any]], dict[str, Any]]
UPCASTERS: dict[tuple[str, int], Upcaster] = {}


class _Header(msgspec.Struct):
    type: str
    v: int


_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[AnyEvent] = msgspec.json.Decoder(AnyEvent)
_header = msgspec.json.Decoder(_Header)


def encode(event: Event) -> bytes:
    """The entry: the event's bytes for the log. Raises ValueError when they are too many."""
    entry = _encoder.encode(event)
    if len(entry) > MAX_ENTRY_BYTES:
        raise ValueError(f"a {event.type} entry of {len(entry)} bytes; {MAX_ENTRY_BYTES} at most")
    return entry


def decode(entry: bytes) -> AnyEvent:
    """The event in these bytes, upcast to its current version.

    Raises LogDamaged for bytes that are no known event: guessing would change who is logged in.
    """
    try:
        header = _header.decode(entry)
        cls = EVENT_TYPES.get(header.type)
        if cls is None:
            raise LogDamaged(f"unknown event type {header.type!r}")
        if header.v == cls.VERSION:
            return _decoder.decode(entry)
        return _upcast(header, entry, cls.VERSION)
    except msgspec.DecodeError as error:
        raise LogDamaged(f"an entry cannot be decoded: {error}") from error


def _upcast(header: _Header, entry: bytes, current: int) -> AnyEvent:
    fields: dict[str, Any] = msgspec.json.decode(entry)
    for version in range(header.v, current):
        upcaster = UPCASTERS.get((header.type, version))
        if upcaster is None:
            raise LogDamaged(f"{header.type} version {version} has no upcaster")
        fields = upcaster(fields) | {"type": header.type, "v": version + 1}
    if fields["v"] != current:
        raise LogDamaged(f"{header.type} version {header.v} is newer than this program")
    event: AnyEvent = msgspec.convert(fields, AnyEvent, strict=False)
    return event


def leaf_hash(entry: bytes) -> bytes:
    """What is stored is what is hashed: SHA-256(0x00 ‖ entry) (RFC 9162, section 2.1.1)."""
    return sha256(b"\x00" + entry).digest()
