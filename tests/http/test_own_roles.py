"""Roles of the operator's own: given, asked for, and what they permit."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp_security
import msgspec
import pytest
from aiohttp import web
from gatelog import RolesAuthorizationPolicy, SessionIdentityPolicy, requires
from gatelog.config import Config
from gatelog.hosting.app import create_app
from gatelog.hosting.services import open_services

from tests.conftest import Dsns
from tests.serving import PASSWORD, Service, serving

ROLES = '{"editor": {"permissions": ["posts.write", "posts.read"]}, "on-call_2": {"idle_s": 60}}'


@requires("editor")
async def edit(_: web.Request) -> web.Response:
    return web.Response()


async def permitted(request: web.Request) -> web.Response:
    await aiohttp_security.check_permission(request, request.query["permission"])
    return web.Response()


def app_of(config: Config, database: Dsns) -> web.Application:
    hosted = web.Application()
    hosted.router.add_get("/edit", edit)
    hosted.router.add_get("/permitted", permitted)
    aiohttp_security.setup(hosted, SessionIdentityPolicy(), RolesAuthorizationPolicy())
    return create_app(config, database.app, hosted)


@pytest.fixture
def own_roles(config: Config) -> Config:
    return msgspec.structs.replace(config, roles=ROLES)


@pytest.fixture
async def service(own_roles: Config, database: Dsns) -> AsyncIterator[Service]:
    async with open_services(own_roles, database.app) as services:
        await services.accounts.logins.add_user("root", PASSWORD, ("admin",))
    async with serving(app_of(own_roles, database), own_roles) as service:
        await service.register("bob")
        yield service


async def user_of(service: Service, login: str) -> str:
    me = await service.get("/v1/me", cookie=await service.token(login))
    return str(me.json["user_id"])


async def grant(service: Service, role: str) -> int:
    bob, root = await user_of(service, "bob"), await service.token("root")
    return (await service.post(f"/v1/users/{bob}/roles/{role}", cookie=root)).status


async def test_a_role_is_given_and_asked_for(service: Service) -> None:
    before = await service.token("bob")
    assert (await service.get("/api/edit", cookie=before)).status == 403
    assert await grant(service, "editor") == 200
    assert (await service.get("/v1/me", cookie=before)).status == 401, "a session has its roles"
    token = await service.token("bob")
    assert (await service.get("/api/edit", cookie=token)).status == 200
    assert (await service.get("/v1/auth?role=editor", cookie=token)).status == 200
    assert (await service.get("/v1/auth?role=on-call_2", cookie=token)).status == 403
    assert (await service.get("/v1/me", cookie=token)).json["roles"] == ["editor"]


@pytest.mark.parametrize("role", ["writer", "editor2", "on-call"])
async def test_a_role_that_is_not_configured_cannot_be_given(service: Service, role: str) -> None:
    assert await grant(service, role) == 404


@pytest.mark.parametrize("role", ["Editor", "2nd", "-a", "a" * 33, "a%2Cadmin"])
async def test_what_is_no_name_is_no_path(service: Service, role: str) -> None:
    assert await grant(service, role) == 404


async def test_permissions_are_those_of_the_roles(service: Service) -> None:
    await grant(service, "editor")
    token = await service.token("bob")

    async def may(permission: str) -> bool:
        answer = await service.get(f"/api/permitted?permission={permission}", cookie=token)
        assert answer.status in {200, 403}
        return answer.status == 200

    assert await may("posts.write") and await may("posts.read") and await may("editor")
    assert not (await may("posts") or await may("posts.delete") or await may("on-call_2"))


async def test_a_role_of_before_can_be_taken_away(
    service: Service, config: Config, database: Dsns
) -> None:
    """It is configured no more: nobody gets it, who has it keeps it, without its permissions."""
    await grant(service, "editor")
    bob = await user_of(service, "bob")
    async with serving(app_of(config, database), config) as later:
        assert await grant(later, "editor") == 404
        token, root = await later.token("bob"), await later.token("root")
        assert (await later.get("/api/edit", cookie=token)).status == 200
        path = "/api/permitted?permission=posts.write"
        assert (await later.get(path, cookie=token)).status == 403
        role = f"/v1/users/{bob}/roles/editor"
        assert (await later.send("DELETE", role, cookie=root)).status == 200
        assert (await later.get("/v1/me", cookie=token)).status == 401
        assert (await later.send("DELETE", role, cookie=root)).status == 404
