"""Requests that another site makes a browser send."""

from __future__ import annotations

import pytest

from tests.serving import Answer, Service

HOST = {"Host": "gate.example"}

# headers beside the cookie, and whether the request is let through
TABLE = [
    ({}, True),
    ({"Sec-Fetch-Site": "same-origin"}, True),
    ({"Sec-Fetch-Site": "same-site"}, True),
    ({"Sec-Fetch-Site": "none"}, True),
    ({"Sec-Fetch-Site": "cross-site"}, False),
    ({"Sec-Fetch-Site": "Cross-Site "}, False),
    # it decides, whatever the origin is
    ({"Sec-Fetch-Site": "same-origin", "Origin": "https://other.example"}, True),
    ({"Sec-Fetch-Site": "cross-site", "Origin": "https://gate.example"}, False),
    # without it, or with one that nobody knows, the origin does
    ({"Sec-Fetch-Site": "elsewhere", "Origin": "https://other.example"}, False),
    ({"Origin": "https://gate.example"}, True),
    ({"Origin": "https://GATE.example:443"}, True),
    ({"Origin": "http://gate.example"}, True),
    ({"Origin": "https://gate.example:8443"}, False),
    ({"Origin": "https://other.example"}, False),
    ({"Origin": "https://gate.example.other.example"}, False),
    ({"Origin": "null"}, False),
    ({"Origin": "gate.example"}, False),
    ({"Origin": "https://[gate"}, False),
    ({"Origin": "file://gate.example"}, False),
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
