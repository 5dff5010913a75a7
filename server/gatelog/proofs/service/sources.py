"""What is verified (the database, or whatever else holds a log), and what is found."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Protocol

import msgspec

from gatelog.log.store.reading import read_head
from gatelog.proofs.rules.merkle import (
    TILE_HEIGHT,
    TILE_WIDTH,
)
from gatelog.proofs.store.tiles import (
    Leaves,
    read_checkpoints,
    read_last_checkpoint,
    read_last_position,
    read_last_tiles,
    read_leaves,
    read_level,
    read_tiles,
)

if TYPE_CHECKING:
    from gatelog.log.store.database import PooledConnection

CHECKPOINT_PAGE = 1000
MAX_FINDINGS = 100  # told one by one; beyond them only counted


class Finding(msgspec.Struct, frozen=True):
    """Something that does not fit; ``position`` is the first one that it concerns."""

    position: int
    what: str


class Report(msgspec.Struct):
    """What verification found. All is well when there is no finding.

    ``purged_to``: up to this position the log has been given up, as its own event at
    ``purged_at`` says.
    """

    events: int = 0
    sealed: int = 0
    checkpoints: int = 0
    without_entry: int = 0
    purged_to: int = 0
    purged_at: int = 0
    findings: list[Finding] = []
    untold: int = 0

    def found(self, position: int, what: str) -> None:
        """Take a finding in; when there are too many, those at the lowest positions are kept."""
        self.findings.append(Finding(position, what))
        if len(self.findings) > MAX_FINDINGS:
            self.findings.remove(max(self.findings, key=lambda finding: finding.position))
            self.untold += 1

    @property
    def first(self) -> Finding | None:
        """The finding at the lowest position."""
        return min(self.findings, key=lambda finding: finding.position, default=None)


class SignedNote(msgspec.Struct, frozen=True):
    """A checkpoint as it was found: the note, where, and the size that it is filed under.

    ``kept``: outside of the log, so that who rewrites the log cannot have replaced it.
    """

    note: bytes
    where: str
    filed: int
    kept: bool = False


class Page(msgspec.Struct, frozen=True):
    """A stretch of the log: the events that are there, and its level-0 tiles by index."""

    leaves: Leaves
    tiles: dict[int, bytes]


class Ends(msgspec.Struct, frozen=True):
    """The position of the last event that is there, and of the head, read before and after it.

    A running log grows meanwhile: ``head_before <= last <= head_after``.
    """

    head_before: int
    last: int
    head_after: int


class Source(Protocol):
    """Where a log is read from."""

    async def ends(self) -> Ends:
        """Where the log ends."""

    def checkpoints(self) -> AsyncIterator[SignedNote]:
        """The checkpoints, by size."""

    async def sealed(self) -> int:
        """The size that the newest checkpoint is filed under; 0 when there is none."""

    async def page(self, first: int, end: int, sealed: int) -> Page:
        """The leaves from this index to before that one; tiles as wide as at size ``sealed``."""

    async def tile(self, level: int, index: int, width: int) -> bytes | None:
        """A tile; None when it is missing."""

    async def surplus(self, sealed: int) -> list[tuple[int, str]]:
        """What lies beyond the newest checkpoint and should not: position and description."""


class LiveLog:
    """The log in the database, over one connection."""

    def __init__(self, connection: PooledConnection) -> None:
        self._connection = connection
        self._turn = asyncio.Lock()  # pages are read ahead, while other things are read

    async def ends(self) -> Ends:
        async with self._turn:
            before = (await read_head(self._connection)).position
            last = await read_last_position(self._connection)
            return Ends(before, last, (await read_head(self._connection)).position)

    async def sealed(self) -> int:
        async with self._turn:
            last = await read_last_checkpoint(self._connection)
        return last.size if last else 0

    async def checkpoints(self) -> AsyncIterator[SignedNote]:
        after = 0
        while True:
            async with self._turn:
                page = await read_checkpoints(self._connection, after, CHECKPOINT_PAGE)
            for stored in page:
                yield SignedNote(stored.note, f"the checkpoint of size {stored.size}", stored.size)
            if len(page) < CHECKPOINT_PAGE:
                return
            after = page[-1].size

    async def page(self, first: int, end: int, sealed: int) -> Page:
        async with self._turn:
            leaves = await read_leaves(self._connection, first + 1, end)
            if first >= sealed:
                return Page(leaves, {})
            start, count = first // TILE_WIDTH, -(-(end - first) // TILE_WIDTH)
            tiles = await read_level(self._connection, 0, start, count)
        return Page(leaves, {tile.index: tile.hashes for tile in tiles})

    async def tile(self, level: int, index: int, width: int) -> bytes | None:
        async with self._turn:
            return (await read_tiles(self._connection, [(level, index)])).get((level, index))

    async def surplus(self, sealed: int) -> list[tuple[int, str]]:
        async with self._turn:
            last = await read_last_tiles(self._connection)
            now = await read_last_checkpoint(self._connection)  # later: it may be sealed on
        size = max(now.size if now else 0, sealed)
        return [
            (size + 1, f"tile {index} of level {level} reaches beyond the newest checkpoint")
            for level, index, width in last
            if index * TILE_WIDTH + width > size >> TILE_HEIGHT * level
        ]
