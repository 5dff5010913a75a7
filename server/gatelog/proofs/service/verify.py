"""Verification: is this the log that was signed? With nothing but the public key.

A log is read once, in order, from a ``Source`` (the database, or a directory of tiles). Two trees
are folded at the same time: one from the stored level-0 tiles, one from the entries themselves;
they are one tree as long as all is well. At the size of every checkpoint (the stored ones, and
those that the caller has kept elsewhere) both roots are held against the signed one. That tells
which of the two was changed, and where:

- entries against their stored hashes and against the tiles, position by position;
- tiles of the upper levels against the tiles below them;
- both trees against every checkpoint, each of which must carry the right key's signature.

Whoever can write to the database can make entries and tiles fit each other, but not the signed
root; then the first position is known only to lie after the last checkpoint that still fits.
Whoever also cuts the log back to an earlier checkpoint leaves nothing to be found in it: for that,
keep a checkpoint elsewhere and verify against it.

The beginning of the log may have been purged. That is stated by an event, ``log_purged``, which is
a leaf like any other: the hashes of what is gone are taken from the tiles, so the signed roots
vouch for them, and gone may be no more than the log itself (or the caller) says. Neither the
database's other tables nor its owner's word count.

Up to a checkpoint's size nothing ever changes, so a running log is verified without a snapshot.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING

import msgspec

from gatelog.errors import LogDamaged, NotVerified
from gatelog.log.rules import events as ev
from gatelog.proofs.rules.merkle import (
    HASH_BYTES,
    TILE_BYTES,
    TILE_HEIGHT,
    TILE_WIDTH,
    Edge,
    Tile,
    grow,
    leaf_hashes,
    tile_width,
)
from gatelog.proofs.rules.notes import Verifier
from gatelog.proofs.rules.tlog import (
    Checkpoint,
    open_checkpoint,
)
from gatelog.proofs.store.tiles import (
    Leaves,
)

if TYPE_CHECKING:
    pass
from gatelog.proofs.service.sources import Ends, Page, Report, SignedNote, Source

PAGE = 32 * TILE_WIDTH  # leaves in memory at once, twice
_PURGE = b'{"type":"log_purged",'  # how the entry begins that says so
Progress = Callable[[int, int], None]  # events verified, events in all


async def verify_log(
    source: Source,
    verifier: Verifier,
    *,
    kept: Sequence[SignedNote] = (),
    purged_to: int = 0,
    progress: Progress | None = None,
) -> Report:
    """Verify a whole log against its checkpoints and those that the caller has kept elsewhere.

    ``purged_to``: up to this position entries may be gone, whatever the log says of it; their
    tiles still vouch for them.
    """
    return await _Walk(source, verifier, kept, purged_to, progress or (lambda *_: None)).run()


class _Difference(msgspec.Struct, frozen=True):
    """A position at which events and tiles differ; a checkpoint tells which of them is right."""

    position: int
    event_is_wrong: str
    tile_is_wrong: str


class _Walk:
    """One verification: where it is, and what it has found."""

    def __init__(
        self,
        source: Source,
        verifier: Verifier,
        kept: Sequence[SignedNote],
        purged_to: int,
        progress: Progress,
    ) -> None:
        self._source = source
        self._verifier = verifier
        self._kept = sorted(kept, key=lambda note: note.filed)
        self._purged_to = purged_to
        self._progress = progress
        self._report = Report()
        self._by_tiles = Edge()
        self._by_events = Edge()
        self._good = 0  # the size of the last checkpoint that both trees led to,
        self._good_kept = 0  # and of the last one among those that were kept elsewhere
        self._off = False  # the last checkpoint did not fit, as told already
        self._difference: _Difference | None = None
        self._missing: int | None = None
        self._gone = 0  # up to this position, from the first one on, entries are not there

    async def run(self) -> Report:
        report = self._report
        report.sealed = await self._source.sealed()
        ends = await self._source.ends()
        self._compare_ends(ends)
        end = max(ends.last, report.sealed)
        notes = self._notes()
        note = await anext(notes, None)
        page_end, reading = self._read_ahead(0, end)
        first = 0
        try:
            while first < end:
                page, start, stop = await reading, first, page_end
                page_end, reading = self._read_ahead(stop, end)
                by_tiles, by_events = self._compared(page, start, stop)
                while note is not None and note.filed <= stop:
                    await self._fold(by_tiles, by_events, start, note.filed)
                    self._check(note)
                    note = await anext(notes, None)
                await self._fold(by_tiles, by_events, start, stop)
                if stop == report.sealed:
                    await self._check_upper(self._by_tiles.tiles(), self._by_events.tiles())
                first = stop
                self._progress(first, end)
        finally:
            reading.cancel()
        await self._finish(ends.last, note, notes)
        return report

    def _compare_ends(self, ends: Ends) -> None:
        """Hold the log's end against the head and the newest checkpoint."""
        promised = max(ends.head_before, self._report.sealed)
        if ends.last < promised:
            self._report.found(
                ends.last + 1, f"the log was cut: it ends at {ends.last}, and had {promised} events"
            )
            self._missing = ends.last + 1
        if ends.last > ends.head_after:
            self._report.found(
                ends.head_after + 1, f"the head is at {ends.head_after}, events are beyond it"
            )

    def _read_ahead(self, first: int, end: int) -> tuple[int, asyncio.Task[Page]]:
        """Ask for the next page now; a page ends where the sealed part of the log does."""
        sealed = self._report.sealed
        stop = min(first + PAGE, sealed if first < sealed else end)
        return stop, asyncio.create_task(self._read(first, stop))

    async def _read(self, first: int, end: int) -> Page:
        if first == end:
            return Page(Leaves([], [], b""), {})
        return await self._source.page(first, end, self._report.sealed)

    async def _notes(self) -> AsyncIterator[SignedNote]:
        """The stored and the kept checkpoints together, by size."""
        kept = list(self._kept)
        async for stored in self._source.checkpoints():
            while kept and kept[0].filed < stored.filed:
                yield kept.pop(0)
            if stored.filed <= self._report.sealed:  # what is newer was signed meanwhile
                yield stored
        for note in kept:
            yield note

    # One page: entries against their stored hashes and against the tiles

    def _compared(self, page: Page, first: int, end: int) -> tuple[bytes, bytes]:
        """The leaf hashes of this stretch by the tiles and by the events, packed."""
        leaves = page.leaves
        count = end - first
        self._report.events += len(leaves.positions)
        hashes = leaf_hashes(leaves.entries)
        self._note_purges(leaves)
        if leaves.hashes and leaves.hashes != hashes:
            self._tell_changed(leaves, hashes)
        sealed = first < self._report.sealed
        stored = self._stored_tiles(page.tiles, first, end) if sealed else []
        if len(leaves.positions) == count and leaves.positions[-1:] == [end]:
            by_events = hashes
        else:
            by_events = self._filled(leaves.positions, hashes, stored, first, end)
        if not sealed:
            return by_events, by_events
        by_tiles = b"".join(
            tile or by_events[number * TILE_BYTES : (number + 1) * TILE_BYTES]
            for number, tile in enumerate(stored)
        )
        if by_tiles != by_events and self._difference is None:
            self._difference = _difference(by_tiles, by_events, first)
        return by_tiles, by_events

    def _note_purges(self, leaves: Leaves) -> None:
        """What these events say of the log's own beginning."""
        for position, entry in zip(leaves.positions, leaves.entries, strict=True):
            if not entry.startswith(_PURGE):
                continue
            try:
                event = ev.decode(entry)
            except LogDamaged as error:
                self._report.found(position, str(error))
                continue
            if isinstance(event, ev.LogPurged) and self._report.purged_to < event.up_to < position:
                self._report.purged_to, self._report.purged_at = event.up_to, position

    def _tell_changed(self, leaves: Leaves, hashes: bytes) -> None:
        """Entries that are not what their own row says was hashed."""
        for number, position in enumerate(leaves.positions):
            at = number * HASH_BYTES
            if leaves.hashes[at : at + HASH_BYTES] != hashes[at : at + HASH_BYTES]:
                self._report.found(
                    position, "the entry's bytes and its stored leaf hash do not fit each other"
                )

    def _stored_tiles(self, tiles: dict[int, bytes], first: int, end: int) -> list[bytes]:
        """The level-0 tiles of this stretch; empty where one is missing or of the wrong width."""
        stored = []
        sealed = self._report.sealed
        for index in range(first // TILE_WIDTH, -(-end // TILE_WIDTH)):
            width = tile_width(sealed, 0, index)
            # the last tile may have grown since the checkpoint, with the next one
            hashes = tiles.get(index, b"")[: width * HASH_BYTES]
            if len(hashes) != width * HASH_BYTES:
                at = index * TILE_WIDTH + len(hashes) // HASH_BYTES + 1
                self._report.found(at, f"tile {index} of level 0 is missing or too short")
                hashes = b""
            stored.append(hashes)
        return stored

    def _filled(
        self, positions: list[int], hashes: bytes, stored: list[bytes], first: int, end: int
    ) -> bytes:
        """The leaf hashes by the events, where some are not there: those are by the tiles."""
        filled = bytearray(b"".join(tile or bytes(TILE_BYTES) for tile in stored))
        filled.extend(bytes(max(0, (end - first) * HASH_BYTES - len(filled))))
        expected = first + 1
        for number, position in enumerate(positions):
            self._tell_missing(expected, position)
            expected = position + 1
            at = (position - first - 1) * HASH_BYTES
            filled[at : at + HASH_BYTES] = hashes[number * HASH_BYTES : (number + 1) * HASH_BYTES]
        self._tell_missing(expected, end + 1)
        return bytes(filled[: (end - first) * HASH_BYTES])

    def _tell_missing(self, first: int, end: int) -> None:
        """Events from ``first`` to before ``end`` are not there."""
        self._report.without_entry += end - first
        if first >= end:
            return
        if first == self._gone + 1:  # whether that may be, is told by events to come
            self._gone = end - 1
            return
        first = max(first, self._purged_to + 1)
        if first >= end:
            return
        if self._missing != first:  # not the same gap, going on
            self._report.found(first, f"the event at position {first} is missing")
        self._missing = end

    # The trees and the checkpoints

    async def _fold(self, by_tiles: bytes, by_events: bytes, start: int, size: int) -> None:
        """Grow both trees to this size, by the hashes of the page that begins at ``start``."""
        at = slice((self._by_events.size - start) * HASH_BYTES, (size - start) * HASH_BYTES)
        if at.start >= at.stop:
            return
        same = self._by_tiles is self._by_events and by_tiles[at] == by_events[at]
        by_tiles_edge, tiles = grow(self._by_tiles, by_tiles[at])
        if same:
            self._by_tiles = self._by_events = by_tiles_edge
            await self._check_upper(tiles, tiles)
        else:
            self._by_events, others = grow(self._by_events, by_events[at])
            self._by_tiles = by_tiles_edge
            await self._check_upper(tiles, others)

    async def _check_upper(self, tiles: Sequence[Tile], others: Sequence[Tile]) -> None:
        """Hold tiles above level 0 against what either tree says they are."""
        sealed = self._report.sealed
        for tile, other in zip(tiles, others, strict=True):
            if tile.level == 0 or tile_width(sealed, tile.level, tile.index) < tile.width:
                continue
            stored = await self._source.tile(tile.level, tile.index, tile.width)
            stored = (stored or b"")[: len(tile.hashes)]
            if stored not in (tile.hashes, other.hashes):
                at = tile.index * TILE_WIDTH + _first_difference(stored, tile.hashes)
                self._report.found(
                    (at << TILE_HEIGHT * tile.level) + 1,
                    f"tile {tile.index} of level {tile.level} is missing, or not what the tiles"
                    " below it make",
                )

    def _check(self, signed: SignedNote) -> None:
        """Hold both trees against a checkpoint of just this size."""
        self._report.checkpoints += 1
        checkpoint = self._opened(signed)
        if checkpoint is None:
            return
        tiles_fit = self._by_tiles.root() == checkpoint.root
        events_fit = (
            tiles_fit
            if self._by_events is self._by_tiles
            else self._by_events.root() == checkpoint.root
        )
        difference = self._difference
        if difference is not None and difference.position <= checkpoint.size:
            tile_is_wrong = events_fit and not tiles_fit
            what = difference.tile_is_wrong if tile_is_wrong else difference.event_is_wrong
            if not self._told(difference.position):
                self._report.found(difference.position, what)
            self._difference = None
        if tiles_fit and events_fit:
            self._good, self._off = checkpoint.size, False
            if signed.kept:
                self._good_kept = checkpoint.size
        elif not tiles_fit and not events_fit and not (self._off and not signed.kept):
            self._tell_rewritten(signed)

    def _tell_rewritten(self, signed: SignedNote) -> None:
        """The trees agree with each other, and not with what was signed.

        What is stored may have been signed anew, so it does not say where a kept one ends to fit.
        """
        self._off = True
        first = (self._good_kept if signed.kept else self._good) + 1
        self._report.found(
            first,
            f"history was rewritten: {signed.where} was signed for another tree; the first"
            f" difference lies between positions {first} and {signed.filed}",
        )

    def _told(self, position: int) -> bool:
        return any(finding.position == position for finding in self._report.findings)

    def _opened(self, signed: SignedNote) -> Checkpoint | None:
        try:
            checkpoint = open_checkpoint(signed.note, self._verifier)
        except NotVerified as error:
            self._report.found(self._good + 1, f"{signed.where}: {error}")
            return None
        if checkpoint.size != signed.filed:
            self._report.found(
                min(checkpoint.size, signed.filed) + 1, f"{signed.where} is of {checkpoint.size}"
            )
            return None
        return checkpoint

    async def _finish(
        self, last: int, note: SignedNote | None, notes: AsyncIterator[SignedNote]
    ) -> None:
        """What can be said only at the end of the log."""
        report = self._report
        purged = max(self._purged_to, report.purged_to)
        if self._gone > purged:
            report.found(purged + 1, f"the event at position {purged + 1} is missing")
        while note is not None:
            if note.filed > max(last, report.sealed) and self._opened(note) is not None:
                report.checkpoints += 1
                report.found(
                    last + 1, f"the log was cut: it ends at {last}, {note.where} has {note.filed}"
                )
            note = await anext(notes, None)
        if self._difference is not None:  # in a log without any checkpoint that could tell
            report.found(self._difference.position, self._difference.event_is_wrong)
        if report.events and not report.sealed:
            report.found(1, "nothing of this log was ever sealed: there is no checkpoint")
        for position, what in await self._source.surplus(report.sealed):
            report.found(position, what)


def _first_difference(one: bytes, other: bytes) -> int:
    """The number of the first hash in which these packed hashes differ."""
    for at in range(0, max(len(one), len(other)), HASH_BYTES):
        if one[at : at + HASH_BYTES] != other[at : at + HASH_BYTES]:
            return at // HASH_BYTES
    return 0


def _difference(by_tiles: bytes, by_events: bytes, first: int) -> _Difference:
    """The first position of this stretch at which events and tiles differ, in words."""
    number = _first_difference(by_tiles, by_events)
    at, position = number * HASH_BYTES, first + number + 1
    found = by_events[at : at + HASH_BYTES]
    sealed_as = _position_of(found, by_tiles, first)
    if sealed_as is None:
        event = "this event is not the one that was sealed here: it was changed or inserted"
    else:
        event = (
            f"here stands the event that was sealed at position {sealed_as}: events were swapped,"
            " removed or inserted"
        )
    index = (position - 1) // TILE_WIDTH
    return _Difference(
        position,
        event,
        f"tile {index} of level 0 holds another hash than was signed; the event is the right one",
    )


def _position_of(wanted: bytes, hashes: bytes, first: int) -> int | None:
    """Where this hash stands among packed ones."""
    at = hashes.find(wanted)
    while at >= 0 and at % HASH_BYTES:
        at = hashes.find(wanted, at + 1)
    return None if at < 0 else first + at // HASH_BYTES + 1
