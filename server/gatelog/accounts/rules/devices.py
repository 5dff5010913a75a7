"""Known devices: which ones have logged in to an account before.

A device shows a token that it got at a successful login, and that is good for nothing else: it has
a budget of its own of wrong passwords there (after OWASP, "Slow down online guessing attacks with
device cookies"). Rules:

- A device is known to the one account that gave it its token; the database has the token's digest.
- A token is given at a right password only, and never one that the client chose.
- A changed password makes all devices unknown but the one that it was changed on; an erased user
  has none.
- A client may keep no token: it is known by the place that it comes from, which counts for nothing
  but whether the login is told as that of a new device.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from uuid import UUID

import msgspec

from gatelog.accounts.rules.events import CredentialChanged
from gatelog.log.rules.events import Event, UserEvent
from gatelog.log.rules.kinds import Beside, State, Trace, World
from gatelog.privacy.rules import UserErased

MAX_DEVICES = 10  # of an account; the one that was used longest ago gives way
DEVICE_LIFETIME_S = 400 * 86_400  # browsers keep no cookie for longer (RFC 6265bis, 5.5)


def place_digest(place: bytes) -> bytes:
    """What an account keeps of a place: no token has this digest, as nobody knows blind indexes."""
    return hashlib.sha256(b"place" + place).digest()


class Devices(State):
    """What a batch changes of known devices."""

    concerns = (UserErased, CredentialChanged)

    def __init__(self) -> None:
        self.seen: dict[tuple[UUID, bytes], SeenDevice] = {}
        self.forgotten: list[UUID] = []

    def apply(self, event: Event, position: int, trace: Trace | None) -> None:
        if isinstance(event, UserEvent):
            self.forgotten.append(event.subject_id)
            self.seen = {k: v for k, v in self.seen.items() if k[0] != event.subject_id}


class KnownDevices(msgspec.Struct, frozen=True):
    """What an account is known by: whether ``any`` device or place, a device ``by_token``, and
    ``this_place``."""

    any: bool
    by_token: bool
    this_place: bool

    def is_new(self, *, keeps_tokens: bool) -> bool:
        """Whether a device whose token is not known is a new one of this account.

        One that keeps no token is as good as its place, and so is the first that keeps one. The
        first login of all is on no new device.
        """
        as_its_place = not keeps_tokens or not self.by_token
        return self.any and not (self.this_place and as_its_place)


class SeenDevice(Beside, frozen=True):
    """A device on which the password was right, or a place from which it was."""

    subject_id: UUID
    digest: bytes
    at: datetime
    is_place: bool = False

    def enter(self, world: World) -> None:
        world.of(Devices).seen[self.subject_id, self.digest] = self
