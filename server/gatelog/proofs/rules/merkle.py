"""The arithmetic of the Merkle tree over the log (RFC 9162, section 2.1), and of its tiles.

Words:

- A leaf's ``index`` is its position - 1. ``MTH`` of no leaves is SHA-256 of nothing.
- A ``node`` (height, index) is the complete subtree over the leaves from ``index << height`` to
  ``(index + 1) << height``; its hash never changes once these leaves are there.
- A ``tile`` (level, index) is 256 neighbouring nodes of height ``8 * level``, packed: 8,192 bytes
  (C2SP tlog-tiles). The rightmost tile of a level may be partial; it grows at its end only.
- The ``edge`` of a tree is its partial tiles. It is all that is needed to add leaves.

Hashes travel packed, 32 bytes each, because that is how tiles are stored and because joining and
slicing bytes is what Python does quickly: about 0.8 µs for a leaf, all levels included.

Proofs are built from tiles that are asked for by (level, index); a tile may hold more hashes than
the tree of that size had, never fewer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256

import msgspec

from gatelog.errors import InvalidProof

HASH_BYTES = 32
TILE_HEIGHT = 8
TILE_WIDTH = 1 << TILE_HEIGHT
TILE_BYTES = TILE_WIDTH * HASH_BYTES
MAX_TREE_SIZE = (1 << 63) - 1
MAX_PROOF_HASHES = 64

EMPTY_ROOT = sha256(b"").digest()

ReadTile = Callable[[int, int], bytes]  # level, index
Range = tuple[int, int]  # the leaves from the first index to before the second
Node = tuple[int, int]  # height, index


def leaf_hashes(entries: Iterable[bytes]) -> bytes:
    """The leaf hashes of these entries, packed."""
    return b"".join([sha256(b"\x00" + entry).digest() for entry in entries])


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 || left || right)."""
    return sha256(b"\x01" + left + right).digest()


def root_of(hashes: bytes) -> bytes:
    """The root over these packed nodes of one height; the last one may be an incomplete subtree.

    Pairs are joined level by level, and a last one without a partner moves up as it is: the same
    tree as RFC 9162's, which splits at the largest power of two.
    """
    if not hashes:
        return EMPTY_ROOT
    while len(hashes) > HASH_BYTES:
        even = len(hashes) // 64 * 64
        parents = [sha256(b"\x01" + hashes[i : i + 64]).digest() for i in range(0, even, 64)]
        hashes = b"".join(parents) + hashes[even:]
    return hashes


# --- the edge: growing a tree


class Tile(msgspec.Struct, frozen=True):
    """A tile and its hashes, packed."""

    level: int
    index: int
    hashes: bytes

    @property
    def width(self) -> int:
        return len(self.hashes) // HASH_BYTES


class Edge(msgspec.Struct, frozen=True):
    """The partial tiles of a tree, by level, packed; empty where a level has none."""

    size: int = 0
    partial: tuple[bytes, ...] = ()

    def root(self) -> bytes:
        """The root of the tree."""
        rest = b""
        for hashes in self.partial:
            if nodes := hashes + rest:
                rest = root_of(nodes)
        return rest or EMPTY_ROOT

    def tiles(self) -> tuple[Tile, ...]:
        """The partial tiles; empty ones do not exist."""
        return tuple(
            Tile(level, self.size >> TILE_HEIGHT * (level + 1), hashes)
            for level, hashes in enumerate(self.partial)
            if hashes
        )


def grow(edge: Edge, leaves: bytes) -> tuple[Edge, list[Tile]]:
    """The edge after these leaf hashes (packed), and the tiles that have become full by them."""
    full: list[Tile] = []
    partial: list[bytes] = []
    arriving = leaves
    level = 0
    while arriving or level < len(edge.partial):
        hashes = (edge.partial[level] if level < len(edge.partial) else b"") + arriving
        index = edge.size >> TILE_HEIGHT * (level + 1)
        end = len(hashes) // TILE_BYTES * TILE_BYTES
        done = [
            Tile(level, index + number, hashes[start : start + TILE_BYTES])
            for number, start in enumerate(range(0, end, TILE_BYTES))
        ]
        full += done
        partial.append(hashes[end:])
        arriving = b"".join([root_of(tile.hashes) for tile in done])
        level += 1
    return Edge(edge.size + len(leaves) // HASH_BYTES, tuple(partial)), full


def tile_width(size: int, level: int, index: int) -> int:
    """How many hashes this tile has in a tree of this size; 0 where there is no such tile."""
    return min(max((size >> TILE_HEIGHT * level) - index * TILE_WIDTH, 0), TILE_WIDTH)


def partial_tiles(size: int) -> list[tuple[int, int, int]]:
    """Level, index and width of the partial tiles of a tree of this size."""
    found = []
    level = 0
    while size >> TILE_HEIGHT * level:
        index = size >> TILE_HEIGHT * (level + 1)
        if width := tile_width(size, level, index):
            found.append((level, index, width))
        level += 1
    return found


def edge_at(size: int, read: ReadTile) -> Edge:
    """The edge of the tree of this size, from its tiles."""
    partial: list[bytes] = []
    for level, index, width in partial_tiles(size):
        partial += [b""] * (level - len(partial))
        partial.append(read(level, index)[: width * HASH_BYTES])
    return Edge(size, tuple(partial))


# --- proofs: which subtrees they need


def inclusion_path(index: int, size: int) -> list[Range]:
    """The subtrees that prove a leaf, from the leaf's sibling up (RFC 9162, 2.1.3.1)."""
    low, high = 0, size
    path = []
    while high - low > 1:
        middle = low + _split(high - low)
        if index < middle:
            path.append((middle, high))
            high = middle
        else:
            path.append((low, middle))
            low = middle
    return path[::-1]


def consistency_path(old: int, new: int) -> list[Range]:
    """The subtrees that prove ``new`` to extend ``old``, 0 < old <= new (RFC 9162, 2.1.4.1)."""
    low, high = 0, new
    path = []
    while high != old:
        middle = low + _split(high - low)
        if old <= middle:
            path.append((middle, high))
            high = middle
        else:
            path.append((low, middle))
            low = middle
    if low > 0:  # the old tree is not itself a subtree of the new one
        path.append((low, high))
    return path[::-1]


def _split(size: int) -> int:
    """The largest power of two below this size."""
    return 1 << (size - 1).bit_length() - 1


def nodes_of(leaves: Range) -> list[Node]:
    """The nodes that a subtree of a path is made of, from left to right."""
    low, high = leaves
    nodes = []
    while low < high:
        height = (high - low).bit_length() - 1
        nodes.append((height, low >> height))
        low += 1 << height
    return nodes


def tile_of(node: Node) -> tuple[int, int]:
    """Level and index of the tile that holds this node, or the nodes below it."""
    height, index = node
    level, above = divmod(height, TILE_HEIGHT)
    return level, (index << above) // TILE_WIDTH


def tiles_for(path: Iterable[Range]) -> set[tuple[int, int]]:
    """Level and index of every tile that the hashes of this path are made from."""
    return {tile_of(node) for leaves in path for node in nodes_of(leaves)}


# --- proofs: their hashes


def _node(node: Node, read: ReadTile) -> bytes:
    height, index = node
    above = height % TILE_HEIGHT
    first = (index << above) % TILE_WIDTH
    hashes = read(*tile_of(node))[first * HASH_BYTES : (first + (1 << above)) * HASH_BYTES]
    if len(hashes) != HASH_BYTES << above:
        raise InvalidProof(f"tile {tile_of(node)} is too short for node {node}")
    return root_of(hashes)


def subtree_root(leaves: Range, read: ReadTile) -> bytes:
    """The hash of a subtree of a path, or of the whole tree (0, size)."""
    nodes = [_node(node, read) for node in nodes_of(leaves)]
    if not nodes:
        return EMPTY_ROOT
    root = nodes.pop()
    while nodes:
        root = node_hash(nodes.pop(), root)
    return root


def path_hashes(path: Iterable[Range], read: ReadTile) -> tuple[bytes, ...]:
    """The hashes of a proof."""
    return tuple(subtree_root(leaves, read) for leaves in path)


# --- proofs: verification


def check_inclusion(
    *, leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes
) -> None:
    """Raises InvalidProof unless this leaf hash has this index in the tree of this root.

    RFC 9162, section 2.1.3.2.
    """
    _check_hashes((leaf, root, *proof))
    if not 0 <= index < size <= MAX_TREE_SIZE:
        raise InvalidProof(f"index {index} is outside of a tree of size {size}")
    fn, sn, r = index, size - 1, leaf
    for p in proof:
        if sn == 0:
            raise InvalidProof("the inclusion proof is too long")
        if fn & 1 or fn == sn:
            r = node_hash(p, r)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            r = node_hash(r, p)
        fn, sn = fn >> 1, sn >> 1
    if sn != 0:
        raise InvalidProof("the inclusion proof is too short")
    if r != root:
        raise InvalidProof(f"the inclusion proof of index {index} leads to another root")


def check_consistency(
    *, old_size: int, old_root: bytes, size: int, root: bytes, proof: Sequence[bytes]
) -> None:
    """Raises InvalidProof unless the tree of ``root`` extends the one of ``old_root``.

    RFC 9162, section 2.1.4.2. Everything extends the empty tree, so a proof of that says nothing
    and is refused.
    """
    _check_hashes((old_root, root, *proof))
    if not 0 < old_size <= size <= MAX_TREE_SIZE:
        raise InvalidProof(f"no consistency proof leads from size {old_size} to {size}")
    if old_size == size:
        if proof or old_root != root:
            raise InvalidProof(f"two different trees of size {size}")
        return
    if not proof:
        raise InvalidProof("the consistency proof is empty")
    path = list(proof) if old_size & (old_size - 1) else [old_root, *proof]
    old_found, found = _fold_consistency(old_size - 1, size - 1, path)
    if old_found != old_root:
        raise InvalidProof(f"the consistency proof does not start from the root of {old_size}")
    if found != root:
        raise InvalidProof(f"the consistency proof does not lead to the root of {size}")


def _fold_consistency(fn: int, sn: int, path: Sequence[bytes]) -> tuple[bytes, bytes]:
    """The roots of the old and the new tree that this path leads to."""
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    fr = sr = path[0]
    for c in path[1:]:
        if sn == 0:
            raise InvalidProof("the consistency proof is too long")
        if fn & 1 or fn == sn:
            fr, sr = node_hash(c, fr), node_hash(c, sr)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            sr = node_hash(sr, c)
        fn, sn = fn >> 1, sn >> 1
    if sn != 0:
        raise InvalidProof("the consistency proof is too short")
    return fr, sr


def _check_hashes(hashes: Iterable[bytes]) -> None:
    for value in hashes:
        if len(value) != HASH_BYTES:
            raise InvalidProof(f"a hash of {len(value)} bytes; SHA-256 has {HASH_BYTES}")
