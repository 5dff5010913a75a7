"""The configurations of docs/forward-auth.md, as they are printed, before a real upstream."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote

import jwt
import msgspec
import pytest
from gatelog.accounts.web import ACCOUNTS
from gatelog.config import Config
from gatelog.hosting import app as hosting
from yarl import URL

from tests.conftest import Dsns
from tests.forward_auth.proxies import APP_HOST, PROXIES, ROLE, SIGNED, Front, proxied
from tests.serving import PASSWORD, Answer, serving

LOGIN = "https://login.example/page"
SPOOFED = [
    ("X-Gatelog-User", "mallory"),
    ("X-Gatelog-User", "mallory again"),
    ("x-gatelog-user", "mallory"),
    ("X-GATELOG-ROLES", "admin"),
    ("X_Gatelog_User", "mallory"),
    ("x_gatelog_roles", "admin"),
    ("X-Gatelog_Roles", "admin"),
    ("X_GATELOG-SESSION", "mallory"),
    ("X-Gatelog-Expires", "99999999999"),
    ("X-Gatelog-Identity", "mallory"),
    ("X_GATELOG_IDENTITY", "mallory"),
    ("X-Gatelog-Login", "mallory"),
]
ASKED = (
    "/v1/auth",
    "/v1/auth?role=x",
    "/v1/auth/",
    "/v1/%61uth",
    "/v1/./auth",
    "/v1//auth",
    "//v1/auth",
    "/x/../v1/auth",
    "/V1/auth",
    "/v1/auth/../auth",
    "/v1/auth%2F",
    "/v1/auth%3Frole=x",
)

NOWHERE = "203.0.113.9"  # an address for examples (RFC 5737)
FORGED = {
    "X-Forwarded-For": NOWHERE,
    "X-Forwarded-Host": NOWHERE,
    "X-Forwarded-Proto": NOWHERE,
    "X-Forwarded-Uri": f"/{NOWHERE}",
    "X-Forwarded-Method": NOWHERE,
    "X-Real-IP": NOWHERE,
    "Forwarded": f"for={NOWHERE}",
}


@pytest.fixture(params=PROXIES)
async def front(
    request: pytest.FixtureRequest, config: Config, database: Dsns, tmp_path: Path
) -> AsyncIterator[Front]:
    config = msgspec.structs.replace(
        config, trusted_proxies="127.0.0.1", login_url=LOGIN, return_hosts=APP_HOST
    )
    app = hosting.create_app(config, database.app)
    async with (
        serving(app, config) as service,
        proxied(request.param, service, tmp_path) as front,
    ):
        yield front


async def enter(front: Front, login: str = "alice") -> dict[str, str]:
    """Log in through the proxy, alice registers first; the headers of a browser from then on."""
    if login == "alice":
        assert (await front.register()).status == 201
    answer = await front.post("/v1/login_user", json={"login": login, "password": PASSWORD})
    name, _, token = answer.set_cookie.partition(";")[0].partition("=")
    assert name == "__Host-gatelog", "it came through a proxy"
    return {"Cookie": f"{name}={token}"}


def seen(answer: Answer) -> list[tuple[str, str]]:
    """The headers that reached the API, as they would be read where ``_`` is ``-``."""
    assert answer.status == 200, answer
    return [(name.lower().replace("_", "-"), value) for name, value in answer.json]


async def test_in_after_the_login_and_out_after_the_logout(front: Front) -> None:
    assert (await front.get("/orders")).status == 401
    cookie = await enter(front)
    me = (await front.get("/v1/me", headers=cookie)).json
    for method in ("GET", "POST", "DELETE"):
        answer = await front.send(method, "/orders?page=2", headers=cookie)
        headers = dict(seen(answer))
        assert headers["x-gatelog-user"] == me["user_id"]
        assert headers["x-gatelog-session"] == me["session_id"]
        assert int(headers["x-gatelog-expires"]) > 0
        assert not {"cookie", "authorization"} & set(headers)
    _, _, token = cookie["Cookie"].partition("=")
    assert dict(seen(await front.get("/orders", bearer=token)))["x-gatelog-user"] == me["user_id"]
    assert (await front.get("/v1/logout_user", headers=cookie)).status == 200
    for _ in range(20):
        assert (await front.get("/orders", headers=cookie)).status == 401


async def test_nobody_brings_an_identity_along(front: Front) -> None:
    cookie = await enter(front)
    me = (await front.get("/v1/me", headers=cookie)).json["user_id"]
    for spoofed in [*([each] for each in SPOOFED), SPOOFED]:
        url = f"http://127.0.0.1:{front.port}/orders"
        sent = [*cookie.items(), *spoofed]
        async with front._client.get(url, headers=sent) as response:
            answer = Answer(response.status, response.headers, await response.read())
        told = [pair for pair in seen(answer) if pair[0].startswith("x-gatelog")]
        assert [value for name, value in told if name == "x-gatelog-user"] == [me], spoofed
        assert not [value for _, value in told if value in {"mallory", "99999999999"}], spoofed
        roles = [value for name, value in told if name == "x-gatelog-roles"]
        assert "admin" not in roles, spoofed
    assert (await front.get("/orders", headers=dict(SPOOFED))).status == 401


async def test_where_a_request_comes_from_is_the_proxys_to_say(front: Front) -> None:
    cookie = await enter(front)
    told = seen(await front.get("/orders", headers=cookie | FORGED))
    assert ("x-forwarded-for", "127.0.0.1") in told
    assert not [pair for pair in told if NOWHERE in pair[1]]


async def test_a_navigation_goes_to_the_login_page_and_a_fetch_does_not(front: Front) -> None:
    navigating = {"Sec-Fetch-Mode": "navigate", "Accept": "text/html", "Host": "app.example"}
    sent = await front.get("/orders?page=2", headers=navigating)
    assert sent.status == 303
    back = quote("http://app.example/orders?page=2", safe="")
    assert sent.headers["Location"] == f"{LOGIN}?return_to={back}"
    for headers in ({"Sec-Fetch-Mode": "cors", "Accept": "text/html"}, {"Accept": "*/*"}):
        assert (await front.get("/orders", headers=headers)).status == 401
    forged = {"X-Forwarded-Host": "app.example", "X-Forwarded-Uri": "/forged"}
    evil = navigating | {"Host": "evil.example"} | forged
    assert (await front.get("/orders", headers=evil)).headers["Location"] == LOGIN
    url = URL.build(
        scheme="http", host="127.0.0.1", port=front.port, path="//evil.example/", encoded=True
    )
    async with front._client.get(url, headers=navigating, allow_redirects=False) as response:
        merged = quote("http://app.example/evil.example/", safe="")  # Envoy makes one slash of two
        assert response.headers["Location"] in {LOGIN, f"{LOGIN}?return_to={merged}"}


async def test_nobody_but_the_proxy_asks(front: Front) -> None:
    """Who is logged in must not get at what is meant for the API, however they write the path."""
    cookie = await enter(front)
    for path in ASKED:
        url = URL.build(scheme="http", host="127.0.0.1", port=front.port, path=path, encoded=True)
        async with front._client.get(url, headers=cookie, allow_redirects=False) as response:
            body = await response.read()
        assert not [name for name in response.headers if name.lower().startswith("x-gatelog")], path
        assert response.status in {200, 400, 404}, path  # 200: no path of ours, but of the API
        assert (response.status == 200) == (b"x-gatelog-user" in body.lower()), path


@asynccontextmanager
async def changed(
    proxy: str, wanted: str, config: Config, database: Dsns, directory: Path
) -> AsyncIterator[Front]:
    """This proxy, changed as the document says for this aim."""
    config = msgspec.structs.replace(
        config, trusted_proxies="127.0.0.1", identity_issuer=f"https://{APP_HOST}"
    )
    app = hosting.create_app(config, database.app)
    async with (
        serving(app, config) as service,
        proxied(proxy, service, directory, (wanted,)) as front,
    ):
        await app[ACCOUNTS].logins.add_user("grace", PASSWORD, ("admin",))
        yield front


@pytest.mark.parametrize("proxy", PROXIES)
async def test_an_api_may_have_it_signed(
    proxy: str, config: Config, database: Dsns, tmp_path: Path
) -> None:
    async with changed(proxy, SIGNED, config, database, tmp_path) as front:
        cookie = await enter(front)
        me = (await front.get("/v1/me", headers=cookie)).json
        mallory = {"X-Gatelog-Identity": "mallory"}
        told = seen(await front.get("/orders?audience=prices", headers=cookie | mallory))
        (token,) = [value for name, value in told if name == "x-gatelog-identity"]
        keys = jwt.PyJWKSet.from_dict((await front.get("/.well-known/jwks.json")).json)
        key = keys[jwt.get_unverified_header(token)["kid"]]
        said = jwt.decode(token, key, ["EdDSA"], issuer=f"https://{APP_HOST}", audience="orders")
        assert (said["sub"], said["sid"]) == (me["user_id"], me["session_id"])


@pytest.mark.parametrize("proxy", PROXIES)
async def test_who_lacks_a_role_is_told_so(
    proxy: str, config: Config, database: Dsns, tmp_path: Path
) -> None:
    async with changed(proxy, ROLE, config, database, tmp_path) as front:
        assert (await front.get("/orders?role=none")).status == 401
        cookie = await enter(front)
        navigating = {"Sec-Fetch-Mode": "navigate", "Accept": "text/html"}
        for path in ("/orders", "/orders?role=", "/orders?role=none&role=admin"):
            assert (await front.get(path, headers=cookie | navigating)).status == 403
        cookie = await enter(front, "grace")
        assert ("x-gatelog-roles", "admin") in seen(await front.get("/orders", headers=cookie))


async def test_without_gatelog_nobody_gets_in(front: Front) -> None:
    cookie = await enter(front)
    assert (await front.get("/orders", headers=cookie)).status == 200
    await front.runner.cleanup()
    for headers in (cookie, {}):
        for _ in range(3):
            assert (await front.get("/orders", headers=headers)).status >= 500
