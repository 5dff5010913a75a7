"""Proofs for who asks: checkpoints, tiles, entries, inclusion, consistency, receipts.

Rules:

- Everything is answered from the newest checkpoint and the tiles that were stored with it; what
  came later is not sealed yet, and there is nothing to be shown of it.
- A proof that does not lead to the signed root is not handed out: that would be LogDamaged.
- Old entries may have been purged: their bundles are gone, and a proof of one of them carries no
  entry; whoever has the entry can still use it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from gatelog.errors import (
    InvalidInput,
    LogDamaged,
    NotFound,
    NotSealed,
    NotVerified,
    Purged,
)
from gatelog.log.rules.events import leaf_hash
from gatelog.log.store.cuts import cut_position
from gatelog.log.store.database import Database
from gatelog.proofs.rules.merkle import (
    HASH_BYTES,
    TILE_WIDTH,
    Range,
    check_consistency,
    check_inclusion,
    consistency_path,
    inclusion_path,
    path_hashes,
    subtree_root,
    tile_width,
    tiles_for,
)
from gatelog.proofs.rules.notes import parse_note
from gatelog.proofs.rules.tlog import (
    Checkpoint,
    ConsistencyProof,
    InclusionProof,
    TilePath,
    encode_bundle,
    parse_checkpoint,
)
from gatelog.proofs.store.tiles import read_entries, read_last_checkpoint, read_tiles

if TYPE_CHECKING:
    from gatelog.log.store.database import PooledConnection

Tiles = dict[tuple[int, int], bytes]


class Proofs:
    """Answers from what the sealer has stored."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def checkpoint(self) -> bytes:
        """The newest checkpoint, a signed note. Raises NotSealed before the first."""
        async with self._database.acquire() as connection:
            note, _ = await _newest(connection)
            return note

    async def tile(self, path: TilePath) -> bytes:
        """A tile or an entry bundle. Raises NotFound when it is not there, Purged if it was."""
        async with self._database.acquire() as connection:
            _, checkpoint = await _newest(connection)
            if path.width > tile_width(checkpoint.size, path.level or 0, path.index):
                raise NotFound("This tile is not sealed yet.")
            if path.level is None:
                return await _bundle(connection, path)
            key = (path.level, path.index)
            hashes = (await read_tiles(connection, [key])).get(key, b"")
            if len(hashes) < path.width * HASH_BYTES:
                raise LogDamaged(f"{path} is missing")
            return hashes[: path.width * HASH_BYTES]

    async def inclusion(self, position: int) -> InclusionProof:
        """The proof that an event is in the newest checkpoint's tree. Raises NotSealed."""
        async with self._database.acquire() as connection:
            note, checkpoint = await _newest(connection)
            if not 0 < position <= checkpoint.size:
                raise NotSealed("No event at this position is sealed.")
            return await _prove(connection, position - 1, note, checkpoint)

    async def consistency(self, old_size: int) -> ConsistencyProof:
        """The proof that the newest checkpoint's tree extends the one of this size.

        Raises InvalidInput for a size that there was not; of 0, everything is an extension.
        """
        async with self._database.acquire() as connection:
            note, checkpoint = await _newest(connection)
            if not 0 < old_size <= checkpoint.size:
                raise InvalidInput(f"The size must be between 1 and {checkpoint.size}.")
            return await _extend(connection, old_size, note, checkpoint)

    async def proof_of(self, position: int) -> str | None:
        """The proof (a tlog-proof) of an event that was recorded; None before it is sealed."""
        try:
            proof = await self.inclusion(position)
        except NotSealed:
            return None
        return proof.text().decode()


async def _newest(connection: PooledConnection) -> tuple[bytes, Checkpoint]:
    """The newest checkpoint: the note, and what it says."""
    stored = await read_last_checkpoint(connection)
    if stored is None:
        raise NotSealed("Nothing of this log is sealed yet.", retry_after_s=1)
    try:
        return stored.note, parse_checkpoint(parse_note(stored.note).text)
    except NotVerified as error:
        raise LogDamaged(f"the newest checkpoint: {error}") from error


async def _bundle(connection: PooledConnection, path: TilePath) -> bytes:
    first = path.index * TILE_WIDTH + 1
    entries = await read_entries(connection, first, first + path.width - 1)
    if len(entries) != path.width:
        if first <= await cut_position(connection):
            raise Purged("These entries are not in the log any more.")
        raise NotFound("These entries are not in the log.")
    return encode_bundle(entry for _, entry in entries)


async def _tiles(connection: PooledConnection, *paths: Iterable[Range]) -> Tiles:
    wanted = {key for path in paths for key in tiles_for(path)}
    tiles = await read_tiles(connection, wanted)
    if missing := wanted - tiles.keys():
        raise LogDamaged(f"tiles are missing: {sorted(missing)}")
    return tiles


async def _prove(
    connection: PooledConnection, index: int, note: bytes, checkpoint: Checkpoint
) -> InclusionProof:
    path, own = inclusion_path(index, checkpoint.size), [(index, index + 1)]
    tiles = await _tiles(connection, path, own)
    found = await read_entries(connection, index + 1, index + 1)
    entry = found[0][1] if found else None
    try:
        hashes = path_hashes(path, lambda *key: tiles[key])
        leaf = subtree_root(own[0], lambda *key: tiles[key]) if entry is None else leaf_hash(entry)
        check_inclusion(
            leaf=leaf, index=index, size=checkpoint.size, proof=hashes, root=checkpoint.root
        )
    except NotVerified as error:
        raise LogDamaged(f"position {index + 1}: {error}") from error
    return InclusionProof(index, hashes, note, entry)


async def _extend(
    connection: PooledConnection, old_size: int, note: bytes, checkpoint: Checkpoint
) -> ConsistencyProof:
    path, old = consistency_path(old_size, checkpoint.size), (0, old_size)
    tiles = await _tiles(connection, path, [old])
    try:
        hashes = path_hashes(path, lambda *key: tiles[key])
        check_consistency(
            old_size=old_size,
            old_root=subtree_root(old, lambda *key: tiles[key]),
            size=checkpoint.size,
            root=checkpoint.root,
            proof=hashes,
        )
    except NotVerified as error:
        raise LogDamaged(f"size {old_size}: {error}") from error
    return ConsistencyProof(old_size, hashes, note)
