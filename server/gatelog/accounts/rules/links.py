"""One-time links: what proves once, and for a short time, that somebody reads what they are sent.

A link has a token of 256 bits; the database has its digest. Rules:

- It is good once, until its time is over by the clock of the log, for the one user and the one
  purpose that it was made for, and while the password is the one that it was made at
  (``credential_version``): a changed password ends all links of the user.
- Who is disabled or erased has no link that works.
- Whatever is wrong with one is told in the same way (``LinkUnusable``).

Format::

    digest   SHA-256("gatelog link" ‖ 0x00 ‖ token), so that no link's token is a session's
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from datetime import datetime, timedelta
from uuid import UUID

import msgspec

from gatelog.accounts.rules.events import CredentialChanged, LinkPurpose
from gatelog.accounts.rules.users import User, Users
from gatelog.errors import LinkUnusable
from gatelog.log.rules.events import Event
from gatelog.log.rules.kinds import Beside, Need, State, Trace, World
from gatelog.privacy.rules import UserErased

RESET_LIFETIME_S = 900
INVITATION_LIFETIME_S = 7 * 86_400
ADDRESS_LIFETIME_S = 86_400
LIFETIMES_S: dict[str, int] = {
    "reset": RESET_LIFETIME_S,
    "invitation": INVITATION_LIFETIME_S,
    "address": ADDRESS_LIFETIME_S,
}
SETTING_A_PASSWORD: frozenset[LinkPurpose] = frozenset({"reset", "invitation"})
VERIFYING: frozenset[LinkPurpose] = frozenset({"address"})
MOST_LINKS = 10  # of a user and a purpose; the one that ends first gives way


def link_digest(token: str) -> bytes:
    """By what a link's token is known."""
    return hashlib.sha256(b"gatelog link\x00" + token.encode()).digest()


class Link(msgspec.Struct, frozen=True):
    """A link that is there. ``sealed``: the address that it proves, if it proves one."""

    digest: bytes
    subject_id: UUID
    purpose: LinkPurpose
    credential_version: int
    expires_at: datetime
    sealed: bytes | None = None


class LinkOf(Need, frozen=True):
    """A link by its digest."""

    digest: bytes


class Links(State):
    """Some links, and what a batch changes of them."""

    concerns = (UserErased, CredentialChanged)

    def __init__(self) -> None:
        self.new: dict[bytes, Link] = {}
        self.used: list[bytes] = []
        self.ended: list[UUID] = []
        self._known: dict[bytes, Link] = {}

    def add(self, link: Link) -> None:
        """Take in a link as it is."""
        self._known[link.digest] = link

    def find(self, digest: bytes) -> Link | None:
        return self._known.get(digest)

    def put(self, link: Link) -> None:
        """A new one."""
        self.new[link.digest] = self._known[link.digest] = link

    def use(self, digest: bytes) -> None:
        """It is good no more."""
        self.used.append(digest)
        self.new.pop(digest, None)
        self._known.pop(digest, None)

    def apply(self, event: Event, position: int, trace: Trace | None) -> None:
        if event.subject_id is not None:
            self.ended.append(event.subject_id)
            for links in (self.new, self._known):
                for digest in [k for k, v in links.items() if v.subject_id == event.subject_id]:
                    del links[digest]


class NewLink(Beside, frozen=True, kw_only=True):
    """A link, whose time begins now by the clock of the log."""

    digest: bytes
    subject_id: UUID
    purpose: LinkPurpose
    credential_version: int = 1
    sealed: bytes | None = None

    def enter(self, world: World) -> None:
        expires_at = world.now + timedelta(seconds=LIFETIMES_S[self.purpose])
        link = Link(
            self.digest,
            self.subject_id,
            self.purpose,
            self.credential_version,
            expires_at,
            self.sealed,
        )
        world.of(Links).put(link)


class UsedLink(Beside, frozen=True):
    """A link that has been used."""

    digest: bytes

    def enter(self, world: World) -> None:
        world.of(Links).use(self.digest)


def usable(
    world: World, digest: bytes, subject_id: UUID, purposes: Collection[LinkPurpose]
) -> tuple[Link, User]:
    """The link and its user. Raises LinkUnusable, whatever it is that is wrong."""
    link = world.of(Links).find(digest)
    user = world.of(Users).there(subject_id)
    if (
        link is None
        or user is None
        or user.disabled
        or link.subject_id != subject_id
        or link.purpose not in purposes
        or link.credential_version != user.credential_version
        or link.expires_at <= world.now
    ):
        raise LinkUnusable()
    return link, user


# --- links that somebody has asked for by a login


class Requests(State):
    """What a batch changes of the requests for a link that wait for who looks the login up."""

    def __init__(self) -> None:
        self.new: dict[UUID, datetime] = {}
        self.answered: list[UUID] = []

    def apply(self, event: Event, position: int, trace: Trace | None) -> None:
        """Nothing follows from an event: which user it is about, nobody has looked up."""


class NewRequest(Beside, frozen=True):
    """Somebody asked for a link, in this event."""

    event_id: UUID
    at: datetime

    def enter(self, world: World) -> None:
        world.of(Requests).new[self.event_id] = self.at


class Answered(Beside, frozen=True):
    """A request that has got its link."""

    event_id: UUID

    def enter(self, world: World) -> None:
        world.of(Requests).answered.append(self.event_id)


# --- verified addresses


class MailAddresses(State):
    """What a batch changes of users' addresses of mail."""

    concerns = (UserErased,)

    def __init__(self) -> None:
        self.put: dict[UUID, tuple[bytes, datetime]] = {}
        self.gone: list[UUID] = []

    def apply(self, event: Event, position: int, trace: Trace | None) -> None:
        if event.subject_id is not None:
            self.forget(event.subject_id)

    def forget(self, subject_id: UUID) -> None:
        self.gone.append(subject_id)
        self.put.pop(subject_id, None)


class Verified(Beside, frozen=True):
    """The user reads mail at this (sealed) address."""

    subject_id: UUID
    sealed: bytes

    def enter(self, world: World) -> None:
        world.of(MailAddresses).put[self.subject_id] = self.sealed, world.now


class NoAddress(Beside, frozen=True):
    """The user has no address of mail any more."""

    subject_id: UUID

    def enter(self, world: World) -> None:
        world.of(MailAddresses).forget(self.subject_id)
