"""Any single mutation of a random log is found: a property test over logs in memory.

The same mutations are made to a real database in ``test_verify``; here are many more of them.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator

from gatelog.log.rules.events import leaf_hash
from gatelog.proofs.rules.merkle import TILE_HEIGHT, TILE_WIDTH, Edge, grow, tile_width
from gatelog.proofs.rules.tlog import Checkpoint, sign_checkpoint
from gatelog.proofs.service.sources import Ends, Page, Report, SignedNote
from gatelog.proofs.service.verify import verify_log
from gatelog.proofs.store.tiles import Leaves
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.proofs.sealing import SIGNER


class Memory:
    """A sealed log in memory: events by position, tiles, checkpoints by filed size."""

    def __init__(self, size: int, signed: list[int], unsealed: int) -> None:
        entries = [b"entry %d" % number for number in range(size + unsealed)]
        self.events = {
            number: (entry, leaf_hash(entry)) for number, entry in enumerate(entries, start=1)
        }
        self.head = len(entries)
        self.tiles: dict[tuple[int, int], bytes] = {}
        self.notes: dict[int, bytes] = {}
        edge = Edge()
        for end in [*signed, size]:
            edge, full = grow(edge, b"".join(map(leaf_hash, entries[edge.size : end])))
            for tile in (*full, *edge.tiles()):
                self.tiles[tile.level, tile.index] = tile.hashes
            self.notes[end] = sign_checkpoint(Checkpoint(SIGNER.name, end, edge.root()), SIGNER)

    async def ends(self) -> Ends:
        return Ends(self.head, max(self.events, default=0), self.head)

    async def sealed(self) -> int:
        return max(self.notes, default=0)

    async def checkpoints(self) -> AsyncIterator[SignedNote]:
        for size in sorted(self.notes):
            yield SignedNote(self.notes[size], f"the checkpoint of size {size}", size)

    async def page(self, first: int, end: int, sealed: int) -> Page:
        positions = [p for p in range(first + 1, end + 1) if p in self.events]
        entries = [self.events[p][0] for p in positions]
        hashes = b"".join(self.events[p][1] for p in positions)
        indexes = range(first // TILE_WIDTH, -(-end // TILE_WIDTH))
        tiles = {i: self.tiles[0, i] for i in indexes if (0, i) in self.tiles}
        return Page(Leaves(positions, entries, hashes), tiles)

    async def tile(self, level: int, index: int, width: int) -> bytes | None:
        return self.tiles.get((level, index))

    async def surplus(self, sealed: int) -> list[tuple[int, str]]:
        return [
            (sealed + 1, "a tile beyond the newest checkpoint")
            for (level, index), hashes in self.tiles.items()
            if index * TILE_WIDTH + len(hashes) // 32 > sealed >> TILE_HEIGHT * level
        ]

    def closed_up(self, position: int) -> None:
        later = [p for p in sorted(self.events) if p > position]
        del self.events[position]
        for p in later:
            self.events[p - 1] = self.events.pop(p)
        self.head -= 1

    def inserted(self, position: int, entry: bytes) -> None:
        for p in sorted(self.events, reverse=True):
            if p >= position:
                self.events[p + 1] = self.events.pop(p)
        self.events[position] = (entry, leaf_hash(entry))
        self.head += 1


def verified(log: Memory, kept: SignedNote) -> Report:
    return asyncio.run(verify_log(log, SIGNER.verifier, kept=[kept]))


def flipped(value: bytes, data: st.DataObject) -> bytes:
    changed = bytearray(value)
    changed[data.draw(st.integers(0, len(value) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    return bytes(changed)


def mutate(log: Memory, sealed: int, data: st.DataObject) -> int:
    """Change one thing; returns the first position that it concerns, as far as can be known."""
    position = data.draw(st.integers(1, sealed), label="position")
    entry, leaf = log.events[position]
    match data.draw(
        st.sampled_from(["entry", "leaf", "both", "swap", "remove", "close", "insert"])
    ):
        case "entry":
            log.events[position] = (flipped(entry, data), leaf)
        case "leaf":
            log.events[position] = (entry, flipped(leaf, data))
        case "both":
            entry = flipped(entry, data)
            log.events[position] = (entry, leaf_hash(entry))
        case "swap":
            others = [p for p in log.events if p != position]
            if not others:
                return mutate(log, sealed, data)
            other = data.draw(st.sampled_from(others))
            log.events[position], log.events[other] = log.events[other], log.events[position]
            return min(position, other)
        case "remove":
            del log.events[position]
        case "close":
            log.closed_up(position)
        case "insert":
            log.inserted(position, data.draw(st.binary(max_size=20)))
    return position


def mutate_proofs(log: Memory, sealed: int, data: st.DataObject) -> None:
    """Change one thing of the tiles, the checkpoints or the log's end."""
    key = data.draw(st.sampled_from(sorted(log.tiles)))
    size = data.draw(st.sampled_from(sorted(log.notes)))
    hashes = log.tiles[key]
    match data.draw(st.sampled_from(["tile", "drop", "short", "long", "note", "move", "cut"])):
        case "tile":
            log.tiles[key] = flipped(hashes, data)
        case "drop":
            del log.tiles[key]
        case "short":
            log.tiles[key] = hashes[: 32 * data.draw(st.integers(0, len(hashes) // 32 - 1))]
        case "long":
            width = tile_width(sealed, *key)
            log.tiles[key[0], key[1] + (width == TILE_WIDTH)] = hashes[:32] * (width % 256 + 1)
        case "note":
            log.notes[size] = flipped(log.notes[size], data)
        case "move":
            free = [s for s in range(1, sealed + 50) if s not in log.notes]
            log.notes[data.draw(st.sampled_from(free))] = log.notes.pop(size)
        case "cut":
            end = data.draw(st.integers(0, sealed - 1))
            log.events = {p: event for p, event in log.events.items() if p <= end}
            log.head = end


@st.composite
def logs(draw: st.DrawFn) -> tuple[Memory, int]:
    size = draw(st.one_of(st.integers(1, 40), st.integers(250, 260), st.integers(1, 1100)))
    signed = sorted(draw(st.sets(st.integers(1, size), max_size=4)) - {size})
    return Memory(size, signed, draw(st.sampled_from([0, 1, 30]))), size


@settings(max_examples=250)
@given(logs(), st.data())
def test_any_change_of_an_event_is_found_and_named(
    log_and_size: tuple[Memory, int], data: st.DataObject
) -> None:
    log, sealed = log_and_size
    kept = SignedNote(log.notes[sealed], "kept", sealed, kept=True)
    assert verified(log, kept).findings == []
    before = copy.deepcopy(log.events)
    position = mutate(log, sealed, data)
    if log.events == before:  # the same bytes were put in again
        return
    report = verified(log, kept)
    assert report.first is not None
    if position in log.events and position in before and log.events[position] == before[position]:
        assert report.first.position > position  # an event like its neighbour was put in
    else:
        assert report.first.position == position


@settings(max_examples=250)
@given(logs(), st.data())
def test_any_change_of_tiles_checkpoints_or_the_end_is_found(
    log_and_size: tuple[Memory, int], data: st.DataObject
) -> None:
    log, sealed = log_and_size
    kept = SignedNote(log.notes[sealed], "kept", sealed, kept=True)
    before = copy.deepcopy((log.tiles, log.notes, log.events))
    mutate_proofs(log, sealed, data)
    assert (log.tiles, log.notes, log.events) != before
    report = verified(log, kept)
    assert report.first is not None
