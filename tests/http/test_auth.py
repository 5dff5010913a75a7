"""Forward authentication: what a proxy is told about a request that is not for us."""

from __future__ import annotations

from datetime import datetime

import pytest
from gatelog.accounts.web import ACCOUNTS
from gatelog.config import Config
from gatelog.hosting.app import create_app
from yarl import URL

from tests.conftest import Dsns
from tests.serving import PASSWORD, Answer, Service, serving

IDENTITY = ("X-Gatelog-User", "X-Gatelog-Session", "X-Gatelog-Roles", "X-Gatelog-Expires")
NOBODY = "postgresql://nobody@127.0.0.1:1/nothing"


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY"])
async def test_identity_by_any_method(alice: Service, method: str) -> None:
    token = await alice.token()
    me = (await alice.get("/v1/me", cookie=token)).json
    answer = await alice.send(method, "/v1/auth", cookie=token)
    assert (answer.status, answer.body) == (200, b"")
    expires_s = int(datetime.fromisoformat(me["expires_at"]).timestamp())
    told = [answer.headers[name] for name in IDENTITY]
    assert told == [me["user_id"], me["session_id"], "", str(expires_s)]
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Vary"] == "Cookie, Authorization"


def lasting(answer: Answer) -> dict[str, str]:
    """The headers that do not depend on time or on whether the body is sent."""
    return {k: v for k, v in answer.headers.items() if k not in {"Date", "Content-Length"}}


@pytest.mark.parametrize("path", ["/v1/auth", "/v1/me"])
async def test_every_way_leads_to_the_same_answer(alice: Service, path: str) -> None:
    token = await alice.token()
    for cookie in (token, None):
        plain = await alice.get(path, cookie=cookie)
        queried = await alice.get(f"{path}?", cookie=cookie)
        encoded = await alice.get(path.replace("v", "%76"), cookie=cookie)
        head = await alice.send("HEAD", path, cookie=cookie)
        for other in (queried, encoded, head):
            assert other.status == plain.status
            assert lasting(other) == lasting(plain)
        assert queried.body == encoded.body == plain.body


async def test_identity_of_a_bearer(alice: Service) -> None:
    answer = await alice.get("/v1/auth", bearer=await alice.token())
    assert answer.status == 200


async def test_roles(config: Config, database: Dsns) -> None:
    app = create_app(config, database.app)
    async with serving(app, config) as service:
        await app[ACCOUNTS].logins.add_user("root", PASSWORD, ("admin", "auditor"))
        answer = await service.get("/v1/auth", cookie=await service.token("root"))
    assert answer.headers["X-Gatelog-Roles"] == "admin,auditor"


async def test_nobody_is_401(alice: Service) -> None:
    token = await alice.token()
    await alice.post("/v1/logout_user", cookie=token)
    for cookie in (None, token, "x" * 43, "malformed"):
        answer = await alice.post("/v1/auth", cookie=cookie)
        assert (answer.status, answer.code) == (401, "not_authenticated")
        assert not any(name in answer.headers for name in IDENTITY)


async def test_the_request_of_another_site_is_for_the_service_behind_to_judge(
    alice: Service,
) -> None:
    foreign = {"Origin": "https://other.example", "Sec-Fetch-Site": "cross-site"}
    answer = await alice.post("/v1/auth", cookie=await alice.token(), headers=foreign)
    assert answer.status == 200


async def test_a_body_is_not_looked_at(alice: Service) -> None:
    answer = await alice.post("/v1/auth", cookie=await alice.token(), data=b"x" * 100_000)
    assert answer.status == 200


async def test_503_when_nobody_can_tell(config: Config) -> None:
    async with serving(create_app(config, NOBODY), config) as service:
        answer = await service.get("/v1/auth", cookie="x" * 43)
    assert (answer.status, answer.code) == (503, "database_unavailable")


@pytest.mark.parametrize(
    "query", ["roles=admin", "a=b", "role", "role=", "role=admin&role=", "ROLE=admin", "role=a&x=1"]
)
async def test_a_parameter_that_is_not_known_is_no_yes(alice: Service, query: str) -> None:
    answer = await alice.get(f"/v1/auth?{query}", cookie=await alice.token())
    assert (answer.status, answer.code) == (422, "invalid_input")
    assert not any(name in answer.headers for name in IDENTITY)
    assert (await alice.get(f"/v1/auth?{query}")).status == 401


async def test_a_role_that_is_wanted(config: Config, database: Dsns) -> None:
    app = create_app(config, database.app)
    async with serving(app, config) as service:
        await app[ACCOUNTS].logins.add_user("ada", PASSWORD, ("auditor",))
        token = await service.token("ada")
        for query, status in [
            ("role=auditor", 200),
            ("role=admin&role=auditor", 200),  # one of them
            ("role=admin", 403),
            ("role=Auditor", 403),
            ("role=admin,auditor", 403),
        ]:
            answer = await service.get(f"/v1/auth?{query}", cookie=token)
            assert answer.status == status, query
            assert (answer.headers.get("X-Gatelog-Roles") == "auditor") == (status == 200)


@pytest.mark.parametrize(
    "behind", ["/", "/orders", "/../../health/alive", "/%2e%2e/%2e%2e/health/alive", "/..;/me"]
)
async def test_a_path_behind_it_is_no_yes(alice: Service, behind: str) -> None:
    """A proxy that puts a client's path behind ours lets nobody in, wherever that leads."""
    url = URL.build(
        scheme="http", host=alice.host, port=alice.port, path=f"/v1/auth{behind}", encoded=True
    )
    cookie = {"Cookie": f"gatelog={await alice.token()}"}
    async with alice._client.get(url, headers=cookie) as response:
        assert response.status == 404
