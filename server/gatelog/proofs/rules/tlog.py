"""The texts and bytes in which the log is proved to others, exactly as C2SP writes them.

- ``signed-note`` is in ``notes``.
- ``tlog-checkpoint``: the note's text. The key's name is the origin.
- ``tlog-tiles``: paths of tiles and of entry bundles, and what a bundle holds.
- ``tlog-proof``: one event's inclusion, with its entry as the extra data (that is this log's
  meaning of it), so that whoever holds the file and the public key needs nothing else.
- A consistency proof has no file format of its own: it is written as the body of
  ``tlog-witness``'s ``add-checkpoint``, which witnesses read.

Rules: what is parsed is accepted in its one spelling only (canonical decimals and base64, the
right number of hashes, nothing after the end); anything else raises MalformedProof.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import msgspec

from gatelog.errors import InvalidSignature, MalformedProof
from gatelog.proofs.rules.merkle import (
    EMPTY_ROOT,
    MAX_PROOF_HASHES,
    TILE_WIDTH,
    check_consistency,
    check_inclusion,
)
from gatelog.proofs.rules.notes import Signer, Verifier, open_note, sign_note
from gatelog.proofs.rules.spelling import decoded, encoded, hash_from, number

MAX_PROOF_BYTES = 2_000_000
MAX_ENTRY_BYTES = 65_535
MAX_TILE_LEVEL = 63
PROOF_HEADER = "c2sp.org/tlog-proof@v1"
TILE_PATTERN = (  # of what follows ``tile/``
    r"(entries|0|[1-9][0-9]?)/((?:x[0-9]{3}/){0,6}[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?"
)
_tile_path = re.compile(f"tile/{TILE_PATTERN}", re.ASCII).fullmatch


# --- checkpoints (tlog-checkpoint)


class Checkpoint(msgspec.Struct, frozen=True):
    """What a checkpoint says: this log had so many entries and this root."""

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    def text(self) -> str:
        lines = (self.origin, str(self.size), encoded(self.root), *self.extensions)
        return "".join(f"{line}\n" for line in lines)


def sign_checkpoint(checkpoint: Checkpoint, signer: Signer) -> bytes:
    """The checkpoint as a note, signed by the key whose name is the origin."""
    if checkpoint.origin != signer.name:
        raise MalformedProof(f"the key of {signer.name} does not sign for {checkpoint.origin}")
    return sign_note(checkpoint.text(), signer)


def parse_checkpoint(text: str) -> Checkpoint:
    """The checkpoint in a note's text."""
    if not text.endswith("\n"):
        raise MalformedProof("the checkpoint does not end in a line break")
    lines = text[:-1].split("\n")
    if len(lines) < 3 or not all(lines):
        raise MalformedProof("a checkpoint has three lines or more, none of them empty")
    size, root = number(lines[1], "the tree size"), hash_from(lines[2], "the root hash")
    if size == 0 and root != EMPTY_ROOT:
        raise MalformedProof("the root of an empty tree is another one")
    return Checkpoint(lines[0], size, root, tuple(lines[3:]))


def open_checkpoint(note: bytes, *known: Verifier) -> Checkpoint:
    """The checkpoint in a note that one of these keys has signed, for the log of its own name."""
    checkpoint = parse_checkpoint(open_note(note, *known))
    if checkpoint.origin not in {verifier.name for verifier in known}:
        raise InvalidSignature(f"the checkpoint is of another log, {checkpoint.origin}")
    return checkpoint


# --- tiles and entry bundles (tlog-tiles)


class TilePath(msgspec.Struct, frozen=True):
    """What a path names; ``level`` None is an entry bundle, ``width`` 256 a full tile."""

    level: int | None
    index: int
    width: int = TILE_WIDTH

    def __str__(self) -> str:
        level = "entries" if self.level is None else str(self.level)
        suffix = "" if self.width == TILE_WIDTH else f".p/{self.width}"
        return f"tile/{level}/{_index_path(self.index)}{suffix}"


def _index_path(index: int) -> str:
    digits = str(index)
    digits = digits.zfill(-(-len(digits) // 3) * 3)
    groups = [digits[start : start + 3] for start in range(0, len(digits), 3)]
    return "/".join([*(f"x{group}" for group in groups[:-1]), groups[-1]])


def parse_tile_path(path: str) -> TilePath:
    """What this path, from ``tile/`` on, names. Raises MalformedProof for any other spelling."""
    match = _tile_path(path)
    if match is None:
        raise MalformedProof("this is no path of a tile")
    level, index, width = match.groups()
    found = TilePath(
        None if level == "entries" else int(level),
        int(index.replace("/", "").replace("x", "")),
        int(width or TILE_WIDTH),
    )
    if str(found) != path or (found.level or 0) > MAX_TILE_LEVEL:
        raise MalformedProof("this is no path of a tile")
    return found


def encode_bundle(entries: Iterable[bytes]) -> bytes:
    """The entries, each after its length as a big-endian uint16."""
    return b"".join([part for entry in entries for part in (len(entry).to_bytes(2, "big"), entry)])


def decode_bundle(bundle: bytes, width: int) -> list[bytes]:
    """The entries of a bundle, which must be exactly so many."""
    entries = []
    at, end = 0, len(bundle)
    while at < end:
        start = at + 2
        at = start + int.from_bytes(bundle[at:start], "big")
        if start > end or at > end:
            raise MalformedProof("an entry of the bundle is cut off")
        entries.append(bundle[start:at])
    if len(entries) != width:
        raise MalformedProof(f"the bundle has {len(entries)} entries, not {width}")
    return entries


# --- proofs


class InclusionProof(msgspec.Struct, frozen=True):
    """A tlog-proof: the event of this index is in the tree of this checkpoint (a note).

    ``entry`` travels as the extra data; None when the entry itself is not there any more.
    """

    index: int
    hashes: tuple[bytes, ...]
    checkpoint: bytes
    entry: bytes | None = None

    def text(self) -> bytes:
        extra = [] if self.entry is None else [f"extra {encoded(self.entry)}"]
        lines = [PROOF_HEADER, *extra, f"index {self.index}", *map(encoded, self.hashes)]
        return "\n".join([*lines, "", ""]).encode() + self.checkpoint


class ConsistencyProof(msgspec.Struct, frozen=True):
    """The tree of this checkpoint (a note) extends the one that had ``old_size`` entries."""

    old_size: int
    hashes: tuple[bytes, ...]
    checkpoint: bytes

    def text(self) -> bytes:
        lines = [f"old {self.old_size}", *map(encoded, self.hashes)]
        return "\n".join([*lines, "", ""]).encode() + self.checkpoint


def parse_inclusion_proof(text: bytes) -> InclusionProof:
    """A tlog-proof taken apart. Raises MalformedProof; verifies nothing."""
    lines, checkpoint = _proof_lines(text)
    if not lines or lines.pop(0) != PROOF_HEADER:
        raise MalformedProof(f"a proof begins with {PROOF_HEADER}")
    entry = None
    if lines and lines[0].startswith("extra "):
        entry = decoded(lines.pop(0).removeprefix("extra "), "the extra data")
        if not 0 < len(entry) <= MAX_ENTRY_BYTES:
            raise MalformedProof("the extra data is no entry of this log")
    index = _labelled("index", lines)
    return InclusionProof(index, _proof_hashes(lines), checkpoint, entry)


def parse_consistency_proof(text: bytes) -> ConsistencyProof:
    """A consistency proof taken apart. Raises MalformedProof; verifies nothing."""
    lines, checkpoint = _proof_lines(text)
    old_size = _labelled("old", lines)
    return ConsistencyProof(old_size, _proof_hashes(lines), checkpoint)


def _proof_lines(text: bytes) -> tuple[list[str], bytes]:
    """The lines before the first empty one, and the note after it."""
    if len(text) > MAX_PROOF_BYTES:
        raise MalformedProof("the proof is too long")
    head, blank, checkpoint = text.partition(b"\n\n")
    if not blank:
        raise MalformedProof("the proof has no checkpoint")
    try:
        return head.decode("ascii").split("\n"), checkpoint
    except UnicodeDecodeError as error:
        raise MalformedProof("the proof is not ASCII") from error


def _labelled(label: str, lines: list[str]) -> int:
    if not lines or not lines[0].startswith(f"{label} "):
        raise MalformedProof(f"the proof has no line '{label} …' where one must be")
    return number(lines.pop(0).removeprefix(f"{label} "), label)


def _proof_hashes(lines: Sequence[str]) -> tuple[bytes, ...]:
    if len(lines) > MAX_PROOF_HASHES:
        raise MalformedProof("the proof has too many hashes")
    return tuple(hash_from(line, "a hash of the proof") for line in lines)


def verify_inclusion(proof: InclusionProof, leaf: bytes, *known: Verifier) -> Checkpoint:
    """The checkpoint in whose tree this leaf hash stands at the proof's index.

    Raises InvalidSignature, InvalidProof or MalformedProof.
    """
    checkpoint = open_checkpoint(proof.checkpoint, *known)
    check_inclusion(
        leaf=leaf,
        index=proof.index,
        size=checkpoint.size,
        proof=proof.hashes,
        root=checkpoint.root,
    )
    return checkpoint


def verify_consistency(proof: ConsistencyProof, old: Checkpoint, *known: Verifier) -> Checkpoint:
    """The checkpoint whose tree extends the one of ``old``. Raises like verify_inclusion."""
    checkpoint = open_checkpoint(proof.checkpoint, *known)
    if old.size != proof.old_size:
        raise MalformedProof(f"the proof starts from size {proof.old_size}, not {old.size}")
    if old.origin != checkpoint.origin:
        raise MalformedProof(f"two logs: {old.origin} and {checkpoint.origin}")
    check_consistency(
        old_size=old.size,
        old_root=old.root,
        size=checkpoint.size,
        root=checkpoint.root,
        proof=proof.hashes,
    )
    return checkpoint
