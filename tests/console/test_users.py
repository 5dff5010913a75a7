"""Finding and creating users over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import msgspec
import pytest
from gatelog.config import Config
from gatelog.hosting.app import create_app
from gatelog.hosting.services import open_services
from gatelog.log.store.reading import read_events

from tests.conftest import Dsns
from tests.serving import PASSWORD, Service, serving

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection

PEOPLE = ("zoe", "bob", "kim", "amy", "ron")


@pytest.fixture
async def house(config: Config, database: Dsns) -> AsyncIterator[Service]:
    """The service with root, olga the auditor, and five others, who came in this order."""
    config = msgspec.structs.replace(config, trusted_proxies="127.0.0.0/8")
    async with open_services(config, database.app) as services:
        await services.accounts.logins.add_user("root", PASSWORD, ("admin",))
        await services.accounts.logins.add_user("olga", PASSWORD, ("auditor",))
        for login in PEOPLE:
            await services.accounts.logins.add_user(login, PASSWORD)
    async with serving(create_app(config, database.app), config) as running:
        yield running


async def found(house: Service, question: str, who: str = "olga") -> Any:
    answer = await house.get(f"/v1/users{question}", cookie=await house.token(who))
    assert answer.status == 200, answer
    return answer.json


async def test_the_newest_come_first_a_page_after_the_other(house: Service) -> None:
    token, path, seen = await house.token("olga"), "/v1/users?limit=3", []
    while path:
        answer = await house.get(path, cookie=token)
        seen += [user["login"] for user in answer.json["users"]]
        path = answer.json.get("next")
        assert ("Link" in answer.headers) == bool(path)
        if len(seen) == 3:  # who comes meanwhile comes before the first page
            body = {"login": "new", "password": PASSWORD}
            made = await house.post("/v1/users", json=body, cookie=await house.token("root"))
            assert made.status == 201
    assert seen == ["ron", "amy", "kim", "bob", "zoe", "olga", "root"]
    assert (await found(house, "?limit=1"))["users"][0]["login"] == "new"


async def test_by_login_and_by_id(house: Service) -> None:
    (user,) = (await found(house, "?login=%20AMY"))["users"]
    assert (user["login"], user["roles"], user["disabled"], user["factors"]) == (
        "amy",
        [],
        False,
        0,
    )
    for nobody in ("am", "amy%25", "%00"[:0] + "nobody", "a" * 200):
        assert (await found(house, f"?login={nobody}"))["users"] == []
    details = await found(house, f"/{user['user_id']}")
    assert details == user | {"password_failures": 0, "address_verified_at": None}
    token = await house.token("olga")
    assert (await house.get(f"/v1/users/{uuid4()}", cookie=token)).status == 404


async def test_wrong_passwords_are_told(house: Service) -> None:
    for _ in range(2):
        assert (await house.log_in("amy", "not the right one")).status == 401
    (user,) = (await found(house, "?login=amy"))["users"]
    assert (await found(house, f"/{user['user_id']}"))["password_failures"] == 2


async def test_who_is_erased_is_a_number(house: Service) -> None:
    (user,) = (await found(house, "?login=amy"))["users"]
    root = await house.token("root")
    erased = await house.post(f"/v1/users/{user['user_id']}/erase", cookie=root)
    assert erased.status == 200
    assert (await found(house, "?login=amy"))["users"] == []
    assert "amy" not in [each["login"] for each in (await found(house, ""))["users"]]
    left = await found(house, f"/{user['user_id']}")
    assert (left["login"], left["erased"]) == (None, True)


@pytest.mark.parametrize(
    "question",
    [
        "limit=0",
        "limit=201",
        "limit=x",
        "cursor=1",
        "cursor=",
        "other=1",
        "login=a&login=b",
        "login=%00",
    ],
)
async def test_wrong_questions(house: Service, question: str) -> None:
    answer = await house.get(f"/v1/users?{question}", cookie=await house.token("olga"))
    assert (answer.status, answer.code) == (422, "invalid_input")


async def test_reading_is_recorded(house: Service, connection: Connection) -> None:
    await found(house, "")
    whats = [getattr(e.event(), "what", None) for e in await read_events(connection, 0)]
    assert whats.count("users") == 1


async def test_creating(house: Service, connection: Connection) -> None:
    root = await house.token("root")
    headers = {"X-Forwarded-For": "192.0.2.7"}
    body = {"login": "New", "password": PASSWORD, "roles": ["auditor", "auditor"]}
    made = await house.post("/v1/users", json=body, bearer=root, headers=headers)
    assert (made.status, made.json["status"]) == (201, "created")
    assert (await house.log_in("new")).json["user_id"] == made.json["user_id"]
    (user,) = (await found(house, "?login=new"))["users"]
    assert user["roles"] == ["auditor"]
    events = await house.get(f"/v1/audit/events?user={user['user_id']}&order=asc", cookie=root)
    registered, granted = events.json["events"][:2]
    assert (registered["type"], granted["type"]) == ("user_registered", "role_granted")
    assert registered["address"] == "192.0.2.7"
    me = (await house.get("/v1/me", cookie=root)).json["user_id"]
    assert registered["actor_id"] == granted["actor_id"] == me
    assert granted["position"] == made.json["position"]


async def test_who_is_not_created(house: Service) -> None:
    root = await house.token("root")
    body = {"login": "new", "password": PASSWORD}
    for change, code in (
        ({"login": "amy"}, "login_taken"),
        ({"password": "short"}, "weak_password"),
        ({"roles": ["nothing"]}, "no_such_role"),
        ({"login": "a b"}, "invalid_input"),
    ):
        answer = await house.post("/v1/users", json=body | change, cookie=root)
        assert answer.code == code, change
    assert (await found(house, "?login=new"))["users"] == []
    olga = await house.token("olga")
    assert (await house.post("/v1/users", json=body, cookie=olga)).status == 403


async def test_creating_takes_a_recent_login(config: Config, database: Dsns) -> None:
    config = msgspec.structs.replace(config, recent_login_s=0.001)
    async with open_services(config, database.app) as services:
        await services.accounts.logins.add_user("root", PASSWORD, ("admin",))
    async with serving(create_app(config, database.app), config) as house:
        root = await house.token("root")
        body = {"login": "new", "password": PASSWORD}
        assert (
            await house.post("/v1/users", json=body, cookie=root)
        ).code == "recent_login_required"
        everybody = {"confirm": "everybody"}
        ended = await house.post("/v1/active_sessions/end_all", json=everybody, cookie=root)
        assert ended.code == "recent_login_required"
