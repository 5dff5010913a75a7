"""Verification of one proof, and of what was kept elsewhere: with nothing but the public key."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from gatelog.errors import MalformedProof
from gatelog.log.rules.events import leaf_hash
from gatelog.proofs.rules.notes import Verifier, parse_note
from gatelog.proofs.rules.tlog import (
    Checkpoint,
    open_checkpoint,
    parse_checkpoint,
    parse_consistency_proof,
    parse_inclusion_proof,
    verify_consistency,
    verify_inclusion,
)

if TYPE_CHECKING:
    pass
from gatelog.proofs.service.sources import SignedNote


class VerifiedProof(msgspec.Struct, frozen=True):
    """What a proof has shown: the entry of this position is in the tree of this checkpoint."""

    position: int
    checkpoint: Checkpoint
    entry: bytes | None


def verify_proof(text: bytes, verifier: Verifier, entry: bytes | None = None) -> VerifiedProof:
    """Verify a tlog-proof, of the entry that it carries or of the one that is given.

    Raises NotVerified (MalformedProof, InvalidProof, InvalidSignature).
    """
    proof = parse_inclusion_proof(text)
    shown = proof.entry if entry is None else entry
    if shown is None:
        raise MalformedProof("the proof carries no entry: give the entry that it is about")
    checkpoint = verify_inclusion(proof, leaf_hash(shown), verifier)
    return VerifiedProof(proof.index + 1, checkpoint, shown)


def is_consistency_proof(text: bytes) -> bool:
    """Whether this is meant as a consistency proof; if not, as a tlog-proof."""
    return text.startswith(b"old ")


def verify_extension(text: bytes, verifier: Verifier, old: bytes) -> tuple[Checkpoint, Checkpoint]:
    """Verify a consistency proof from an old checkpoint, a note, on; returns that and the new one.

    Raises NotVerified (MalformedProof, InvalidProof, InvalidSignature).
    """
    kept = open_checkpoint(old, verifier)
    return kept, verify_consistency(parse_consistency_proof(text), kept, verifier)


def kept_checkpoint(note: bytes, where: str) -> SignedNote:
    """A checkpoint that was kept outside of the log. Raises MalformedProof."""
    return SignedNote(note, where, parse_checkpoint(parse_note(note).text).size, kept=True)
