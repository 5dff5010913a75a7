"""The texts and bytes in which the log is proved to others, exactly as C2SP writes them.

- ``signed-note`` with Ed25519 (type 0x01): ``Signer``, ``Verifier``, ``sign_note``, ``open_note``.
- ``tlog-checkpoint``: the note's text. The key's name is the origin.
- ``tlog-tiles``: paths of tiles and of entry bundles, and what a bundle holds.
- ``tlog-proof``: one event's inclusion, with its entry as the extra data (that is this log's
  meaning of it), so that whoever holds the file and the public key needs nothing else.
- A consistency proof has no file format of its own: it is written as the body of
  ``tlog-witness``'s ``add-checkpoint``, which witnesses read.

Rules: what is parsed is accepted in its one spelling only (canonical decimals and base64, the
right number of hashes, nothing after the end); anything else raises MalformedProof. Keys come in
as arguments; Ed25519 is deterministic, so nothing here needs randomness.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Iterable, Sequence
from hashlib import sha256

import msgspec
from cryptography.exceptions import InvalidSignature as SignatureMismatch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from gatelog.errors import InvalidSignature, MalformedProof
from gatelog.proofs.rules.merkle import (
    EMPTY_ROOT,
    HASH_BYTES,
    MAX_PROOF_HASHES,
    MAX_TREE_SIZE,
    TILE_WIDTH,
    check_consistency,
    check_inclusion,
)

MAX_NOTE_BYTES = 1_000_000
MAX_SIGNATURES = 100
MAX_PROOF_BYTES = 2_000_000
MAX_ENTRY_BYTES = 65_535
MAX_TILE_LEVEL = 63
SEED_BYTES = 32
KEY_ID_BYTES = 4

PROOF_HEADER = "c2sp.org/tlog-proof@v1"
_PRIVATE = "PRIVATE+KEY+"
_ED25519 = b"\x01"
_ED25519_SIGNATURE_BYTES = 64
_SIGNATURE_PREFIX = "— "

_decimal = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII).fullmatch
_tile_path = re.compile(
    r"tile/(entries|0|[1-9][0-9]?)/((?:x[0-9]{3}/){0,6}[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?",
    re.ASCII,
).fullmatch


# --- base64 and numbers, in their one spelling


def _encoded(data: bytes) -> str:
    return b64encode(data).decode()


def _decoded(text: str, what: str) -> bytes:
    try:
        data = b64decode(text, validate=True)
    except (Base64Error, ValueError) as error:
        raise MalformedProof(f"{what} is not base64") from error
    if _encoded(data) != text:
        raise MalformedProof(f"{what} is not canonical base64")
    return data


def _number(text: str, what: str) -> int:
    if not _decimal(text) or int(text) > MAX_TREE_SIZE:
        raise MalformedProof(f"{what} is not a number in its canonical form")
    return int(text)


def _hash(text: str, what: str) -> bytes:
    value = _decoded(text, what)
    if len(value) != HASH_BYTES:
        raise MalformedProof(f"{what} has {len(value)} bytes; a hash has {HASH_BYTES}")
    return value


# --- keys (signed-note)


def key_id(name: str, public_key: bytes) -> bytes:
    """The first 4 bytes of SHA-256(name || 0x0A || 0x01 || public key)."""
    return sha256(name.encode() + b"\n" + _ED25519 + public_key).digest()[:KEY_ID_BYTES]


def is_key_name(name: str) -> bool:
    """Whether this may name a key, and so be an origin: no white space, no plus, no controls."""
    return (
        bool(name)
        and "+" not in name
        and not any(char.isspace() or char < " " for char in name)
        and name.encode(errors="ignore").decode() == name
    )


class Verifier(msgspec.Struct, frozen=True):
    """A public key and its name: who signed."""

    name: str
    public_key: bytes

    @property
    def key_id(self) -> bytes:
        return key_id(self.name, self.public_key)

    def __str__(self) -> str:
        """The verifier key: ``name+hex(key id)+base64(0x01 || public key)``."""
        return f"{self.name}+{self.key_id.hex()}+{_encoded(_ED25519 + self.public_key)}"

    def accepts(self, text: bytes, signature: bytes) -> bool:
        try:
            Ed25519PublicKey.from_public_bytes(self.public_key).verify(signature, text)
        except (SignatureMismatch, ValueError):
            return False
        return True


class Signer(msgspec.Struct, frozen=True):
    """A private key (the 32-byte seed of RFC 8032) and its name."""

    name: str
    seed: bytes

    @property
    def verifier(self) -> Verifier:
        public_key = Ed25519PrivateKey.from_private_bytes(self.seed).public_key()
        return Verifier(self.name, public_key.public_bytes_raw())

    def private_text(self) -> str:
        """The key as a file holds it: ``PRIVATE+KEY+name+hex(key id)+base64(0x01 || seed)``.

        The form of golang.org/x/mod/sumdb/note, which other logs' tools write and read.
        """
        shown_id = self.verifier.key_id.hex()
        return f"{_PRIVATE}{self.name}+{shown_id}+{_encoded(_ED25519 + self.seed)}"

    def __repr__(self) -> str:
        return f"Signer({self.name})"  # never the seed


def parse_verifier(text: str) -> Verifier:
    """The public key in a verifier key."""
    name, public_key, shown_id = _parse_key(text, "the verifier key")
    verifier = Verifier(name, public_key)
    if verifier.key_id.hex() != shown_id:
        raise MalformedProof("the verifier key's id is not that of its name and key")
    return verifier


def parse_signer(text: str) -> Signer:
    """The private key in such a text; no error quotes any of it."""
    if not text.startswith(_PRIVATE):
        raise MalformedProof(f"the private key does not begin with {_PRIVATE}")
    name, seed, shown_id = _parse_key(text.removeprefix(_PRIVATE), "the private key")
    signer = Signer(name, seed)
    if signer.verifier.key_id.hex() != shown_id:
        raise MalformedProof("the private key's id is not that of its name and key")
    return signer


def _parse_key(text: str, what: str) -> tuple[str, bytes, str]:
    parts = text.split("+", 2)
    if len(parts) != 3 or not is_key_name(parts[0]):
        raise MalformedProof(f"{what} is not of the form name+id+key")
    key = _decoded(parts[2], what)
    if key[:1] != _ED25519 or len(key) != 1 + SEED_BYTES:
        raise MalformedProof(f"{what} is not an Ed25519 key")
    return parts[0], key[1:], parts[1]


# --- notes (signed-note)


class Signature(msgspec.Struct, frozen=True):
    """One signature line; who made it is not known before it is verified."""

    name: str
    key_id: bytes
    signature: bytes


class Note(msgspec.Struct, frozen=True):
    """A note taken apart, nothing verified."""

    text: str
    signatures: tuple[Signature, ...]


def sign_note(text: str, signer: Signer) -> bytes:
    """The note with this text (which ends in a line break) and this signature."""
    if not text.endswith("\n") or not _is_note_text(text) or not is_key_name(signer.name):
        raise MalformedProof("this is no text for a note")
    private_key = Ed25519PrivateKey.from_private_bytes(signer.seed)
    signature = signer.verifier.key_id + private_key.sign(text.encode())
    return f"{text}\n{_SIGNATURE_PREFIX}{signer.name} {_encoded(signature)}\n".encode()


def _is_note_text(text: str) -> bool:
    return not any(char < " " and char != "\n" for char in text)


def parse_note(note: bytes) -> Note:
    """Take a note apart. Raises MalformedProof; verifies nothing."""
    if len(note) > MAX_NOTE_BYTES:
        raise MalformedProof("the note is too long")
    try:
        text = note.decode()
    except UnicodeDecodeError as error:
        raise MalformedProof("the note is not UTF-8") from error
    body, blank, lines = text.rpartition("\n\n")
    if not blank or not lines.endswith("\n") or not _is_note_text(text):
        raise MalformedProof("the note is not a text, a blank line and signature lines")
    signatures = lines[:-1].split("\n")
    if len(signatures) > MAX_SIGNATURES:
        raise MalformedProof("the note has too many signatures")
    return Note(body + "\n", tuple(_parse_signature(line) for line in signatures))


def _parse_signature(line: str) -> Signature:
    name, _, encoded = line.removeprefix(_SIGNATURE_PREFIX).partition(" ")
    if not line.startswith(_SIGNATURE_PREFIX) or not is_key_name(name):
        raise MalformedProof("a signature line is not of the form '— name base64'")
    data = _decoded(encoded, "a signature")
    if len(data) <= KEY_ID_BYTES:
        raise MalformedProof("a signature is too short")
    return Signature(name, data[:KEY_ID_BYTES], data[KEY_ID_BYTES:])


def open_note(note: bytes, *known: Verifier) -> str:
    """The text of a note that at least one of these keys has signed, and none wrongly.

    Signatures of other keys are ignored. Raises InvalidSignature or MalformedProof.
    """
    parsed = parse_note(note)
    text = parsed.text.encode()
    verified = False
    for verifier in known:
        for line in parsed.signatures:
            if (line.name, line.key_id) != (verifier.name, verifier.key_id):
                continue
            if not verifier.accepts(text, line.signature):
                raise InvalidSignature(f"the signature of {verifier.name} does not hold")
            verified = True
    if not verified:
        names = ", ".join(sorted({f"{s.name}+{s.key_id.hex()}" for s in parsed.signatures}))
        wanted = ", ".join(f"{v.name}+{v.key_id.hex()}" for v in known)
        raise InvalidSignature(f"not signed by {wanted}, but by {names}")
    return parsed.text


# --- checkpoints (tlog-checkpoint)


class Checkpoint(msgspec.Struct, frozen=True):
    """What a checkpoint says: this log had so many entries and this root."""

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    def text(self) -> str:
        lines = (self.origin, str(self.size), _encoded(self.root), *self.extensions)
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
    size, root = _number(lines[1], "the tree size"), _hash(lines[2], "the root hash")
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
        extra = [] if self.entry is None else [f"extra {_encoded(self.entry)}"]
        lines = [PROOF_HEADER, *extra, f"index {self.index}", *map(_encoded, self.hashes)]
        return "\n".join([*lines, "", ""]).encode() + self.checkpoint


class ConsistencyProof(msgspec.Struct, frozen=True):
    """The tree of this checkpoint (a note) extends the one that had ``old_size`` entries."""

    old_size: int
    hashes: tuple[bytes, ...]
    checkpoint: bytes

    def text(self) -> bytes:
        lines = [f"old {self.old_size}", *map(_encoded, self.hashes)]
        return "\n".join([*lines, "", ""]).encode() + self.checkpoint


def parse_inclusion_proof(text: bytes) -> InclusionProof:
    """A tlog-proof taken apart. Raises MalformedProof; verifies nothing."""
    lines, checkpoint = _proof_lines(text)
    if not lines or lines.pop(0) != PROOF_HEADER:
        raise MalformedProof(f"a proof begins with {PROOF_HEADER}")
    entry = None
    if lines and lines[0].startswith("extra "):
        entry = _decoded(lines.pop(0).removeprefix("extra "), "the extra data")
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
    return _number(lines.pop(0).removeprefix(f"{label} "), label)


def _proof_hashes(lines: Sequence[str]) -> tuple[bytes, ...]:
    if len(lines) > MAX_PROOF_HASHES:
        raise MalformedProof("the proof has too many hashes")
    return tuple(_hash(line, "a hash of the proof") for line in lines)


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
