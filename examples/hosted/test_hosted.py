"""The shop behind the check: nothing of it answers a stranger, all of it a user."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator

import pytest
from aiohttp import ClientPayloadError, WSServerHandshakeError
from gatelog.testing import GatelogClient, login_as

from examples.hosted.app import make_app

MEBIBYTE = bytes(1024 * 1024)
UPLOAD_MIB = 50
PROTECTED = (
    ("GET", "/api/report"),
    ("GET", "/api/feed"),
    ("PUT", "/api/upload"),
    ("POST", "/api/orders/apple"),
    ("GET", "/api/files/hello.txt"),
    ("GET", "/api/nowhere"),
)


@pytest.mark.parametrize(("method", "path"), PROTECTED)
async def test_a_stranger_gets_nothing(
    gatelog_client: GatelogClient, method: str, path: str
) -> None:
    client = await gatelog_client(make_app)
    assert (await client.request(method, path)).status == 401
    assert (await client.get("/api/prices")).status == 200
    with pytest.raises(WSServerHandshakeError, match="401"):
        await client.ws_connect("/api/haggle")


async def test_the_sub_application_and_the_middleware_see_who_it_is(
    gatelog_client: GatelogClient,
) -> None:
    client = await gatelog_client(make_app)
    await login_as(client, "ada")
    answer = await client.post("/api/orders/apple")
    assert (await answer.json())["by"] == answer.headers["X-Shop-User"]
    assert (await client.post("/api/orders/stone")).status == 404
    assert await (await client.get("/api/files/hello.txt")).text() == (
        "Only who is logged in reads this.\n"
    )


async def test_the_report_is_for_administrators(gatelog_client: GatelogClient) -> None:
    client = await gatelog_client(make_app)
    await login_as(client, "ada")
    assert (await client.get("/api/report")).status == 403
    await login_as(client, "grace", roles={"admin"})
    assert (await client.get("/api/report")).status == 200


async def test_a_logout_ends_the_feed(gatelog_client: GatelogClient) -> None:
    client = await gatelog_client(make_app)
    await login_as(client, "ada")
    feed = await client.get("/api/feed")
    assert await feed.content.readuntil(b"\n\n") == b": here they come\n\n"
    await client.post("/api/orders/melon")
    assert await feed.content.readuntil(b"\n\n") == b"data: melon\n\n"
    assert (await client.post("/v1/logout_user")).status == 200
    with pytest.raises(ClientPayloadError):  # cut off, within a second
        await feed.content.read()


async def test_a_logout_closes_the_websocket(gatelog_client: GatelogClient) -> None:
    client = await gatelog_client(make_app)
    await login_as(client, "ada")
    socket = await client.ws_connect("/api/haggle")
    await socket.send_str("melon")
    assert await socket.receive_json() == {"melon": 3}
    assert (await client.post("/v1/logout_user")).status == 200
    await socket.receive()
    assert socket.close_code == 4401


async def test_a_large_upload_goes_through(gatelog_client: GatelogClient) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(UPLOAD_MIB):
            yield MEBIBYTE

    client = await gatelog_client(make_app)
    await login_as(client, "ada")
    answer = await client.put("/api/upload", data=pieces())
    assert await answer.json() == {
        "bytes": UPLOAD_MIB * len(MEBIBYTE),
        "sha256": hashlib.sha256(MEBIBYTE * UPLOAD_MIB).hexdigest(),
    }
