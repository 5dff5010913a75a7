"""Pictures of the main pages, for the README and the documentation.

``PICTURES=write pytest tests/pages/test_pictures.py`` makes those of ``docs/pictures`` anew;
without it the same are taken, and thrown away.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import msgspec
import pytest
from gatelog.composer.rules.composition import Field, Record, Respond
from gatelog.composer.service.composer import Composer
from gatelog.composer.web import COMPOSER
from gatelog.config import Config
from playwright.sync_api import Page, expect

from tests.browser import Browser
from tests.composer.compositions import OWN_WALK, both, one
from tests.conftest import Dsns
from tests.pages.site import Site, Visit, serving_site, visiting
from tests.proofs.sealing import seal
from tests.serving import PASSWORD

DOCS = Path(__file__).parents[2] / "docs"
KEPT = DOCS / "pictures"
SIZE = {"width": 1120, "height": 720}
TTL_S = Config().lease_ttl_s  # as it is where nobody is in a hurry
LEAST_BYTES = 5000  # of a picture with something on it
# Each picture's name: who looks, where, and in which colours.
PICTURES: dict[str, tuple[str | None, str, str]] = {
    "sign-in": (None, "/login", "light"),
    "account": ("alice", "/account", "light"),
    "history": ("alice", "/account/history", "dark"),
    "overview": ("olga", "/console/", "light"),
    "users": ("ada", "/console/users", "dark"),
    "active-sessions": ("ada", "/console/sessions", "light"),
    "audit": ("olga", "/console/audit", "light"),
    "event": ("olga", "/console/audit/1", "dark"),
    "as-of": ("olga", "/console/as-of", "light"),
    "composer": ("ada", "/console/compose", "light"),
    "composer-action": ("ada", "/console/compose/action?name=Place", "dark"),
    "composer-build": ("ada", "/console/compose/build", "light"),
    "composer-run": ("ada", "/console/compose/run?endpoint=Logout+user", "light"),
    "composer-walk": ("ada", "/console/compose/walk", "dark"),
}
# What is pressed before the picture is taken, after these fields are filled in.
PRESSED: dict[str, tuple[str, dict[str, str]]] = {
    "composer-run": ("Run", {}),
    "composer-walk": ("Run the walk", {"Login": "alice", "Password": PASSWORD}),
}
ORDERS = both(
    OWN_WALK,
    one(
        Record(type="app.order_placed", fields=("shop", "item", "note"), per_hour=20),
        Respond(json='{"placed": "{{body.item}}"}', status=201),
        name="Place an order",
        path="/v2/orders/{shop}",
        method="POST",
        fields=(Field("item", max_length=40), Field("note", required=False, personal=True)),
    ),
)


@pytest.mark.parametrize("name", PICTURES)
async def test_a_picture(
    config: Config, database: Dsns, browser: Browser, tmp_path: Path, name: str
) -> None:
    config = msgspec.structs.replace(config, lease_ttl_s=TTL_S)
    async with serving_site(config, database, projector=True) as site:
        await seal(database.owner, tmp_path / "checkpoint")
        if name.startswith("composer"):
            await compose(site)
        await take(site, browser, tmp_path, name)


async def compose(site: Site) -> None:
    """The walk is live, and more is in the draft."""
    composer: Composer = site.runner.app[COMPOSER]
    await composer.replace(OWN_WALK)
    await composer.build()
    place = msgspec.structs.replace(ORDERS.actions[-1], name="Place")
    await composer.replace(msgspec.structs.replace(ORDERS, actions=(*OWN_WALK.actions, place)))


async def take(site: Site, browser: Browser, tmp_path: Path, name: str) -> None:
    login, path, scheme = PICTURES[name]
    if login is not None:
        agent = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
        await site.log_in(login, headers={"User-Agent": agent})
    folder = KEPT if os.environ.get("PICTURES") == "write" else tmp_path

    def walk(visit: Visit) -> None:
        page: Page = visit.page
        if login is not None:
            visit.sign_in(login)
        page.goto(f"{site.origin}{path}")
        if name in PRESSED:
            button, fields = PRESSED[name]
            for label, text in fields.items():
                page.get_by_label(label, exact=True).fill(text)
            page.get_by_role("button", name=button, exact=True).click()
            expect(page.locator("#ran")).to_be_visible()
        page.screenshot(path=folder / f"{name}.png")

    await visiting(site, browser, walk, viewport=SIZE, color_scheme=scheme)
    assert (folder / f"{name}.png").stat().st_size > LEAST_BYTES


def test_each_is_kept_and_shown() -> None:
    shown = {
        name
        for page in (*DOCS.glob("*.md"), DOCS.parent / "README.md")
        for name in re.findall(r"\((?:docs/)?pictures/([a-z-]+)\.png\)", page.read_text())
    }
    assert shown == set(PICTURES)
    assert {picture.stem for picture in KEPT.glob("*.png")} == set(PICTURES)
