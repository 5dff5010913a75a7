"""C2SP's formats: byte for byte as others write them, and nothing else is read."""

from __future__ import annotations

import json
from base64 import b64encode
from pathlib import Path
from typing import Any

import msgspec
import pytest
from gatelog.errors import InvalidProof, InvalidSignature, MalformedProof, NotVerified
from gatelog.log.rules.events import leaf_hash
from gatelog.proofs.rules.merkle import (
    EMPTY_ROOT,
    HASH_BYTES,
    TILE_WIDTH,
    Edge,
    consistency_path,
    grow,
    inclusion_path,
    leaf_hashes,
    path_hashes,
)
from gatelog.proofs.rules.notes import (
    Signer,
    Verifier,
    is_key_name,
    open_note,
    parse_note,
    parse_signer,
    parse_verifier,
    sign_note,
)
from gatelog.proofs.rules.tlog import (
    Checkpoint,
    ConsistencyProof,
    InclusionProof,
    TilePath,
    decode_bundle,
    encode_bundle,
    open_checkpoint,
    parse_checkpoint,
    parse_consistency_proof,
    parse_inclusion_proof,
    parse_tile_path,
    sign_checkpoint,
    verify_consistency,
    verify_inclusion,
)
from hypothesis import given
from hypothesis import strategies as st

# Another implementation's log, checkpoint by checkpoint, with its keys.
LOG: dict[str, Any] = json.loads(
    (Path(__file__).parent / "vectors" / "tlog_testdata.json").read_text()
)
ENTRIES = [entry.encode() for entry in LOG["entries"]]
LOG_KEY = parse_verifier(LOG["verifier_key"])
LOG_SIGNER = parse_signer(LOG["private_key"])

# golang.org/x/mod, sumdb/note/example_test.go (BSD-3-Clause)
NEUMANN_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
NEUMANN_PRIVATE = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
NEUMANN_TEXT = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
)
NEUMANN_LINE = (
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb"
    "6KE6RyyBwJnAM=\n"
)
OTHER_LINE = (
    "— EnochRoot rwz+eBzmZa0SO3NbfRGzPCpDckykFXSdeX+MNtCOXm2/5n2tiOHp+vAF1aGrQ5ovTG01oOTGwnWLox33W"
    "Wd1RvMc+QQ=\n"
)
NEUMANN_NOTE = f"{NEUMANN_TEXT}\n{NEUMANN_LINE}".encode()

# C2SP signed-note, "Example"
EXAMPLE_KEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
EXAMPLE_NOTE = (
    "This is an example message.\n"
    "\n"
    "— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuw"
    "HjG1Yu72IneyaQM=\n"
).encode()


# --- keys


def test_published_keys_are_read_and_written() -> None:
    for text in (NEUMANN_KEY, EXAMPLE_KEY, LOG["verifier_key"]):
        assert str(parse_verifier(text)) == text
    for private, public in (
        (NEUMANN_PRIVATE, NEUMANN_KEY),
        (LOG["private_key"], LOG["verifier_key"]),
    ):
        signer = parse_signer(private)
        assert signer.private_text() == private
        assert str(signer.verifier) == public


def test_a_signer_never_shows_its_seed() -> None:
    assert NEUMANN_PRIVATE[-20:] not in repr(parse_signer(NEUMANN_PRIVATE))
    assert repr(LOG_SIGNER) == str(LOG_SIGNER) == "Signer(example.com/log/testdata)"


@pytest.mark.parametrize(
    ("text", "parse"), [(NEUMANN_KEY, parse_verifier), (NEUMANN_PRIVATE, parse_signer)]
)
def test_mangled_keys_are_refused(text: str, parse: Any) -> None:
    parts = [text[i:j] for i in range(len(text)) for j in range(i + 1, len(text) + 1)]
    others = [part for part in parts if part != text]
    others += [text[:at] + chr(ord(text[at]) + 1) + text[at + 1 :] for at in range(len(text))]
    others += [text + "\n", " " + text, text.replace("c74f20a3", "C74F20A3")]
    for other in others:
        with pytest.raises(MalformedProof) as caught:
            parse(other)
        assert other == "" or len(other) < 30 or other not in str(caught.value)


def test_keys_of_another_kind_are_refused() -> None:
    """x/mod's note_test.go: a longer key, an unknown type, both with an adjusted id."""
    for text in (
        "PeterNeumann+cc469956+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TWBADKEY==",
        "PeterNeumann+173116ae+ZRpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
    ):
        with pytest.raises(MalformedProof):
            parse_verifier(text)


def test_key_names() -> None:
    assert is_key_name("gatelog.local/1")
    assert is_key_name("blåbær")
    for name in ("", "a b", "a+b", "a\u00a0b", "a\u2028b", "a\nb", "a\x01", "\ud800"):
        assert not is_key_name(name)


# --- notes


def test_published_notes_open() -> None:
    assert open_note(NEUMANN_NOTE, parse_verifier(NEUMANN_KEY)) == NEUMANN_TEXT
    text = open_note(EXAMPLE_NOTE, parse_verifier(EXAMPLE_KEY))
    assert text == "This is an example message.\n"


def test_a_published_note_is_signed_byte_for_byte() -> None:
    assert sign_note(NEUMANN_TEXT, parse_signer(NEUMANN_PRIVATE)) == NEUMANN_NOTE


def test_a_note_of_two_signatures() -> None:
    note = NEUMANN_NOTE + OTHER_LINE.encode()
    assert open_note(note, parse_verifier(NEUMANN_KEY)) == NEUMANN_TEXT
    with pytest.raises(InvalidSignature):
        open_note(note, LOG_KEY)


def test_the_text_ends_at_the_last_blank_line() -> None:
    """The specification's first example has a blank line inside of its text."""
    text = "Ognuno sta solo sul cuor della terra\n\ned è subito sera.\n"
    note = sign_note(text, LOG_SIGNER)
    assert parse_note(note).text == open_note(note, LOG_KEY) == text


def test_a_wrong_signature_of_a_known_key_spoils_the_note() -> None:
    """Even beside a right one."""
    other = parse_signer(NEUMANN_PRIVATE)
    signed = sign_note("one\n", LOG_SIGNER)
    forged = sign_note("two\n", other).rpartition(b"\n\n")[2]
    assert open_note(signed + forged, LOG_KEY) == "one\n"
    with pytest.raises(InvalidSignature):
        open_note(signed + forged, LOG_KEY, other.verifier)
    own = sign_note("two\n", LOG_SIGNER).rpartition(b"\n\n")[2]
    with pytest.raises(InvalidSignature):
        open_note(signed + own, LOG_KEY)


def test_a_key_of_the_same_name_or_the_same_id_is_another_key() -> None:
    namesake = Signer(LOG_SIGNER.name, b"\x01" * 32)
    note = sign_note("text\n", namesake)
    with pytest.raises(InvalidSignature):
        open_note(note, LOG_KEY)
    assert open_note(note, LOG_KEY, namesake.verifier) == "text\n"


@pytest.mark.parametrize(
    "note",
    [
        b"",
        b"\n",
        b"text\n",
        b"text\n\n",
        NEUMANN_NOTE[:-1],
        NEUMANN_NOTE + b"\n",
        NEUMANN_NOTE + b"x",
        NEUMANN_NOTE.replace(b"\n\n", b"\n"),
        NEUMANN_NOTE.replace(b"\n", b"\r\n"),
        NEUMANN_NOTE.replace(b"know", b"kn\x01w"),
        NEUMANN_NOTE.replace(b"know", b"kn\xffw"),
        NEUMANN_NOTE.replace("— ".encode(), b"- "),
        NEUMANN_NOTE.replace(b"Neumann ", b"Neumann  "),
        NEUMANN_NOTE.replace(b"AM=", b"AM"),
        NEUMANN_NOTE.replace(b"AM=", b"AN="),  # the same bytes, spelt otherwise
        NEUMANN_NOTE.replace(b"AM=", b"AM=="),
        f"{NEUMANN_TEXT}\n— PeterNeumann x08gow==\n".encode(),
        f"{NEUMANN_TEXT}\n— PeterNeumann\n".encode(),
        NEUMANN_NOTE + 100 * OTHER_LINE.encode(),
        b"x" * 1_000_001 + NEUMANN_NOTE,
    ],
)
def test_what_is_no_note(note: bytes) -> None:
    with pytest.raises(MalformedProof):
        open_note(note, parse_verifier(NEUMANN_KEY))


@pytest.mark.parametrize("text", ["no line break", "", "a\x00\n", "tab\t\n"])
def test_what_cannot_be_signed(text: str) -> None:
    with pytest.raises(MalformedProof):
        sign_note(text, LOG_SIGNER)


@given(at=st.integers(0, len(NEUMANN_NOTE) - 1), bit=st.integers(0, 7))
def test_a_flipped_bit_in_a_note_is_found(at: int, bit: int) -> None:
    flipped = bytearray(NEUMANN_NOTE)
    flipped[at] ^= 1 << bit
    with pytest.raises(NotVerified):
        open_note(bytes(flipped), parse_verifier(NEUMANN_KEY))


# --- checkpoints


def test_another_implementation_s_checkpoints_byte_for_byte() -> None:
    edge = Edge()
    for size, note in enumerate(LOG["checkpoints"]):
        checkpoint = open_checkpoint(note.encode(), LOG_KEY)
        assert checkpoint == Checkpoint("example.com/log/testdata", size, edge.root())
        assert sign_checkpoint(checkpoint, LOG_SIGNER) == note.encode()
        edge, _ = grow(edge, leaf_hashes(ENTRIES[size : size + 1]))


def test_a_published_checkpoint_text() -> None:
    """golang.org/x/mod, sumdb/tlog/note_test.go, and an extension line."""
    text = "go.sum database tree\n123456789012\nTszzRgjTG6xce+z2AG31kAXYKBgQVtCSCE40HmuwBb0=\n"
    expected = Checkpoint("go.sum database tree", 123456789012, leaf_hash(b"hello world"))
    assert parse_checkpoint(text) == expected
    assert expected.text() == text
    assert parse_checkpoint(text + "JOE\n").extensions == ("JOE",)


ROOT = "TszzRgjTG6xce+z2AG31kAXYKBgQVtCSCE40HmuwBb0="


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        f"log\n1\n{ROOT}",
        f"log\n1\n{ROOT}\n\n",
        f"log\n1\n{ROOT}\n\nmore\n",
        f"\n1\n{ROOT}\n",
        f"log\n\n{ROOT}\n",
        "log\n1\n",
        f"log\n01\n{ROOT}\n",
        f"log\n+1\n{ROOT}\n",
        f"log\n-1\n{ROOT}\n",
        f"log\n1 \n{ROOT}\n",
        f"log\n0x1\n{ROOT}\n",
        f"log\n\u0661\n{ROOT}\n",
        f"log\n9223372036854775808\n{ROOT}\n",
        f"log\n99999999999999999999\n{ROOT}\n",
        f"log\n0\n{ROOT}\n",
        f"log\n1\n{ROOT[:-1]}\n",
        f"log\n1\n{ROOT} \n",
        "log\n1\nTszzRgjTG6xce+z2AG31kAXYKBgQVtCSCE40HmuwBb1=\n",
        "log\n1\nTszzRgjTG6xce+z2AG31kAXYKBgQVtCSCE40HmuwBTOOBIG=\n",
        "log\n1\nTszzRgjTG6xce+z2AG31kAXYKBgQVtCSCE40HmuwBQ==\n",
    ],
)
def test_what_is_no_checkpoint(text: str) -> None:
    with pytest.raises(MalformedProof):
        parse_checkpoint(text)


def test_the_empty_log_has_a_checkpoint() -> None:
    checkpoint = Checkpoint("log", 0, EMPTY_ROOT)
    assert parse_checkpoint(checkpoint.text()) == checkpoint


def test_a_key_signs_for_its_own_log_only() -> None:
    foreign = Checkpoint("another.example/log", 0, EMPTY_ROOT)
    with pytest.raises(MalformedProof):
        sign_checkpoint(foreign, LOG_SIGNER)
    with pytest.raises(InvalidSignature):
        open_checkpoint(sign_note(foreign.text(), LOG_SIGNER), LOG_KEY)


# --- tiles


@pytest.mark.parametrize(
    ("level", "index", "width", "path"),
    [
        # C2SP tlog-tiles; transparency-dev/tessera, api/layout/paths_test.go (Apache-2.0)
        (0, 1234067, 256, "tile/0/x001/x234/067"),
        (0, 0, 256, "tile/0/000"),
        (0, 0, 255, "tile/0/000.p/255"),
        (1, 0, 256, "tile/1/000"),
        (15, 455667, 256, "tile/15/x455/667"),
        (15, 123456789, 41, "tile/15/x123/x456/789.p/41"),
        (None, 0, 256, "tile/entries/000"),
        (None, 0, 8, "tile/entries/000.p/8"),
        (None, 255, 253, "tile/entries/255.p/253"),
        (None, 123456789, 256, "tile/entries/x123/x456/789"),
        (63, 999, 1, "tile/63/999.p/1"),
        (0, 1000, 256, "tile/0/x001/000"),
    ],
)
def test_paths_of_tiles(level: int | None, index: int, width: int, path: str) -> None:
    tile = TilePath(level, index, width)
    assert str(tile) == path
    assert parse_tile_path(path) == tile


@pytest.mark.parametrize(
    "path",
    [
        "",
        "tile",
        "tile/0",
        "tile/0/",
        "tile/0/0",
        "tile/0/00",
        "tile/0/0000",
        "tile/0/x000",
        "tile/0/x000/000",
        "tile/0/000/001",
        "tile/0/x001/x002",
        "tile/0/X001/067",
        "tile/0/-01",
        "tile/0/ 01",
        "tile/0/\u0660\u0660\u0661",
        "tile/00/000",
        "tile/-1/000",
        "tile/64/000",
        "tile/100/000",
        "tile/data/000",
        "tile/0/000.p",
        "tile/0/000.p/",
        "tile/0/000.p/0",
        "tile/0/000.p/01",
        "tile/0/000.p/256",
        "tile/0/000.p/1/",
        "tile/0/000.p/1000",
        "tile/0/000/",
        "tile/0/000\n",
        "/tile/0/000",
        "x/tile/0/000",
        "tile/8/0/000",
        "tile/entries/x00a/000",
    ],
)
def test_what_is_no_path_of_a_tile(path: str) -> None:
    with pytest.raises(MalformedProof):
        parse_tile_path(path)


def test_another_implementation_s_tiles_byte_for_byte() -> None:
    for path, tile in LOG["tiles"].items():
        named = parse_tile_path(path)
        assert leaf_hashes(ENTRIES[: named.width]).hex() == tile
    for path, bundle in LOG["bundles"].items():
        named = parse_tile_path(path)
        assert encode_bundle(ENTRIES[: named.width]).hex() == bundle
        assert decode_bundle(bytes.fromhex(bundle), named.width) == ENTRIES[: named.width]


def test_bundles() -> None:
    entries = [b"", b"a", b"b" * 65_535]
    bundle = encode_bundle(entries)
    assert bundle[:5] == b"\0\0\0\x01a"
    assert decode_bundle(bundle, 3) == entries
    for wrong, width in (
        (bundle, 2),
        (bundle, 4),
        (bundle[:-1], 3),
        (bundle + b"\0", 3),
        (bundle + b"\0", 4),
        (b"", 1),
        (b"\0", 1),
    ):
        with pytest.raises(MalformedProof):
            decode_bundle(wrong, width)
    assert decode_bundle(b"", 0) == []


# --- proofs


def prove(index: int, size: int = len(ENTRIES)) -> InclusionProof:
    leaves = leaf_hashes(ENTRIES[:size])
    hashes = path_hashes(inclusion_path(index, size), lambda *_: leaves)
    return InclusionProof(index, hashes, LOG["checkpoints"][size].encode(), ENTRIES[index])


def prove_extension(old: int, size: int = len(ENTRIES)) -> ConsistencyProof:
    leaves = leaf_hashes(ENTRIES)
    hashes = path_hashes(consistency_path(old, size), lambda *_: leaves)
    return ConsistencyProof(old, hashes, LOG["checkpoints"][size].encode())


def test_the_form_of_a_proof() -> None:
    text = prove(2).text().decode()
    lines = text.split("\n")
    assert lines[:3] == ["c2sp.org/tlog-proof@v1", "extra dGhyZWU=", "index 2"]
    assert lines[3] == b64encode(leaf_hash(b"four")).decode()
    assert text.partition("\n\n")[2] == LOG["checkpoints"][15]
    without = msgspec.structs.replace(prove(2), entry=None).text().decode()
    assert without == text.replace("extra dGhyZWU=\n", "")
    only = msgspec.structs.replace(prove(0, 1), entry=None).text().decode()
    assert only == f"c2sp.org/tlog-proof@v1\nindex 0\n\n{LOG['checkpoints'][1]}"


def test_the_form_of_a_consistency_proof() -> None:
    """C2SP tlog-witness, add-checkpoint."""
    text = prove_extension(15).text().decode()
    assert text == f"old 15\n\n{LOG['checkpoints'][15]}"
    lines = prove_extension(3).text().decode().split("\n")
    assert lines[0] == "old 3"
    assert lines[1] == b64encode(leaf_hash(b"three")).decode()


@pytest.mark.parametrize("size", range(1, 16))
def test_proofs_hold_under_others_checkpoints(size: int) -> None:
    for index in range(size):
        proof = prove(index, size)
        assert parse_inclusion_proof(proof.text()) == proof
        checkpoint = verify_inclusion(proof, leaf_hash(ENTRIES[index]), LOG_KEY)
        assert checkpoint.size == size
        with pytest.raises(InvalidProof):
            verify_inclusion(proof, leaf_hash(b"another"), LOG_KEY)
    for old in range(1, size + 1):
        extension = prove_extension(old, size)
        assert parse_consistency_proof(extension.text()) == extension
        before = open_checkpoint(LOG["checkpoints"][old].encode(), LOG_KEY)
        assert verify_consistency(extension, before, LOG_KEY).size == size
        with pytest.raises(MalformedProof):
            other = msgspec.structs.replace(before, size=old + 1)
            verify_consistency(extension, other, LOG_KEY)
        with pytest.raises(MalformedProof):
            other = msgspec.structs.replace(before, origin="another.example/log")
            verify_consistency(extension, other, LOG_KEY)
        with pytest.raises(InvalidProof):
            other = msgspec.structs.replace(before, root=EMPTY_ROOT)
            verify_consistency(extension, other, LOG_KEY)


def test_a_proof_from_nothing_is_refused() -> None:
    nothing = open_checkpoint(LOG["checkpoints"][0].encode(), LOG_KEY)
    proof = ConsistencyProof(0, (), LOG["checkpoints"][15].encode())
    with pytest.raises(InvalidProof):
        verify_consistency(proof, nothing, LOG_KEY)


def test_the_signing_key_is_not_another() -> None:
    stranger = Verifier(LOG_KEY.name, Signer(LOG_KEY.name, b"\x02" * 32).verifier.public_key)
    with pytest.raises(InvalidSignature):
        verify_inclusion(prove(0), leaf_hash(ENTRIES[0]), stranger)


INCLUSION, EXTENSION = prove(4).text(), prove_extension(5).text()
A_HASH = b64encode(b"\x07" * HASH_BYTES) + b"\n"


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\n\n",
        INCLUSION.replace(b"@v1", b"@v2"),
        INCLUSION.replace(b"\n", b"\r\n"),
        INCLUSION.partition(b"\n\n")[0],
        INCLUSION.replace(b"index 4\n", b""),
        INCLUSION.replace(b"index 4", b"index 04"),
        INCLUSION.replace(b"index 4", b"index -4"),
        INCLUSION.replace(b"index 4", b"index  4"),
        INCLUSION.replace(b"index 4", b"index 4 "),
        INCLUSION.replace(b"index 4", b"Index 4"),
        INCLUSION.replace(b"extra Zml2ZQ==", b"extra "),
        INCLUSION.replace(b"extra Zml2ZQ==", b"extra"),
        INCLUSION.replace(b"extra Zml2ZQ==", b"extra Zml2ZQ="),
        INCLUSION.replace(b"extra Zml2ZQ==", b"extra Zml2ZR=="),
        INCLUSION.replace(b"extra Zml2ZQ==\n", b"extra Zml2ZQ==\nextra Zml2ZQ==\n"),
        INCLUSION.replace(b"index 4\n", b"index 4\nAAAA\n"),
        INCLUSION.replace(b"index 4\n", b"index 4\n" + A_HASH[:-2] + b"\n"),
        INCLUSION.replace(b"index 4\n", b"index 4\n \n"),
        INCLUSION.replace(b"index 4\n", b"index 4\n" + 61 * A_HASH),
        INCLUSION.replace(b"index 4\n", "index 4\n—\n".encode()),
        b"x" * 2_000_001,
    ],
)
def test_what_is_no_proof(text: bytes) -> None:
    assert parse_inclusion_proof(INCLUSION)
    with pytest.raises(MalformedProof):
        parse_inclusion_proof(text)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        EXTENSION.partition(b"\n\n")[0],
        EXTENSION.replace(b"old 5\n", b""),
        EXTENSION.replace(b"old 5", b"old 05"),
        EXTENSION.replace(b"old 5", b"old"),
        EXTENSION.replace(b"old 5\n", b"old 5\nAAAA\n"),
        EXTENSION.replace(b"old 5\n", b"old 5\n" + 62 * A_HASH),
    ],
)
def test_what_is_no_consistency_proof(text: bytes) -> None:
    assert parse_consistency_proof(EXTENSION)
    with pytest.raises(MalformedProof):
        parse_consistency_proof(text)


@pytest.mark.parametrize("text", [INCLUSION + b"\n", INCLUSION + b"x", INCLUSION + b"more\n"])
def test_trailing_data_is_refused(text: bytes) -> None:
    with pytest.raises(NotVerified):
        verify_inclusion(parse_inclusion_proof(text), leaf_hash(b"five"), LOG_KEY)


@given(at=st.integers(0, len(INCLUSION) - 1), bit=st.integers(0, 7))
def test_a_flipped_bit_in_a_proof_is_found(at: int, bit: int) -> None:
    """Whatever the flip hits: the entry, the index, a hash, the checkpoint or the form."""
    flipped = bytearray(INCLUSION)
    flipped[at] ^= 1 << bit
    with pytest.raises(NotVerified):
        proof = parse_inclusion_proof(bytes(flipped))
        assert proof.entry is not None
        verify_inclusion(proof, leaf_hash(proof.entry), LOG_KEY)


def test_a_tile_is_as_wide_as_a_bundle() -> None:
    assert TilePath(None, 0).width == TILE_WIDTH
