"""The whole service behind a real socket, on a real database, and a client that hides nothing."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
import msgspec
from aiohttp import web
from gatelog.config import Config
from gatelog.hosting.app import OpenServices, build_app, make_runner
from gatelog.http.settings import CONFIG
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from tests.contract import Contract, contract

PASSWORD = "a rather long phrase"
NEW_PASSWORD = "an even longer phrase"
DEVICE = "gatelog-device"
SECURE_HOST = {"Host": "gate.example"}  # not loopback: what a proxy in front would send


class Answer(msgspec.Struct, frozen=True):
    """A response, read to its end."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The stable code of a problem document, which this must be."""
        assert self.headers["Content-Type"] == "application/problem+json", self
        assert self.json["status"] == self.status
        return str(self.json["code"])

    @property
    def set_cookie(self) -> str:
        """The one Set-Cookie header of the session."""
        lines = self.headers.getall("Set-Cookie")
        (line,) = [line for line in lines if DEVICE not in line.partition("=")[0]]
        return line

    @property
    def device(self) -> str:
        """The one cookie of the device, as a client sends it back."""
        lines = self.headers.getall("Set-Cookie")
        (line,) = [line for line in lines if DEVICE in line.partition("=")[0]]
        return line.partition(";")[0]

    @property
    def token(self) -> str:
        """The token that the answer carries, in a cookie or in the body."""
        if "Set-Cookie" in self.headers:
            return self.set_cookie.partition(";")[0].partition("=")[2]
        return str(self.json["token"])


class Service:
    """A running service and a client without a cookie jar.

    ``contract``: what every answer has to keep to; None where something stands in between.
    """

    def __init__(
        self,
        runner: web.AppRunner,
        client: aiohttp.ClientSession,
        contract: Contract | None = None,
    ) -> None:
        self.runner = runner
        self._contract = contract
        self.host, self.port = runner.addresses[0]
        self._client = client

    async def send(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        data: Any = None,
        headers: Mapping[str, str] | None = None,
        cookie: str | None = None,
        bearer: str | None = None,
    ) -> Answer:
        """One request. ``cookie``: a token for the loopback cookie."""
        sent = CIMultiDict(headers or {})
        if cookie is not None:
            sent["Cookie"] = f"gatelog={cookie}"
        if bearer is not None:
            sent["Authorization"] = f"Bearer {bearer}"
        url = URL.build(scheme="http", host=self.host, port=self.port).join(URL(path, encoded=True))
        async with self._client.request(
            method, url, json=json, data=data, headers=sent, allow_redirects=False
        ) as response:
            answer = Answer(response.status, response.headers, await response.read())
        if self._contract is not None:
            self._contract.check(method, path, answer.status, answer.headers, answer.body)
        return answer

    async def get(self, path: str, **options: Any) -> Answer:
        return await self.send("GET", path, **options)

    async def post(self, path: str, **options: Any) -> Answer:
        return await self.send("POST", path, **options)

    async def register(self, login: str = "alice", password: str = PASSWORD) -> Answer:
        return await self.post("/v1/register_user", json={"login": login, "password": password})

    async def log_in(
        self, login: str = "alice", password: str = PASSWORD, **options: Any
    ) -> Answer:
        return await self.post(
            "/v1/login_user", json={"login": login, "password": password}, **options
        )

    async def token(self, login: str = "alice", password: str = PASSWORD) -> str:
        """A fresh session's token."""
        return (await self.log_in(login, password)).token


@asynccontextmanager
async def serving(app: web.Application, config: Config) -> AsyncIterator[Service]:
    """The application on a free port."""
    async with AsyncExitStack() as stack:
        runner = make_runner(app, config)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        client = await stack.enter_async_context(
            aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
        )
        # (some are of others: what a storage is compared with)
        yield Service(runner, client, contract(config) if CONFIG in app else None)


@asynccontextmanager
async def serving_with(
    services: OpenServices, config: Config, *hosted: web.RouteDef
) -> AsyncIterator[Service]:
    """The application on other services, with hosted routes."""
    async with serving(build_app(config, services, hosted), config) as service:
        yield service
