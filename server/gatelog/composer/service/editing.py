"""One change of the draft, while others change other parts of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

from gatelog.accounts.service.acting import Actor
from gatelog.composer.rules.checking import Fault, check
from gatelog.composer.rules.composition import Composition
from gatelog.composer.rules.editing import Change
from gatelog.composer.service.composer import Composer
from gatelog.errors import DraftOutdated

TRIES = 5


async def edit(
    composer: Composer,
    change: Change,
    *,
    by: Actor | None = None,
    refuse: Callable[[Fault], bool] = lambda _: False,
) -> Sequence[Fault]:
    """Make this change to the draft; or return what is wrong with it, of what is to be refused.

    Raises what ``change`` does, DraftOutdated where the draft does not hold still, and as
    ``Composer.replace``.
    """
    for _ in range(TRIES):
        faults = await _edit(composer, change, by, refuse)
        if faults is not None:
            return faults
    raise DraftOutdated("Others are changing the draft all the time: try again.")


async def _edit(
    composer: Composer, change: Change, by: Actor | None, refuse: Callable[[Fault], bool]
) -> Sequence[Fault] | None:
    """Try it once; None: somebody has changed another part between reading and replacing."""
    draft = await composer.draft()
    changed = change(draft.composition)
    if faults := list(filter(refuse, await faults_of(composer, changed))):
        return faults
    try:
        await composer.replace(changed, seen=draft.digest, by=by)
    except DraftOutdated:
        return None
    return []


async def faults_of(composer: Composer, composition: Composition) -> Iterable[Fault]:
    """What is wrong with a composition on this host: in a thread, for it may be a large one."""
    return await asyncio.to_thread(check, composition, composer.around())
