"""The sealed log as files: a static C2SP tlog-tiles tree, which any such tool reads.

``checkpoint``, ``tile/<L>/<N>[.p/<W>]`` and ``tile/entries/<N>[.p/<W>]`` below one directory, which
a web server may serve as it is. Rules:

- The checkpoint is written last, so a directory with a checkpoint is complete.
- A directory may be exported into again: what is full is not written twice, and the log must be
  an extension of the checkpoint that is there, which makes the directory a witness.
- Entries that were purged are not there; their tiles are.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING

from gatelog.errors import InvalidProof, LogDamaged, MalformedProof, NotSealed, OperatorError
from gatelog.proofs.rules.merkle import (
    HASH_BYTES,
    TILE_HEIGHT,
    TILE_WIDTH,
    Tile,
    subtree_root,
    tile_width,
    tiles_for,
)
from gatelog.proofs.rules.notes import parse_note
from gatelog.proofs.rules.tlog import (
    Checkpoint,
    TilePath,
    decode_bundle,
    encode_bundle,
    parse_checkpoint,
)
from gatelog.proofs.service.sources import Ends, Page, SignedNote
from gatelog.proofs.store.tiles import (
    Leaves,
    read_entries,
    read_last_checkpoint,
    read_level,
    read_tiles,
)

if TYPE_CHECKING:
    from gatelog.log.store.database import PooledConnection

CHECKPOINT = "checkpoint"
TILES_PAGE = 32
MAX_FILE_BYTES = TILE_WIDTH * (2 + 65_535)


class LogDirectory:
    """A log that is read from such a directory, to be verified."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._note = self._read(CHECKPOINT)
        if self._note is None:
            raise OperatorError(f"{path / CHECKPOINT} is not there: this is no complete export")
        self._size = _unverified(self._note).size

    async def ends(self) -> Ends:
        """All that is sealed, by the checkpoint, should be there; pages tell what is missing."""
        return Ends(self._size, self._size, self._size)

    async def sealed(self) -> int:
        return self._size

    async def checkpoints(self) -> AsyncIterator[SignedNote]:
        yield SignedNote(self._note or b"", "the export's checkpoint", self._size)

    async def page(self, first: int, end: int, sealed: int) -> Page:
        positions: list[int] = []
        entries: list[bytes] = []
        tiles: dict[int, bytes] = {}
        for index in range(first // TILE_WIDTH, -(-end // TILE_WIDTH)):
            width = tile_width(sealed, 0, index)
            tiles[index] = self._tile(0, index, width) or b""
            bundle = self._bundle(index, width)
            entries += bundle
            positions += range(index * TILE_WIDTH + 1, index * TILE_WIDTH + 1 + len(bundle))
        return Page(Leaves(positions, entries, b""), tiles)

    def _bundle(self, index: int, width: int) -> list[bytes]:
        """The entries of a bundle; none of them when it is missing or malformed."""
        data = self._read(str(TilePath(None, index, width)))
        try:
            return [] if data is None else decode_bundle(data, width)
        except MalformedProof:
            return []

    async def tile(self, level: int, index: int, width: int) -> bytes | None:
        return self._tile(level, index, width)

    def _tile(self, level: int, index: int, width: int) -> bytes | None:
        """The hashes of a tile; None when it is missing or has another length."""
        hashes = self._read(str(TilePath(level, index, width)))
        return hashes if hashes is not None and len(hashes) == width * HASH_BYTES else None

    async def surplus(self, sealed: int) -> list[tuple[int, str]]:
        """Files that no checkpoint speaks of prove nothing, and harm nothing."""
        return []

    def _read(self, name: str) -> bytes | None:
        path = self._path / name
        try:
            with path.open("rb") as file:
                return file.read(MAX_FILE_BYTES + 1)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise OperatorError(f"cannot read {path}: {error.strerror}") from error


def _unverified(note: bytes) -> Checkpoint:
    return parse_checkpoint(parse_note(note).text)


async def export_log(
    connection: PooledConnection, path: Path, progress: Callable[[int, int], None]
) -> int:
    """Write the sealed log into this directory; returns its size.

    Raises NotSealed before the first checkpoint, InvalidProof when the log is not an extension of
    what the directory holds, LogDamaged when tiles are missing.
    """
    stored = await read_last_checkpoint(connection)
    if stored is None:
        raise NotSealed("Nothing of this log is sealed yet.")
    try:
        before = await _exported(connection, path, stored.size)
        await _export_tiles(connection, path, before, stored.size)
        await _export_entries(connection, path, before, stored.size, progress)
        _write(path / CHECKPOINT, stored.note)
    except OSError as error:
        raise OperatorError(f"cannot write to {path}: {error.strerror}") from error
    return stored.size


async def _exported(connection: PooledConnection, path: Path, size: int) -> int:
    """The size of what the directory holds already, of which the log must be an extension."""
    try:
        before = _unverified((path / CHECKPOINT).read_bytes())
    except FileNotFoundError:
        return 0
    if before.size > size or before.root != await _root(connection, before.size):
        raise InvalidProof(f"the log is not an extension of what {path} holds")
    return before.size


async def _root(connection: PooledConnection, size: int) -> bytes | None:
    tiles = await read_tiles(connection, tiles_for([(0, size)]))
    try:
        return subtree_root((0, size), lambda *key: tiles[key])
    except (KeyError, InvalidProof):
        return None


async def _export_tiles(connection: PooledConnection, path: Path, before: int, size: int) -> None:
    level = 0
    while size >> TILE_HEIGHT * level:
        index = before >> TILE_HEIGHT * (level + 1)
        end = -(-(size >> TILE_HEIGHT * level) // TILE_WIDTH)
        while index < end:
            page = await read_level(connection, level, index, min(TILES_PAGE, end - index))
            if not page or page[0].index != index:
                raise LogDamaged(f"tile {index} of level {level} is missing")
            for tile in page:
                _write_tile(path, tile, tile_width(size, level, tile.index))
            index = page[-1].index + 1
        level += 1


def _write_tile(path: Path, tile: Tile, width: int) -> None:
    name = str(TilePath(tile.level, tile.index, width))
    _write(path / name, tile.hashes[: width * HASH_BYTES])


async def _export_entries(
    connection: PooledConnection,
    path: Path,
    before: int,
    size: int,
    progress: Callable[[int, int], None],
) -> None:
    first = before // TILE_WIDTH * TILE_WIDTH
    while first < size:
        end = min(first + TILES_PAGE * TILE_WIDTH, size)
        found = dict(await read_entries(connection, first + 1, end))
        for start in range(first, end, TILE_WIDTH):
            width = min(TILE_WIDTH, size - start)
            entries = [found.get(start + 1 + number) for number in range(width)]
            there = [entry for entry in entries if entry is not None]
            if len(there) == width:
                name = str(TilePath(None, start // TILE_WIDTH, width))
                _write(path / name, encode_bundle(there))
        first = end
        progress(first, size)


def _write(path: Path, data: bytes) -> None:
    """Write a file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.draft")
    draft.write_bytes(data)
    draft.replace(path)
