"""OWASP ASVS 5.0, V3: cookies, and requests that other sites make a browser send."""

from __future__ import annotations

import json
from http.cookies import Morsel, SimpleCookie
from typing import TYPE_CHECKING

import pytest
from gatelog.pages.assets import assets

from tests.serving import NEW_PASSWORD, PASSWORD, SECURE_HOST, Answer, Service

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection

LARGEST_COOKIE_BYTES = 4096
CHANGE = {"current_password": PASSWORD, "new_password": NEW_PASSWORD}
EVIL = "https://evil.example"
# What browsers say of themselves when a page of another site causes a request (Fetch Metadata).
FOREIGN = {
    "a form": {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Origin": EVIL},
    "an image": {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
    "a link": {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},
    "a sibling": {"Sec-Fetch-Site": "same-site", "Origin": "https://blog.gate.example"},
    "an old browser": {"Origin": EVIL},
    "a page in a sandbox": {"Origin": "null"},
}


async def every_cookie(alice: Service) -> list[Morsel[str]]:
    """All cookies that are ever set, as a browser behind TLS gets them."""
    login = await alice.log_in(headers=SECURE_HOST)
    jar = {"Cookie": f"__Host-gatelog={login.token}", **SECURE_HOST}
    change = await alice.post("/v1/change_password", json=CHANGE, headers=jar)
    fresh = {"Cookie": f"__Host-gatelog={change.token}", **SECURE_HOST}
    logout = await alice.post("/v1/logout_user", headers=fresh)
    answers = (login, change, logout)
    assert [answer.status for answer in answers] == [200, 200, 200]
    found = [cookie for answer in answers for cookie in cookies_of(answer)]
    assert [cookie.key for cookie in found].count("__Host-gatelog") == 3
    return found


def cookies_of(answer: Answer) -> list[Morsel[str]]:
    lines = answer.headers.getall("Set-Cookie")
    return [cookie for line in lines for cookie in SimpleCookie(line).values()]


async def test_v3_3_1(alice: Service) -> None:
    """Every cookie has ``Secure`` and the prefix ``__Host-``. One without them is neither set nor
    looked at, except over plain HTTP where browser and service are the same machine (``gatelog``,
    for trying it out)."""
    for cookie in await every_cookie(alice):
        assert cookie["secure"] is True
        assert cookie.key.startswith("__Host-")
    token = await alice.token(password=NEW_PASSWORD)
    assert (await alice.get("/v1/me", cookie=token)).status == 200
    local = await alice.get("/v1/me", headers={"Cookie": f"gatelog={token}", **SECURE_HOST})
    assert local.status == 401


async def test_v3_3_2(alice: Service) -> None:
    """The session cookie is ``SameSite=Lax``: it comes along when somebody follows a link to an
    application, and not with what another site sends or embeds."""
    for cookie in await every_cookie(alice):
        allowed = {"Lax"} if cookie.key == "__Host-gatelog" else {"Lax", "Strict"}
        assert cookie["samesite"] in allowed


async def test_v3_3_3(alice: Service) -> None:
    """The session cookie is ``__Host-gatelog``; every one has ``Path=/`` and no ``Domain``."""
    for cookie in await every_cookie(alice):
        assert cookie.key.startswith("__Host-gatelog")
        assert (cookie["path"], cookie["domain"]) == ("/", "")


async def test_v3_3_4(alice: Service) -> None:
    """The cookie is ``HttpOnly``, and a token that travels in it is in no body and no other header;
    who asks for a bearer token gets no cookie."""
    for cookie in await every_cookie(alice):
        assert cookie["httponly"] is True
    login = await alice.log_in(password=NEW_PASSWORD)
    token = login.token.encode()
    shown = [login, await alice.get("/v1/me", cookie=login.token)]
    shown += [await alice.get(path, cookie=login.token) for path in ("/v1/sessions", "/v1/auth")]
    for answer in shown:
        others = [value for name, value in answer.headers.items() if name != "Set-Cookie"]
        assert token not in answer.body
        assert token.decode() not in "".join(others)
    asked = {"login": "alice", "password": NEW_PASSWORD, "token": "bearer"}
    bearer = await alice.post("/v1/login_user", json=asked)
    assert "Set-Cookie" not in bearer.headers
    assert (await alice.get("/v1/me", bearer=bearer.json["token"])).status == 200


async def test_v3_3_5(alice: Service) -> None:
    """The session cookie is a name of 14 bytes and a token of 43, whoever logs in: it has no
    contents. No other one is larger than the limit either."""
    assert (await alice.register("x" * 128)).status == 201
    login = await alice.log_in("x" * 128, headers=SECURE_HOST)
    for cookie in [*cookies_of(login), *await every_cookie(alice)]:
        assert len(cookie.key) + len(cookie.value) <= LARGEST_COOKIE_BYTES
    assert len(login.token) == 43


@pytest.mark.parametrize("how", FOREIGN)
async def test_v3_5_1(alice: Service, connection: Connection, how: str) -> None:
    """Whatever changes something and comes with a session cookie is refused (403
    ``cross_site_request``) when ``Sec-Fetch-Site`` or ``Origin`` name another origin, a sibling
    subdomain's too; the log stays as it was."""
    token = await alice.token()
    jar = {"Cookie": f"__Host-gatelog={token}", **SECURE_HOST, **FOREIGN[how]}
    before = await connection.fetchval("SELECT count(*) FROM events")
    for method, path, body in (
        ("POST", "/v1/login_user", {"login": "alice", "password": PASSWORD}),
        ("POST", "/v1/register_user", {"login": "bob", "password": PASSWORD}),
        ("POST", "/v1/change_password", CHANGE),
        ("POST", "/v1/sessions/end_others", None),
        ("POST", "/v1/sessions/end_all", None),
        ("POST", "/v1/logout_user", None),
        ("GET", "/v1/logout_user", None),
    ):
        refused = await alice.send(method, path, json=body, headers=jar)
        assert (refused.status, refused.code) == (403, "cross_site_request"), path
    assert await connection.fetchval("SELECT count(*) FROM events") == before
    assert (await alice.get("/v1/me", cookie=token)).status == 200


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", None]
)
async def test_v3_5_2(alice: Service, content_type: str | None) -> None:
    """What has a body takes ``application/json`` alone in the API (415), which no form can send and
    for which a browser asks first; such a preflight is answered for configured origins only. It is
    no more than a second lock: the origin is looked at in any case (V3.5.1), of a page's form with
    a session or without."""
    body = json.dumps({"login": "alice", "password": PASSWORD}).encode()
    headers = {"Content-Type": content_type} if content_type else {}
    refused = await alice.post("/v1/login_user", data=body, headers=headers)
    assert (refused.status, refused.code) == (415, "unsupported_media_type")
    assert "Set-Cookie" not in refused.headers
    asked = {
        "Origin": EVIL,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type",
    }
    preflight = await alice.send("OPTIONS", "/v1/login_user", headers=asked)
    assert preflight.status == 405
    assert not [name for name in preflight.headers if name.startswith("Access-Control-Allow")]


async def test_v3_5_3(alice: Service, connection: Connection) -> None:
    """No safe method changes anything, but for ``GET /v1/logout_user``, which is promised: it is
    refused for what another site or a prefetch causes, by ``Sec-Fetch-Site``, ``Sec-Purpose`` and
    the like, and HEAD does not end anything."""
    token = await alice.token()
    before = await connection.fetchval("SELECT count(*) FROM events")
    for path in ("/v1/login_user", "/v1/register_user", "/v1/change_password"):
        for method in ("GET", "HEAD"):
            assert (await alice.send(method, path, cookie=token)).status == 405
    for path in ("/v1/sessions/end_all", "/v1/sessions/end_others"):
        assert (await alice.get(path, cookie=token)).status in {404, 405}
    ahead = ({"Sec-Purpose": "prefetch"}, {"Purpose": "prefetch"}, FOREIGN["an image"])
    for headers in (*ahead, FOREIGN["a link"]):
        assert (await alice.get("/v1/logout_user", cookie=token, headers=headers)).status == 403
    assert (await alice.send("HEAD", "/v1/logout_user", cookie=token)).status == 405
    for path in ("/v1/me", "/v1/auth", "/v1/sessions", "/v1/me/events"):
        assert (await alice.get(path, cookie=token)).status == 200
    assert await connection.fetchval("SELECT count(*) FROM events") == before
    here = {"Sec-Fetch-Site": "same-origin"}
    assert (await alice.get("/v1/logout_user", cookie=token, headers=here)).json["ended"] == 1


# --- V3.4: of pages

HTML = {"Accept": "text/html"}
PAGES = ("/", "/login", "/register", "/account", "/account/data")


async def pages(alice: Service, **headers: str) -> list[Answer]:
    """Pages for who is signed in, as a browser behind TLS gets them."""
    token = await alice.token()
    jar = {"Cookie": f"__Host-gatelog={token}", **SECURE_HOST, **HTML, **headers}
    found = [await alice.get(path, headers=jar) for path in PAGES]
    return [answer for answer in found if answer.status == 200]


async def test_v3_4_1(alice: Service) -> None:
    """Every page, and every answer to a login or logout, tells a browser elsewhere to come by TLS
    alone for a year (``GATELOG_HSTS_S``)."""
    shown = await pages(alice)
    assert len(shown) == 4
    for answer in (*shown, await alice.log_in(headers=SECURE_HOST)):
        assert answer.headers["Strict-Transport-Security"] == "max-age=31536000"


async def test_v3_4_2(alice: Service) -> None:
    """No origin is allowed to read anything, unless ``GATELOG_CORS_ORIGINS`` names it; the pages'
    files and pages say that they are for their own origin (``Cross-Origin-Resource-Policy``)."""
    for answer in await pages(alice, Origin=EVIL):
        assert not [name for name in answer.headers if name.startswith("Access-Control-Allow")]
        assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"


async def test_v3_4_3(alice: Service) -> None:
    """Every page has a policy: nothing by default, scripts, styles and pictures from its own files,
    no ``base``, no plug-in, no script or style in the page, no markup that is made of text (Trusted
    Types). Errors have it as well."""
    broken = await alice.post("/login", headers=HTML)
    assert broken.status == 415
    for answer in (*await pages(alice), broken):
        policy = answer.headers["Content-Security-Policy"]
        said = dict(part.strip().partition(" ")[::2] for part in policy.split(";"))
        assert said["default-src"] == said["base-uri"] == "'none'"
        assert said["script-src"] == said["style-src"] == said["form-action"] == "'self'"
        assert said["require-trusted-types-for"] == "'script'"


async def test_v3_4_4(alice: Service) -> None:
    """Pages, and what they are made of, say ``X-Content-Type-Options: nosniff``."""
    (page, *_), known = await pages(alice), assets()
    files = [await alice.get(known.url(name)) for name in known.files]
    for answer in (page, *files):
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


async def test_v3_4_5(alice: Service) -> None:
    """Every page says ``Referrer-Policy: same-origin``: another host is told nothing. Our own is
    told where a form stood, so that its answer leads back there."""
    for answer in await pages(alice):
        assert answer.headers["Referrer-Policy"] == "same-origin"


async def test_v3_4_6(alice: Service) -> None:
    """No page is embedded, by nobody: ``frame-ancestors 'none'``."""
    for answer in await pages(alice):
        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]


async def test_v3_4_8(alice: Service) -> None:
    """Every page says ``Cross-Origin-Opener-Policy: same-origin``."""
    for answer in await pages(alice):
        assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
