"""Questions to the log over HTTP: pages, links, parameters, what is recorded of reading."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import datetime
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from uuid import uuid4

import msgspec
import pytest
from gatelog.audit.rules.shown import ShownEvent
from gatelog.audit.web.events import FILTERS, PAGING
from gatelog.config import Config
from gatelog.hosting.app import create_app
from gatelog.hosting.services import open_services
from gatelog.http.caller import prefers_receipt
from gatelog.log.rules.events import EVENT_TYPES
from gatelog.proofs.service.verify_proof import verify_proof
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.audit.auditing import add_auditor, any_query, ragged
from tests.conftest import Dsns
from tests.proofs.sealing import SIGNER, seal
from tests.serving import NEW_PASSWORD, PASSWORD, Answer, Service, serving

EVENTS = "/v1/audit/events"
OWN = "/v1/me/events"
RECEIPT = {"Prefer": "receipt"}
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"  # the example of W3C Trace Context, section 3.2
TRACEPARENT = f"00-{TRACE_ID}-00f067aa0ba902b7-01"
LINK = re.compile(r'<([^>]*)>; rel="(next|prev)"')


@pytest.fixture
async def proxied(config: Config, database: Dsns) -> AsyncIterator[Service]:
    """The service behind a proxy that it trusts, with alice, bob and an auditor."""
    await add_auditor(config, database)
    config = msgspec.structs.replace(config, trusted_proxies="127.0.0.0/8")
    async with serving(create_app(config, database.app), config) as running:
        for login in ("alice", "bob"):
            assert (await running.register(login)).status == 201
        yield running


@pytest.fixture
async def auditor(proxied: Service) -> str:
    """A token of the auditor."""
    return await proxied.token("audrey")


def links(answer: Answer) -> dict[str, str]:
    """The links of a page, which are the same in the header and in the body."""
    found = [
        (relation, target)
        for line in answer.headers.getall("Link", [])
        for target, relation in LINK.findall(line)
    ]
    body = {name: answer.json[name] for name in ("next", "prev") if name in answer.json}
    assert dict(found) == body
    assert len(found) == len(body)
    return body


async def page(service: Service, path: str, token: str) -> Answer:
    answer = await service.get(path, bearer=token)
    assert answer.status == 200, answer
    return answer


async def walk(service: Service, first: Answer, relation: str, token: str) -> list[Answer]:
    """The page, and all that follow by this link."""
    pages = [first]
    while (target := links(pages[-1]).get(relation)) is not None:
        pages.append(await page(service, target, token))
        assert len(pages) < 1000
    return pages


def shown(*pages: Answer) -> list[dict[str, Any]]:
    return [event for answer in pages for event in answer.json["events"]]


# --- pages


async def test_a_page(proxied: Service, auditor: str) -> None:
    headers = {"X-Forwarded-For": "192.0.2.7", "User-Agent": "firefox", "traceparent": TRACEPARENT}
    login = await proxied.log_in(headers=headers)
    answer = await page(proxied, f"{EVENTS}?limit=1", auditor)
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Vary"] == "Cookie, Authorization"
    (read,) = answer.json["events"]
    assert (read["type"], read["what"]) == ("audit_read", "events")
    answer = await page(proxied, f"{EVENTS}?limit=1&type=session_started", auditor)
    (event,) = answer.json["events"]
    assert event == {
        "position": login.json["position"],
        "event_id": event["event_id"],
        "type": "session_started",
        "recorded_at": event["recorded_at"],
        "occurred_at": event["occurred_at"],
        "user_id": login.json["user_id"],
        "session_id": login.json["session_id"],
        "expires_at": login.json["absolute_at"],
        "idle_s": Config().session_idle_s,
        "login": "alice",
        "address": "192.0.2.7",
        "user_agent": "firefox",
        "trace_id": TRACE_ID,
    }
    assert links(answer) == {
        "next": f"{EVENTS}?limit=1&type=session_started&cursor=before-{event['position']}"
    }


async def test_every_filter(proxied: Service, auditor: str) -> None:
    """Each alone, and all together."""
    for number in range(3):
        for login in ("alice", "bob"):
            headers = {"X-Forwarded-For": f"192.0.2.{number}"}
            answer = await proxied.log_in(login, headers=headers)
            await proxied.post("/v1/logout_user", bearer=answer.token, headers=headers)
    everything = shown(await page(proxied, f"{EVENTS}?limit=1000", auditor))
    one = next(e for e in everything if e["type"] == "session_ended" and "192" in e["address"])
    assert one["address"] == "192.0.2.2"
    questions = {
        "user": one["user_id"],
        "session": one["session_id"],
        "type": "session_ended",
        "address": "::ffff:192.0.2.2",
        "network": "192.0.0.0/16",
        "login": "ALICE",
        "from": one["recorded_at"],
        "after": str(one["position"] - 2),
        "before": str(one["position"] + 1),
    }
    for name, value in questions.items():
        found = shown(await page(proxied, f"{EVENTS}?{urlencode({name: value})}", auditor))
        assert (one in found) == (name != "login")  # a logout does not say its user's login
        asked = {name: "192.0.2.2" if name == "address" else value}
        expected = [e for e in everything if fits(e, asked)]
        assert expected
        known = {e["position"] for e in everything}
        assert [e for e in found if e["position"] in known] == expected
    del questions["network"], questions["login"]
    all_of_them = urlencode(questions)
    assert shown(await page(proxied, f"{EVENTS}?{all_of_them}", auditor)) == [one]
    none = f"{EVENTS}?{urlencode(questions | {'user': str(uuid4())})}"
    empty = await page(proxied, none, auditor)
    assert (shown(empty), links(empty)) == ([], {})
    until = f"{EVENTS}?{urlencode({'to': one['recorded_at'], 'order': 'asc'})}"
    earlier = shown(await page(proxied, until, auditor))
    assert all(moment(e["recorded_at"]) < moment(one["recorded_at"]) for e in earlier)


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_walking_while_people_log_in(proxied: Service, auditor: str, order: str) -> None:
    for _ in range(5):
        await proxied.log_in("alice")
        await proxied.log_in("bob")
    before = shown(await page(proxied, f"{EVENTS}?limit=1000&order=asc", auditor))
    answer = await page(proxied, f"{EVENTS}?limit=4&order={order}&type=session_started", auditor)
    assert "prev" not in links(answer)
    pages = [answer]
    while (target := links(pages[-1]).get("next")) is not None:
        if len(pages) < 3:
            await proxied.log_in("bob")
        pages.append(await page(proxied, target, auditor))
    found = shown(*pages)
    positions = [event["position"] for event in found]
    assert positions == sorted(set(positions), reverse=order == "desc")
    started = [event for event in before if event["type"] == "session_started"]
    assert all(event in found for event in started)

    back = await walk(proxied, pages[-1], "prev", auditor)
    everything = shown(
        await page(proxied, f"{EVENTS}?limit=1000&order={order}&type=session_started", auditor)
    )
    assert shown(*reversed(back)) == everything


def question() -> st.SearchStrategy[dict[str, str]]:
    """Filters of which many fit something in the log of ``test_any_question``."""
    return st.fixed_dictionaries(
        {"order": st.sampled_from(["asc", "desc"]), "limit": st.integers(1, 7).map(str)},
        optional={
            "user": st.sampled_from(["alice", "bob", "nobody"]),
            "type": st.sampled_from(sorted(EVENT_TYPES)),
            "login": st.sampled_from(["alice", "bob", "mallory", "nobody"]),
            "address": st.sampled_from(["192.0.2.0", "192.0.2.1", "192.0.2.9"]),
            "network": st.sampled_from(
                ["192.0.2.0/24", "192.0.0.0/16", "192.0.0.0/8", "192.0.2.1/32", "198.51.100.0/24"]
            ),
            "session": st.integers(0, 3).map(str),
            "from": st.integers(0, 30).map(str),
            "to": st.integers(0, 30).map(str),
            "after": st.integers(0, 30).map(str),
            "before": st.integers(0, 30).map(str),
        },
    )


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(asked=question())
async def test_any_question(proxied: Service, auditor: str, asked: dict[str, str]) -> None:
    """The links lead to what a plain filter finds in all that there is."""
    if len(shown(await page(proxied, f"{EVENTS}?limit=1000", auditor))) < 20:
        for number in range(6):
            headers = {"X-Forwarded-For": f"192.0.2.{number % 2}"}
            answer = await proxied.log_in("alice" if number % 3 else "bob", headers=headers)
            await proxied.post("/v1/logout_user", bearer=answer.token, headers=headers)
    everything = shown(await page(proxied, f"{EVENTS}?limit=1000&order=asc", auditor))
    users = {e["login"]: e["user_id"] for e in everything if e["type"] == "user_registered"}
    sessions = [e["session_id"] for e in everything if "session_id" in e]
    values = dict(asked)
    if "user" in values:
        values["user"] = users.get(values["user"], str(uuid4()))
    if "session" in values:
        values["session"] = sessions[int(values["session"])]
    for name in {"from", "to"} & values.keys():
        at = everything[int(values[name]) % len(everything)]
        values[name] = at["recorded_at"]
    upside_down = {"from", "to"} <= values.keys() and moment(values["from"]) > moment(values["to"])
    if upside_down or {"address", "network"} <= values.keys():
        assert (await proxied.get(f"{EVENTS}?{urlencode(values)}", bearer=auditor)).status == 422
        return
    expected = [e for e in everything if fits(e, values)]
    first = await page(proxied, f"{EVENTS}?{urlencode(values)}", auditor)
    pages = await walk(proxied, first, "next", auditor)
    found = shown(*pages)
    known = {e["position"] for e in everything}
    assert [e for e in found if e["position"] in known] == (
        expected if values["order"] == "asc" else expected[::-1]
    )
    back = shown(*reversed(await walk(proxied, pages[-1], "prev", auditor)))
    assert [e for e in back if e["position"] in known] == [
        e for e in found if e["position"] in known
    ]


def fits(event: dict[str, Any], asked: dict[str, str]) -> bool:
    fields = {"user": "user_id", "session": "session_id", "type": "type", "address": "address"}
    return (
        all(event.get(fields[name]) == asked[name] for name in fields.keys() & asked.keys())
        and ("login" not in asked or event.get("login") == asked["login"].lower())
        and ("network" not in asked or is_in(event.get("address"), asked["network"]))
        and ("from" not in asked or moment(event["recorded_at"]) >= moment(asked["from"]))
        and ("to" not in asked or moment(event["recorded_at"]) < moment(asked["to"]))
        and event["position"] > int(asked.get("after", 0))
        and event["position"] < int(asked.get("before", 10**9))
    )


def is_in(address: str | None, network: str) -> bool:
    return address is not None and ip_address(address) in ip_network(network)


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


# --- parameters


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("user=", "user"),
        ("user=alice", "user"),
        ("user={00000000-0000-4000-8000-00000000000a}", "user"),
        ("user=0000000000004000800000000000000a", "user"),
        ("session=x", "session"),
        ("type=", "type"),
        ("type=session", "type"),
        ("type=session_started&type=x", "type"),
        ("type=session_started%00", "type"),
        ("from=", "from"),
        ("from=yesterday", "from"),
        ("from=2026-01-01", "from"),
        ("from=2026-01-01T00:00:00", "from"),
        ("from=2026-01-01T00:00:00+01:00", "from"),  # a plus sign is a space here
        ("from=2026-13-01T00:00:00Z", "from"),
        ("from=2026-01-01T00:00:60Z", "from"),
        ("from=0001-01-01T00:00:00%2B14:00", "from"),
        ("to=9999-12-31T23:59:59-14:00", "to"),
        ("from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z", "from"),
        ("address=", "address"),
        ("address=192.0.2.0/24", "address"),
        ("address=example.com", "address"),
        ("address=%00", "address"),
        ("network=", "network"),
        ("network=10.0.0.0/12", "network"),  # another length
        ("network=10.1.0.0/8", "network"),  # bits beyond the prefix
        ("network=2001:db8::/33", "network"),
        ("network=example.com", "network"),
        ("network=10.0.0.0/8&address=10.0.0.1", "network"),
        ("login=", "login"),
        ("login=" + "a" * 129, "login"),
        ("login=a%20b", "login"),
        ("after=", "after"),
        ("after=-1", "after"),
        ("after=1.0", "after"),
        ("after=%2B1", "after"),
        ("after=9223372036854775808", "after"),
        ("after=" + "9" * 5000, "after"),
        ("before=x", "before"),
        ("before=%D9%A1", "before"),  # a digit, but not one of ours
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=", "limit"),
        ("order=up", "order"),
        ("order=", "order"),
        ("cursor=5", "cursor"),
        ("cursor=before-", "cursor"),
        ("cursor=before--1", "cursor"),
        ("cursor=after-9223372036854775808", "cursor"),
        ("limit=1&limit=1", "limit"),
        ("user=x&user=x", "user"),
        ("nothing=1", "nothing"),
        ("=1", ""),
        ("USER=x", "USER"),
        ("user=%FF", "user"),
        ("%FF=1", "ufffd"),
        ("%00=1", "x00"),
        ("a" * 3000 + "=1", "a" * 40 + "\\u2026"),
    ],
)
async def test_parameters_that_are_none(
    proxied: Service, auditor: str, query: str, name: str
) -> None:
    answer = await proxied.get(f"{EVENTS}?{query}", bearer=auditor)
    assert (answer.status, answer.code) == (422, "invalid_input")
    detail = answer.json["detail"]
    assert name in detail
    assert len(detail) < 800  # all types of events are named, and nothing is quoted at length


async def test_parameters_at_their_limits(proxied: Service, auditor: str) -> None:
    for query in (
        "limit=1000",
        "after=0&before=9223372036854775807",
        "cursor=before-0",
        "cursor=after-9223372036854775807",
        "cursor=before-9223372036854775807&order=asc",
        "from=0001-01-01T00:00:00Z&to=9999-12-31T23:59:59.999999999Z",
        "from=2026-01-01t00:00:00.5z",
        "from=2026-01-01T00:00:00%2B02:00",
        "type=audit_read&type=audit_read",
        "address=%32%30%30%31:db8::1",
    ):
        assert (await proxied.get(f"{EVENTS}?{query}", bearer=auditor)).status == 200, query


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(query=any_query(*FILTERS, *PAGING), raw=st.binary(max_size=6))
async def test_no_question_is_an_error_of_ours(
    proxied: Service, auditor: str, query: str, raw: bytes
) -> None:
    for path in (EVENTS, OWN):
        for asked in (query, *ragged(raw)):
            assert (await proxied.get(f"{path}?{asked}", bearer=auditor)).status in {200, 422}


# --- reading is recorded


async def recorded(service: Service, token: str) -> str:
    """What the log says was read first; the question itself is recorded before it is answered."""
    answer = await page(service, f"{EVENTS}?type=audit_read&order=asc", token)
    return str(answer.json["events"][0]["what"])


@pytest.mark.parametrize(
    ("path", "what"),
    [
        (EVENTS, "events"),
        ("/v1/log/checkpoint", "log"),
        ("/v1/log/tile/0/000", "log"),
        ("/v1/log/tile/entries/000", "log"),
        ("/v1/log/proof?position=1", "log"),
        ("/v1/log/proof?from=1", "log"),
        ("/v1/users/{user}/sessions", "user_sessions"),
    ],
)
async def test_reading_is_recorded_first(
    proxied: Service, config: Config, database: Dsns, path: str, what: str
) -> None:
    """Also when there is nothing to show, as before the first checkpoint."""
    root = await add_root(config, database)
    alice = (await proxied.log_in()).json["user_id"]
    token = await proxied.token(root)
    await proxied.get(path.format(user=alice), bearer=token)
    assert await recorded(proxied, token) == what


async def add_root(config: Config, database: Dsns) -> str:
    async with open_services(config, database.app) as services:
        await services.accounts.logins.add_user("root", PASSWORD, ("admin",))
    return "root"


async def test_what_is_refused_or_about_oneself_is_no_reading(
    proxied: Service, auditor: str
) -> None:
    await proxied.get(f"{EVENTS}?limit=0", bearer=auditor)
    await proxied.get("/v1/log/tile/x", bearer=auditor)
    await proxied.get(OWN, bearer=auditor)
    await proxied.get(EVENTS, bearer=await proxied.token("alice"))
    before = (await proxied.log_in()).json["position"]
    answer = await page(proxied, f"{EVENTS}?type=audit_read&limit=1000", auditor)
    assert {event["position"] for event in shown(answer)}.isdisjoint(range(before + 1))


async def test_without_its_keys_the_log_shows_nothing(
    proxied: Service, auditor: str, config: Config, database: Dsns
) -> None:
    other = msgspec.structs.replace(config, master_key="B" * 43)
    async with serving(create_app(other, database.app), other) as blind:
        for query in ("", "?address=192.0.2.1"):
            answer = await blind.get(f"{EVENTS}{query}", bearer=auditor)
            assert (answer.status, answer.code) == (503, "keys_unavailable")
    before = (await proxied.log_in()).json["position"]
    (read,) = shown(await page(proxied, f"{EVENTS}?type=audit_read", auditor))
    assert read["position"] > before, "it is of this very question"


# --- one's own history


async def test_own_history(proxied: Service, auditor: str, config: Config, database: Dsns) -> None:
    where = {"X-Forwarded-For": "192.0.2.7"}
    login = await proxied.log_in(headers=where)
    await proxied.log_in(password="a wrong password", headers={"X-Forwarded-For": "192.0.2.66"})
    other = await proxied.log_in()
    root = await proxied.token(await add_root(config, database))
    ended = f"/v1/users/{login.json['user_id']}/roles/auditor"
    await proxied.post(ended, bearer=root, headers={"X-Forwarded-For": "192.0.2.99"})
    assert (await proxied.get(OWN, bearer=other.token)).status == 401
    token = await proxied.token()
    answer = await page(proxied, f"{OWN}?order=asc", token)
    events = [msgspec.convert(event, ShownEvent) for event in shown(answer)]
    assert [event.type for event in events] == [
        "user_registered",
        "session_started",
        "login_failed",
        *("session_started", "device_added"),
        "role_granted",
        "session_ended",
        "session_ended",
        *("session_started", "device_added"),
    ]
    assert {str(event.user_id) for event in events} == {login.json["user_id"]}
    assert (events[1].address, events[2].address) == ("192.0.2.7", "192.0.2.66")
    granted = events[5]
    assert granted.actor_id is not None
    assert (granted.address, granted.user_agent, granted.login) == (None, None, None)
    assert "192.0.2.99" not in answer.body.decode()
    for query in ("user=" + str(granted.actor_id), "address=192.0.2.99", "session=" + str(uuid4())):
        refused = await proxied.get(f"{OWN}?{query}", bearer=token)
        assert (refused.status, refused.code) == (422, "invalid_input")
    pages = await walk(proxied, await page(proxied, f"{OWN}?limit=3", token), "next", token)
    assert shown(*pages) == shown(answer)[::-1]
    assert links(pages[0])["next"].startswith(f"{OWN}?limit=3&cursor=before-")
    only = await page(proxied, f"{OWN}?type=login_failed", token)
    assert [event["reason"] for event in shown(only)] == ["wrong_password"]


# --- receipts


@pytest.mark.parametrize(
    ("lines", "wanted"),
    [
        ([], False),
        (["receipt"], True),
        (["Receipt"], True),
        (["respond-async, receipt; x=1"], True),
        (["wait=5", " receipt "], True),
        (['receipt=""'], True),
        (["receipt=no"], False),
        (["receipts"], False),
        (['foo="a, receipt"'], False),
        (["foo; receipt"], False),
        (['"receipt"'], False),
        ([",;=,"], False),
    ],
)
def test_the_preference(lines: list[str], wanted: bool) -> None:
    assert prefers_receipt(lines) is wanted


async def proved(service: Service, answer: Answer, token: str, database: Dsns, note: Path) -> str:
    """The type of the event that the receipt leads to, when it is sealed."""
    assert answer.status == 200, answer
    assert answer.headers["Preference-Applied"] == "receipt"
    receipt = answer.json["receipt"]
    path = f"{OWN}/{answer.json['position']}/proof"
    assert receipt == {"position": answer.json["position"], "proof_at": path}
    early = await service.get(path, bearer=token)
    assert (early.status, early.code, early.headers["Retry-After"]) == (404, "not_sealed", "1")
    await seal(database.app, note)
    proof = await service.get(path, bearer=token)
    assert proof.status == 200
    assert proof.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert proof.headers["Cache-Control"] == "no-store"
    verified = verify_proof(proof.body, SIGNER.verifier)
    assert verified.position == answer.json["position"]
    assert verified.entry is not None
    return str(msgspec.json.decode(verified.entry)["type"])


async def test_receipts(proxied: Service, database: Dsns, tmp_path: Path) -> None:
    """Of what starts and ends one's own sessions: the event that was asked for."""
    note = tmp_path / "note"
    login = await proxied.log_in(headers=RECEIPT)
    token = login.token
    assert await proved(proxied, login, token, database, note) == "session_started"
    await proxied.log_in()
    others = await proxied.post("/v1/sessions/end_others", bearer=token, headers=RECEIPT)
    assert await proved(proxied, others, token, database, note) == "session_ended"
    path = f"/v1/sessions/{(await proxied.log_in()).json['session_id']}"
    one = await proxied.send("DELETE", path, bearer=token, headers=RECEIPT)
    assert await proved(proxied, one, token, database, note) == "session_ended"
    changed = await proxied.post(
        "/v1/change_password",
        json={"current_password": PASSWORD, "new_password": NEW_PASSWORD},
        bearer=token,
        headers=RECEIPT,
    )
    token = changed.token
    assert await proved(proxied, changed, token, database, note) == "credential_changed"
    out = await proxied.post("/v1/logout_user", bearer=token, headers=RECEIPT)
    token = await proxied.token(password=NEW_PASSWORD)
    assert await proved(proxied, out, token, database, note) == "session_ended"
    ended = await proxied.post("/v1/sessions/end_all", bearer=token, headers=RECEIPT)
    token = await proxied.token(password=NEW_PASSWORD)
    assert await proved(proxied, ended, token, database, note) == "session_ended"


async def test_no_receipt_for_who_wants_none_or_did_nothing(proxied: Service) -> None:
    login = await proxied.log_in()
    nothing = await proxied.post("/v1/logout_user", headers=RECEIPT)
    others = await proxied.post("/v1/sessions/end_others", bearer=login.token, headers=RECEIPT)
    out = await proxied.post("/v1/logout_user", bearer=login.token)
    twice = await proxied.post("/v1/logout_user", bearer=login.token, headers=RECEIPT)
    for answer in (login, nothing, others, out, twice):
        assert answer.status == 200
        assert "receipt" not in answer.json
        assert "Preference-Applied" not in answer.headers


async def test_the_proof_of_another_is_not_there(
    proxied: Service, auditor: str, database: Dsns, tmp_path: Path
) -> None:
    """Not even for an auditor: they have /v1/log/proof."""
    login = await proxied.log_in()
    await seal(database.app, tmp_path / "note")
    path = f"{OWN}/{login.json['position']}/proof"
    assert (await proxied.get(path, bearer=login.token)).status == 200
    assert (await proxied.get(f"{path}?x=1", bearer=login.token)).status == 422
    assert (await proxied.get(path)).status == 401
    for token in (await proxied.token("bob"), auditor):
        answer = await proxied.get(path, bearer=token)
        assert (answer.status, answer.code) == (404, "not_found")
    for position in ("0", "999", "9223372036854775807", "9999999999999999999", "x", "9" * 30):
        answer = await proxied.get(f"{OWN}/{position}/proof", bearer=login.token)
        assert (answer.status, answer.code) == (404, "not_found")
