"""Signed notes (C2SP ``signed-note``) with Ed25519 (type 0x01), and the keys that sign them.

What is parsed is accepted in its one spelling only; anything else raises MalformedProof. Keys come
in as arguments; Ed25519 is deterministic, so nothing here needs randomness.
"""

from __future__ import annotations

from hashlib import sha256

import msgspec
from cryptography.exceptions import InvalidSignature as SignatureMismatch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from gatelog.errors import InvalidSignature, MalformedProof
from gatelog.proofs.rules.spelling import decoded, encoded

MAX_NOTE_BYTES = 1_000_000
MAX_SIGNATURES = 100
SEED_BYTES = 32
KEY_ID_BYTES = 4
_PRIVATE = "PRIVATE+KEY+"
_ED25519 = b"\x01"
_ED25519_SIGNATURE_BYTES = 64
_SIGNATURE_PREFIX = "— "


# --- keys


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
        return f"{self.name}+{self.key_id.hex()}+{encoded(_ED25519 + self.public_key)}"

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
        return f"{_PRIVATE}{self.name}+{shown_id}+{encoded(_ED25519 + self.seed)}"

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
    key = decoded(parts[2], what)
    if key[:1] != _ED25519 or len(key) != 1 + SEED_BYTES:
        raise MalformedProof(f"{what} is not an Ed25519 key")
    return parts[0], key[1:], parts[1]


# --- notes


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
    return f"{text}\n{_SIGNATURE_PREFIX}{signer.name} {encoded(signature)}\n".encode()


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
    data = decoded(encoded, "a signature")
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
