"""The product's promise: login, 200, logout, 401."""

from __future__ import annotations

from tests.serving import Service


async def test_the_six_steps(service: Service) -> None:
    assert (await service.get("/v1/me")).status == 401
    assert (await service.register()).status == 201
    login = await service.log_in()
    assert login.status == 200
    me = await service.get("/v1/me", cookie=login.token)
    assert me.status == 200
    assert me.json["user_id"] == login.json["user_id"]
    logout = await service.get("/v1/logout_user", cookie=login.token)
    assert logout.status == 200
    assert logout.json["status"] == "logged_out"
    assert logout.json["ended"] == 1
    assert logout.json["position"] == login.json["position"] + 1
    assert (await service.get("/v1/me", cookie=login.token)).status == 401
