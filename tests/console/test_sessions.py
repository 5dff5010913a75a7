"""Who is in now, over HTTP, and the ends that administrators make."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import msgspec
import pytest
from gatelog.config import Config
from gatelog.console.service import sessions as now
from gatelog.hosting.app import create_app
from gatelog.hosting.services import open_services
from gatelog.log.store.reading import read_events
from gatelog.sessions.rules.events import SessionEnded

from tests.conftest import Dsns
from tests.serving import PASSWORD, Service, serving

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection

FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:130.0) Gecko/20100101 Firefox/130.0"
CHROME = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/130.0.0.0 Safari/537.36"
)
AGENTS = (FIREFOX, CHROME, "curl/8.9.1", None)
ADDRESSES = ("192.0.2.7", "2001:db8::7", None)
LOGINS = ("alice", "bob", "carol")


@pytest.fixture
async def house(config: Config, database: Dsns) -> AsyncIterator[Service]:
    """The service behind a proxy that it trusts: root, olga the auditor, alice, bob and carol."""
    config = msgspec.structs.replace(
        config, trusted_proxies="127.0.0.0/8", max_sessions_per_user=100
    )
    async with open_services(config, database.app) as services:
        await services.accounts.logins.add_user("root", PASSWORD, ("admin",))
        await services.accounts.logins.add_user("olga", PASSWORD, ("auditor",))
        for login in LOGINS:
            await services.accounts.logins.add_user(login, PASSWORD)
    async with serving(create_app(config, database.app), config) as running:
        yield running


async def listed(house: Service, question: str, token: str) -> list[dict[str, Any]]:
    """All that fit, page after page."""
    path, found = f"/v1/active_sessions?{question}", []
    while path:
        answer = await house.get(path, cookie=token)
        assert answer.status == 200, answer
        found += answer.json["sessions"]
        path = answer.json.get("next")
    return found


async def log_in(house: Service, login: str, address: str | None, agent: str | None) -> Any:
    headers = {"User-Agent": agent or ""}
    if address is not None:
        headers["X-Forwarded-For"] = address
    return (await house.log_in(login, headers=headers)).json


async def test_every_question_by_a_plain_filter(
    house: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a random crowd, some of whom have left: every question, by pages of any size."""
    rng = random.Random(5)
    token = await house.token("olga")
    began = []
    for _ in range(30):
        who, address, agent = rng.choice(LOGINS), rng.choice(ADDRESSES), rng.choice(AGENTS)
        began.append((await log_in(house, who, address, agent), who, address, agent))
    root = await house.token("root")
    for gone in rng.sample(began, 8):
        ended = await house.send(
            "DELETE", f"/v1/active_sessions/{gone[0]['session_id']}", cookie=root
        )
        assert (ended.status, ended.json["ended"]) == (200, 1)
        began.remove(gone)
    monkeypatch.setattr(now, "SCANNED_AT_ONCE", 4)
    newest_first = began[::-1]
    users = {login: row["user_id"] for row, login, *_ in began}
    for login in (None, *LOGINS):
        for address in (None, ADDRESSES[0], ADDRESSES[1], "198.51.100.1"):
            for device in (None, "Firefox", "LINUX firefox", "chrome", "curl"):
                question = f"limit={rng.choice([1, 2, 7, 50])}"
                question += f"&user={users[login]}" if login else ""
                question += f"&address={address}" if address else ""
                question += f"&device={device.replace(' ', '%20')}" if device else ""
                found = await listed(house, question, token)
                wanted = [
                    row["session_id"]
                    for row, who, where, agent in newest_first
                    if login in (None, who)
                    and address in (None, where)
                    and (device is None or fits(device, agent))
                ]
                crowd = [row["session_id"] for row in found if row["login"] in LOGINS]
                assert crowd == wanted, question


def fits(device: str, agent: str | None) -> bool:
    names = {FIREFOX: "firefox on linux", CHROME: "chrome on windows", "curl/8.9.1": "curl"}
    return agent is not None and all(word in names[agent] for word in device.lower().split())


async def test_what_is_told_of_a_session(house: Service) -> None:
    began = await log_in(house, "alice", "192.0.2.7", FIREFOX)
    (row,) = await listed(house, f"user={began['user_id']}", await house.token("olga"))
    assert row["session_id"] == began["session_id"]
    assert (row["login"], row["device"], row["address"], row["user_agent"]) == (
        "alice",
        "Firefox on Linux",
        "192.0.2.7",
        FIREFOX,
    )
    assert (row["amr"], row["roles"]) == (["pwd"], [])
    assert row["started_at"] == row["last_seen_at"] == row["authenticated_at"]
    assert "digest" not in str(row)


async def test_tokens_and_what_is_over_are_not_in(house: Service, connection: Connection) -> None:
    alice = await house.token("alice")
    body = {"name": "build", "lifetime_s": 86_400}
    made = await house.post("/v1/tokens", json=body, cookie=alice)
    assert made.status == 201
    olga = await house.token("olga")
    found = await listed(house, "", olga)
    assert sorted(row["login"] for row in found) == ["alice", "olga"]
    me = next(row for row in found if row["login"] == "alice")
    await connection.execute(
        "UPDATE active_sessions SET expires_at = now() - interval '1 hour' WHERE session_id = $1",
        UUID(me["session_id"]),
    )
    assert [row["login"] for row in await listed(house, "", olga)] == ["olga"]


@pytest.mark.parametrize(
    "question",
    [
        "user=x",
        "address=nowhere",
        "limit=0",
        "cursor=x",
        "address=192.0.2.7&cursor=x",
        "other=1",
        "device=%00",
    ],
)
async def test_wrong_questions(house: Service, question: str) -> None:
    await house.token("alice")
    token = await house.token("olga")
    answer = await house.get(f"/v1/active_sessions?{question}", cookie=token)
    assert (answer.status, answer.code) == (422, "invalid_input")


async def test_reading_is_recorded(house: Service, connection: Connection) -> None:
    await listed(house, "", await house.token("olga"))
    whats = [getattr(e.event(), "what", None) for e in await read_events(connection, 0)]
    assert whats.count("sessions") == 1


async def ends(connection: Connection) -> list[SessionEnded]:
    stored = [each.event() for each in await read_events(connection, 0)]
    return [event for event in stored if isinstance(event, SessionEnded)]


async def test_an_end_says_who_did_it_and_from_where(
    house: Service, connection: Connection
) -> None:
    alice = await house.log_in("alice")
    root = await house.log_in("root")
    path = f"/v1/active_sessions/{alice.json['session_id']}"
    olga = await house.token("olga")
    assert (await house.send("DELETE", path, cookie=olga)).status == 403
    headers = {"X-Forwarded-For": "192.0.2.9", "User-Agent": "desk"}
    ended = await house.send("DELETE", path, bearer=root.token, headers=headers)
    assert ended.json == {"ended": 1, "position": ended.json["position"], "status": "ended"}
    assert (await house.get("/v1/me", cookie=alice.token)).status == 401
    (event,) = await ends(connection)
    assert (str(event.actor_id), event.reason) == (root.json["user_id"], "revoked")
    shown = await house.get(
        f"/v1/audit/events?after={ended.json['position'] - 1}&order=asc", cookie=olga
    )
    assert shown.json["events"][0]["address"] == "192.0.2.9"
    assert (await house.send("DELETE", path, cookie=root.token)).status == 404
    assert (
        await house.send("DELETE", f"/v1/active_sessions/{uuid4()}", cookie=root.token)
    ).status == 404
    own = f"/v1/active_sessions/{root.json['session_id']}"
    assert (await house.send("DELETE", own, cookie=root.token)).status == 200
    assert (await ends(connection))[-1].actor_id is None, "they did it themselves"


async def test_everybody_goes_and_the_caller_last(house: Service, connection: Connection) -> None:
    tokens = [await house.token(login) for login in (*LOGINS, "olga", "alice")]
    root = await house.log_in("root")
    made = await house.post(
        "/v1/tokens", json={"name": "build", "lifetime_s": 86_400}, cookie=tokens[0]
    )
    machine = made.json["token"]
    path = "/v1/active_sessions/end_all"
    for body in ({}, {"confirm": "yes"}, {"confirm": "Everybody"}):
        assert (await house.post(path, json=body, cookie=root.token)).status == 422
    ended = await house.post(path, json={"confirm": "everybody"}, cookie=root.token)
    assert (ended.status, ended.json["ended"]) == (200, 6)
    for token in (*tokens, root.token):
        assert (await house.get("/v1/me", cookie=token)).status == 401
    assert (await house.get("/v1/me", bearer=machine)).status == 200
    found = await ends(connection)
    assert [str(event.actor_id) for event in found[:-1]] == [root.json["user_id"]] * 5
    assert str(found[-1].session_id) == root.json["session_id"]
    firsts = {event.subject_id: event for event in found[::-1]}
    assert all(event.sealed is not None for event in firsts.values()), "from where, once for each"
    root = await house.log_in("root")
    both = {"confirm": "everybody", "tokens": True}
    assert (await house.post(path, json=both, cookie=root.token)).json["ended"] == 2
    assert (await house.get("/v1/me", bearer=machine)).status == 401
