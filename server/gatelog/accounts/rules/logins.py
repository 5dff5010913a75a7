"""Login names and password hashes: written beside the log, and never in it."""

from __future__ import annotations

from uuid import UUID

from gatelog.log.rules.events import Event
from gatelog.log.rules.kinds import Beside, Need, State, Trace, World
from gatelog.privacy.rules import UserErased


class OwnerOf(Need, frozen=True):
    """Whose a login is."""

    login: str


class Logins(State):
    """The owners of some logins, and what a batch changes of credentials."""

    concerns = (UserErased,)

    def __init__(self) -> None:
        self.owners: dict[str, UUID] = {}
        self.new: dict[UUID, NewCredential] = {}
        self.hashes: dict[UUID, str] = {}
        self.guards: dict[UUID, str | None] = {}
        self.erased: list[UUID] = []

    def apply(self, event: Event, position: int, trace: Trace | None) -> None:
        """Forget the user; also what earlier commands of this batch wanted to write."""
        subject_id = event.subject_id
        if subject_id is not None:
            self.erased.append(subject_id)
            self.new.pop(subject_id, None)
            self.hashes.pop(subject_id, None)
            self.guards.pop(subject_id, None)
            self.owners = {k: v for k, v in self.owners.items() if v != subject_id}


class NewCredential(Beside, frozen=True):
    """The login of a new user, and the password's hash.

    ``imported_cost``: what a hash costs that another system has made.
    """

    subject_id: UUID
    login: str
    password_hash: str
    imported_cost: str | None = None

    def enter(self, world: World) -> None:
        logins = world.of(Logins)
        logins.new[self.subject_id] = self
        logins.owners[self.login] = self.subject_id


class NewPassword(Beside, frozen=True):
    """The hash of a user's new password."""

    subject_id: UUID
    password_hash: str

    def enter(self, world: World) -> None:
        world.of(Logins).hashes[self.subject_id] = self.password_hash


class Guard(Beside, frozen=True):
    """Programs that know no factors find ``cover`` in the place of the password's hash, which no
    password fits; None: they find the hash again."""

    subject_id: UUID
    cover: str | None

    def enter(self, world: World) -> None:
        world.of(Logins).guards[self.subject_id] = self.cover
