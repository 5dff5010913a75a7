"""Purging: what must be kept is written first, the log says so, then whole partitions go.

In this order, each step safe to repeat; an interrupted purge is finished by the next one:

1. the marks reach the cut (``gatelog.audit.store.marks``): they are written behind the log anyway;
2. the sessions that are active at the cut are kept beyond their starts, with their last use, a
   bounded part at a time;
3. the decision is committed: from here on what lies up to the cut counts as gone;
4. the event ``log_purged`` is appended; its id stands in the decision, so it is appended once;
5. the partitions are detached: the log ends to have them; then they are dropped, which gives back
   the space.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from gatelog.audit.rules.commands import RecordPurge
from gatelog.audit.store.asof import started
from gatelog.audit.store.marks import SPACING, Spacing, last_mark, make_next_mark, mark_before
from gatelog.audit.store.retention import (
    begin,
    detach_before,
    drop_detached,
    finish,
    lock_purge,
    purgeable,
    retain,
    retain_use,
    starts_at,
)
from gatelog.clock import new_event_id
from gatelog.errors import InvalidInput, OperatorError
from gatelog.log.rules import events as ev
from gatelog.log.store.appender import Appender
from gatelog.log.store.cuts import Cut, read_cut
from gatelog.log.store.database import connect, translated_errors

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection

PAGE = 10_000  # sessions in memory at once
EVENTS_OF_USE = 200  # of up to 256 sessions each
APPEND_TIMEOUT_S = 30.0

Progress = Callable[[int, int], None]


class Purged(msgspec.Struct, frozen=True, kw_only=True):
    """What a purge has done, or would do (``dry_run``).

    The log begins after ``up_to``. It took ``prepare_s`` to write what must be kept, ``purge_s``
    from the decision until the log did not have it any more, ``drop_s`` to give back the space.
    """

    up_to: int
    events: int
    sessions_kept: int = 0
    dropped: list[str] = []
    finished_earlier: int | None = None
    prepare_s: float = 0.0
    purge_s: float = 0.0
    drop_s: float = 0.0
    dry_run: bool = False


async def purge(
    owner_dsn: str,
    app_dsn: str,
    before: datetime,
    *,
    now: Callable[[], datetime],
    dry_run: bool = False,
    progress: Progress = lambda *_: None,
    spacing: Spacing = SPACING,
) -> Purged:
    """Give up the oldest partitions, those that were recorded before a moment, sealed as they are.

    Runs beside the service. Raises InvalidInput for a moment to come, OperatorError when another
    purge runs or when somebody reads what is to be dropped for too long.
    """
    if before > now():
        raise InvalidInput("This time is still to come.")
    owner = await connect(owner_dsn, role=None)
    try:
        with translated_errors():
            await lock_purge(owner)
            return await _Purge(owner, app_dsn, now, progress, spacing).run(before, dry_run)
    finally:
        await owner.close()


class _Purge:
    def __init__(
        self,
        owner: Connection,
        app_dsn: str,
        now: Callable[[], datetime],
        progress: Progress,
        spacing: Spacing,
    ) -> None:
        self._owner = owner
        self._app_dsn = app_dsn
        self._now = now
        self._progress = progress
        self._spacing = spacing

    async def run(self, before: datetime, dry_run: bool) -> Purged:
        last = await read_cut(self._owner)
        gone = last.up_to if last is not None else 0
        done = Purged(up_to=gone, events=0, dry_run=dry_run)
        if last is not None and last.finished_at is None:
            done = msgspec.structs.replace(done, finished_earlier=last.up_to)
            if not dry_run:
                done = await self._carry_out(last, done)
        up_to = max(await purgeable(self._owner, before), gone)
        done = msgspec.structs.replace(done, up_to=up_to, events=up_to - gone)
        return done if dry_run or not done.events else await self._purge(done, before)

    async def _purge(self, done: Purged, before: datetime) -> Purged:
        began = time.perf_counter()
        await self._mark(done.up_to)
        kept = await self._keep_sessions(done.up_to)
        await self._keep_their_use(gone=done.up_to - done.events, up_to=done.up_to)
        done = msgspec.structs.replace(
            done, sessions_kept=kept, prepare_s=time.perf_counter() - began
        )
        return await self._carry_out(await self._decide(done.up_to, before), done)

    async def _decide(self, up_to: int, before: datetime) -> Cut:
        await begin(self._owner, up_to, before, new_event_id(), self._now())
        cut = await read_cut(self._owner)
        if cut is None:
            raise OperatorError("the purge was not recorded")
        return cut

    async def _carry_out(self, cut: Cut, done: Purged) -> Purged:
        """From the decision to the end; may have been begun before."""
        began = time.perf_counter()
        await self._record(cut)
        await detach_before(self._owner, cut.up_to)
        detached = time.perf_counter()
        dropped = await drop_detached(self._owner, cut.up_to)
        await finish(self._owner, cut.up_to, self._now())
        return msgspec.structs.replace(
            done,
            dropped=[*done.dropped, *dropped],
            purge_s=detached - began,
            drop_s=time.perf_counter() - detached,
        )

    async def _mark(self, up_to: int) -> None:
        """See that there is a mark at the cut; usually it is there long since."""
        position = (await last_mark(self._owner)).position
        while position < up_to:
            position = await make_next_mark(self._owner, self._spacing, end=up_to) or up_to
            self._progress(position, up_to)
        if await mark_before(self._owner, up_to) != up_to:
            raise OperatorError(f"there is no mark at position {up_to}, where the log is to be cut")

    async def _keep_sessions(self, up_to: int) -> int:
        """Keep the sessions that are active at the cut beyond their starts; returns how many."""
        kept, after = 0, 0
        while page := await starts_at(self._owner, up_to, after, PAGE):
            there = [(position, started(entry)) for position, entry in page if entry is not None]
            await retain(self._owner, there)
            kept, after = kept + len(page), page[-1][0]
        return kept

    async def _keep_their_use(self, *, gone: int, up_to: int) -> None:
        """Keep when these sessions were used last, as far as that is told before the cut."""
        after = gone
        while after < up_to:
            after = await retain_use(self._owner, after, up_to, EVENTS_OF_USE)

    async def _record(self, cut: Cut) -> None:
        """Append the event, unless it is in the log: same id, same bytes."""
        event = ev.LogPurged(
            event_id=cut.event_id, occurred_at=cut.begun_at, up_to=cut.up_to, before=cut.before
        )
        async with Appender(lambda: connect(self._app_dsn), timeout_s=APPEND_TIMEOUT_S) as appender:
            await appender.submit(RecordPurge(event=event))
