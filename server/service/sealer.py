"""Sealing: the log becomes a Merkle tree whose size and root are signed again and again.

Rules:

- One sealer in the cluster: it holds an advisory lock on the connection that it writes with, and
  loses both together. Two at once would sign trees of one log, so even that does no harm.
- What is signed is first kept outside of PostgreSQL (``LastNote``), then stored with its tiles in
  one transaction, and only then can anybody read it. So there is never a published checkpoint
  that the file has not seen, whenever the process or the database ends.
- No tree is signed that is not known to extend the last one, in the database and in the file:
  the stored tiles must lead to both roots, and where the file is ahead (a kill between the two
  writes, a failover that lost events), the events must lead to its root. Within one connection
  the edge of the signed tree is kept in memory and only ever grows.
- When that cannot be shown, sealing stops with SealingRefused, loudly, until an operator has seen
  to it; nothing is signed over what was signed before.
"""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from server.core.errors import GatelogError, LogDamaged, NotVerified, OperatorError, SealingRefused
from server.core.merkle import Edge, Tile, edge_at, grow, partial_tiles, subtree_root, tiles_for
from server.core.tlog import Checkpoint, Signer, open_checkpoint, sign_checkpoint
from server.store.database import LOST, translated_errors
from server.store.tiles import (
    StoredCheckpoint,
    read_last_checkpoint,
    read_next_leaves,
    read_tiles,
    take_sealer_lock,
    write_seal,
)

if TYPE_CHECKING:
    from server.store.database import Connection

logger = logging.getLogger(__name__)

BATCH = 65_536  # leaves sealed at once; all of them are in memory, 2 MiB
STANDBY_POLL_S = 1.0  # how often another host's sealer asks whether it is its turn
RETRY_S = 0.5
REFUSED_RETRY_S = 10.0  # how often a refusal is told again, after another look


class LastNote:
    """The last signed note, in a file: what the database's owner cannot take back."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> bytes | None:
        """The note; None before the first. Raises OperatorError when it cannot be read."""
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise OperatorError(f"cannot read {self.path}: {error.strerror}") from error

    def write(self, note: bytes) -> None:
        """Replace the note, whole or not at all, and have it on the disk."""
        try:
            descriptor, draft = tempfile.mkstemp(prefix=".checkpoint.", dir=self.path.parent)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(note)
                    file.flush()
                    os.fsync(descriptor)
                Path(draft).replace(self.path)
            except BaseException:
                Path(draft).unlink(missing_ok=True)
                raise
            self._sync_directory()
        except OSError as error:
            raise OperatorError(f"cannot write {self.path}: {error.strerror}") from error

    def set_aside(self, size: int, instead: bytes | None) -> Path:
        """Keep the note under another name, which tells its size, and this one in its place."""
        aside = self.path.with_name(f"{self.path.name}.lost-{size}")
        note = self.read()
        if note is not None:
            LastNote(aside).write(note)
        if instead is not None:
            self.write(instead)
        else:
            self.path.unlink(missing_ok=True)
        return aside

    def _sync_directory(self) -> None:
        descriptor = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class Sealer:
    """Seals over one connection, which holds the lock. Call ``load`` first."""

    def __init__(
        self,
        connection: Connection,
        signer: Signer,
        last_note: LastNote,
        now: Callable[[], datetime],
    ) -> None:
        self._connection = connection
        self._signer = signer
        self._last_note = last_note
        self._now = now
        self._edge = Edge()

    @property
    def size(self) -> int:
        """The size of the last signed tree."""
        return self._edge.size

    async def load(self) -> None:
        """Take up the tree where it was signed last.

        Raises SealingRefused unless tiles and events lead to what the database's and the file's
        last note say.
        """
        stored = await read_last_checkpoint(self._connection)
        signed = self._opened(stored.note, "the database's last checkpoint") if stored else None
        if stored and signed and stored.size != signed.size:
            raise SealingRefused(f"the checkpoint of {signed.size} is filed under {stored.size}")
        note = self._last_note.read()
        noted = self._opened(note, str(self._last_note.path)) if note is not None else None
        size = signed.size if signed else 0
        self._edge = await self._stored_edge(size)
        if signed and self._edge.root() != signed.root:
            raise SealingRefused(f"the stored tiles do not lead to the signed root of size {size}")
        if note is not None and noted and noted.size > size:
            await self._catch_up(note, noted)
        elif noted and await self._stored_root(noted.size) != noted.root:
            raise self._not_an_extension(noted)
        if stored and note is None:
            logger.warning("%s is not there yet; the database alone vouches", self._last_note.path)
            self._last_note.write(stored.note)

    def _opened(self, note: bytes, what: str) -> Checkpoint:
        try:
            return open_checkpoint(note, self._signer.verifier)
        except NotVerified as error:
            raise SealingRefused(f"{what} is not ours: {error}") from error

    async def _stored_edge(self, size: int) -> Edge:
        wanted = {(level, index): width for level, index, width in partial_tiles(size)}
        tiles = await read_tiles(self._connection, wanted)
        for key, width in wanted.items():
            if len(tiles.get(key, b"")) < 32 * width:
                raise SealingRefused(f"tile {key[1]} of level {key[0]} is missing or too short")
        return edge_at(size, lambda *key: tiles[key])

    async def _stored_root(self, size: int) -> bytes | None:
        """The root of an earlier tree by the stored tiles; None when they do not reach."""
        tree = [(0, size)]
        tiles = await read_tiles(self._connection, tiles_for(tree))
        try:
            return subtree_root(tree[0], lambda *key: tiles[key])
        except (KeyError, NotVerified):
            return None

    async def _catch_up(self, note: bytes, noted: Checkpoint) -> None:
        """The file is ahead: see that the events lead to its root, then store that note."""
        edge = self._edge
        while edge.size < noted.size:
            edge, _ = grow(edge, await self._leaves(edge, noted.size))
        if edge.root() != noted.root:
            raise self._not_an_extension(noted)
        while self._edge.size < noted.size:
            edge, full = grow(self._edge, await self._leaves(self._edge, noted.size))
            await self._store(edge, full, note if edge.size == noted.size else None)
        logger.info("sealed up to %d again, as %s says", noted.size, self._last_note.path)

    async def _leaves(self, edge: Edge, end: int) -> bytes:
        limit = min(BATCH, end - edge.size)
        leaves = await read_next_leaves(self._connection, edge.size, limit)
        if not leaves.hashes:
            raise SealingRefused(
                f"the log ends at {leaves.head}, and a tree of size {end} was signed: it was cut"
            )
        return leaves.hashes

    def _not_an_extension(self, noted: Checkpoint) -> SealingRefused:
        return SealingRefused(
            f"the log is not an extension of the tree of size {noted.size} that"
            f" {self._last_note.path} says was signed: history was rewritten"
        )

    async def seal_next(self, limit: int = BATCH) -> int:
        """Seal what is there, up to so many events, and sign; returns how many it was.

        Raises SealingRefused when the log is shorter than what was signed, LogDamaged for a gap.
        """
        leaves = await read_next_leaves(self._connection, self._edge.size, limit)
        if leaves.head < self._edge.size:
            raise SealingRefused(
                f"the log ends at {leaves.head}, and a tree of size {self._edge.size} was signed"
            )
        if not leaves.hashes:
            return 0
        before = self._edge.size
        edge, full = grow(self._edge, leaves.hashes)
        checkpoint = Checkpoint(self._signer.name, edge.size, edge.root())
        note = sign_checkpoint(checkpoint, self._signer)
        self._last_note.write(note)
        await self._store(edge, full, note)
        return edge.size - before

    async def _store(self, edge: Edge, full: list[Tile], note: bytes | None) -> None:
        held = self._edge.partial
        changed = [
            tile
            for tile in edge.tiles()
            if tile.level >= len(held) or tile.hashes != held[tile.level]
        ]
        stored = StoredCheckpoint(edge.size, note, self._now()) if note is not None else None
        await write_seal(self._connection, [*full, *changed], stored)
        self._edge = edge


def _no_beat() -> None:
    pass


async def keep_sealing(
    connect: Callable[[], Awaitable[Connection]],
    signer: Signer,
    last_note: LastNote,
    *,
    now: Callable[[], datetime],
    interval_s: float,
    beat: Callable[[], None] = _no_beat,
) -> None:
    """Seal until cancelled, on a new connection after every loss; never after a refusal.

    ``beat`` is called again and again while everything is sealed, or is another sealer's to seal.

    A refusal is told again and again, each time after another look, so that sealing goes on once
    an operator has put the log right.
    """
    while True:
        try:
            connection = await connect()
            try:
                with translated_errors():
                    while not await take_sealer_lock(connection):
                        beat()
                        await asyncio.sleep(STANDBY_POLL_S)
                    await _tenure(Sealer(connection, signer, last_note, now), interval_s, beat)
            finally:
                with suppress(*LOST):
                    await connection.close(timeout=1)
        except GatelogError as error:
            logger.warning("sealer: %s; trying again", error)
            await asyncio.sleep(RETRY_S)


async def _tenure(sealer: Sealer, interval_s: float, beat: Callable[[], None]) -> None:
    """Seal for as long as the connection lasts. It keeps the lock while it refuses: another
    host's sealer, whose file may know less, must not sign meanwhile."""
    while True:
        try:
            await sealer.load()
            logger.info("sealing from size %d on", sealer.size)
            await _seal_on(sealer, interval_s, beat)
        except (SealingRefused, LogDamaged) as error:
            logger.critical("SEALING HAS STOPPED, nothing is signed: %s", error)
            await asyncio.sleep(REFUSED_RETRY_S)


async def _seal_on(sealer: Sealer, interval_s: float, beat: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    while True:
        began = loop.time()
        if await sealer.seal_next() < BATCH:
            beat()
            await asyncio.sleep(max(0.0, began + interval_s - loop.time()))
