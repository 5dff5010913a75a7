"""Running a composed endpoint as a test visitor, and the walk."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from typing import Any

import pytest
from gatelog.composer.rules.composition import CurrentUser, Field, Record, Respond

from tests.composer.compositions import WALK, both, one
from tests.composer.house import USER, House
from tests.serving import PASSWORD, Answer

LOGIN = {"login": USER, "password": PASSWORD}


class Visitor:
    """Runs endpoints, with the cookie that a browser would keep."""

    def __init__(self, house: House) -> None:
        self._house = house
        self.cookie = ""

    async def run(self, endpoint: str, **more: Any) -> Answer:
        cookies = f"gatelog={self._house.token}; {self.cookie}"
        answer = await self._house.service.post(
            "/v1/compose/run", json={"endpoint": endpoint, **more}, headers={"Cookie": cookies}
        )
        if answer.status == 200:
            line = answer.headers["Set-Cookie"]
            assert "Path=/v1/compose/run; HttpOnly; SameSite=Strict" in line
            self.cookie = line.partition(";")[0]
        return answer


async def test_a_visitor_logs_in_and_out_and_the_administrator_stays(house: House) -> None:
    await house.build(WALK)
    visitor = Visitor(house)
    assert (await visitor.run("Who am I")).json["status"] == 401
    logged_in = (await visitor.run("Log in", body=LOGIN)).json
    assert (logged_in["status"], logged_in["method"], logged_in["path"]) == (
        200,
        "POST",
        "/v2/login",
    )
    assert [event["type"] for event in logged_in["events"]][-1] == "session_started"
    (cookie,) = [
        header["value"]
        for header in logged_in["headers"]
        if header["name"] == "Set-Cookie" and header["value"].startswith("gatelog=")
    ]
    assert cookie.startswith("gatelog=…; Max-Age=")
    me = (await visitor.run("Who am I")).json
    assert me["status"] == 200 and me["took_ms"] > 0 and me["events"] == []
    assert json.loads(me["body"])["user_id"] == json.loads(logged_in["body"])["user_id"]
    new = (await visitor.run("Who am I", visitor="new")).json
    assert new["status"] == 401
    await visitor.run("Log in", body=LOGIN)
    out = (await visitor.run("Logout user")).json
    assert out["status"] == 200
    (ended,) = out["events"]
    assert ended["type"] == "session_ended" and "address" not in ended
    found = await house.service.get(
        f"/v1/audit/events?after={ended['position'] - 1}&limit=1&order=asc", cookie=house.token
    )
    assert found.json["events"][0]["event_id"] == ended["event_id"]
    assert (await visitor.run("Who am I")).json["status"] == 401
    assert (await house.service.get("/v1/me", cookie=house.token)).status == 200


async def test_a_run_fills_in_the_path_and_the_body(house: House) -> None:
    await house.build(
        both(
            WALK,
            one(
                Record(type="app.noted", fields=("note", "id")),
                Respond(json='"{{path.id}} {{body.note}}"'),
                method="PUT",
                path="/v2/notes/{id}",
                fields=(Field("note"),),
            ),
        )
    )
    visitor = Visitor(house)
    await visitor.run("Log in", body=LOGIN)
    ran = (await visitor.run("One", path={"id": "a/b ?é"}, body={"note": "<b>"})).json
    assert (ran["status"], json.loads(ran["body"])) == (200, "a/b ?é <b>")
    assert ran["path"] == "/v2/notes/a%2Fb%20%3F%C3%A9"
    (event,) = ran["events"]
    assert event["name"] == "app.noted"
    for wrong in ({}, {"path": {"id": ""}}, {"path": {"other": "x"}}, {"path": {"id": "x" * 201}}):
        answer = await visitor.run("One", body={"note": "n"}, **wrong)
        assert answer.code == "invalid_input", wrong
    assert (await visitor.run("Nothing")).code == "not_found"
    assert (await visitor.run("One", path={"id": ".."}, body={"note": "n"})).json["status"] == 404


@pytest.mark.parametrize("cookie", ["x", "e30", "WzFd", urlsafe_b64encode(b'{"a": 1}').decode()])
async def test_a_visitors_cookie_that_cannot_be_read_is_none(house: House, cookie: str) -> None:
    await house.build(WALK)
    visitor = Visitor(house)
    visitor.cookie = f"gatelog-visitor={cookie}"
    assert (await visitor.run("Who am I")).json["status"] == 401


async def test_the_walk(house: House) -> None:
    await house.build(WALK)
    body = {"protected": "Who am I", "login": "Log in", "logout": "Logout user", "body": LOGIN}
    walked = (await house.ask("POST", "/walk", json=body)).json
    assert walked["right"]
    assert [(s["what"], s["expected"], s["ran"]["status"]) for s in walked["steps"]] == [
        ("before the login", 401, 401),
        ("login", 200, 200),
        ("after the login", 200, 200),
        ("logout", 200, 200),
        ("after the logout", 401, 401),
    ]
    assert (await house.service.get("/v1/me", cookie=house.token)).status == 200
    wrong = (await house.ask("POST", "/walk", json=body | {"body": LOGIN | {"password": "x"}})).json
    assert not wrong["right"] and [s["right"] for s in wrong["steps"]] == [True, False]
    missing = await house.ask("POST", "/walk", json=body | {"login": "Nothing"})
    assert missing.code == "not_found"


async def test_a_run_is_of_what_is_live(house: House) -> None:
    await house.build(WALK)
    await house.draft(one(CurrentUser(), name="Draft"))
    visitor = Visitor(house)
    assert (await visitor.run("Draft")).code == "not_found"
