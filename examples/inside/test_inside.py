"""The application with Gatelog inside."""

from __future__ import annotations

from gatelog import Config
from gatelog.testing import GatelogClient, MovedClock, login_as

from examples.inside.app import make_app


async def test_the_check_stands_before_each_handler(
    gatelog_client: GatelogClient, gatelog_config: Config
) -> None:
    client = await gatelog_client(make_app(gatelog_config))
    assert await (await client.get("/prices")).json() == {"apple": 1}
    assert (await client.get("/orders")).status == 401
    await login_as(client, "ada")
    me = await (await client.get("/v1/me")).json()
    assert await (await client.get("/orders")).json() == {"user": me["user_id"]}
    assert (await client.get("/report")).status == 403
    await login_as(client, "ada", roles={"admin"})
    assert (await client.get("/report")).status == 200
    assert (await client.post("/v1/logout_user")).status == 200
    assert (await client.get("/orders")).status == 401


async def test_a_session_ends_by_itself(
    gatelog_client: GatelogClient, gatelog_config: Config, gatelog_clock: MovedClock
) -> None:
    client = await gatelog_client(make_app(gatelog_config))
    await login_as(client, "ada")
    assert (await client.get("/orders")).status == 200
    gatelog_clock.advance(gatelog_config.session_idle_s)  # and nobody uses it meanwhile
    assert (await client.get("/orders")).status == 401
