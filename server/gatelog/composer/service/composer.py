"""The use cases of who composes: the draft, the check, the build, and what was built before.

Rules:

- A draft may be unfinished. What is built has been checked, against what this host knows: its
  routes, roles, upstreams and handlers.
- A build is answered when every worker of every host serves it, or has nothing that it trusts
  (``composer.service.live``): it waits as a logout does. So does what says that it is live already.
- Who acts is a user, and from where they act is sealed; or an operator at the command line (None).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from gatelog.accounts.service.acting import Act, Acting, Actor, client_of
from gatelog.clock import new_event_id
from gatelog.composer.rules.checking import Fault, Surroundings, check
from gatelog.composer.rules.comparing import Change, compare, told
from gatelog.composer.rules.composition import EMPTY, Composition, encode
from gatelog.composer.rules.state import Build, ChangeDraft
from gatelog.composer.store.builds import BuildStore, StoredBuild, StoredDraft
from gatelog.errors import DraftOutdated, HostsTooOld, NotBuildable, NotFound, NothingToBuild
from gatelog.privacy.service.personal import PersonalData

NO_SUCH_BUILD = "There is no such build."


class Checked(msgspec.Struct, frozen=True):
    """What building the draft would do: what stands against it, and what would be different."""

    draft: StoredDraft
    faults: list[Fault]
    changes: list[Change]


class Drafted(msgspec.Struct, frozen=True):
    """The draft after a change; ``position``: where the log says so, None where it was the same."""

    draft: StoredDraft
    changes: list[Change]
    position: int | None


class Built(msgspec.Struct, frozen=True):
    """A build that is live: its number, what is different now, and where the log says so."""

    build: int
    changes: list[Change]
    position: int


def _nothing_around() -> Surroundings:
    return Surroundings()


class Composer:
    """What there is to compose with; ``around``: what a composition stands in, on this host."""

    def __init__(self, *, store: BuildStore, acting: Acting, personal: PersonalData) -> None:
        self.store = store
        self.around: Callable[[], Surroundings] = _nothing_around
        self._acting = acting
        self._personal = personal

    # --- the draft

    async def draft(self) -> StoredDraft:
        """The draft as it is."""
        return await self.store.draft()

    async def replace(
        self, composition: Composition, *, seen: bytes | None = None, by: Actor | None = None
    ) -> Drafted:
        """Make this the draft; ``seen``: the SHA-256 of the one that it replaces, None: any.

        Raises DraftOutdated, TooManyChanges, and InvalidInput for one that is too large.
        """
        before = await self.store.draft()
        changes = compare(before.composition, composition)
        command = ChangeDraft(
            content=encode(composition),
            seen=before.digest if seen is None else seen,
            data=told(changes),
            **await self._about(by, "composer_draft_changed"),
        )
        if command.seen != before.digest:
            raise DraftOutdated("Somebody has changed the draft meanwhile: look at it again.")
        recorded = await self._acting.record(await self._act(command, by))
        position = recorded.position if recorded.events else None
        return Drafted(await self.store.draft(), changes, position)

    async def check(self) -> Checked:
        """What stands against building the draft, and what it would change."""
        draft = await self.store.draft()
        live = await self.composition(draft.live)
        faults = await self._faults(draft.composition)
        return Checked(draft, faults, compare(live, draft.composition))

    # --- builds

    async def build(self, *, seen: bytes | None = None, by: Actor | None = None) -> Built:
        """Make the draft live; ``seen``: its SHA-256, None: whatever it is.

        Returns when every worker of every host serves it. Raises NotBuildable, DraftOutdated,
        NothingToBuild, HostsTooOld, TooManyChanges, OutcomeUnknown.
        """
        draft = await self.store.draft()
        if seen is not None and seen != draft.digest:
            raise DraftOutdated("Somebody has changed the draft meanwhile: look at it again.")
        return await self._build(draft, draft.composition, None, by)

    async def bring_back(self, number: int, *, by: Actor | None = None) -> Built:
        """Make an earlier build live again, as a new one. Raises NotFound, and as ``build`` does.

        The draft goes along where everything in it was live; what was not is kept.
        """
        _, composition = await self.stored(number)
        draft = await self.store.draft()
        live = await self.composition(draft.live)
        built = await self._build(draft, composition, number, by)
        if draft.composition == live:
            await self.replace(composition, by=by)
        return built

    async def builds(self, before: int, limit: int) -> Sequence[StoredBuild]:
        """Some builds before this one, the newest first."""
        return await self.store.builds(before, limit)

    async def stored(self, number: int) -> tuple[StoredBuild, Composition]:
        """A build with its composition. Raises NotFound."""
        found = await self.store.build(number)
        if found is None:
            raise NotFound(NO_SUCH_BUILD)
        return found

    async def composition(self, number: int) -> Composition:
        """The composition of a build; of build 0 the empty one. Raises NotFound."""
        return (await self.stored(number))[1] if number else EMPTY

    async def compared(self, before: int, after: int | None) -> list[Change]:
        """What is different between two builds; None: the draft. Raises NotFound."""
        old = await self.composition(before)
        new = (await self.draft()).composition if after is None else await self.composition(after)
        return compare(old, new)

    async def _build(
        self,
        draft: StoredDraft,
        composition: Composition,
        restored: int | None,
        by: Actor | None,
    ) -> Built:
        if faults := await self._faults(composition):
            raise NotBuildable(tuple(str(fault) for fault in faults))
        if hosts := await self.store.hosts_too_old():
            raise HostsTooOld(f"Upgrade {', '.join(hosts)} first: they could not serve it.")
        changes = compare(await self.composition(draft.live), composition)
        command = Build(
            content=encode(composition),
            seen=draft.digest,
            live=draft.live,
            restored=restored,
            data=told(changes),
            **await self._about(by, "composition_built"),
        )
        try:
            recorded = await self._acting.record(await self._act(command, by))
        except NothingToBuild:
            build, _ = await self.stored(draft.live)
            await self._acting.wait_for_what_ended(build.position)
            raise
        await self._acting.wait_for_replicas(recorded.position)
        return Built(draft.live + 1, changes, recorded.position)

    async def _faults(self, composition: Composition) -> list[Fault]:
        """What is wrong with it: in a thread, for there may be a thousand endpoints."""
        return await asyncio.to_thread(check, composition, self.around())

    # --- who acts

    async def _about(self, by: Actor | None, event_type: str) -> dict[str, Any]:
        event_id, sealed = new_event_id(), None
        if by is not None:
            sealed = await self._personal.field(by.user_id, by.client, event_id, event_type)
        return {
            "event_id": event_id,
            "at": self._acting.now(),
            "by": by.user_id if by is not None else None,
            "sealed": sealed,
        }

    async def _act(self, command: ChangeDraft | Build, by: Actor | None) -> Act:
        return Act(command, await self._personal.origin_of(client_of(by)))
