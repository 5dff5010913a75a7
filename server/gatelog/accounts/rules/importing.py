"""Users from elsewhere: what one is, as others write it, and how many become users at once.

Rules:

- Each is registered like anybody else: an event each, a key each, roles and a ban of their own.
- Those of one command become users together or not at all; but who cannot become one, because the
  login is taken, keeps nobody else from it.
- Nobody's session ends: none of them has one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import datetime
from uuid import UUID

import msgspec

from gatelog.accounts.rules.credentials import normalise_login
from gatelog.accounts.rules.events import RoleGranted, UserDisabled, UserRegistered
from gatelog.accounts.rules.foreign_hashes import parse_hash
from gatelog.accounts.rules.logins import Logins, NewCredential, OwnerOf
from gatelog.errors import InvalidInput, StaleMasterKey
from gatelog.ids import derived_event_id
from gatelog.log.rules.events import UserEvent
from gatelog.log.rules.kinds import Beside, Command, Decision, Need, World
from gatelog.privacy.rules import (
    CurrentMasterKey,
    NewSubjectKey,
    Personal,
    SubjectKeys,
    WrappedKey,
    seal,
)

MOST_AT_ONCE = 1000


class Foreigner(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A user as another system tells of one."""

    login: str
    hash: str
    roles: tuple[str, ...] = ()
    disabled: bool = False


class Newcomer(msgspec.Struct, frozen=True, kw_only=True):
    """The same, ready to become a user here; ``key`` and ``nonce`` seal the login."""

    subject_id: UUID
    login: str
    password_hash: str
    cost: str
    roles: tuple[str, ...]
    disabled: bool
    key: bytes
    nonce: bytes
    wrapped: WrappedKey


def checked(foreigner: Foreigner, roles: Collection[str]) -> tuple[str, str, str]:
    """The login in its one spelling, the hash as it is kept, and what it costs.

    ``roles``: those that there are. Raises InvalidInput, which says why this is no user.
    """
    for role in foreigner.roles:
        if role not in roles:
            raise InvalidInput(f"There is no role {role[:32]!r}; there are {', '.join(roles)}.")
    parsed = parse_hash(foreigner.hash)
    return normalise_login(foreigner.login), parsed.kept, parsed.cost


class ImportUsers(Command, frozen=True, kw_only=True):
    """Register all of these whose logins are free."""

    first_id: UUID
    at: datetime
    newcomers: tuple[Newcomer, ...]

    @property
    def first_event_id(self) -> UUID:
        return self.first_id

    def needs(self) -> Iterator[Need]:
        yield CurrentMasterKey()
        for newcomer in self.newcomers:
            yield OwnerOf(newcomer.login)

    def decide(self, world: World) -> Decision:
        current = world.of(SubjectKeys).current
        taken = set(world.of(Logins).owners)
        events: list[UserEvent] = []
        beside: list[Beside] = []
        for newcomer in self.newcomers:
            if current not in (None, newcomer.wrapped.master_key_id):
                raise StaleMasterKey()
            if newcomer.login in taken:
                continue
            taken.add(newcomer.login)
            events += self._events(newcomer, len(events))
            beside += (
                NewCredential(
                    newcomer.subject_id, newcomer.login, newcomer.password_hash, newcomer.cost
                ),
                NewSubjectKey(newcomer.subject_id, newcomer.wrapped),
            )
        return Decision(tuple(events), tuple(beside))

    def _events(self, newcomer: Newcomer, index: int) -> list[UserEvent]:
        """What makes a user of one; ``index``: of the first event among all of the command."""

        def common(number: int) -> tuple[UUID, datetime, UUID]:
            return derived_event_id(self.first_id, index + number), self.at, newcomer.subject_id

        event_id, at, subject_id = common(0)
        name = str(UserRegistered.__struct_config__.tag)
        sealed = seal(Personal(newcomer.login), newcomer.key, newcomer.nonce, event_id, name)
        events: list[UserEvent] = [
            UserRegistered(event_id=event_id, occurred_at=at, subject_id=subject_id, sealed=sealed)
        ]
        for role in dict.fromkeys(newcomer.roles):
            event_id, at, subject_id = common(len(events))
            events.append(
                RoleGranted(event_id=event_id, occurred_at=at, subject_id=subject_id, role=role)
            )
        if newcomer.disabled:
            event_id, at, subject_id = common(len(events))
            events.append(UserDisabled(event_id=event_id, occurred_at=at, subject_id=subject_id))
        return events
