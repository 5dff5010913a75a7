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
- A sealer that waits for its turn is a witness: again and again it looks whether the newest
  checkpoint extends the one in its own file, and then keeps that. So whoever takes over knows what
  was signed elsewhere up to its last look. Each sealer has a file of its own; without one it takes
  the newest checkpoint for true (trust on first use), and says so.
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

import msgspec

from gatelog.errors import GatelogError, LogDamaged, NotVerified, OperatorError, SealingRefused
from gatelog.log.store.database import LOST, translated_errors
from gatelog.proofs.rules.merkle import (
    Edge,
    Tile,
    check_consistency,
    consistency_path,
    edge_at,
    grow,
    partial_tiles,
    path_hashes,
    tiles_for,
)
from gatelog.proofs.rules.notes import Signer
from gatelog.proofs.rules.tlog import Checkpoint, open_checkpoint, sign_checkpoint
from gatelog.proofs.store.tiles import (
    StoredCheckpoint,
    read_last_checkpoint,
    read_next_leaves,
    read_tiles,
    take_sealer_lock,
    write_seal,
)

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection

logger = logging.getLogger(__name__)

BATCH = 65_536  # leaves sealed at once; all of them are in memory, 2 MiB
STANDBY_POLL_S = 1.0  # how often a sealer asks whether it is its turn, and looks what was signed
RETRY_S = 0.5
IDLE_S = 0.9  # between looks while nothing is new; what comes then is to be signed within a second
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


class _Signed(msgspec.Struct, frozen=True):
    """A signed note, and what it says."""

    note: bytes
    checkpoint: Checkpoint


class _Found(msgspec.Struct, frozen=True):
    """The newest checkpoint of the database and the file's, and the edge of the stored tree."""

    signed: _Signed | None
    noted: _Signed | None
    edge: Edge

    def is_file_ahead(self) -> bool:
        """Whether the file knows of a larger tree than the database."""
        return self.noted is not None and self.noted.checkpoint.size > self.edge.size


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
        found = await self._found()
        self._edge = found.edge
        if found.is_file_ahead() and found.noted is not None:
            await self._catch_up(found.noted)
        else:
            self._keep(found)

    async def witness(self) -> None:
        """Keep what another sealer has signed last, if it extends what is kept.

        Raises SealingRefused if it does not, and LogDamaged.
        """
        kept, stored = self._last_note.read(), await read_last_checkpoint(self._connection)
        if stored is not None and stored.note == kept:
            return
        found = await self._found()
        if found.is_file_ahead() and found.noted is not None:  # that one is about to store it
            await self._check_events(found.edge, found.noted.checkpoint)
        else:
            self._keep(found)

    async def _found(self) -> _Found:
        """What the database and the file have. The stored tiles lead to both roots, or to the
        database's alone where the file is ahead."""
        note, stored = self._last_note.read(), await read_last_checkpoint(self._connection)
        signed = self._opened(stored.note, "the database's last checkpoint") if stored else None
        if stored and signed and stored.size != signed.checkpoint.size:
            raise SealingRefused(
                f"the checkpoint of {signed.checkpoint.size} is filed under {stored.size}"
            )
        noted = self._opened(note, str(self._last_note.path)) if note is not None else None
        found = _Found(signed, noted, await self._stored_edge(stored.size if stored else 0))
        if signed and found.edge.root() != signed.checkpoint.root:
            raise SealingRefused(
                f"the stored tiles do not lead to the signed root of size {found.edge.size}"
            )
        if noted and signed and not found.is_file_ahead():
            await self._check_extends(noted.checkpoint, signed.checkpoint)
        return found

    def _keep(self, found: _Found) -> None:
        """Have in the file what was signed last."""
        if found.signed is None:
            return
        if found.noted is None:
            logger.warning(
                "%s is not there yet: the newest checkpoint, of size %d, is taken for true, and the"
                " database alone vouches for what was signed before",
                self._last_note.path,
                found.edge.size,
            )
        if found.noted is None or found.noted.checkpoint.size < found.edge.size:
            self._last_note.write(found.signed.note)

    def _opened(self, note: bytes, what: str) -> _Signed:
        try:
            return _Signed(note, open_checkpoint(note, self._signer.verifier))
        except NotVerified as error:
            raise SealingRefused(f"{what} is not ours: {error}") from error

    async def _stored_edge(self, size: int) -> Edge:
        wanted = {(level, index): width for level, index, width in partial_tiles(size)}
        tiles = await read_tiles(self._connection, wanted)
        for key, width in wanted.items():
            if len(tiles.get(key, b"")) < 32 * width:
                raise SealingRefused(f"tile {key[1]} of level {key[0]} is missing or too short")
        return edge_at(size, lambda *key: tiles[key])

    async def _check_extends(self, noted: Checkpoint, signed: Checkpoint) -> None:
        """See that the stored tiles prove that one tree extends the other."""
        if noted.size == 0:
            return
        path = consistency_path(noted.size, signed.size)
        tiles = await read_tiles(self._connection, tiles_for(path))
        try:
            check_consistency(
                old_size=noted.size,
                old_root=noted.root,
                size=signed.size,
                root=signed.root,
                proof=path_hashes(path, lambda *key: tiles[key]),
            )
        except (KeyError, NotVerified) as error:
            raise self._not_an_extension(noted) from error

    async def _check_events(self, edge: Edge, noted: Checkpoint) -> None:
        """See that the events behind this edge lead to what the file says was signed."""
        while edge.size < noted.size:
            edge, _ = grow(edge, await self._leaves(edge, noted.size))
        if edge.root() != noted.root:
            raise self._not_an_extension(noted)

    async def _catch_up(self, noted: _Signed) -> None:
        """The file is ahead: store its note, if the events lead to it."""
        size = noted.checkpoint.size
        await self._check_events(self._edge, noted.checkpoint)
        while self._edge.size < size:
            edge, full = grow(self._edge, await self._leaves(self._edge, size))
            await self._store(edge, full, noted.note if edge.size == size else None)
        logger.info("sealed up to %d again, as %s says", size, self._last_note.path)

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
                    sealer = Sealer(connection, signer, last_note, now)
                    while not await take_sealer_lock(connection):
                        await _stand_by(sealer, beat)
                    await _tenure(sealer, interval_s, beat)
            finally:
                with suppress(*LOST):
                    await connection.close(timeout=1)
        except GatelogError as error:
            logger.warning("sealer: %s; trying again", error)
            await asyncio.sleep(RETRY_S)


async def _stand_by(sealer: Sealer, beat: Callable[[], None]) -> None:
    """Look once what another sealer has signed, and wait. What does not fit keeps nobody from the
    lock: with it this sealer refuses to sign, and no other one can."""
    try:
        await sealer.witness()
    except (SealingRefused, LogDamaged) as error:
        logger.critical("THE LOG IS NOT WHAT THIS HOST SAW SIGNED: %s", error)
        await asyncio.sleep(REFUSED_RETRY_S)
    else:
        beat()
        await asyncio.sleep(STANDBY_POLL_S)


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
        sealed = await sealer.seal_next()
        if sealed < BATCH:
            beat()
            pause_s = interval_s if sealed else max(interval_s, IDLE_S)
            await asyncio.sleep(max(0.0, began + pause_s - loop.time()))
