"""Administrators over HTTP: what they may do to others, and what is recorded of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import msgspec
import pytest
from gatelog.accounts.service.users import Administration
from gatelog.config import Config
from gatelog.hosting.app import create_app
from gatelog.hosting.services import open_services
from gatelog.log.rules import events as ev
from gatelog.log.store.database import Database
from gatelog.log.store.reading import read_events
from gatelog.privacy.service.personal import PersonalData

from tests.conftest import Dsns
from tests.serving import PASSWORD, Service, serving

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection

FROM = {"X-Forwarded-For": "192.0.2.7", "User-Agent": "admins-browser"}
ENDPOINTS = [
    ("GET", "sessions"),
    ("POST", "sessions/end_all"),
    ("POST", "disable"),
    ("POST", "enable"),
    ("POST", "erase"),
    ("POST", "roles/auditor"),
    ("DELETE", "roles/auditor"),
]


@pytest.fixture
async def admins(config: Config, database: Dsns) -> dict[str, UUID]:
    """The ids of root and ruth, administrators."""
    async with open_services(config, database.app) as services:
        return {
            login: await services.accounts.logins.add_user(login, PASSWORD, ("admin",))
            for login in ("root", "ruth")
        }


@pytest.fixture
async def behind_proxy(
    config: Config, database: Dsns, admins: dict[str, UUID]
) -> AsyncIterator[Service]:
    """The service, with two administrators and alice, behind a proxy that it trusts."""
    config = msgspec.structs.replace(config, trusted_proxies="127.0.0.0/8")
    async with serving(create_app(config, database.app), config) as running:
        assert (await running.register()).status == 201
        yield running


async def user_id(service: Service, login: str = "alice") -> str:
    return str((await service.log_in(login)).json["user_id"])


async def events(connection: Connection) -> list[ev.Event]:
    return [stored.event() for stored in await read_events(connection, 0)]


@pytest.mark.parametrize(("method", "what"), ENDPOINTS)
async def test_who_may(behind_proxy: Service, method: str, what: str) -> None:
    service = behind_proxy
    path = f"/v1/users/{await user_id(service)}/{what}"
    token = await service.token()
    assert (await service.send(method, path)).status == 401
    refused = await service.send(method, path, cookie=token)
    assert (refused.status, refused.code) == (403, "forbidden")
    root = await service.token("root")
    assert (await service.send(method, path, cookie=root)).status == 200
    crossing = {"Sec-Fetch-Site": "cross-site"}
    if method != "GET":
        answer = await service.send(method, path, cookie=root, headers=crossing)
        assert (answer.status, answer.code) == (403, "cross_site_request")


@pytest.mark.parametrize(("method", "what"), ENDPOINTS)
async def test_users_who_are_not_there(behind_proxy: Service, method: str, what: str) -> None:
    service = behind_proxy
    root = await service.token("root")
    for text in (str(uuid4()), "x", "0" * 36, "{" + "0" * 34 + "}"):
        answer = await service.send(method, f"/v1/users/{text}/{what}", cookie=root)
        assert (answer.status, answer.code) == (404, "not_found")
    wrong = await service.send("PUT", f"/v1/users/{uuid4()}/{what}", cookie=root)
    assert wrong.status == 405


async def test_sessions_of_a_user(behind_proxy: Service) -> None:
    service = behind_proxy
    login = await service.log_in()
    root = await service.token("root")
    path = f"/v1/users/{login.json['user_id']}/sessions"
    listed = (await service.get(path, cookie=root)).json
    assert listed["user_id"] == login.json["user_id"]
    (found,) = listed["sessions"]
    assert found.keys() == {
        *("session_id", "started_at", "expires_at", "roles"),
        *("authenticated_at", "amr"),
    }
    assert (found["authenticated_at"], found["amr"]) == (found["started_at"], ["pwd"])
    assert listed["tokens"] == []
    assert found["session_id"] == login.json["session_id"]
    ended = await service.post(f"{path}/end_all", cookie=root)
    assert (ended.json["status"], ended.json["ended"]) == ("ended", 1)
    assert (await service.get("/v1/me", cookie=login.token)).status == 401
    assert (await service.get(path, cookie=root)).json["sessions"] == []


async def test_disabled_and_enabled(behind_proxy: Service) -> None:
    service = behind_proxy
    login, root = await service.log_in(), await service.token("root")
    path = f"/v1/users/{login.json['user_id']}"
    disabled = await service.post(f"{path}/disable", cookie=root)
    assert (disabled.json["status"], disabled.json["ended"]) == ("disabled", 1)
    assert (await service.get("/v1/me", cookie=login.token)).status == 401
    assert (await service.log_in()).status == 401
    assert (await service.post(f"{path}/enable", cookie=root)).json["status"] == "enabled"
    assert (await service.log_in()).status == 200


async def test_roles(behind_proxy: Service) -> None:
    service = behind_proxy
    login, root = await service.log_in(), await service.token("root")
    path = f"/v1/users/{login.json['user_id']}/roles"
    granted = await service.post(f"{path}/auditor", cookie=root)
    assert (granted.json["status"], granted.json["ended"]) == ("granted", 1)
    token = await service.token()
    assert (await service.get("/v1/me", cookie=token)).json["roles"] == ["auditor"]
    revoked = await service.send("DELETE", f"{path}/auditor", cookie=root)
    assert (revoked.json["status"], revoked.json["ended"]) == ("revoked", 1)
    assert (await service.get("/v1/me", cookie=token)).status == 401
    for method in ("POST", "DELETE"):
        unknown = await service.send(method, f"{path}/king", cookie=root)
        assert (unknown.status, unknown.code) == (404, "no_such_role")


async def test_who_did_it_is_recorded(
    behind_proxy: Service, connection: Connection, admins: dict[str, UUID], config: Config,
    database: Dsns,
) -> None:  # fmt: skip
    service = behind_proxy
    path = f"/v1/users/{await user_id(service)}"
    root = await service.token("root")
    for method, what in ENDPOINTS[1:]:
        if what != "erase":
            await service.log_in()  # something to end
            answer = await service.send(method, f"{path}/{what}", bearer=root, headers=FROM)
            assert answer.status == 200
    done = [event for event in await events(connection) if isinstance(event, ev.UserEvent)]
    own = [event for event in done if event.actor_id == admins["root"]]
    first = [event for event in own if event.sealed is not None]
    assert [event.type for event in first] == [
        "session_ended",
        "user_disabled",
        "user_enabled",
        "role_granted",
        "role_revoked",
    ]
    pool = Database(database.app, timeout_s=5, pool_size=1)
    opened = await PersonalData(config, pool).open_personal(first)
    await pool.close()
    assert {(p.login, p.address, p.agent) for p in opened if p} == {
        (None, "192.0.2.7", "admins-browser")
    }


async def test_erased(behind_proxy: Service, connection: Connection) -> None:
    service = behind_proxy
    login, root = await service.log_in(), await service.token("root")
    path = f"/v1/users/{login.json['user_id']}"
    erased = await service.post(f"{path}/erase", cookie=root)
    assert (erased.json["status"], erased.json["ended"]) == ("erased", 1)
    assert (await service.get("/v1/me", cookie=login.token)).status == 401
    assert (await service.log_in()).status == 401
    again = await service.post(f"{path}/erase", cookie=root)
    assert (again.status, again.json["ended"]) == (200, 0)
    for method, what in ENDPOINTS:
        if what != "erase":
            assert (await service.send(method, f"{path}/{what}", cookie=root)).status == 404
    anew = await service.register()
    assert anew.status == 201
    assert anew.json["user_id"] != login.json["user_id"]
    assert (await service.log_in()).json["user_id"] == anew.json["user_id"]
    types = [event.type for event in await events(connection)]
    assert types.count("user_erased") == 1


@pytest.mark.parametrize(
    ("method", "what"), [("POST", "disable"), ("POST", "erase"), ("DELETE", "roles/admin")]
)
async def test_somebody_stays_who_can_administer(
    behind_proxy: Service, admins: dict[str, UUID], method: str, what: str
) -> None:
    service = behind_proxy
    root, ruth = await service.token("root"), await service.token("ruth")
    first = await service.send(method, f"/v1/users/{admins['root']}/{what}", cookie=ruth)
    assert first.status == 200
    assert (await service.get("/v1/me", cookie=root)).status == 401
    last = await service.send(method, f"/v1/users/{admins['ruth']}/{what}", cookie=ruth)
    assert (last.status, last.code) == (409, "last_admin")
    assert (await service.get("/v1/me", cookie=ruth)).status == 200


async def test_administrators_do_not_get_rid_of_each_other_at_once(
    behind_proxy: Service, admins: dict[str, UUID]
) -> None:
    """Each is refused or done, by the order of the log; one is left."""
    service = behind_proxy
    tokens = {login: await service.token(login) for login in admins}
    answers = await asyncio.gather(
        service.post(f"/v1/users/{admins['root']}/disable", cookie=tokens["ruth"]),
        service.post(f"/v1/users/{admins['ruth']}/disable", cookie=tokens["root"]),
    )
    assert sorted(answer.status for answer in answers) == [200, 401]
    left = [login for login in admins if (await service.log_in(login)).status == 200]
    assert len(left) == 1


async def test_a_role_that_ends_while_a_request_is_on_its_way_is_no_role(
    behind_proxy: Service, admins: dict[str, UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check has passed; the decision, under the lock, finds no administrator any more."""
    service = behind_proxy
    alice = await user_id(service)
    root, ruth = await service.token("root"), await service.token("ruth")
    arrived, go_on = asyncio.Event(), asyncio.Event()
    disable = Administration.disable

    async def slow(users: Administration, subject_id: UUID, by: Any = None) -> Any:
        if str(subject_id) == alice:
            arrived.set()
            await go_on.wait()
        return await disable(users, subject_id, by)

    monkeypatch.setattr(Administration, "disable", slow)
    waiting = asyncio.create_task(service.post(f"/v1/users/{alice}/disable", cookie=root))
    await arrived.wait()
    path = f"/v1/users/{admins['root']}/roles/admin"
    assert (await service.send("DELETE", path, cookie=ruth)).status == 200
    go_on.set()
    answer = await waiting
    assert (answer.status, answer.code) == (401, "not_authenticated")
    assert (await service.log_in()).status == 200


async def test_the_address_is_the_peers_without_a_trusted_proxy(
    config: Config, database: Dsns, connection: Connection
) -> None:
    async with serving(create_app(config, database.app), config) as service:
        await service.register()
        await service.log_in(headers=FROM)
    started = [event for event in await events(connection) if event.type == "session_started"]
    pool = Database(database.app, timeout_s=5, pool_size=1)
    (opened,) = await PersonalData(config, pool).open_personal(started)
    await pool.close()
    assert opened is not None
    assert (opened.login, opened.address, opened.agent) == (
        "alice",
        "127.0.0.1",
        "admins-browser",
    )
