"""Who may do what: every route there is, by everybody there is.

The routes come from the application itself: a new one fails here until it is said whose it is.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Literal
from uuid import uuid4

import aiohttp
import msgspec
import pytest
from aiohttp import web
from gatelog.config import Config
from gatelog.hosting.app import create_app
from gatelog.hosting.services import open_services
from gatelog.http.nowhere import Nowhere

from tests.conftest import Dsns
from tests.serving import PASSWORD, Service, serving

Whose = Literal["everybody", "user", "auditor", "admin"]

# Everything below these paths is for auditors and administrators, or for the latter only.
BELOW: dict[str, Whose] = {
    "/account": "user",
    "/console/compose": "admin",
    "/console": "auditor",
    "/pages/": "everybody",
    "/v1/audit/": "auditor",
    "/v1/log/": "auditor",
    "/v1/active_sessions": "auditor",
    "/v1/overview": "auditor",
    "/v1/users": "admin",
    "/v1/compose/": "admin",
}
WHOSE: dict[str, Whose] = {
    "GET /v1/users": "auditor",
    "GET /v1/users/{user_id}": "auditor",
    "DELETE /v1/active_sessions/{session_id}": "admin",
    "POST /v1/active_sessions/end_all": "admin",
    "GET /console/users/new": "admin",
    "POST /v1/register_user": "everybody",
    "POST /v1/login_user": "everybody",
    "POST /v1/login_factor": "everybody",
    "POST /v1/passkeys/login_options": "everybody",
    "POST /v1/passkeys/login": "everybody",
    "GET /v1/factors": "user",
    "POST /v1/factors/totp": "user",
    "POST /v1/factors/totp/confirm": "user",
    "POST /v1/factors/passkeys": "user",
    "POST /v1/factors/passkeys/confirm": "user",
    "POST /v1/factors/recovery_codes": "user",
    "DELETE /v1/factors/{factor_id}": "user",
    "GET /v1/logout_user": "everybody",
    "POST /v1/logout_user": "everybody",
    "GET /": "everybody",
    "GET /first": "everybody",
    "POST /first": "everybody",
    "GET /register": "everybody",
    "POST /register": "everybody",
    "GET /recover": "everybody",
    "POST /recover": "everybody",
    "GET /welcome": "everybody",
    "POST /welcome/password": "everybody",
    "POST /welcome/address": "everybody",
    "GET /login": "everybody",
    "POST /login": "everybody",
    "POST /login/factor": "everybody",
    "POST /logout": "everybody",
    "GET /health/alive": "everybody",
    "GET /health/ready": "everybody",
    "GET /metrics": "everybody",
    "GET /openapi.json": "everybody",
    "GET /docs": "everybody",
    "GET /docs/page.js": "everybody",
    "GET /docs/page.css": "everybody",
    "GET /docs/icon.svg": "everybody",
    "GET /.well-known/jwks.json": "everybody",
    "GET /v1/me": "user",
    "* /v1/auth": "user",
    "GET /v1/sessions": "user",
    "DELETE /v1/sessions/{session_id}": "user",
    "PATCH /v1/sessions/{session_id}": "user",
    "POST /v1/sessions/end_others": "user",
    "POST /v1/sessions/end_all": "user",
    "POST /v1/change_password": "user",
    "POST /v1/recover": "everybody",
    "POST /v1/recover/confirm": "everybody",
    "POST /v1/address/confirm": "everybody",
    "GET /v1/me/address": "user",
    "PUT /v1/me/address": "user",
    "DELETE /v1/me/address": "user",
    "GET /v1/tokens": "user",
    "POST /v1/tokens": "user",
    "DELETE /v1/tokens/{token_id}": "user",
    "GET /v1/me/events": "user",
    "GET /v1/me/export": "user",
    "POST /v1/me/erase": "user",
    "GET /v1/me/events/{position}/proof": "user",
}
LOGINS: dict[str, tuple[str, ...]] = {"user": (), "auditor": ("auditor",), "admin": ("admin",)}
MAY: dict[Whose, set[str]] = {
    "everybody": set(LOGINS),
    "user": set(LOGINS),
    "auditor": {"auditor", "admin"},
    "admin": {"admin"},
}


class Route(msgspec.Struct, frozen=True):
    """A route of the application: its method, how it is written, and a path that it takes."""

    method: str
    written: str
    path: str

    @property
    def whose(self) -> Whose | None:
        method = "GET" if self.method == "HEAD" else self.method
        said = WHOSE.get(f"{method} {self.written}")
        if said is not None:
            return said
        if method != "GET" and self.written.startswith("/console"):
            return "admin"  # an auditor changes nothing
        below = (whose for prefix, whose in BELOW.items() if self.written.startswith(prefix))
        return next(below, None)


def routes_of(app: web.Application) -> list[Route]:
    """All of them; parameters of their paths are filled with what could be there."""
    values = {
        "session_id": str(uuid4()),
        "factor_id": str(uuid4()),
        "token_id": str(uuid4()),
        "user_id": str(uuid4()),
        "position": "1",
        "role": "auditor",
        "number": "1",
        "path": "0/000",
        "version": "none",
        "name": "none",
    }
    found = []
    for route in app.router.routes():
        resource = route.resource
        assert resource is not None
        if isinstance(resource, Nowhere):
            continue
        names = set(values) if resource.get_info().get("formatter") else set()
        path = resource.canonical.format(**{name: values[name] for name in names})
        found.append(Route(route.method, resource.canonical, path))
    return found


class House:
    """The running service, its routes, and a fresh token of anybody."""

    def __init__(self, service: Service, routes: list[Route]) -> None:
        self._service = service
        self.routes = routes

    async def status(self, route: Route, login: str | None) -> int:
        """The answer to this user, in a session of its own; a stream is not read to its end."""
        headers = {}
        if login is not None:
            headers["Authorization"] = f"Bearer {await self._service.token(login)}"
        method = "GET" if route.method == "*" else route.method
        url = f"http://{self._service.host}:{self._service.port}{route.path}"
        async with (
            aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as client,
            client.request(method, url, headers=headers, allow_redirects=False) as answer,
        ):
            return answer.status


@pytest.fixture
async def house(config: Config, database: Dsns) -> AsyncIterator[House]:
    config = msgspec.structs.replace(
        config, identity_issuer="https://gatelog.example", public_url="https://gatelog.example"
    )
    async with open_services(config, database.app) as services:
        for login, roles in LOGINS.items():
            await services.accounts.logins.add_user(login, PASSWORD, roles)
    app = create_app(config, database.app)
    async with serving(app, config) as service:
        yield House(service, routes_of(app))


async def test_every_route_is_somebodys(house: House) -> None:
    assert [route for route in house.routes if route.whose is None] == []
    written = {f"{route.method} {route.written}" for route in house.routes}
    assert WHOSE.keys() <= written
    assert all(any(r.written.startswith(prefix) for r in house.routes) for prefix in BELOW)
    assert len(house.routes) > 30


@pytest.mark.parametrize("login", [None, *LOGINS])
async def test_everybody_at_every_route(house: House, login: str | None) -> None:
    for route in house.routes:
        assert route.whose is not None
        status = await house.status(route, login)
        may = route.whose == "everybody" or (login is not None and login in MAY[route.whose])
        if may:
            assert status < 500, (route, status)
            assert status not in {401, 403}, (route, status)
        else:
            assert status == (401 if login is None else 403), (route, status)
