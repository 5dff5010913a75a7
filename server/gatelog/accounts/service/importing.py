"""Bringing one's users along: from a list of logins with their hashes, a thousand at a time.

Whoever imports can say every login of the file, so nothing here hides which ones are taken.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import msgspec

from gatelog.accounts.rules.events import UserRegistered
from gatelog.accounts.rules.importing import Foreigner, ImportUsers, Newcomer, checked
from gatelog.accounts.service.acting import Act, Acting
from gatelog.clock import new_event_id, new_random_id
from gatelog.config import Config
from gatelog.errors import InvalidInput, StaleMasterKey
from gatelog.privacy.rules import NONCE_BYTES, UNKNOWN_CLIENT, Origins
from gatelog.privacy.service.personal import PersonalData

TAKEN = "The login is taken."


class Refusal(msgspec.Struct, frozen=True):
    """Who did not become a user, by the place in what was handed in, and why."""

    index: int
    reason: str


class Importing:
    """The import of users, for operators."""

    def __init__(self, config: Config, *, personal: PersonalData, acting: Acting) -> None:
        self._roles = config.role_names
        self._personal = personal
        self._acting = acting

    async def import_users(self, foreigners: Sequence[Foreigner]) -> list[Refusal]:
        """Make users of these, ``MOST_AT_ONCE`` at most, in one transaction; returns who is none.

        Raises Unavailable: then none of them has become one, or all, which a second try tells.
        """
        refusals: list[Refusal] = []
        newcomers: dict[int, Newcomer] = {}
        for index, foreigner in enumerate(foreigners):
            try:
                newcomers[index] = await self._newcomer(foreigner)
            except InvalidInput as error:
                refusals.append(Refusal(index, error.detail or error.title))
        command = ImportUsers(
            first_id=new_event_id(),
            at=self._acting.now(),
            newcomers=tuple(newcomers.values()),
        )
        origins = await self._origins(command)
        try:
            recorded = await self._acting.record(Act(command, origins))
        except StaleMasterKey:
            command = msgspec.structs.replace(command, newcomers=await self._again(command))
            recorded = await self._acting.record(Act(command, origins))
        users = {e.subject_id for e in recorded.events if isinstance(e, UserRegistered)}
        refusals += [
            Refusal(index, TAKEN)
            for index, newcomer in newcomers.items()
            if newcomer.subject_id not in users
        ]
        return sorted(refusals, key=lambda refusal: refusal.index)

    async def _newcomer(self, foreigner: Foreigner) -> Newcomer:
        login, password_hash, cost = checked(foreigner, self._roles)
        subject_id = new_random_id()
        key, wrapped = await self._personal.new_subject_key(subject_id)
        return Newcomer(
            subject_id=subject_id,
            login=login,
            password_hash=password_hash,
            cost=cost,
            roles=foreigner.roles,
            disabled=foreigner.disabled,
            key=key,
            nonce=os.urandom(NONCE_BYTES),
            wrapped=wrapped,
        )

    async def _origins(self, command: ImportUsers) -> Origins:
        """What the events are found by: their logins."""
        found = {
            one.subject_id: await self._personal.origin_of(UNKNOWN_CLIENT, one.login)
            for one in command.newcomers
        }
        return Origins({subject_id: one for subject_id, one in found.items() if one is not None})

    async def _again(self, command: ImportUsers) -> tuple[Newcomer, ...]:
        """The same under the master key that holds now."""
        return tuple(
            [
                msgspec.structs.replace(
                    one, wrapped=await self._personal.wrap_again(one.subject_id, one.key)
                )
                for one in command.newcomers
            ]
        )
