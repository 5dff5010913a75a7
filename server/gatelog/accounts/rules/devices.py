"""Known devices: which ones have logged in to an account before.

A device shows a token that it got at a successful login, and that is good for nothing else: it has
a budget of its own of wrong passwords there (after OWASP, "Slow down online guessing attacks with
device cookies"). Rules:

- A device is known to the one account that gave it its token; the database has the token's digest.
- A token is given at a right password only, and never one that the client chose.
- A changed password makes all devices unknown but the one that it was changed on; an erased user
  has none.
"""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from gatelog.accounts.rules.events import CredentialChanged
from gatelog.log.rules.events import Event, UserEvent
from gatelog.log.rules.kinds import Beside, State, Trace, World
from gatelog.privacy.rules import UserErased

MAX_DEVICES = 10  # of an account; the one that was used longest ago gives way
DEVICE_LIFETIME_S = 400 * 86_400  # browsers keep no cookie for longer (RFC 6265bis, 5.5)


class Devices(State):
    """What a batch changes of known devices."""

    concerns = (UserErased, CredentialChanged)

    def __init__(self) -> None:
        self.seen: dict[tuple[UUID, bytes], datetime] = {}
        self.forgotten: list[UUID] = []

    def apply(self, event: Event, position: int, trace: Trace | None) -> None:
        if isinstance(event, UserEvent):
            self.forgotten.append(event.subject_id)
            self.seen = {k: v for k, v in self.seen.items() if k[0] != event.subject_id}


class SeenDevice(Beside, frozen=True):
    """A device on which the password was right."""

    subject_id: UUID
    digest: bytes
    at: datetime

    def enter(self, world: World) -> None:
        world.of(Devices).seen[self.subject_id, self.digest] = self.at
