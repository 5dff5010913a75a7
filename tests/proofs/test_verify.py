"""Verification: whatever is done to a log, by whom ever, it is found and named."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from gatelog.errors import (
    InvalidProof,
    MalformedProof,
    NotSealed,
    NotVerified,
    OperatorError,
)
from gatelog.log.rules.events import leaf_hash
from gatelog.log.store.database import Database, connect
from gatelog.proofs.rules.merkle import Edge, grow
from gatelog.proofs.rules.notes import Verifier
from gatelog.proofs.rules.tlog import Checkpoint, sign_checkpoint
from gatelog.proofs.service.proofs import Proofs
from gatelog.proofs.service.sources import LiveLog, Report, SignedNote
from gatelog.proofs.service.tlog_files import LogDirectory, export_log
from gatelog.proofs.service.verify import verify_log
from gatelog.proofs.service.verify_proof import kept_checkpoint, verify_proof
from gatelog.proofs.store.tiles import read_checkpoints
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import Dsns
from tests.proofs.sealing import OTHER_SIGNER, SIGNER, append, seal, tampering

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection

SIZE = 600
UNSEALED = 7
SIGNED = (100, 101, 256, 300, SIZE)


@pytest.fixture
async def sealed(database: Dsns, tmp_path: Path) -> Dsns:
    """A log of 607 events, of which 600 are sealed."""
    await append(database.app, SIZE)
    await seal(database.app, tmp_path / "checkpoint", *SIGNED)
    await append(database.app, UNSEALED)
    return database


async def verify(connection: Connection, *kept: SignedNote, purged_to: int = 0) -> Report:
    return await verify_log(LiveLog(connection), SIGNER.verifier, kept=kept, purged_to=purged_to)


def named(report: Report) -> str:
    """The first position that does not fit, and why."""
    assert report.first is not None, "nothing was found"
    return f"{report.first.position}: {report.first.what}"


async def test_a_sound_log(sealed: Dsns, connection: Connection) -> None:
    told: list[tuple[int, int]] = []
    report = await verify_log(
        LiveLog(connection), SIGNER.verifier, progress=lambda done, all_: told.append((done, all_))
    )
    assert report == Report(events=SIZE + UNSEALED, sealed=SIZE, checkpoints=len(SIGNED))
    assert told == [(SIZE, SIZE + UNSEALED), (SIZE + UNSEALED, SIZE + UNSEALED)]


async def test_an_empty_log(database: Dsns, connection: Connection) -> None:
    assert await verify(connection) == Report()


async def test_a_log_that_was_never_sealed(database: Dsns, connection: Connection) -> None:
    await append(database.app, 3)
    assert "nothing of this log was ever sealed" in named(await verify(connection))


async def test_a_log_grows_while_it_is_verified(sealed: Dsns, tmp_path: Path) -> None:
    verifying, done = await connect(sealed.app), asyncio.Event()

    async def grow_on() -> None:
        while not done.is_set():
            await append(sealed.app, 30)
            await seal(sealed.app, tmp_path / "checkpoint")

    growing = asyncio.create_task(grow_on())
    for _ in range(10):
        assert (await verify(verifying)).findings == []
    done.set()
    await growing
    await verifying.close()


# --- as the database's owner

FLIP = "set_byte({0}, {1}, get_byte({0}, {1}) # 1)"
ENTRY = FLIP.format("entry", "20")
LEAF = FLIP.format("leaf_hash", "5")
REHASH = "sha256('\\x00'::bytea || {})"

ALONE = {
    "a byte of an entry": (
        f"UPDATE events SET entry = {ENTRY} WHERE position = 17",
        "17: the entry's bytes and its stored leaf hash do not fit",
    ),
    "a byte of a leaf hash": (
        f"UPDATE events SET leaf_hash = {LEAF} WHERE position = 17",
        "17: the entry's bytes and its stored leaf hash do not fit",
    ),
    "an entry with its leaf hash": (
        f"UPDATE events SET entry = {ENTRY}, leaf_hash = {REHASH.format(ENTRY)}"
        " WHERE position = 17",
        "17: this event is not the one that was sealed here: it was changed or inserted",
    ),
    "the last sealed entry with its leaf hash": (
        f"UPDATE events SET entry = {ENTRY}, leaf_hash = {REHASH.format(ENTRY)}"
        " WHERE position = 600",
        "600: this event is not the one that was sealed here: it was changed or inserted",
    ),
    "two events swapped": (
        "UPDATE events e SET entry = o.entry, leaf_hash = o.leaf_hash FROM events o"
        " WHERE (e.position, o.position) IN ((40, 290), (290, 40))",
        "40: here stands the event that was sealed at position 290: events were swapped",
    ),
    "an event removed": (
        "DELETE FROM events WHERE position = 290",
        "290: the event at position 290 is missing",
    ),
    "the first event removed": (
        "DELETE FROM events WHERE position = 1",
        "1: the event at position 1 is missing",
    ),
    "an event removed, positions closed up": (
        "DELETE FROM events WHERE position = 290;"
        "UPDATE events SET position = position + 1000000 WHERE position > 290;"
        "UPDATE events SET position = position - 1000001 WHERE position > 1000000;"
        "UPDATE log_head SET position = position - 1",
        "290: here stands the event that was sealed at position 291",
    ),
    "an event inserted": (
        "UPDATE events SET position = position + 1000000 WHERE position >= 290;"
        "UPDATE events SET position = position - 999999 WHERE position > 1000000;"
        "INSERT INTO events SELECT 290, gen_random_uuid(), type, schema_version, session_id,"
        " subject_id, recorded_at, '{}', sha256('\\x007b7d'::bytea) FROM events WHERE position = 1;"
        "UPDATE log_head SET position = position + 1",
        "290: this event is not the one that was sealed here: it was changed or inserted",
    ),
    "the tail cut": (
        "DELETE FROM events WHERE position > 580; UPDATE log_head SET position = 580",
        "581: the log was cut: it ends at 580, and had 600 events",
    ),
    "the unsealed tail cut": (
        "DELETE FROM events WHERE position > 603",
        "604: the log was cut: it ends at 603, and had 607 events",
    ),
    "everything cut": (
        "DELETE FROM events; UPDATE log_head SET position = 0",
        "1: the log was cut: it ends at 0, and had 600 events",
    ),
    "an event beyond the head": (
        "UPDATE log_head SET position = 605",
        "606: the head is at 605, events are beyond it",
    ),
    "a hash of a tile": (
        f"UPDATE tiles SET hashes = {FLIP.format('hashes', '32 * 33')}"
        " WHERE level = 0 AND tile_index = 1",
        "290: tile 1 of level 0 holds another hash than was signed; the event is the right one",
    ),
    "a hash of an upper tile": (
        f"UPDATE tiles SET hashes = {FLIP.format('hashes', '32')} WHERE level = 1",
        "257: tile 0 of level 1 is missing, or not what the tiles below it make",
    ),
    "a tile removed": (
        "DELETE FROM tiles WHERE level = 0 AND tile_index = 1",
        "257: tile 1 of level 0 is missing or too short",
    ),
    "a tile cut": (
        "UPDATE tiles SET hashes = substring(hashes FROM 1 FOR 320)"
        " WHERE level = 0 AND tile_index = 2",
        "523: tile 2 of level 0 is missing or too short",
    ),
    "an upper tile removed": (
        "DELETE FROM tiles WHERE level = 1",
        "1: tile 0 of level 1 is missing",
    ),
    "a tile grown": (
        "UPDATE tiles SET hashes = hashes || sha256('') WHERE level = 0 AND tile_index = 2",
        "601: tile 2 of level 0 reaches beyond the newest checkpoint",
    ),
    "the newest checkpoint removed": (
        "DELETE FROM checkpoints WHERE size = 600",
        "301: tile 2 of level 0 reaches beyond the newest checkpoint",
    ),
    "all checkpoints removed": (
        "DELETE FROM checkpoints",
        "1: nothing of this log was ever sealed",
    ),
    "a checkpoint's signature": (
        f"UPDATE checkpoints SET note = {FLIP.format('note', 'octet_length(note) - 10')}"
        " WHERE size = 256",
        "102: the checkpoint of size 256: ",
    ),
    "a checkpoint filed elsewhere": (
        "UPDATE checkpoints SET size = 257 WHERE size = 256",
        "257: the checkpoint of size 257 is of 256",
    ),
}


@pytest.mark.parametrize(("script", "expected"), ALONE.values(), ids=ALONE)
async def test_tampering_is_named(sealed: Dsns, script: str, expected: str) -> None:
    async with tampering(sealed) as owner:
        assert (await verify(owner)).findings == []
        await owner.execute(script)
        assert expected in named(await verify(owner))


async def rewritten(owner: Connection, position: int) -> None:
    """Change an event, and every tile so that it fits; signatures are out of reach."""
    entry = await owner.fetchval("SELECT entry FROM events WHERE position = $1", position)
    changed = entry[:-5] + bytes([entry[-5] ^ 1]) + entry[-4:]
    await owner.execute(
        "UPDATE events SET entry = $2, leaf_hash = $3 WHERE position = $1",
        position,
        changed,
        leaf_hash(changed),
    )
    await owner.execute("DELETE FROM tiles")
    rows = await owner.fetch("SELECT leaf_hash FROM events WHERE position <= 600 ORDER BY position")
    edge, full = grow(Edge(), b"".join(row[0] for row in rows))
    for tile in (*full, *edge.tiles()):
        await owner.execute(
            "INSERT INTO tiles VALUES ($1, $2, $3)", tile.level, tile.index, tile.hashes
        )


async def test_tiles_rewritten_to_fit(sealed: Dsns) -> None:
    """Every stored checkpoint from there on tells; the first one says where."""
    async with tampering(sealed) as owner:
        await rewritten(owner, 290)
        report = await verify(owner)
        assert "the first difference lies between positions 257 and 300" in named(report)
        assert len(report.findings) == 1


async def test_tiles_and_checkpoints_rewritten_to_fit(sealed: Dsns, tmp_path: Path) -> None:
    """With the signing key stolen, the whole log is made anew: only an old checkpoint tells."""
    async with tampering(sealed) as owner:
        kept = [stored.note for stored in await read_checkpoints(owner, 0, 100)]
        await rewritten(owner, 290)
        rows = await owner.fetch("SELECT leaf_hash FROM events ORDER BY position")
        for size in SIGNED:
            edge, _ = grow(Edge(), b"".join(row[0] for row in rows[:size]))
            note = sign_checkpoint(Checkpoint(SIGNER.name, size, edge.root()), SIGNER)
            await owner.execute("UPDATE checkpoints SET note = $2 WHERE size = $1", size, note)
        assert (await verify(owner)).findings == []
        early = kept_checkpoint(kept[1], "early")
        assert (await verify(owner, early)).findings == []
        later = kept_checkpoint(kept[3], "the one that was kept")
        report = await verify(owner, early, later)
        assert "history was rewritten: the one that was kept" in named(report)
        assert "between positions 102 and 300" in named(report)


async def test_a_log_cut_back_to_an_earlier_checkpoint(sealed: Dsns, tmp_path: Path) -> None:
    """All of the database is as it once was: only a checkpoint kept elsewhere tells."""
    kept = kept_checkpoint((tmp_path / "checkpoint").read_bytes(), "the file")
    async with tampering(sealed) as owner:
        await owner.execute(
            "DELETE FROM events WHERE position > 100; UPDATE log_head SET position = 100;"
            "DELETE FROM checkpoints WHERE size > 100;"
            "DELETE FROM tiles WHERE level > 0 OR tile_index > 0;"
            "UPDATE tiles SET hashes = substring(hashes FROM 1 FOR 3200)"
        )
        assert (await verify(owner)).findings == []
        expected = "101: the log was cut: it ends at 100, the file has 600"
        assert named(await verify(owner, kept)) == expected


async def test_another_key(sealed: Dsns, connection: Connection) -> None:
    """The signing key was swapped: nothing is signed by the one that is known."""
    report = await verify_log(LiveLog(connection), OTHER_SIGNER.verifier)
    assert "1: the checkpoint of size 100: not signed by" in named(report)
    assert len(report.findings) == len(SIGNED)


async def test_a_swapped_key_from_some_checkpoint_on(sealed: Dsns) -> None:
    async with tampering(sealed) as owner:
        for stored in await read_checkpoints(owner, 256, 100):
            text = stored.note.decode().partition("\n\n")[0].split("\n")
            forged = Checkpoint(SIGNER.name, stored.size, bytes(32))
            assert len(text) == 3
            note = sign_checkpoint(forged, OTHER_SIGNER)
            await owner.execute(
                "UPDATE checkpoints SET note = $2 WHERE size = $1", stored.size, note
            )
        assert "257: the checkpoint of size 300: not signed by" in named(await verify(owner))


async def test_a_kept_checkpoint_of_an_unsealed_size(sealed: Dsns, connection: Connection) -> None:
    """The file may be ahead of the database by what a killed sealer could not store."""
    rows = await connection.fetch("SELECT leaf_hash FROM events ORDER BY position LIMIT 605")
    edge, _ = grow(Edge(), b"".join(row[0] for row in rows))
    note = sign_checkpoint(Checkpoint(SIGNER.name, 605, edge.root()), SIGNER)
    report = await verify(connection, kept_checkpoint(note, "the file"))
    assert (report.findings, report.checkpoints) == ([], len(SIGNED) + 1)
    wrong = sign_checkpoint(Checkpoint(SIGNER.name, 605, bytes(32)), SIGNER)
    report = await verify(connection, kept_checkpoint(wrong, "the file"))
    assert "between positions 1 and 605" in named(report)


@pytest.mark.parametrize("purged_to", [1, 100, 256, 300, 512])
async def test_a_purge_leaves_what_verifies(sealed: Dsns, purged_to: int) -> None:
    async with tampering(sealed) as owner:
        await owner.execute("DELETE FROM events WHERE position <= $1", purged_to)
        report = await verify(owner, purged_to=purged_to)
        assert report.findings == []
        assert (report.without_entry, report.checkpoints) == (purged_to, len(SIGNED))
        assert named(await verify(owner, purged_to=purged_to - 1)).startswith(f"{purged_to}: ")
        await owner.execute("DELETE FROM events WHERE position = $1", purged_to + 1)
        report = await verify(owner, purged_to=purged_to)
        assert named(report).startswith(f"{purged_to + 1}: the event at position")
        await owner.execute(f"UPDATE tiles SET hashes = {FLIP.format('hashes', '0')}")
        assert report.findings != []


async def test_a_long_gap_is_told_once(sealed: Dsns, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gatelog.proofs.service.verify.PAGE", 256)
    async with tampering(sealed) as owner:
        await owner.execute("DELETE FROM events WHERE position BETWEEN 200 AND 590")
        report = await verify(owner)
        assert [finding.position for finding in report.findings] == [200]
        assert report.without_entry == 391


async def test_findings_are_bounded(sealed: Dsns) -> None:
    async with tampering(sealed) as owner:
        await owner.execute("UPDATE events SET leaf_hash = sha256('')")
        report = await verify(owner)
        assert len(report.findings) == 100
        assert report.untold == SIZE + UNSEALED - 100
        assert named(report).startswith("1: ")


# --- any single mutation of a random log

Mutation = Callable[["Connection", random.Random, int, int], Any]


async def flip_byte(
    owner: Connection, rng: random.Random, table: str, column: str, row: str
) -> None:
    value = await owner.fetchval(f"SELECT {column} FROM {table} WHERE {row}")
    changed = bytearray(value)
    changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    await owner.execute(f"UPDATE {table} SET {column} = $1 WHERE {row}", bytes(changed))


async def change_entry(owner: Connection, rng: random.Random, size: int, sealed: int) -> None:
    await flip_byte(owner, rng, "events", "entry", f"position = {rng.randint(1, size)}")


async def change_leaf(owner: Connection, rng: random.Random, size: int, sealed: int) -> None:
    await flip_byte(owner, rng, "events", "leaf_hash", f"position = {rng.randint(1, size)}")


async def change_both(owner: Connection, rng: random.Random, size: int, sealed: int) -> None:
    """Only what is sealed: of the tail nothing is known yet."""
    row = f"position = {rng.randint(1, sealed)}"
    await flip_byte(owner, rng, "events", "entry", row)
    entry = await owner.fetchval(f"SELECT entry FROM events WHERE {row}")
    await owner.execute(f"UPDATE events SET leaf_hash = $1 WHERE {row}", leaf_hash(entry))


async def swap(owner: Connection, rng: random.Random, size: int, sealed: int) -> None:
    one = rng.randint(1, sealed)
    other = rng.choice([p for p in range(1, size + 1) if p != one])
    await owner.execute(
        "UPDATE events e SET entry = o.entry, leaf_hash = o.leaf_hash FROM events o"
        " WHERE (e.position = $1 AND o.position = $2) OR (e.position = $2 AND o.position = $1)",
        one,
        other,
    )


async def remove(owner: Connection, rng: random.Random, size: int, sealed: int) -> None:
    await owner.execute("DELETE FROM events WHERE position = $1", rng.randint(1, size))


async def close_up(owner: Connection, rng: random.Random, size: int, sealed: int) -> None:
    at = rng.randint(1, sealed)
    await owner.execute(f"DELETE FROM events WHERE position = {at}")
    await owner.execute(f"UPDATE events SET position = position + 1000000 WHERE position > {at}")
    await owner.execute("UPDATE events SET position = position - 1000001 WHERE position > 1000000")
    await owner.execute("UPDATE log_head SET position = position - 1")


async def insert(owner: Connection, rng: random.Random, size: int, sealed: int) -> None:
    at = rng.randint(1, sealed)
    entry = rng.randbytes(50)
    await owner.execute(f"UPDATE events SET position = position + 1000000 WHERE position >= {at}")
    await owner.execute("UPDATE events SET position = position - 999999 WHERE position > 1000000")
    await owner.execute(
        "INSERT INTO events SELECT $1, gen_random_uuid(), type, schema_version, session_id,"
        " subject_id, recorded_at, $2, $3 FROM events LIMIT 1",
        at,
        entry,
        leaf_hash(entry),
    )
    await owner.execute("UPDATE log_head SET position = position + 1")


async def cut(owner: Connection, rng: random.Random, size: int, sealed: int) -> None:
    at = rng.randint(0, sealed - 1)
    await owner.execute(f"DELETE FROM events WHERE position > {at}")
    await owner.execute(f"UPDATE log_head SET position = {at}")


async def tile_row(owner: Connection, rng: random.Random) -> str:
    level, index = rng.choice(await owner.fetch("SELECT level, tile_index FROM tiles"))
    return f"level = {level} AND tile_index = {index}"


async def change_tile(owner: Connection, rng: random.Random, size: int, sealed: int) -> None:
    await flip_byte(owner, rng, "tiles", "hashes", await tile_row(owner, rng))


async def remove_tile(owner: Connection, rng: random.Random, size: int, sealed: int) -> None:
    await owner.execute(f"DELETE FROM tiles WHERE {await tile_row(owner, rng)}")


async def shorten_tile(owner: Connection, rng: random.Random, size: int, sealed: int) -> None:
    row = await tile_row(owner, rng)
    width = await owner.fetchval(f"SELECT octet_length(hashes) / 32 FROM tiles WHERE {row}")
    if width == 1:
        await owner.execute(f"DELETE FROM tiles WHERE {row}")
    else:
        left = 32 * rng.randint(1, width - 1)
        await owner.execute(
            f"UPDATE tiles SET hashes = substring(hashes FROM 1 FOR {left}) WHERE {row}"
        )


async def checkpoint_row(owner: Connection, rng: random.Random) -> str:
    sizes = await owner.fetch("SELECT size FROM checkpoints")
    return f"size = {rng.choice(sizes)[0]}"


async def change_note(owner: Connection, rng: random.Random, size: int, sealed: int) -> None:
    await flip_byte(owner, rng, "checkpoints", "note", await checkpoint_row(owner, rng))


async def move_note(owner: Connection, rng: random.Random, size: int, sealed: int) -> None:
    taken = {row[0] for row in await owner.fetch("SELECT size FROM checkpoints")}
    free = [s for s in range(1, size + 100) if s not in taken]
    row = await checkpoint_row(owner, rng)
    await owner.execute(f"UPDATE checkpoints SET size = {rng.choice(free)} WHERE {row}")


async def remove_newest(owner: Connection, rng: random.Random, size: int, sealed: int) -> None:
    await owner.execute("DELETE FROM checkpoints WHERE size = (SELECT max(size) FROM checkpoints)")


MUTATIONS: list[Mutation] = [
    change_entry,
    change_leaf,
    change_both,
    swap,
    remove,
    close_up,
    insert,
    cut,
    change_tile,
    remove_tile,
    shorten_tile,
    change_note,
    move_note,
    remove_newest,
]


@asynccontextmanager
async def taken_back(owner: Connection) -> AsyncIterator[None]:
    """What is done inside of this did not happen."""
    transaction = owner.transaction()
    await transaction.start()
    try:
        yield
    finally:
        await transaction.rollback()


async def test_any_single_mutation_of_a_random_log_is_found(
    make_database: Callable[[], Dsns], tmp_path: Path
) -> None:
    rng = random.Random(20260101)
    for number in range(3):
        database = make_database()
        signed = sorted(rng.sample(range(1, rng.choice([30, 300, 700])), 3))
        unsealed = rng.choice([0, 1, 20])
        note = tmp_path / f"checkpoint{number}"
        await append(database.app, signed[-1])
        await seal(database.app, note, *signed)
        if unsealed:
            await append(database.app, unsealed)
        kept = kept_checkpoint(note.read_bytes(), "the file")
        async with tampering(database) as owner:
            assert (await verify(owner, kept)).findings == []
            for mutation in MUTATIONS * 4:
                seed = rng.random()
                async with taken_back(owner):
                    await mutation(owner, random.Random(seed), signed[-1] + unsealed, signed[-1])
                    found = (await verify(owner, kept)).findings
                    assert found, (mutation.__name__, seed, signed, unsealed)
            assert (await verify(owner, kept)).findings == []


# --- an export


@pytest.fixture
async def exported(sealed: Dsns, connection: Connection, tmp_path: Path) -> Path:
    directory = tmp_path / "export"
    assert await export_log(connection, directory, lambda *_: None) == SIZE
    return directory


async def verify_export(directory: Path, *kept: SignedNote, purged_to: int = 0) -> Report:
    return await verify_log(
        LogDirectory(directory), SIGNER.verifier, kept=kept, purged_to=purged_to
    )


async def test_an_export_is_a_static_tiles_tree(exported: Path) -> None:
    files = {str(p.relative_to(exported)) for p in exported.rglob("*") if p.is_file()}
    tiles = {"000", "001", "002.p/88"}
    assert files == {
        "checkpoint",
        "tile/1/000.p/2",
        *(f"tile/0/{name}" for name in tiles),
        *(f"tile/entries/{name}" for name in tiles),
    }
    report = await verify_export(exported)
    assert report == Report(events=SIZE, sealed=SIZE, checkpoints=1)


async def test_an_export_is_held_against_kept_checkpoints(
    exported: Path, connection: Connection
) -> None:
    kept = [
        kept_checkpoint(stored.note, f"kept {stored.size}")
        for stored in await read_checkpoints(connection, 0, 100)
    ]
    assert (await verify_export(exported, *kept)).findings == []
    wrong = sign_checkpoint(Checkpoint(SIGNER.name, 300, bytes(32)), SIGNER)
    report = await verify_export(exported, *kept[:3], kept_checkpoint(wrong, "another"))
    assert "another was signed for another tree" in named(report)
    assert "between positions 257 and 300" in named(report)


async def test_an_export_goes_on_where_it_ended(
    exported: Path, sealed: Dsns, connection: Connection, tmp_path: Path
) -> None:
    await append(sealed.app, 700)
    await seal(sealed.app, tmp_path / "checkpoint")
    full = (exported / "tile/0/000").stat()
    assert await export_log(connection, exported, lambda *_: None) == SIZE + UNSEALED + 700
    assert (exported / "tile/0/000").stat() == full
    report = await verify_export(exported)
    assert (report.findings, report.events) == ([], SIZE + UNSEALED + 700)


async def test_an_export_does_not_follow_another_history(
    exported: Path, sealed: Dsns, connection: Connection
) -> None:
    async with tampering(sealed) as owner:
        await rewritten(owner, 290)
    before = (exported / "checkpoint").read_bytes()
    with pytest.raises(InvalidProof, match="not an extension"):
        await export_log(connection, exported, lambda *_: None)
    assert (exported / "checkpoint").read_bytes() == before


async def test_nothing_is_exported_before_it_is_sealed(
    database: Dsns, connection: Connection, tmp_path: Path
) -> None:
    with pytest.raises(NotSealed):
        await export_log(connection, tmp_path / "export", lambda *_: None)


async def test_an_export_of_a_purged_log(
    sealed: Dsns, connection: Connection, tmp_path: Path
) -> None:
    async with tampering(sealed) as owner:
        await owner.execute("DELETE FROM events WHERE position <= 256")
    await export_log(connection, tmp_path / "export", lambda *_: None)
    assert not (tmp_path / "export/tile/entries/000").exists()
    report = await verify_export(tmp_path / "export", purged_to=256)
    assert (report.findings, report.without_entry) == ([], 256)
    assert named(await verify_export(tmp_path / "export")).startswith("1: the event at position 1")


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_single_mutation_of_an_export_is_found(
    exported_once: tuple[Path, list[Path]], data: st.DataObject
) -> None:
    directory, files = exported_once
    path = data.draw(st.sampled_from(files))
    right = path.read_bytes()
    wrong = bytearray(right)
    how = data.draw(st.sampled_from(["flip", "cut", "grow", "remove"]))
    if how == "flip":
        at = data.draw(st.integers(0, len(right) - 1))
        wrong[at] ^= 1 << data.draw(st.integers(0, 7))
    elif how == "cut":
        del wrong[data.draw(st.integers(0, len(right) - 1)) :]
    elif how == "grow":
        wrong += data.draw(st.binary(min_size=1, max_size=40))
    try:
        if how == "remove":
            path.unlink()
        else:
            path.write_bytes(wrong)
        assert not is_sound(directory)
    finally:
        path.write_bytes(right)
    assert is_sound(directory)


def is_sound(directory: Path) -> bool:
    async def run() -> bool:
        return not (await verify_export(directory)).findings

    try:
        return asyncio.run(run())
    except (MalformedProof, OperatorError):  # not even a checkpoint is there to be read
        return False


@pytest.fixture
def exported_once(exported: Path) -> tuple[Path, list[Path]]:
    return exported, sorted(p for p in exported.rglob("*") if p.is_file())


# --- one proof


@pytest.fixture
async def proofs(sealed: Dsns) -> AsyncIterator[Proofs]:
    database = Database(sealed.app, timeout_s=10, pool_size=2)
    yield Proofs(database)
    await database.close()


async def test_a_proof_is_verified_with_the_key_alone(
    proofs: Proofs, connection: Connection
) -> None:
    for position in (1, 2, 256, 257, 300, SIZE):
        text = (await proofs.inclusion(position)).text()
        verified = verify_proof(text, SIGNER.verifier)
        row = await connection.fetchval("SELECT entry FROM events WHERE position = $1", position)
        assert (verified.position, verified.entry) == (position, row)
        assert verified.checkpoint.size == SIZE
        with pytest.raises(NotVerified):
            verify_proof(text, OTHER_SIGNER.verifier)
        with pytest.raises(InvalidProof):
            verify_proof(text, SIGNER.verifier, b"another entry")
        stranger = Verifier("gatelog.local/other", SIGNER.verifier.public_key)
        with pytest.raises(NotVerified):
            verify_proof(text, stranger)


async def test_a_proof_of_a_purged_event_needs_its_entry(proofs: Proofs, sealed: Dsns) -> None:
    with_entry = await proofs.inclusion(100)
    async with tampering(sealed) as owner:
        await owner.execute("DELETE FROM events WHERE position <= 256")
    text = (await proofs.inclusion(100)).text()
    assert b"extra" not in text
    with pytest.raises(MalformedProof):
        verify_proof(text, SIGNER.verifier)
    assert verify_proof(text, SIGNER.verifier, with_entry.entry).position == 100
