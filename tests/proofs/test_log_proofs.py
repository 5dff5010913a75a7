"""The log's proofs over HTTP: as a foreign tool would read them, and only for who may."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import pytest
from gatelog.config import Config
from gatelog.errors import LogDamaged
from gatelog.hosting.services import open_services
from gatelog.log.rules.events import leaf_hash
from gatelog.log.store.database import Database
from gatelog.proofs.rules.merkle import TILE_WIDTH, Edge, edge_at, grow, leaf_hashes, partial_tiles
from gatelog.proofs.rules.tlog import (
    TilePath,
    decode_bundle,
    open_checkpoint,
    parse_consistency_proof,
    parse_inclusion_proof,
    verify_consistency,
    verify_inclusion,
)
from gatelog.proofs.service.proofs import Proofs
from gatelog.proofs.service.verify_proof import verify_proof
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import Dsns
from tests.proofs.sealing import SIGNER, append, seal, sealing, tampering
from tests.serving import PASSWORD, Answer, Service

KEY = SIGNER.verifier
SIZE = 700
TEXT = "text/plain; charset=utf-8"
BYTES = "application/octet-stream"
PATHS = ["checkpoint", "tile/0/000", "tile/entries/000", "proof?position=1", "proof?from=1"]


@pytest.fixture
async def auditor(service: Service, config: Config, database: Dsns) -> str:
    """A token of somebody with the role auditor."""
    async with open_services(config, database.app) as services:
        await services.accounts.logins.add_user("audrey", PASSWORD, ("auditor",))
    return await service.token("audrey")


@pytest.fixture
async def sealed(auditor: str, database: Dsns, tmp_path: Path) -> str:
    """A log of which 300, then 700 events are sealed, and three more are there."""
    await append(database.app, SIZE)
    await seal_to(database, tmp_path, 300, SIZE)
    return auditor


async def seal_to(database: Dsns, directory: Path, *sizes: int) -> None:
    async with sealing(database.app, directory / "checkpoint") as sealer:
        for size in sizes:
            await sealer.seal_next(size - sealer.size)


@pytest.fixture
async def proofs(database: Dsns) -> AsyncIterator[Proofs]:
    opened = Database(database.app, timeout_s=10, pool_size=2)
    yield Proofs(opened)
    await opened.close()


def is_text(answer: Answer) -> bytes:
    assert answer.status == 200
    assert answer.headers["Content-Type"] == TEXT
    assert answer.headers["Cache-Control"] == "no-store"
    return answer.body


# --- who may


@pytest.mark.parametrize("path", PATHS)
async def test_only_who_may(
    service: Service, sealed: str, config: Config, database: Dsns, path: str
) -> None:
    async with open_services(config, database.app) as services:
        await services.accounts.logins.add_user("root", PASSWORD, ("admin",))
    await service.register()
    assert (await service.get(f"/v1/log/{path}")).status == 401
    nobody = await service.get(f"/v1/log/{path}", cookie=await service.token())
    assert (nobody.status, nobody.code) == (403, "forbidden")
    admin = await service.get(f"/v1/log/{path}", cookie=await service.token("root"))
    assert admin.status == 200
    assert (await service.get(f"/v1/log/{path}", cookie=sealed)).status == 200
    assert (await service.post(f"/v1/log/{path}", cookie=sealed)).status == 405


@pytest.mark.parametrize("path", PATHS)
async def test_before_anything_is_sealed(service: Service, auditor: str, path: str) -> None:
    answer = await service.get(f"/v1/log/{path}", cookie=auditor)
    assert (answer.status, answer.code) == (404, "not_sealed")


# --- what a foreign tool does


async def test_a_monitor_reads_the_whole_log(service: Service, sealed: str) -> None:
    """With nothing but the paths and formats of tlog-tiles, and the public key."""
    note = is_text(await service.get("/v1/log/checkpoint", cookie=sealed))
    checkpoint = open_checkpoint(note, KEY)
    assert (checkpoint.origin, checkpoint.size) == (KEY.name, SIZE)
    edge = Edge()
    tiles: dict[tuple[int, int], bytes] = {}
    for index in range(-(-SIZE // TILE_WIDTH)):
        width = min(TILE_WIDTH, SIZE - index * TILE_WIDTH)
        bundle = await service.get(f"/v1/log/{TilePath(None, index, width)}", cookie=sealed)
        assert (bundle.status, bundle.headers["Content-Type"]) == (200, BYTES)
        assert bundle.headers["Cache-Control"] == "no-store"
        entries = decode_bundle(bundle.body, width)
        tile = await service.get(f"/v1/log/{TilePath(0, index, width)}", cookie=sealed)
        assert (tile.status, tile.headers["Content-Type"]) == (200, BYTES)
        assert tile.headers["Cache-Control"] == "private, max-age=31536000, immutable"
        assert tile.headers["Vary"] == "Cookie, Authorization"
        assert tile.body == leaf_hashes(entries)
        edge, _ = grow(edge, tile.body)
    assert edge.root() == checkpoint.root
    for level, index, width in partial_tiles(SIZE):
        path = TilePath(level, index, width)
        tiles[level, index] = (await service.get(f"/v1/log/{path}", cookie=sealed)).body
    assert edge_at(SIZE, lambda *key: tiles[key]).root() == checkpoint.root


@pytest.mark.parametrize("width", [1, 44, 187, 188])
async def test_partial_tiles_of_every_checkpoint(service: Service, sealed: str, width: int) -> None:
    """700 is 2 * 256 + 188, and 300 was signed too: 44 of the second tile, which has grown."""
    full = await service.get("/v1/log/tile/0/001", cookie=sealed)
    part = await service.get(f"/v1/log/tile/0/001.p/{width}", cookie=sealed)
    assert part.body == full.body[: 32 * width]
    entries = await service.get(f"/v1/log/tile/entries/001.p/{width}", cookie=sealed)
    assert leaf_hashes(decode_bundle(entries.body, width)) == part.body


NO_TILES = [
    "tile/0/002",
    "tile/0/002.p/189",
    "tile/0/003.p/1",
    "tile/1/000",
    "tile/1/000.p/3",
    "tile/2/000.p/1",
    "tile/63/000",
    "tile/entries/002",
    "tile/entries/002.p/189",
    "tile/entries/x999/999/999",
    "tile/0/x999/x999/x999/x999/x999/x999/999",
    "tile/64/000",
    "tile/0/0",
    "tile/0/000.p/256",
    "tile/0/000.p/0",
    "tile/0/000/",
    "tile/0/..%2F000",
    "tile/entries",
    "tile/",
]


async def test_tiles_that_are_not_there(service: Service, sealed: str) -> None:
    for path in NO_TILES:
        answer = await service.get(f"/v1/log/{path}", cookie=sealed)
        assert (answer.status, answer.code) == (404, "not_found"), path
    spelt_otherwise = await service.get("/v1/log/tile/0/%30%300", cookie=sealed)
    assert spelt_otherwise.status == 200


async def test_entries_that_were_purged(service: Service, sealed: str, database: Dsns) -> None:
    before = parse_inclusion_proof(
        is_text(await service.get("/v1/log/proof?position=100", cookie=sealed))
    )
    async with tampering(database) as owner:
        await owner.execute("DELETE FROM events WHERE position <= 256")
    gone = await service.get("/v1/log/tile/entries/000", cookie=sealed)
    assert (gone.status, gone.code) == (404, "not_found")
    assert (await service.get("/v1/log/tile/0/000", cookie=sealed)).status == 200
    after = is_text(await service.get("/v1/log/proof?position=100", cookie=sealed))
    assert parse_inclusion_proof(after).entry is None
    assert verify_proof(after, KEY, before.entry).position == 100
    extension = is_text(await service.get("/v1/log/proof?from=100", cookie=sealed))
    assert parse_consistency_proof(extension).old_size == 100


# --- proofs


@pytest.mark.parametrize("position", [1, 2, 256, 257, 300, 699, SIZE])
async def test_an_inclusion_proof(service: Service, sealed: str, position: int) -> None:
    text = is_text(await service.get(f"/v1/log/proof?position={position}", cookie=sealed))
    verified = verify_proof(text, KEY)
    assert (verified.position, verified.checkpoint.size) == (position, SIZE)
    proof = parse_inclusion_proof(text)
    assert proof.entry is not None
    verify_inclusion(proof, leaf_hash(proof.entry), KEY)


async def test_a_consistency_proof(
    service: Service, sealed: str, database: Dsns, tmp_path: Path
) -> None:
    note = is_text(await service.get("/v1/log/checkpoint", cookie=sealed))
    await seal(database.app, tmp_path / "checkpoint")
    text = is_text(await service.get(f"/v1/log/proof?from={SIZE}", cookie=sealed))
    newer = verify_consistency(parse_consistency_proof(text), open_checkpoint(note, KEY), KEY)
    assert newer.size > SIZE
    same = is_text(await service.get(f"/v1/log/proof?from={newer.size}", cookie=sealed))
    proof = parse_consistency_proof(same)
    assert proof.hashes == ()
    assert verify_consistency(proof, newer, KEY) == newer


NO_QUESTIONS = [
    "",
    "position=",
    "position=0",
    "position=-1",
    "position=1.0",
    "position=%D9%A1",
    "position=1&position=2",
    "position=1&from=1",
    "position=1&more=1",
    "position=9223372036854775808",
    "position=" + "9" * 500,
    "from=0",
    "from=701",
    "from=x",
    "From=1",
    "size=1",
    "position=%00",
    "position=%FF",
]


async def test_questions_that_are_none(service: Service, sealed: str) -> None:
    for query in NO_QUESTIONS:
        answer = await service.get(f"/v1/log/proof?{query}", cookie=sealed)
        assert (answer.status, answer.code) == (422, "invalid_input"), query


async def test_a_proof_of_what_is_not_sealed_yet(service: Service, sealed: str) -> None:
    answer = await service.get("/v1/log/proof?position=701", cookie=sealed)
    assert (answer.status, answer.code) == (404, "not_sealed")


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE events SET entry = '{}' WHERE position = 5",
        "UPDATE tiles SET hashes = set_byte(hashes, 7, get_byte(hashes, 7) # 1)",
        "DELETE FROM tiles",
        "UPDATE checkpoints SET note = '' WHERE size = 700",
    ],
)
async def test_no_wrong_proof_is_handed_out(
    proofs: Proofs, service: Service, sealed: str, database: Dsns, change: str
) -> None:
    async with tampering(database) as owner:
        await owner.execute(change)
    with pytest.raises(LogDamaged):
        await proofs.inclusion(5)
    answer = await service.get("/v1/log/proof?position=5", cookie=sealed)
    assert (answer.status, answer.code) == (500, "internal_error")
    if "tiles" in change:
        with pytest.raises(LogDamaged):
            await proofs.consistency(300)


async def test_a_tile_that_is_lost(proofs: Proofs, sealed: str, database: Dsns) -> None:
    async with tampering(database) as owner:
        await owner.execute("DELETE FROM tiles WHERE tile_index = 1")
    with pytest.raises(LogDamaged):
        await proofs.tile(TilePath(0, 1))


async def test_a_receipt(
    proofs: Proofs, service: Service, sealed: str, database: Dsns, tmp_path: Path
) -> None:
    """Its proof comes with the next seal, within a second. It is of the login, also where other
    events follow from that: it is on a new device, and in place of an older session."""
    old = await service.token("audrey")
    login = await service.log_in("audrey", cookie=old, headers={"Prefer": "receipt"})
    position = login.json["position"]
    assert await proofs.proof_of(position) is None
    await seal(database.app, tmp_path / "checkpoint")
    proof = await proofs.proof_of(position)
    assert proof is not None
    verified = verify_proof(proof.encode(), KEY)
    assert verified.position == position
    assert b"session_started" in (verified.entry or b"")


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(text=st.text(max_size=40))
async def test_no_path_and_no_query_is_an_error_of_ours(
    service: Service, sealed: str, text: str
) -> None:
    spelt = quote(text, safe="", errors="surrogatepass")
    for path in (f"tile/{spelt}", f"tile/0/{spelt}", f"proof?position={spelt}", f"proof?{spelt}"):
        assert (await service.get(f"/v1/log/{path}", cookie=sealed)).status in {200, 404, 422}
