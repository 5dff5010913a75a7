"""Bad input: a problem document with a stable code each time, and no event."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.serving import PASSWORD, Service

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection

LOGIN = "/v1/login_user"
GOOD = json.dumps({"login": "alice", "password": PASSWORD}).encode()
JSON = {"Content-Type": "application/json"}


async def head(connection: Connection) -> int:
    position = await connection.fetchval("SELECT position FROM log_head")
    assert isinstance(position, int)
    return position


async def in_chunks(body: bytes) -> AsyncIterator[bytes]:
    """A body of unannounced length."""
    for start in range(0, len(body), 1000):
        yield body[start : start + 1000]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "malformed_json"),
        (b"{", 400, "malformed_json"),
        (GOOD + b"}", 400, "malformed_json"),
        (GOOD[:-1] + b', "login": "bob"}', 400, "malformed_json"),
        (b'{"login": NaN, "password": 1}', 400, "malformed_json"),
        (b'{"login": "\xff", "password": "x"}', 400, "malformed_json"),
        pytest.param(b"[" * 15_000, 400, "malformed_json", id="deep"),
        pytest.param(b"1" * 15_000, 400, "malformed_json", id="integer"),
        (b"[]", 422, "invalid_input"),
        (b"{}", 422, "invalid_input"),
        (b'{"login": "alice"}', 422, "invalid_input"),
        (b'{"login": "alice", "password": 1}', 422, "invalid_input"),
        (GOOD[:-1] + b', "admin": true}', 422, "invalid_input"),
        (b'{"login": "al\\u0000ice", "password": "x"}', 422, "invalid_input"),
        (b'{"login": "alice", "password": "\\ud800"}', 422, "invalid_input"),
        (b'{"login": "", "password": "x"}', 422, "invalid_input"),
        (b'{"login": "alice", "password": ""}', 422, "invalid_input"),
        pytest.param(
            b'{"login": "%s", "password": "x"}' % (b"x" * 129), 422, "invalid_input", id="login"
        ),
        pytest.param(
            b'{"login": "x", "password": "%s"}' % (b"x" * 1025), 422, "invalid_input", id="password"
        ),
        pytest.param(GOOD + b" " * 16_384, 413, "body_too_large", id="large"),
        pytest.param(GOOD + b" " * 1_000_000, 413, "body_too_large", id="huge"),
    ],
)
@pytest.mark.parametrize("path", [LOGIN, "/v1/register_user"])
async def test_bodies(
    alice: Service, connection: Connection, *, path: str, body: bytes, status: int, code: str
) -> None:
    before = await head(connection)
    answer = await alice.post(path, data=body, headers=JSON)
    assert (answer.status, answer.code) == (status, code)
    answer = await alice.post(path, data=in_chunks(body), headers=JSON)
    assert (answer.status, answer.code) == (status, code)
    assert await head(connection) == before


async def test_the_largest_body_is_read(alice: Service) -> None:
    body = GOOD + b" " * (16 * 1024 - len(GOOD))
    assert (await alice.post(LOGIN, data=body, headers=JSON)).status == 200
    assert (await alice.post(LOGIN, data=in_chunks(body), headers=JSON)).status == 200


@pytest.mark.parametrize(
    "content_type",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/jsonx",
        "application/json; charset=latin-1",
        "application/json; charset=utf-8; x=y",
        "application/json, text/plain",
        "",
    ],
)
async def test_content_types_that_are_refused(
    alice: Service, connection: Connection, content_type: str
) -> None:
    before = await head(connection)
    answer = await alice.post(LOGIN, data=GOOD, headers={"Content-Type": content_type})
    assert (answer.status, answer.code) == (415, "unsupported_media_type")
    assert await head(connection) == before


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "Application/JSON", 'application/json; charset="UTF-8"'],
)
async def test_content_types_that_are_taken(alice: Service, content_type: str) -> None:
    answer = await alice.post(LOGIN, data=GOOD, headers={"Content-Type": content_type})
    assert answer.status == 200


async def test_a_body_without_a_type(alice: Service) -> None:
    async with aiohttp.ClientSession(skip_auto_headers=["Content-Type"]) as client:
        response = await client.post(f"http://{alice.host}:{alice.port}{LOGIN}", data=GOOD)
        assert response.status == 415


async def test_a_compressed_body(alice: Service) -> None:
    answer = await alice.post(LOGIN, data=b"no gzip", headers={**JSON, "Content-Encoding": "gzip"})
    assert (answer.status, answer.code) == (415, "unsupported_media_type")


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v1/me", {"GET", "HEAD"}),
        ("/v1/sessions/end_all", {"POST"}),
        ("/v1/login_user", {"POST"}),
        ("/v1/logout_user", {"GET", "POST"}),
        ("/health/alive", {"GET", "HEAD"}),
    ],
)
@pytest.mark.parametrize("method", ["PUT", "PATCH", "OPTIONS", "TRACE", "PROPFIND", "PURGE"])
async def test_methods_that_a_path_does_not_have(
    service: Service, method: str, path: str, allowed: set[str]
) -> None:
    answer = await service.send(method, path, cookie="x" * 43)
    assert (answer.status, answer.code) == (405, "method_not_allowed")
    assert {name.strip() for name in answer.headers["Allow"].split(",")} == allowed


async def test_head_goes_with_get_but_ends_nothing(alice: Service) -> None:
    token = await alice.token()
    me = await alice.send("HEAD", "/v1/me", cookie=token)
    assert (me.status, me.body) == (200, b"")
    assert (await alice.send("HEAD", "/v1/me")).status == 401
    assert (await alice.send("HEAD", "/v1/logout_user", cookie=token)).status == 405
    assert (await alice.get("/v1/me", cookie=token)).status == 200


@pytest.mark.parametrize(
    "path",
    ["/", "/v1", "/v1/", "/v1/me/", "/v1/ME", "/v1//me", "/v1/%2e%2e/x", "/%00", "/%ff", "/v2/me"],
)
async def test_paths_that_do_not_exist(service: Service, path: str) -> None:
    answer = await service.get(path, cookie="x" * 43)
    assert (answer.status, answer.code) == (404, "not_found")


async def test_session_ids_that_name_nothing(alice: Service, connection: Connection) -> None:
    token = await alice.token()
    before = await head(connection)
    for text in ["x", "0" * 32, "{%s}" % ("0" * 32), "%00", "00000000-0000-0000-0000-000000000000"]:
        answer = await alice.send("DELETE", f"/v1/sessions/{text}", cookie=token)
        assert (answer.status, answer.code) == (404, "not_found")
    assert await head(connection) == before


texts = st.text(max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
names = st.sampled_from(["login", "password", "token", "current_password", "new_password"])
bodies = (
    st.binary(max_size=200)
    | values.map(lambda value: json.dumps(value).encode())
    | st.dictionaries(names | texts, texts | values, max_size=4).map(
        lambda fields: json.dumps(fields).encode()
    )
    | st.fixed_dictionaries({"login": texts, "password": st.text(max_size=60)}).map(
        lambda fields: json.dumps(fields).encode()
    )
)
PATHS = ["/v1/login_user", "/v1/register_user", "/v1/change_password", "/v1/sessions/end_others"]


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(path=st.sampled_from(PATHS), body=bodies)
async def test_no_body_is_a_server_error(alice: Service, path: str, body: bytes) -> None:
    token = await alice.token()
    answer = await alice.post(path, data=body, headers=JSON, bearer=token)
    assert answer.status in {200, 201, 400, 401, 409, 413, 422}, answer
    if answer.status >= 400:
        assert answer.code


headers = st.dictionaries(
    st.sampled_from(["Cookie", "Authorization", "Origin", "Sec-Fetch-Site", "Host", "Expect"]),
    st.lists(
        st.sampled_from(
            ["gatelog=", "__Host-gatelog=", "x" * 43, "; ", ";", '"', "Bearer", " ", "=", "é", "//"]
        ),
        max_size=6,
    ).map("".join),
)


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(headers=headers, path=st.sampled_from(["/v1/me", "/v1/logout_user", "/v1/sessions"]))
async def test_no_header_is_a_server_error(
    service: Service, path: str, headers: dict[str, str]
) -> None:
    answer = await service.get(path, headers=headers)
    assert answer.status in {200, 400, 401, 403, 417}, answer


def no_password_in(answer: Any) -> bool:
    return PASSWORD not in json.dumps(answer)


async def test_errors_do_not_quote(alice: Service) -> None:
    for body in [
        {"login": PASSWORD * 20, "password": "x"},
        {"login": "alice", "password": "x", PASSWORD: 1},
        {"login": "alice", "password": "x", "token": PASSWORD},
        {"login": "alice", "password": PASSWORD + "\x00"},
        {"login": "alice", "password": [PASSWORD]},
    ]:
        answer = await alice.post(LOGIN, json=body)
        assert answer.status == 422
        assert no_password_in(answer.json)
