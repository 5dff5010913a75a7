"""Every form against pages of other origins, in Chromium and without; and no page in a frame."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from gatelog.config import Config
from gatelog.pages.routes import page_routes

from tests.browser import Browser
from tests.pages.site import FORM, HTML, Site, Visit, visiting

ID = "00000000-0000-4000-8000-000000000000"  # nobody's and nothing's
IDS = ("session_id", "factor_id", "token_id", "user_id")
EVIL = """<!doctype html><title>x</title><iframe name="in" src="{origin}/login"></iframe>
<form method="post" action="{origin}{path}" target="in"><button>x</button></form>"""


def forms() -> list[str]:
    """The address of every form, with an id where one belongs."""
    found = []
    for route in page_routes(Config()):
        if route.method != "POST":
            continue
        path = route.path
        for name in IDS:
            path = path.replace(f"{{{name}:[0-9A-Fa-f-]{{36}}}}", ID)
        found.append(path)
    return found


def test_there_are_forms() -> None:
    assert len(forms()) > 15
    assert not [path for path in forms() if "{" in path]


@pytest.mark.parametrize("path", forms())
async def test_a_form_of_another_origin_is_refused(site: Site, path: str) -> None:
    token = await site.token("ada")
    for headers in (
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Origin": "http://sub.localhost"},
        {"Sec-Fetch-Site": "same-site"},
    ):
        refused = await site.post(path, headers=FORM | headers, cookie=token)
        assert refused.code == "cross_site_request", (path, headers)
        nobody = await site.post(path, headers=FORM | headers)
        assert nobody.code in {"cross_site_request", "not_authenticated"}, (path, headers)
    prefetch = {"Sec-Purpose": "prefetch"}
    assert (await site.post(path, headers=FORM | prefetch, cookie=token)).status == 403
    assert (await site.get("/v1/me", cookie=token)).status == 200


@pytest.mark.parametrize(
    "path", [path for path in forms() if path.startswith(("/account", "/console"))]
)
async def test_a_form_is_nobodys_but_who_is_signed_in(site: Site, path: str) -> None:
    sent = await site.post(path, headers=FORM | HTML)
    assert (sent.status, sent.headers["Location"]) == (303, "/login")
    own = {"Referer": f"http://127.0.0.1:{site.port}/account/tokens?x=1"}
    sent = await site.post(path, headers=FORM | HTML | own)
    assert sent.headers["Location"] == "/login?return_to=%2Faccount%2Ftokens%3Fx%3D1"
    evil = {"Referer": "https://evil.example/account/tokens"}
    assert (await site.post(path, headers=FORM | HTML | evil)).headers["Location"] == "/login"
    assert (await site.post(path, headers=FORM)).code == "not_authenticated"


@asynccontextmanager
async def elsewhere(site: Site, path: str) -> AsyncIterator[str]:
    """A page of another site, with the service in a frame and a form for it."""

    async def evil(_: web.Request) -> web.Response:
        text = EVIL.format(origin=site.origin, path=path)
        return web.Response(text=text, content_type="text/html")

    app = web.Application()
    app.add_routes([web.get("/", evil)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("path", ["/logout", "/login", "/account/sessions/end_others"])
async def test_another_site_neither_frames_nor_sends(
    site: Site, browser: Browser, path: str
) -> None:
    token = await site.token()
    async with elsewhere(site, path) as evil:

        def walk(visit: Visit) -> int:
            page = visit.sign_in("alice")
            with page.expect_console_message(lambda said: "frame-ancestors" in said.text):
                page.goto(evil)
            with page.expect_response(lambda answer: answer.request.method == "POST") as posted:
                page.get_by_role("button").click()
            page.goto(f"{site.origin}/account")
            assert page.locator("h1").inner_text() == "My account"
            # the other site is meant to be there, and the browser says that it shows no frame
            expected = ("frame-ancestors", evil)
            visit.faults[:] = [
                fault for fault in visit.faults if not any(each in fault for each in expected)
            ]
            return posted.value.status

        # a cookie of SameSite=Lax does not come along: who sends the form is nobody, and refused
        assert await visiting(site, browser, walk) in {403, 303}
    assert (await site.get("/v1/me", cookie=token)).status == 200
