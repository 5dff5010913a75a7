"""Merkle arithmetic against an obvious reference, and against vectors that others published."""

from __future__ import annotations

import json
import random
from base64 import b64decode
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from gatelog.errors import InvalidProof
from gatelog.log.rules.events import leaf_hash
from gatelog.proofs.rules.merkle import (
    EMPTY_ROOT,
    HASH_BYTES,
    TILE_BYTES,
    TILE_WIDTH,
    Edge,
    Tile,
    check_consistency,
    check_inclusion,
    consistency_path,
    edge_at,
    grow,
    inclusion_path,
    leaf_hashes,
    node_hash,
    partial_tiles,
    path_hashes,
    root_of,
    subtree_root,
    tile_width,
    tiles_for,
)
from hypothesis import given, settings
from hypothesis import strategies as st

PAIRS_TO = 65
VECTORS = json.loads((Path(__file__).parent / "vectors" / "merkle_proofs.json").read_text())
LEAVES = [leaf_hash(str(number).encode()) for number in range(301)]


# --- the reference: RFC 9162 as it stands in the text, recursive and slow


def mth(leaves: Sequence[bytes]) -> bytes:
    """Section 2.1.1."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = split(len(leaves))
    return sha256(b"\x01" + mth(leaves[:k]) + mth(leaves[k:])).digest()


def split(n: int) -> int:
    k = 1
    while 2 * k < n:
        k *= 2
    return k


def path(m: int, leaves: Sequence[bytes]) -> list[bytes]:
    """Section 2.1.3.1."""
    if len(leaves) == 1:
        return []
    k = split(len(leaves))
    if m < k:
        return [*path(m, leaves[:k]), mth(leaves[k:])]
    return [*path(m - k, leaves[k:]), mth(leaves[:k])]


def subproof(m: int, leaves: Sequence[bytes], whole: bool) -> list[bytes]:
    """Section 2.1.4.1."""
    n = len(leaves)
    if m == n:
        return [] if whole else [mth(leaves)]
    k = split(n)
    if m <= k:
        return [*subproof(m, leaves[:k], whole), mth(leaves[k:])]
    return [*subproof(m - k, leaves[k:], False), mth(leaves[:k])]


@cache
def reference_root(size: int) -> bytes:
    return mth(LEAVES[:size])


# --- trees in tiles


class Tiles:
    """The tiles of a tree as a store would have them after growing in these steps."""

    def __init__(self, leaves: Sequence[bytes], steps: Sequence[int] = ()) -> None:
        self.stored: dict[tuple[int, int], bytes] = {}
        self.edge = Edge()
        start = 0
        for end in (*steps, len(leaves)):
            self.edge, full = grow(self.edge, b"".join(leaves[start:end]))
            for tile in (*full, *self.edge.tiles()):
                self.put(tile)
            start = end

    def put(self, tile: Tile) -> None:
        before = self.stored.get((tile.level, tile.index), b"")
        assert tile.hashes.startswith(before), "a tile only grows at its end"
        self.stored[tile.level, tile.index] = tile.hashes

    def read(self, level: int, index: int) -> bytes:
        return self.stored[level, index]


def test_hashes() -> None:
    """Vectors of RFC 6962's reference implementation (transparency-dev/merkle, rfc6962_test.go)."""
    assert EMPTY_ROOT.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert (
        leaf_hash(b"").hex() == "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    )
    assert (
        leaf_hash(b"L123456").hex()
        == "395aa064aa4c29f7010acfe3f25db9485bbd4b91897b6ad7ad547639252b4d56"
    )
    assert (
        node_hash(b"N123", b"N456").hex()
        == "aa217fe888e47007fa15edab33c2b492a722cb106c64667fc2b044444de66bbb"
    )
    assert leaf_hashes([b"", b"L123456"]) == leaf_hash(b"") + leaf_hash(b"L123456")


@pytest.mark.parametrize("size", range(301))
def test_roots_of_all_small_trees(size: int) -> None:
    leaves = LEAVES[:size]
    assert root_of(b"".join(leaves)) == reference_root(size)
    tiles = Tiles(leaves, steps=(size // 3, size // 2))
    assert tiles.edge.size == size
    assert tiles.edge.root() == reference_root(size)
    assert edge_at(size, tiles.read) == tiles.edge
    assert subtree_root((0, size), tiles.read) == reference_root(size)


def test_roots_inside_of_a_grown_tree() -> None:
    """Tiles that have grown on still give the edge, root and proofs of every earlier size."""
    tiles = Tiles(LEAVES)
    for size in range(len(LEAVES) + 1):
        assert edge_at(size, tiles.read).root() == reference_root(size)
        assert subtree_root((0, size), tiles.read) == reference_root(size)


BIG = 1_000_000


@cache
def big_tree() -> tuple[list[bytes], Tiles]:
    leaves = [number.to_bytes(HASH_BYTES, "big") for number in range(BIG)]
    return leaves, Tiles(leaves, steps=(1, 255, 256, 65_535, 65_537, 500_000))


@cache
def aligned(height: int, index: int) -> bytes:
    """The reference's complete subtrees, kept: mth() over a million leaves, again and again."""
    if height == 0:
        return big_tree()[0][index]
    return node_hash(aligned(height - 1, 2 * index), aligned(height - 1, 2 * index + 1))


def big_root(low: int, high: int) -> bytes:
    """mth() of these leaves; low is a multiple of the subtree's size."""
    n = high - low
    if n & (n - 1) == 0:
        return aligned(n.bit_length() - 1, low // n)
    k = split(n)
    return node_hash(big_root(low, low + k), big_root(low + k, high))


def random_sizes(count: int) -> list[int]:
    rng = random.Random(9162)
    sizes = [rng.randrange(1, BIG) for _ in range(count)]
    return [*sizes, 65_535, 65_536, 65_537, 256 * 255, 2**19, BIG]


def test_random_big_trees() -> None:
    _, tiles = big_tree()
    rng = random.Random(6962)
    for size in random_sizes(40):
        root = big_root(0, size)
        assert edge_at(size, tiles.read).root() == root
        for index in (0, size - 1, rng.randrange(size)):
            proof = path_hashes(inclusion_path(index, size), tiles.read)
            check_inclusion(
                leaf=big_tree()[0][index], index=index, size=size, proof=proof, root=root
            )
        old = rng.randrange(1, size + 1)
        check_consistency(
            old_size=old,
            old_root=big_root(0, old),
            size=size,
            root=root,
            proof=path_hashes(consistency_path(old, size), tiles.read),
        )


def test_a_big_tree_grown_in_any_steps_has_the_same_tiles() -> None:
    leaves, tiles = big_tree()
    rng = random.Random(1)
    steps = sorted(rng.randrange(100_000) for _ in range(50))
    other = Tiles(leaves[:100_000], steps)
    for (level, index), hashes in other.stored.items():
        width = tile_width(100_000, level, index) * HASH_BYTES
        assert len(hashes) == width
        assert tiles.stored[level, index][:width] == hashes


def test_the_tiles_of_the_specification_s_examples() -> None:
    """C2SP tlog-tiles, "Partial Tiles": trees of size 70,000 and 256."""
    size = 70_000
    assert [tile_width(size, 0, n) for n in range(275)] == [256] * 273 + [112, 0]
    assert [tile_width(size, 1, n) for n in range(3)] == [256, 17, 0]
    assert [tile_width(size, 2, n) for n in range(2)] == [1, 0]
    assert partial_tiles(size) == [(0, 273, 112), (1, 1, 17), (2, 0, 1)]
    assert partial_tiles(256) == [(1, 0, 1)]
    assert partial_tiles(0) == []
    stored = Tiles(big_tree()[0][:size]).stored
    full = [key for key, hashes in stored.items() if len(hashes) == TILE_BYTES]
    assert len([key for key in full if key[0] == 0]) == 273
    assert [key for key in full if key[0] == 1] == [(1, 0)]
    rest = {key: len(h) // HASH_BYTES for key, h in stored.items() if key not in full}
    assert rest == {(0, 273): 112, (1, 1): 17, (2, 0): 1}


# --- proofs


def wrong_proofs(proof: Sequence[bytes]) -> list[list[bytes]]:
    """Proofs that are none: of the wrong length, of hashes of the wrong length, or altered."""
    other = b"\xff" * HASH_BYTES
    wrong = [[*proof, other], [other, *proof], [*proof, b""], [*proof, other[:-1]]]
    for at in range(len(proof)):
        altered = bytes([proof[at][0] ^ 1]) + proof[at][1:]
        for replaced in ([], [altered], [proof[at][:-1]], [proof[at] + b"\0"], [proof[at]] * 2):
            wrong.append([*proof[:at], *replaced, *proof[at + 1 :]])
    return wrong


def test_every_inclusion_proof() -> None:
    tiles = Tiles(LEAVES[:PAIRS_TO])
    for size in range(1, PAIRS_TO + 1):
        root = reference_root(size)
        for index in range(size):
            proof = path_hashes(inclusion_path(index, size), tiles.read)
            assert list(proof) == path(index, LEAVES[:size])
            leaf = LEAVES[index]
            check_inclusion(leaf=leaf, index=index, size=size, proof=proof, root=root)
            for other in range(size):
                if other != index:
                    with pytest.raises(InvalidProof):
                        check_inclusion(leaf=leaf, index=other, size=size, proof=proof, root=root)


def test_every_consistency_proof() -> None:
    tiles = Tiles(LEAVES[:PAIRS_TO])
    for size in range(1, PAIRS_TO + 1):
        for old in range(1, size + 1):
            proof = path_hashes(consistency_path(old, size), tiles.read)
            assert list(proof) == subproof(old, LEAVES[:size], True)
            old_root, root = reference_root(old), reference_root(size)
            check_consistency(old_size=old, old_root=old_root, size=size, root=root, proof=proof)
            for wrong in (old_root[::-1], reference_root(old - 1)):
                with pytest.raises(InvalidProof):
                    check_consistency(
                        old_size=old, old_root=wrong, size=size, root=root, proof=proof
                    )


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 9, 64, 65])
def test_malformed_inclusion_proofs_are_refused(size: int) -> None:
    root = reference_root(size)
    for index in range(size):
        leaf, proof = LEAVES[index], path(index, LEAVES[:size])
        for wrong in wrong_proofs(proof):
            with pytest.raises(InvalidProof):
                check_inclusion(leaf=leaf, index=index, size=size, proof=wrong, root=root)
    for index, length in ((-1, size), (size, size), (0, 0), (0, -1), (0, 1 << 63)):
        with pytest.raises(InvalidProof):
            check_inclusion(leaf=LEAVES[0], index=index, size=length, proof=[], root=LEAVES[0])
    for leaf, top in ((LEAVES[0][:-1], root), (LEAVES[0], root + b"\0"), (b"", root)):
        with pytest.raises(InvalidProof):
            check_inclusion(leaf=leaf, index=0, size=size, proof=path(0, LEAVES[:size]), root=top)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 9, 64, 65])
def test_malformed_consistency_proofs_are_refused(size: int) -> None:
    root = reference_root(size)
    for old in range(1, size + 1):
        old_root, proof = reference_root(old), subproof(old, LEAVES[:size], True)
        for wrong in wrong_proofs(proof):
            with pytest.raises(InvalidProof):
                check_consistency(
                    old_size=old, old_root=old_root, size=size, root=root, proof=wrong
                )
    for first, second in ((0, size), (-1, size), (size + 1, size), (0, 0)):
        with pytest.raises(InvalidProof):
            check_consistency(old_size=first, old_root=EMPTY_ROOT, size=second, root=root, proof=[])


def test_a_short_tile_makes_no_proof() -> None:
    tiles = Tiles(LEAVES[:100])
    tiles.stored[0, 0] = tiles.stored[0, 0][:-HASH_BYTES]
    with pytest.raises(InvalidProof):
        path_hashes(inclusion_path(3, 100), tiles.read)


def test_tiles_are_told_before_they_are_read() -> None:
    tiles = Tiles(big_tree()[0][:70_000])
    read: set[tuple[int, int]] = set()

    def noted(level: int, index: int) -> bytes:
        read.add((level, index))
        return tiles.read(level, index)

    for way in (inclusion_path(69_999, 70_000), consistency_path(65_537, 70_000), [(0, 70_000)]):
        read.clear()
        path_hashes(way, noted)
        assert read == tiles_for(way)


@settings(max_examples=200)
@given(st.data())
def test_a_flipped_bit_anywhere_is_found(data: st.DataObject) -> None:
    size = data.draw(st.integers(2, 300))
    index = data.draw(st.integers(0, size - 1))
    bit = data.draw(st.integers(0, 8 * HASH_BYTES - 1))
    proof = path(index, LEAVES[:size])
    which = data.draw(st.integers(0, len(proof) + 1))
    values = [LEAVES[index], reference_root(size), *proof]
    flipped = int.from_bytes(values[which], "big") ^ (1 << bit)
    values[which] = flipped.to_bytes(HASH_BYTES, "big")
    leaf, root, *rest = values
    with pytest.raises(InvalidProof):
        check_inclusion(leaf=leaf, index=index, size=size, proof=rest, root=root)


# --- others' vectors


def named(kind: str) -> list[Any]:
    return [pytest.param(case, id=f"{kind}-{case['name']}") for case in VECTORS[kind]]


def decoded(case: dict[str, Any], name: str) -> bytes:
    return b64decode(case[name] or "")


def expect(case: dict[str, Any], *hashes: str) -> AbstractContextManager[object]:
    """What the vector expects. Some have a text where they expect nobody to look."""
    odd = any(len(decoded(case, name)) != HASH_BYTES for name in hashes)
    return pytest.raises(InvalidProof) if case["wantErr"] or odd else nullcontext()


@pytest.mark.parametrize("case", named("inclusion"))
def test_published_inclusion_proofs(case: dict[str, Any]) -> None:
    with expect(case, "leafHash", "root"):
        check_inclusion(
            leaf=decoded(case, "leafHash"),
            index=case["leafIdx"],
            size=case["treeSize"],
            proof=[b64decode(part) for part in case["proof"] or ()],
            root=decoded(case, "root"),
        )


@pytest.mark.parametrize("case", named("consistency"))
def test_published_consistency_proofs(case: dict[str, Any]) -> None:
    with expect(case, "root1", "root2"):
        check_consistency(
            old_size=case["size1"],
            old_root=decoded(case, "root1"),
            size=case["size2"],
            root=decoded(case, "root2"),
            proof=[b64decode(part) for part in case["proof"] or ()],
        )


def test_tiles_have_the_width_that_the_specification_says() -> None:
    assert (TILE_WIDTH, TILE_BYTES) == (256, 8192)
