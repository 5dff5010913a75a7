"""Verify, in a real browser: what holds, and logs that somebody has tampered with."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from gatelog.pages.assets import assets
from gatelog.proofs.rules import merkle
from gatelog.proofs.rules.spelling import encoded
from gatelog.proofs.rules.tlog import TilePath
from gatelog.proofs.service.verify_proof import verify_proof
from playwright.sync_api import Page, expect

from tests.browser import Browser
from tests.conftest import Dsns
from tests.pages.site import Site, Visit, visiting
from tests.pages.test_audit import on_loop
from tests.proofs.sealing import OTHER_SIGNER, SIGNER, seal, tampering

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection

KEY, OTHER_KEY = str(SIGNER.verifier), str(OTHER_SIGNER.verifier)
Run = Callable[[Coroutine[Any, Any, Any]], Any]


class Case:
    """An auditor before the page of an event of a sealed log."""

    def __init__(self, site: Site, database: Dsns, note: Path, run: Run) -> None:
        self.site, self.database, self.note, self.run = site, database, note, run

    def seal(self) -> None:
        self.run(seal(self.database.app, self.note))

    def open(self, visit: Visit, position: int) -> Page:
        """The event's page; reading it is recorded, and all of it sealed."""
        page = visit.page
        page.goto(f"{self.site.origin}/console/audit/{position}")
        expect(page.get_by_role("button", name="Verify")).to_be_visible()
        return page

    def tamper(self, change: Callable[[Connection], Coroutine[Any, Any, None]]) -> None:
        async def work() -> None:
            async with tampering(self.database) as owner:
                await change(owner)

        self.run(work())


@pytest.fixture
def case(site: Site, database: Dsns, tmp_path: Path) -> Case:
    return Case(site, database, tmp_path / "checkpoint", _later)


def _later(work: Coroutine[Any, Any, Any]) -> Any:
    raise RuntimeError("set by the test, in its loop")


def verify(page: Page, key: str, kept: str | None = None) -> tuple[str, str]:
    """Press the button: what comes of it, and the code of what does not hold."""
    page.get_by_label("Public key").fill(key)
    if kept is not None:
        page.get_by_label("A checkpoint that you have kept").fill(kept)
    result = page.locator("#verified")
    page.get_by_role("button", name="Verify").click()
    page.wait_for_selector("#verified[data-result]")
    return str(result.get_attribute("data-result")), str(result.get_attribute("data-code") or "")


def kept(page: Page) -> str:
    return page.get_by_label("A checkpoint that you have kept").input_value()


async def test_what_is_in_the_log_is_verified(case: Case, browser: Browser) -> None:
    """And again when the log has grown; a checkpoint of before is held against it."""
    position = (await case.site.log_in("alice")).json["position"]
    case.run = on_loop()

    def walk(visit: Visit) -> None:
        visit.sign_in("olga")
        page = case.open(visit, position)
        assert verify(page, KEY) == ("warn", ""), "nothing is sealed yet"
        case.seal()
        assert verify(page, KEY) == ("good", "")
        shown = page.locator("#verified")
        expect(shown).to_contain_text(page.locator("#leaf").inner_text())
        expect(shown).to_contain_text("You gave no checkpoint of before")
        visit.look()
        for _ in range(3):
            case.run(case.site.log_in("alice"))
        case.seal()
        assert verify(page, KEY) == ("good", "")
        expect(shown).to_contain_text("was only added to")
        newest = kept(page)
        page.goto(f"{case.site.origin}/console/audit/1")
        assert kept(page) == newest, "this browser keeps it"
        assert verify(page, KEY) == ("good", "")

    await visiting(case.site, browser, walk)


async def test_a_wrong_key(case: Case, browser: Browser) -> None:
    position = (await case.site.log_in("alice")).json["position"]
    case.run = on_loop()

    def walk(visit: Visit) -> None:
        visit.sign_in("olga")
        page = case.open(visit, position)
        case.seal()
        assert verify(page, OTHER_KEY) == ("bad", "key")
        expect(page.locator("#verified")).to_contain_text("not signed by this key")
        visit.look()
        for broken in (KEY[:-4] + "AAA=", KEY.replace("gatelog", "other"), "nonsense", KEY[:20]):
            assert verify(page, broken) == ("bad", "malformed")
        assert verify(page, KEY) == ("good", "")
        assert verify(page, OTHER_KEY, kept(page)) == ("bad", "key")

    await visiting(case.site, browser, walk)


@pytest.mark.parametrize(
    ("old", "new"),
    [(b'"occurred_at":"20', b'"occurred_at":"21'), (b'"session_id"', b'"session_iD"')],
)
async def test_a_changed_byte(case: Case, browser: Browser, old: bytes, new: bytes) -> None:
    """Of an event that can still be read, and of one that cannot."""
    position = (await case.site.log_in("alice")).json["position"]
    case.run = on_loop()

    async def change(owner: Connection) -> None:
        entry = await owner.fetchval("SELECT entry FROM events WHERE position = $1", position)
        assert old in entry
        changed = entry.replace(old, new, 1)
        await owner.execute("UPDATE events SET entry = $2 WHERE position = $1", position, changed)

    def walk(visit: Visit) -> None:
        visit.sign_in("olga")
        case.open(visit, position)
        case.seal()
        case.tamper(change)
        page = case.open(visit, position)
        assert verify(page, KEY) == ("bad", "entry")
        expect(page.locator("#verified")).to_contain_text("not the one that was sealed")
        visit.look()
        page.goto(f"{case.site.origin}/console/audit")
        expect(page.get_by_role("link", name=str(position), exact=True)).to_be_visible()

    await visiting(case.site, browser, walk)


async def test_a_byte_and_its_leaf(case: Case, browser: Browser) -> None:
    """The stored leaf hash and the tile are made to fit: it is the signed root that does not."""
    position = (await case.site.log_in("alice")).json["position"]
    case.run = on_loop()

    async def change(owner: Connection) -> None:
        entry = await owner.fetchval("SELECT entry FROM events WHERE position = $1", position)
        changed = entry.replace(b'"roles":[]', b'"roles":[ ]').replace(b'"v":', b'"v" :', 1)
        assert changed != entry
        leaf = merkle.leaf_hashes([changed])
        await owner.execute(
            "UPDATE events SET entry = $2, leaf_hash = $3 WHERE position = $1",
            position, changed, leaf,
        )  # fmt: skip
        await owner.execute(
            "UPDATE tiles SET hashes = overlay(hashes PLACING $1 FROM $2)"
            " WHERE level = 0 AND tile_index = 0",
            leaf, 32 * (position - 1) + 1,
        )  # fmt: skip

    def walk(visit: Visit) -> None:
        visit.sign_in("olga")
        case.open(visit, position)
        case.seal()
        case.tamper(change)
        page = case.open(visit, position)
        assert verify(page, KEY)[0] == "bad"

    await visiting(case.site, browser, walk)


async def test_a_log_that_was_cut(case: Case, browser: Browser) -> None:
    """It is a sound log, of before; only a checkpoint that was kept tells."""
    position = (await case.site.log_in("alice")).json["position"]
    case.run = on_loop()
    await seal(case.database.app, case.note)

    async def cut(owner: Connection) -> None:
        await owner.execute(
            f"DELETE FROM events WHERE position > {position};"
            f" DELETE FROM event_ids WHERE position > {position};"
            f" DELETE FROM checkpoints WHERE size > {position};"
            f" UPDATE log_head SET position = {position};"
        )

    def walk(visit: Visit) -> None:
        visit.sign_in("olga")
        page = case.open(visit, position)
        case.seal()
        assert verify(page, KEY) == ("good", "")
        before = kept(page)
        case.tamper(cut)
        page.evaluate("localStorage.clear()")
        # their own session is of what was cut; it still is in the projection
        page = case.open(visit, position)
        assert verify(page, KEY, "") == ("good", ""), "of itself it fits"
        assert verify(page, KEY, before) == ("bad", "cut")
        expect(page.locator("#verified")).to_contain_text("The log was cut")
        visit.look()

    await visiting(case.site, browser, walk)


async def test_a_service_that_lies(case: Case, browser: Browser) -> None:
    """It hands out sound proofs, of something else than is shown."""
    await case.site.log_in("alice")
    position = (await case.site.log_in("alice")).json["position"]
    case.run = on_loop()

    def walk(visit: Visit) -> None:
        visit.sign_in("olga")
        page = case.open(visit, position)
        case.seal()
        assert verify(page, KEY) == ("good", "")
        elsewhere = page.request.get(f"{case.site.origin}/v1/log/proof?position={position - 1}")
        page.route("**/v1/log/proof?position=*", lambda r: r.fulfill(body=elsewhere.body()))
        assert verify(page, KEY, "") == ("bad", "position")
        here = elsewhere.body().replace(
            f"index {position - 2}".encode(), f"index {position - 1}".encode()
        )
        page.unroute("**/v1/log/proof?position=*")
        page.route("**/v1/log/proof?position=*", lambda r: r.fulfill(body=here))
        assert verify(page, KEY, "") == ("bad", "entry")
        lines = here.split(b"\n")
        without = b"\n".join(line for line in lines if not line.startswith(b"extra "))
        page.unroute("**/v1/log/proof?position=*")
        page.route("**/v1/log/proof?position=*", lambda r: r.fulfill(body=without))
        assert verify(page, KEY, "")[0] == "bad"
        page.unroute("**/v1/log/proof?position=*")
        page.route("**/v1/log/proof?position=*", lambda r: r.fulfill(status=503))
        assert verify(page, KEY, "")[0] == "warn"

    await visiting(case.site, browser, walk)


# --- the arithmetic, against that of the service

MOST = 40
_COMPUTE = """async ([module, leaves, inclusion, consistency, tiles]) => {
    const { rootFrom, checkExtension, tilePath, hex } = await import(module);
    const bytes = (text) => Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
    const roots = [];
    for (const [index, size, path] of inclusion) {
        const hashes = path.map(bytes);
        const root = await rootFrom(bytes(leaves[index]), BigInt(index), BigInt(size), hashes);
        roots.push(hex(root));
    }
    const held = [];
    for (const [old, was, size, is, path] of consistency) {
        const older = { size: BigInt(old), root: bytes(was) };
        const newer = { size: BigInt(size), root: bytes(is) };
        const checked = checkExtension(older, newer, path.map(bytes));
        held.push(await checked.then(() => true, () => false));
    }
    return [roots, held, tiles.map(([tile, size]) => tilePath(BigInt(tile), BigInt(size)))];
}"""


def _read(hashes: bytes) -> merkle.ReadTile:
    return lambda level, index: hashes if (level, index) == (0, 0) else b""


async def test_trees_of_every_size(site: Site, browser: Browser) -> None:
    leaves = [merkle.leaf_hashes([bytes([n])]) for n in range(MOST)]
    packed = b"".join(leaves)
    roots = {size: merkle.root_of(packed[: 32 * size]) for size in range(1, MOST + 1)}
    inclusion, expected = [], []
    for size in range(1, MOST + 1):
        read = _read(packed[: 32 * size])
        for index in range(size):
            path = merkle.path_hashes(merkle.inclusion_path(index, size), read)
            inclusion.append((index, size, [encoded(each) for each in path]))
            expected.append(roots[size].hex())
    consistency, held = [], []
    for old in range(1, MOST + 1):
        for size in range(old, MOST + 1):
            path = merkle.path_hashes(
                merkle.consistency_path(old, size), _read(packed[: 32 * size])
            )
            for wrong in (False, True):
                was = roots[old] if not wrong else bytes(32)
                row = (old, encoded(was), size, encoded(roots[size]), [encoded(p) for p in path])
                consistency.append(row)
                held.append(not wrong)
    tiles = [
        (0, 1),
        (0, 256),
        (0, 300),
        (1, 300),
        (1234, 10**6),
        (1_234_067, 10**10),
        (999, 255_999),
    ]

    def walk(visit: Visit) -> None:
        page = visit.sign_in("alice")
        asked = [
            assets().url("verify.js"),
            [encoded(e) for e in leaves],
            inclusion,
            consistency,
            tiles,
        ]
        found, checked, paths = page.evaluate(_COMPUTE, asked)
        assert found == expected
        assert checked == held
        assert paths == [str(TilePath(0, t, min(256, s - t * 256))) for t, s in tiles]

    await visiting(site, browser, walk)


async def test_what_the_browser_verifies_the_command_does(case: Case) -> None:
    """Both read the same proof."""
    position = (await case.site.log_in("alice")).json["position"]
    await seal(case.database.app, case.note)
    token = await case.site.token("olga")
    proof = await case.site.get(f"/v1/log/proof?position={position}", cookie=token)
    assert verify_proof(proof.body, SIGNER.verifier).position == position
