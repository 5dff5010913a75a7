"""aiohttp-security on the log's sessions."""

from __future__ import annotations

from collections.abc import AsyncIterator
from enum import Enum

import aiohttp_security
import pytest
from aiohttp import web
from gatelog import RolesAuthorizationPolicy, SessionIdentityPolicy, public
from gatelog.config import Config
from gatelog.hosting.app import create_app
from gatelog.hosting.services import open_services

from tests.conftest import Dsns
from tests.serving import PASSWORD, Service, serving


class Permission(Enum):
    WRITE = "write"


@public
async def who(request: web.Request) -> web.Response:
    found = await aiohttp_security.authorized_userid(request)
    return web.json_response(
        {"user": found, "anonymous": await aiohttp_security.is_anonymous(request)}
    )


@public
async def checked(request: web.Request) -> web.Response:
    return web.json_response({"user": await aiohttp_security.check_authorized(request)})


@public
async def permitted(request: web.Request) -> web.Response:
    await aiohttp_security.check_permission(request, request.query["permission"])
    await aiohttp_security.check_permission(request, Permission.WRITE)
    return web.Response()


async def forget(request: web.Request) -> web.Response:
    response = web.Response()
    await aiohttp_security.forget(request, response)
    return response


@public
async def remember(request: web.Request) -> web.Response:
    await aiohttp_security.remember(request, web.Response(), "somebody")
    return web.Response()


@pytest.fixture
async def service(config: Config, database: Dsns) -> AsyncIterator[Service]:
    app = web.Application()
    for handler in (who, checked, permitted, forget, remember):
        app.router.add_get(f"/{handler.__name__}", handler)
    permissions = {"write": ["admin", "editor"], "nobody": []}
    aiohttp_security.setup(app, SessionIdentityPolicy(), RolesAuthorizationPolicy(permissions))
    async with open_services(config, database.app) as services:
        await services.accounts.logins.add_user("alice", PASSWORD, ("admin",))
    async with serving(create_app(config, database.app, app), config) as service:
        await service.register("bob")
        yield service


async def test_who_is_logged_in_is_known(service: Service) -> None:
    token = await service.token()
    user = (await service.get("/v1/me", cookie=token)).json["user_id"]
    told = (await service.get("/api/who", cookie=token)).json
    assert told == {"user": user, "anonymous": False}
    assert (await service.get("/api/checked", cookie=token)).json == {"user": user}


async def test_a_visitor_is_anonymous(service: Service) -> None:
    told = (await service.get("/api/who")).json
    assert told == {"user": None, "anonymous": True}
    assert (await service.get("/api/checked")).status == 401


async def test_who_has_logged_out_is_anonymous(service: Service) -> None:
    token = await service.token()
    await service.post("/v1/logout_user", cookie=token)
    assert (await service.get("/api/who", cookie=token)).json["anonymous"]
    assert (await service.get("/api/checked", cookie=token)).status == 401


@pytest.mark.parametrize("name", ["nobody", "unknown", "admin"])
async def test_what_no_role_may_is_refused(service: Service, name: str) -> None:
    token = await service.token()
    assert (await service.get(f"/api/permitted?permission={name}", cookie=token)).status == 403


async def test_what_a_role_may_is_permitted(service: Service) -> None:
    path = "/api/permitted?permission=write"
    assert (await service.get(path, cookie=await service.token())).status == 200
    assert (await service.get(path, cookie=await service.token("bob"))).status == 403
    assert (await service.get(path)).status == 401


async def test_forget_ends_all_sessions(service: Service) -> None:
    one, other = await service.token(), await service.token()
    bob = await service.token("bob")
    answer = await service.get("/api/forget", cookie=one)
    assert "Max-Age=0" in answer.set_cookie
    for token in (one, other):
        assert (await service.get("/v1/me", cookie=token)).status == 401
    assert (await service.get("/v1/me", cookie=bob)).status == 200


async def test_nobody_is_remembered_without_a_password(service: Service) -> None:
    assert (await service.get("/api/remember")).status == 500


async def test_an_identity_of_anothers_may_nothing() -> None:
    policy = RolesAuthorizationPolicy()
    assert not await policy.permits("admin", "admin")
    assert not await policy.permits(None, "admin")
    assert await policy.authorized_userid("admin") is None
