"""The session cookie over HTTP: which one is set, accepted and cleared, and where."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tests.serving import NEW_PASSWORD, PASSWORD, Answer, Service

ELSEWHERE = {"Host": "gate.example"}
FORWARDED = [
    {"Forwarded": "for=192.0.2.1"},
    {"X-Forwarded-For": "192.0.2.1"},
    {"X-Forwarded-Host": "gate.example"},
    {"X-Forwarded-Proto": "https"},
    {"X-Real-IP": "192.0.2.1"},
    {"Via": "1.1 proxy"},
]


@pytest.mark.parametrize("host", ["localhost", "localhost:8080", "127.0.0.1:1", "[::1]:8080"])
async def test_the_cookie_on_loopback(alice: Service, host: str) -> None:
    login = await alice.log_in(headers={"Host": host})
    assert "Strict-Transport-Security" not in login.headers, "there is no TLS here"
    name, *attributes = login.set_cookie.split("; ")
    assert name == f"gatelog={login.token}"
    assert attributes == ["Max-Age=2592000", "Path=/", "HttpOnly", "SameSite=Lax"]
    accepted = await alice.get("/v1/me", cookie=login.token, headers={"Host": host})
    assert accepted.status == 200


@pytest.mark.parametrize(
    "headers",
    [
        ELSEWHERE,
        {"Host": "localhost.gate.example"},
        {"Host": "127.0.0.1.gate.example:80"},
        {"Host": "gate.example:127"},
        {"Host": "[::1"},
        *FORWARDED,
    ],
)
async def test_the_cookie_everywhere_else(alice: Service, headers: Mapping[str, str]) -> None:
    login = await alice.log_in(headers=headers)
    name, *attributes = login.set_cookie.split("; ")
    assert name == f"__Host-gatelog={login.token}"
    assert attributes == ["Max-Age=2592000", "Path=/", "Secure", "HttpOnly", "SameSite=Lax"]
    assert login.headers["Strict-Transport-Security"] == "max-age=31536000"
    secure = {**headers, "Cookie": f"__Host-gatelog={login.token}"}
    assert (await alice.get("/v1/me", headers=secure)).status == 200
    assert (await alice.get("/v1/me", headers=headers, cookie=login.token)).status == 401


async def test_two_names_must_agree_on_loopback(alice: Service) -> None:
    one, two = await alice.token(), await alice.token()
    for line, status in [
        (f"__Host-gatelog={one}; gatelog={one}", 200),
        (f"__Host-gatelog={one}; gatelog={two}", 401),
        (f"gatelog={one}; gatelog={one}", 200),
        (f"gatelog={one}; gatelog={two}", 401),
        (f"a=1;gatelog={one}", 200),
        (f"gatelog={one}", 200),
        (f'x="y"; gatelog={one}', 200),
        (f'x="y"; gatelog={one}; __Host-gatelog={two}', 401),
        (f'x="gatelog={two}; gatelog={two}"; gatelog={one}', 200),
    ]:
        assert (await alice.get("/v1/me", headers={"Cookie": line})).status == status, line


def is_cleared(answer: Answer, name: str) -> bool:
    return answer.set_cookie.startswith(f"{name}=; Max-Age=0; Path=/; ")


async def test_logout_clears_the_cookie(alice: Service) -> None:
    logout = await alice.post("/v1/logout_user", cookie=await alice.token())
    assert is_cleared(logout, "gatelog")
    assert "Clear-Site-Data" not in logout.headers, "no browser heeds it here"
    elsewhere = {**ELSEWHERE, "Cookie": f"__Host-gatelog={await alice.token()}"}
    logout = await alice.post("/v1/logout_user", headers=elsewhere)
    assert logout.json["ended"] == 1
    assert is_cleared(logout, "__Host-gatelog")
    assert logout.headers["Clear-Site-Data"] == '"cache", "storage"'
    assert "; Secure" in logout.set_cookie


async def test_logout_of_what_has_ended(alice: Service) -> None:
    token = await alice.token()
    first = await alice.get("/v1/logout_user", cookie=token)
    again = await alice.get("/v1/logout_user", cookie=token)
    unknown = await alice.get("/v1/logout_user", cookie="u" * 43)
    assert [answer.status for answer in (first, again, unknown)] == [200, 200, 200]
    assert [answer.json["ended"] for answer in (first, again, unknown)] == [1, 0, 0]
    assert is_cleared(again, "gatelog")
    assert is_cleared(unknown, "gatelog")


async def test_logout_without_a_credential(alice: Service) -> None:
    logout = await alice.post("/v1/logout_user")
    assert logout.status == 200
    assert logout.json == {"status": "logged_out", "ended": 0, "position": None}
    assert "Set-Cookie" not in logout.headers
    assert "Clear-Site-Data" not in logout.headers


async def test_logout_with_unclear_credentials_ends_nothing(alice: Service) -> None:
    token = await alice.token()
    for line in ["gatelog=broken", f"gatelog={token}; gatelog=another"]:
        logout = await alice.post("/v1/logout_user", headers={"Cookie": line})
        assert logout.status == 401
        assert logout.code == "not_authenticated"
        assert is_cleared(logout, "gatelog")
    assert "Clear-Site-Data" not in logout.headers, "no browser heeds it here"
    logout = await alice.post("/v1/logout_user", cookie=token, bearer="B" * 43)
    assert logout.status == 401
    assert (await alice.get("/v1/me", cookie=token)).status == 200


async def test_logout_of_a_bearer_sets_no_cookie(alice: Service) -> None:
    logout = await alice.post("/v1/logout_user", bearer=await alice.token())
    assert logout.json["ended"] == 1
    assert "Set-Cookie" not in logout.headers
    assert "Clear-Site-Data" not in logout.headers


async def test_a_token_travels_one_way_only(alice: Service) -> None:
    body = {"login": "alice", "password": PASSWORD}
    by_cookie = await alice.post("/v1/login_user", json={**body, "token": "cookie"})
    assert by_cookie.token.encode() not in by_cookie.body
    by_bearer = await alice.post("/v1/login_user", json={**body, "token": "bearer"})
    assert "Set-Cookie" not in by_bearer.headers
    assert by_bearer.json["token_type"] == "Bearer"
    assert (await alice.get("/v1/me", bearer=by_bearer.json["token"])).status == 200


async def test_a_changed_password_sends_the_token_the_way_it_came(alice: Service) -> None:
    def change(current: str, new: str) -> dict[str, str]:
        return {"current_password": current, "new_password": new}

    token = await alice.token()
    by_cookie = await alice.post(
        "/v1/change_password", json=change(PASSWORD, NEW_PASSWORD), cookie=token
    )
    assert by_cookie.status == 200
    fresh = by_cookie.token
    assert fresh != token
    assert fresh.encode() not in by_cookie.body
    by_bearer = await alice.post(
        "/v1/change_password", json=change(NEW_PASSWORD, PASSWORD), bearer=fresh
    )
    assert by_bearer.status == 200
    assert "Set-Cookie" not in by_bearer.headers
    assert (await alice.get("/v1/me", bearer=by_bearer.json["token"])).status == 200
    assert (await alice.get("/v1/me", bearer=fresh)).status == 401
