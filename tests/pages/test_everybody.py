"""Every page, as everybody there is: who may see it, and whether it is as pages must be."""

from __future__ import annotations

import pytest

from tests.browser import Browser
from tests.pages.site import Site, Visit, visiting

# Of each page, who sees it; others are sent to sign in, or are told that they may not.
FOR_ALL = ("/", "/login", "/register", "/recover", "/welcome")
OF_USERS = (
    "/account",
    "/account/password",
    "/account/factors",
    "/account/tokens",
    "/account/address",
    "/account/history",
    "/account/data",
)
OF_READERS = ("/console/audit", "/console/audit/1", "/console/as-of")


@pytest.mark.parametrize("login", [None, "alice", "olga", "ada"])
async def test_every_page_as_everybody(site: Site, browser: Browser, login: str | None) -> None:
    def walk(visit: Visit) -> None:
        if login is not None:
            visit.sign_in(login)
        for path in FOR_ALL:
            visit.open(path)
        for path in OF_USERS:
            page = visit.open(path)
            signed_in = page.url == f"{site.origin}{path}"
            assert signed_in == (login is not None), page.url
        for path in OF_READERS:
            page = visit.open(path)
            refused = page.get_by_role("heading", level=1).inner_text()
            if login is None:
                assert refused == "Sign in"
            else:
                assert (refused == "Not allowed") == (login == "alice"), refused

    await visiting(site, browser, walk)
