"""Requests that another site makes a browser send."""

from __future__ import annotations

import msgspec
import pytest
from gatelog.config import Config, load_config
from gatelog.errors import ConfigError
from gatelog.hosting.app import create_app

from tests.conftest import Dsns
from tests.serving import Answer, Service, serving

HOST = {"Host": "gate.example"}


@pytest.fixture
def config(config: Config) -> Config:
    """One other origin may change things here."""
    return msgspec.structs.replace(config, trusted_origins="https://app.gate.example")


# headers beside the cookie, and whether the request is let through
TABLE = [
    ({}, True),
    ({"Sec-Fetch-Site": "same-origin"}, True),
    ({"Sec-Fetch-Site": "none"}, True),
    ({"Sec-Fetch-Site": "cross-site"}, False),
    ({"Sec-Fetch-Site": "Cross-Site "}, False),
    # the browser's own word, whatever a proxy has made of the host
    ({"Sec-Fetch-Site": "same-origin", "Origin": "https://other.example"}, True),
    ({"Sec-Fetch-Site": "cross-site", "Origin": "https://gate.example"}, False),
    ({"Sec-Fetch-Site": "cross-site", "Origin": "https://app.gate.example"}, False),
    # a sibling is foreign, unless it is configured
    ({"Sec-Fetch-Site": "same-site", "Origin": "https://evil.gate.example"}, False),
    ({"Sec-Fetch-Site": "same-site", "Origin": "https://app.gate.example"}, True),
    ({"Sec-Fetch-Site": "same-site", "Origin": "http://app.gate.example"}, False),
    ({"Sec-Fetch-Site": "same-site", "Origin": "https://app.gate.example:8443"}, False),
    ({"Sec-Fetch-Site": "same-site"}, False),
    ({"Sec-Fetch-Site": "same-site", "Referer": "https://evil.gate.example/x"}, False),
    ({"Sec-Fetch-Site": "same-site", "Referer": "https://app.gate.example/x"}, True),
    ({"Sec-Fetch-Site": "same-site", "Referer": "https://gate.example/"}, True),
    ({"Sec-Fetch-Site": "none", "Origin": "https://evil.gate.example"}, False),
    # one that nobody knows helps nobody
    ({"Sec-Fetch-Site": "elsewhere", "Origin": "https://other.example"}, False),
    ({"Sec-Fetch-Site": "elsewhere"}, False),
    ({"Sec-Fetch-Site": ""}, False),
    # without it, the origin decides
    ({"Origin": "https://gate.example"}, True),
    ({"Origin": "https://GATE.example:443"}, True),
    ({"Origin": "http://gate.example"}, True),
    ({"Origin": "https://app.gate.example"}, True),
    ({"Origin": "https://gate.example:8443"}, False),
    ({"Origin": "https://other.example"}, False),
    ({"Origin": "https://evil.gate.example"}, False),
    ({"Origin": "https://gate.example.other.example"}, False),
    ({"Origin": "null"}, False),
    ({"Origin": "gate.example"}, False),
    ({"Origin": "https://[gate"}, False),
    ({"Origin": "file://gate.example"}, False),
    ({"Origin": ""}, False),
    # nobody's word but a trusted proxy's says what the host was
    ({"Origin": "https://front.example", "X-Forwarded-Host": "front.example"}, False),
]


async def send(service: Service, method: str, path: str, headers: dict[str, str]) -> Answer:
    token = await service.token()
    return await service.send(
        method, path, headers={**HOST, "Cookie": f"__Host-gatelog={token}", **headers}
    )


@pytest.mark.parametrize(("headers", "passes"), TABLE)
@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/v1/sessions/end_others"), ("GET", "/v1/logout_user")]
)
async def test_what_changes_something(
    alice: Service, method: str, path: str, headers: dict[str, str], passes: bool
) -> None:
    answer = await send(alice, method, path, headers)
    if passes:
        assert answer.status == 200
    else:
        assert answer.status == 403
        assert answer.code == "cross_site_request"


async def test_a_refused_logout_ends_nothing(alice: Service) -> None:
    token = await alice.token()
    foreign = {"Sec-Fetch-Site": "cross-site"}
    refused = await alice.get("/v1/logout_user", cookie=token, headers=foreign)
    assert refused.status == 403
    assert "Set-Cookie" not in refused.headers
    assert (await alice.get("/v1/me", cookie=token)).status == 200


async def test_reading_is_allowed_from_everywhere(alice: Service) -> None:
    answer = await send(alice, "GET", "/v1/me", {"Sec-Fetch-Site": "cross-site"})
    assert answer.status == 200


async def test_who_acts_in_nobodys_name_may_pass(alice: Service) -> None:
    foreign = {"Sec-Fetch-Site": "cross-site", "Origin": "https://other.example", **HOST}
    assert (await alice.log_in(headers=foreign)).status == 200
    assert (await alice.log_in(headers={**foreign, "Cookie": "theme=dark"})).status == 200
    bearer = await alice.token()
    logout = await alice.post("/v1/logout_user", bearer=bearer, headers=foreign)
    assert logout.json["ended"] == 1


async def test_a_login_over_a_session_counts_as_its_change(alice: Service) -> None:
    headers = {"Sec-Fetch-Site": "cross-site", "Cookie": f"gatelog={await alice.token()}"}
    assert (await alice.log_in(headers=headers)).code == "cross_site_request"


async def test_a_trusted_proxy_says_what_the_host_was(config: Config, database: Dsns) -> None:
    behind = msgspec.structs.replace(config, trusted_proxies="127.0.0.0/8")
    async with serving(create_app(behind, database.app), behind) as service:
        await service.register()
        headers = {"Origin": "https://front.example", "X-Forwarded-Host": "front.example"}
        assert (await send(service, "POST", "/v1/sessions/end_others", headers)).status == 200
        headers["X-Forwarded-Host"] = "other.example"
        assert (await send(service, "POST", "/v1/sessions/end_others", headers)).status == 403


PREFETCHES = [
    {"Sec-Purpose": "prefetch"},
    {"Sec-Purpose": "prefetch;prerender"},
    {"Sec-Purpose": "prefetch;anonymous-client-ip"},
    {"Purpose": "prefetch"},
    {"X-Purpose": "Prefetch"},
    {"X-Moz": "prefetch"},
    {"Next-Router-Prefetch": "1"},
    {"X-Middleware-Prefetch": "1"},
]


@pytest.mark.parametrize("headers", PREFETCHES, ids=str)
async def test_nothing_is_changed_ahead_of_time(alice: Service, headers: dict[str, str]) -> None:
    token = await alice.token()
    for more in ({}, {"Sec-Fetch-Site": "same-origin"}):
        answer = await alice.get("/v1/logout_user", cookie=token, headers=headers | more)
        assert (answer.status, answer.code) == (403, "premature_request")
        assert answer.headers["Cache-Control"] == "no-store"
        assert "Set-Cookie" not in answer.headers
    assert (await alice.get("/v1/logout_user", headers=headers)).status == 403  # nor without
    assert (await alice.get("/v1/me", cookie=token, headers=headers)).status == 200
    assert (await alice.get("/v1/logout_user", cookie=token)).status == 200


@pytest.mark.parametrize(
    "text", ["https://a.example/", "*", "a.example", "https://a.example:443", "https://A.example"]
)
def test_an_origin_is_written_as_browsers_write_it(text: str) -> None:
    with pytest.raises(ConfigError, match="GATELOG_TRUSTED_ORIGINS"):
        load_config({"GATELOG_TRUSTED_ORIGINS": text})
