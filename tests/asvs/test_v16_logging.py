"""OWASP ASVS 5.0, V16: what is logged, what is not, and what becomes of errors."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import logging
import re
from base64 import b64encode
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote, urlsplit

import asyncpg
import msgspec
import psutil
import pytest
from aiohttp import web
from gatelog import public
from gatelog.config import Config
from gatelog.host.embedded import PORT
from gatelog.hosting.app import create_app
from gatelog.http import refusals
from gatelog.kinds import EVENTS
from gatelog.proofs.service.sources import LiveLog
from gatelog.proofs.service.verify import verify_log
from gatelog.sessions.rules.tokens import token_digest

from tests.asvs.conftest import AddUser
from tests.audit.auditing import following
from tests.conftest import Dsns
from tests.faults.proxy import Proxy, proxying
from tests.proofs.sealing import SIGNER, seal, tampering
from tests.serving import NEW_PASSWORD, PASSWORD, Service, serving
from tests.stack.service import Service as Processes
from tests.stack.service import run_command
from tests.waiting import until

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "security.md").read_text()
INVENTORY = PAGE.partition("## What is logged, and where")[2].partition("\n## ")[0]
WRONG = "a wrong phrase, though"
TYPED = "hunter2hunter3hunter4"
AGENT = "Asvs/1.0 (a browser of this test's own)"
LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00 [A-Z]+ \[\d+\] [\w.]+: ")


@pytest.fixture
async def auditor(alice: Service, add_user: AddUser) -> str:
    """A token of an auditor, beside alice."""
    await add_user("audrey", "auditor")
    return await alice.token("audrey")


@pytest.fixture(autouse=True)
def room_for_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines of other tests have taken no room."""
    for module in ("gatelog.http.guard", "gatelog.hosting.server"):
        monkeypatch.setattr(f"{module}.refusals_here", refusals.Refusals())


async def walk(service: Service) -> None:
    """What people do, rightly and wrongly."""
    await service.log_in(password=WRONG)
    await service.log_in("nobody", WRONG)
    token = await service.token()
    change = {"current_password": PASSWORD, "new_password": NEW_PASSWORD}
    fresh = (await service.post("/v1/change_password", json=change, cookie=token)).token
    await service.post("/v1/logout_user", cookie=fresh)


def test_v16_1_1() -> None:
    """[Security](security.md#what-is-logged-and-where) has the inventory: what is logged, where, in
    which form, who may read it, for how long. Every type of event is in [the
    table](audit.md#events) that it names, and every line about a refusal in its own."""
    events = (DOCS / "audit.md").read_text()
    for event in EVENTS:
        assert f"| `{event.__struct_config__.tag}` |" in events
    names = {refusals.AUTHZ_FAIL, refusals.INPUT_VALIDATION_FAIL}
    names |= {refusals.MALICIOUS_CORS, refusals.EXCESS_RATE}
    assert names == {*refusals._OF_STATUSES.values(), *dict(refusals._OF_CLASSES).values()} - {None}
    for name in names:
        assert f"| `{name}` |" in INVENTORY
    for column in ("what", "where", "form", "who may read it", "for how long"):
        assert f" {column} |" in INVENTORY


async def test_v16_2_1(alice: Service, auditor: str) -> None:
    """Every event has its time twice (the host's and the database's), its place in the log, what
    happened, whom it is about, who did it, the session, and the address and agent it came from."""
    login = await alice.log_in(headers={"User-Agent": AGENT})
    await alice.post("/v1/logout_user", cookie=login.token, headers={"User-Agent": AGENT})
    path = f"/v1/audit/events?session={login.json['session_id']}&order=asc"
    events = (await alice.get(path, cookie=auditor)).json["events"]
    assert [event["type"] for event in events] == ["session_started", "session_ended"]
    for event in events:
        assert event["position"] > 0
        assert event["user_id"] == login.json["user_id"]
        assert event["session_id"] == login.json["session_id"]
        assert (event["address"], event["user_agent"]) == ("127.0.0.1", AGENT)
        for when in ("occurred_at", "recorded_at"):
            age = datetime.now(UTC) - datetime.fromisoformat(event[when])
            assert abs(age) < timedelta(minutes=5)
    assert events[0]["login"] == "alice"
    assert events[1]["reason"] == "logout"


async def test_v16_2_2(alice: Service, auditor: str, processes: Processes) -> None:
    """Times of events are UTC and end in ``Z``; the database stamps each one, and its time never
    goes back as positions go on. Lines on standard error say UTC, too. That clocks agree is the
    machine's to see to."""
    await walk(alice)
    events = (await alice.get("/v1/audit/events?order=asc", cookie=auditor)).json["events"]
    assert len(events) >= 7
    recorded = [event["recorded_at"] for event in events]
    assert recorded == sorted(recorded)
    assert all(each.endswith("Z") for each in recorded)
    assert all(event["occurred_at"].endswith("Z") for event in events)
    processes.request("GET", "/v1/me")
    await until(lambda: "gatelog.access" in processes.logged)
    lines = [line for line in processes.logged.splitlines() if not line.startswith("    ")]
    assert lines
    assert [line for line in lines if not LINE.match(line)] == []


WRITTEN = {  # what the page says is written below the data directory, and what is no log
    "postgres.log",
    "checkpoint",
    *("lock", "metrics", "replica", "memory", "secrets", "postgres", "sealing"),
}


def test_v16_2_3(processes: Processes) -> None:
    """Events go to the database, lines to standard error, the database's own to ``postgres.log``:
    nothing else is written below the data directory that could hold a log, no process has a file
    open for writing elsewhere, and none has a connection to anywhere but this machine."""
    processes.register("written")
    processes.log_in("written", WRONG)
    processes.request("GET", "/v1/audit/events", cookie=processes.log_in("written").cookie)
    found = {path.name for path in processes.data_dir.iterdir()}
    assert {name for name in found if not name.startswith(".checkpoint.")} <= WRITTEN  # on its way
    root = processes.data_dir.resolve()
    for process in processes.everything():
        for opened in process.open_files():
            if opened.mode == "r":
                continue
            place = Path(opened.path)
            # standard output and error are files of this test
            assert place.is_relative_to(root) or "(deleted)" in opened.path or _is_std(opened.fd)
        for connection in process.net_connections("inet"):
            assert not connection.raddr or connection.raddr.ip == "127.0.0.1"
            assert connection.status == psutil.CONN_LISTEN or connection.laddr.ip == "127.0.0.1"
    words = ("postgres.log", "standard error", "`events`", "checkpoint", "/metrics")
    assert all(word in INVENTORY for word in words)


def _is_std(fd: int) -> bool:
    return fd in {1, 2}


async def test_v16_2_4(alice: Service, auditor: str, processes: Processes) -> None:
    """Events come as NDJSON, CSV, CEF and OCSF with the same ids, so that they can be put together;
    lines on standard error are JSON if asked (``GATELOG_LOG_FORMAT=json``)."""
    await walk(alice)
    path = "/v1/audit/export?type=login_failed&format="
    told = (await alice.get(f"{path}ndjson", cookie=auditor)).body.decode()
    events = [json.loads(line) for line in told.splitlines()]
    rows = list(
        csv.DictReader(io.StringIO((await alice.get(f"{path}csv", cookie=auditor)).body.decode()))
    )
    assert len(events) == 2
    assert [row["event_id"] for row in rows] == [event["event_id"] for event in events]
    processes.register("eve")
    for form in ("ocsf", "cef"):
        tail = run_command(
            processes.data_dir, "log", "tail", "--no-follow", "--format", form, "--from", "1"
        )
        lines = tail.stdout.splitlines()
        assert lines, tail.stderr
        if form == "ocsf":
            assert {json.loads(line)["metadata"]["version"] for line in lines} == {"1.3.0"}
        else:
            assert all(line.startswith("CEF:0|") for line in lines)


async def test_v16_2_5(
    config: Config, database: Dsns, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    """Passwords, tokens and hashes of passwords are in no line, at any level, and in no event; of a
    token the log holds the SHA-256. Names, addresses and agents are sealed in events and in no
    line."""
    caplog.set_level(logging.DEBUG)
    async with serving(create_app(config, database.app), config) as service:
        await service.register("Ludmilla")
        await service.log_in("Ludmilla", WRONG, headers={"User-Agent": AGENT})
        await service.log_in(TYPED, PASSWORD)  # a password, in the wrong field
        token = (await service.log_in("Ludmilla", headers={"User-Agent": AGENT})).token
        await service.get(f"/v1/me?token={token}&password={PASSWORD}", cookie=token)
        await service.get(f"/v1/audit/events?user={token}", cookie=token)
        await service.post("/v1/login_user", data=f'{{"login": "{PASSWORD}"'.encode())
    entries = await connection.fetch("SELECT entry FROM events")
    assert len(entries) >= 4
    logged = "".join(bytes(row["entry"]).decode() for row in entries)
    stored = await connection.fetchval("SELECT password_hash FROM credentials")
    for secret in (PASSWORD, WRONG, TYPED, token, stored, "argon2", AGENT, "udmilla", "127.0.0.1"):
        assert secret not in logged
        assert secret not in caplog.text
    assert b64encode(token_digest(token)).decode() in logged


async def test_v16_3_1(alice: Service, auditor: str) -> None:
    """A login that succeeds is the event ``session_started`` with its methods (``amr``), one that
    fails ``login_failed`` with its reason, by an unknown name too, and a wrong current password at
    a change as well; also what ends a session. A wrong second factor has reasons of its own."""
    await walk(alice)
    token = await alice.token(password=NEW_PASSWORD)
    change = {"current_password": WRONG, "new_password": PASSWORD}
    assert (await alice.post("/v1/change_password", json=change, cookie=token)).status == 401
    query = "order=asc&type=session_started&type=login_failed&type=credential_changed"
    path = f"/v1/audit/events?{query}&type=session_ended"
    events = (await alice.get(path, cookie=auditor)).json["events"]
    told = [
        (event["type"], event.get("reason")) for event in events if event.get("login") != "audrey"
    ]
    assert told == [
        ("login_failed", "wrong_password"),
        ("login_failed", "unknown_login"),
        ("session_started", None),
        ("credential_changed", None),
        ("session_started", None),
        ("session_ended", "credential_changed"),
        ("session_ended", "logout"),
        ("session_started", None),
        ("login_failed", "wrong_password"),
    ]
    assert events[-1]["login"] == "alice"


def lines_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == refusals.__name__]


async def test_v16_3_2(alice: Service, auditor: str, caplog: pytest.LogCaptureFixture) -> None:
    """A 403 leaves the line ``authz_fail`` with the route and the ids of user and session. Who
    reads about others leaves the event ``audit_read``."""
    caplog.set_level(logging.INFO)
    login = await alice.log_in()
    user = login.json["user_id"]
    assert (await alice.get("/v1/audit/events", cookie=login.token)).status == 403
    assert (await alice.post(f"/v1/users/{user}/erase", cookie=auditor)).status == 403
    first, second = lines_of(caplog)
    who = f"user={user} session={login.json['session_id']}"
    assert first == f"authz_fail code=forbidden method=GET route=/v1/audit/events {who}"
    assert second.startswith(
        "authz_fail code=forbidden method=POST route=/v1/users/{user_id}/erase user="
    )
    await alice.get(f"/v1/audit/events?user={user}", cookie=auditor)
    reads = await alice.get("/v1/audit/events?type=audit_read", cookie=auditor)
    assert [event["what"] for event in reads.json["events"]] == ["events"]


async def test_v16_3_3(
    alice: Service,
    config: Config,
    database: Dsns,
    connection: Connection,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Input that does not fit, credentials that contradict each other, requests of other sites and
    logins when too many wait leave lines by OWASP's vocabulary; a flood of them is counted, not
    written out. Tries to log in beyond the limit are one event a minute, ``logins_throttled``."""
    caplog.set_level(logging.INFO)
    one, two = await alice.token(), await alice.token()
    await alice.post("/v1/login_user", json={"login": "alice", "password": 7})
    await alice.get("/v1/me", cookie=one, bearer=two)
    await alice.post("/v1/logout_user", cookie=one, headers={"Sec-Fetch-Site": "cross-site"})
    await alice.get("/v1/audit/events?user=1%20OR%201=1", cookie=one)
    assert [" ".join(line.split()[:2]) for line in lines_of(caplog)] == [
        "input_validation_fail code=invalid_input",
        "input_validation_fail code=not_authenticated",
        "malicious_cors code=cross_site_request",
        "authz_fail code=forbidden",
    ]
    for _ in range(3 * refusals.LINES):
        await alice.get("/v1/audit/events", cookie=one)
    await until(lambda: any("left_out=" in line for line in lines_of(caplog)))
    assert len(lines_of(caplog)) < 3 * refusals.LINES

    caplog.clear()
    own = msgspec.structs.replace(config, login_tries=2)
    async with serving(create_app(own, database.app), own) as service:
        for _ in range(8):
            tried = await service.log_in("nobody", "a wrong phrase, though")
        assert tried.code == "too_many_attempts"
        throttled = "SELECT count(*) FROM events WHERE type = 'logins_throttled'"
        assert await connection.fetchval(throttled) == 1
    assert any(
        "excess_rate_limit_exceeded code=too_many_attempts" in each for each in lines_of(caplog)
    )


@public
async def breaks(request: web.Request) -> web.Response:
    raise ValueError(f"it broke at {request.rel_url.query_string} of {PASSWORD}")


async def breaks_inside(request: web.Request) -> web.Response:
    raise RuntimeError("SELECT secret FROM vault")


@pytest.fixture
async def proxy(database: Dsns) -> AsyncIterator[Proxy]:
    """The only way from the service to its database."""
    (directory,) = parse_qs(urlsplit(database.app).query)["host"]
    async with proxying(Path(unquote(directory)) / f".s.PGSQL.{PORT}") as proxy:
        yield proxy


@pytest.fixture
async def fragile(config: Config, database: Dsns, proxy: Proxy) -> AsyncIterator[Service]:
    """A service whose database can go away, with handlers that break."""
    url = urlsplit(database.app)
    login = url.netloc.rpartition("@")[0]
    dsn = f"postgresql://{login}@127.0.0.1:{proxy.port}{url.path}?sslmode=disable"
    hosted = [web.get("/breaks", breaks), web.get("/inside", breaks_inside)]
    async with serving(create_app(config, dsn, hosted), config) as running:
        await running.register()
        yield running


async def test_v16_3_4(fragile: Service, proxy: Proxy, caplog: pytest.LogCaptureFixture) -> None:
    """What nobody expected is logged with its type and the places it passed, without its message;
    a database that does not answer, or whose certificate or password is wrong, is logged by who
    asked."""
    caplog.set_level(logging.WARNING)
    await fragile.get("/breaks?password=x")
    (broken,) = [r for r in caplog.records if r.name == "gatelog.http.problems"]
    assert broken.levelno == logging.ERROR
    assert "ValueError" in broken.getMessage()
    assert "in breaks" in broken.getMessage()
    assert PASSWORD not in broken.getMessage()
    token = await fragile.token()
    caplog.clear()
    proxy.refuse(True)
    assert (await fragile.get("/v1/me", cookie=token)).status == 503
    assert [r for r in caplog.records if r.name == "gatelog.sessions.store.lookup"]


HOSTILE = "%0d%0a2026-01-01T00:00:00.000%2B00:00%20ERROR%20[1]%20gatelog:%20forged%1b[2J%c2%85"


def test_v16_4_1(processes: Processes) -> None:
    """A line on standard error begins at the margin with its time, and whatever a client sends, no
    other does, in what a hosted application logs of it as well: in JSON a record is one line of
    ASCII, in text further lines are indented and control characters written out. The product's own
    lines hold nothing that a client wrote. In CSV what a spreadsheet would compute is marked as
    text."""
    before = len(processes.logged)
    agent = {"User-Agent": "x\tforged"}
    assert processes.request("GET", f"/api/order?of={HOSTILE}", headers=agent).status == 200
    assert processes.request("GET", f"/v1/{HOSTILE}", headers=agent).status == 404
    processes.request("POST", "/v1/login_user", {"login": "a\nforged", "password": "b\x1b[2J"})
    processes.request("GET", "/v1/last_of_these")
    processes.wait_until_logged("last_of_these")
    written = processes.logged[before:]
    assert r"    2026-01-01T00:00:00.000+00:00 ERROR [1] gatelog: forged\x1b[2J\x85" in written
    for line in written.splitlines():
        assert LINE.match(line) or line.startswith("    "), line
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", line)
    own = [line for line in written.splitlines() if "] gatelog.http." in line]
    assert own
    assert not [line for line in own if "forged" in line]


async def test_v16_4_2(
    alice: Service, auditor: str, connection: Connection, database: Dsns, tmp_path: Path
) -> None:
    """Reading the log takes a role, and is recorded. The program's role in the database can add
    events and not change or delete any, and a trigger refuses it to the owner; what a superuser
    changes is found, because the log is hashed into a signed tree."""
    token = await alice.token()
    for path in (
        "/v1/audit/events",
        "/v1/audit/export",
        "/v1/log/checkpoint",
        "/v1/audit/sessions",
    ):
        assert (await alice.get(path, cookie=token)).status == 403
        assert (await alice.get(path)).status == 401
    for statement in (
        "UPDATE events SET type = 'x'",
        "DELETE FROM events",
        "TRUNCATE events",
        "DROP TABLE events",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)
    owner = await asyncpg.connect(database.owner)
    try:
        for statement in ("UPDATE events SET type = 'x'", "DELETE FROM events", "TRUNCATE events"):
            with pytest.raises(asyncpg.PostgresError):
                await owner.execute(statement)
    finally:
        await owner.close()
    await seal(database.app, tmp_path / "checkpoint")
    assert (await verify_log(LiveLog(connection), SIGNER.verifier)).findings == []
    async with tampering(database) as superuser:
        await superuser.execute("UPDATE events SET type = 'login_failed' WHERE position = 1")
        await superuser.execute(
            "UPDATE events SET entry = convert_to(replace(convert_from(entry, 'UTF8'),"
            " 'user_registered', 'user_registerer'), 'UTF8') WHERE position = 1"
        )
        report = await verify_log(LiveLog(superuser), SIGNER.verifier)
    assert report.first is not None
    assert report.first.position == 1


async def test_v16_4_3(alice: Service, auditor: str) -> None:
    """A separate system fetches the log as it grows: a stream that resumes without a gap, exports,
    and ``log tail`` for a shipper, over TLS where the service is behind it; checkpoints that it
    keeps hold the service to what it has told."""
    async with following(alice, auditor, "?after=0") as reader:
        events = await reader.take(2)
    last = events[-1].position
    await walk(alice)
    async with following(alice, auditor, f"?after={last}") as reader:
        more = await reader.take(5)
    positions = [event.position for event in [*events, *more]]
    assert positions == sorted(set(positions))
    assert (await alice.get("/v1/audit/events/stream")).status == 401


async def test_v16_5_1(fragile: Service, proxy: Proxy) -> None:
    """What nobody expected is a 500 ``internal_error`` and nothing more than the id of its trace:
    no type, message, stack, statement or host. A failed login does not say what was wrong, and no
    error quotes the input."""
    token = await fragile.token()
    for path in ("/breaks?secret=x", "/inside"):
        broken = await fragile.get(path, cookie=token)
        assert (broken.status, broken.code) == (500, "internal_error")
        assert broken.json.keys() == {"type", "title", "status", "code", "trace_id"}
        assert not re.search(
            rb"Error|Trace|SELECT|line|\.py|secret",
            broken.body.replace(b"Internal error", b"").replace(b"internal_error", b""),
        )
    wrong = await fragile.log_in("alice <script>", WRONG)
    assert b"script" not in wrong.body
    proxy.refuse(True)
    away = await fragile.get("/v1/me", cookie=token)
    assert away.json.keys() == {"type", "title", "status", "code", "trace_id"}
    assert str(proxy.port).encode() not in away.body


async def test_v16_5_2(fragile: Service, proxy: Proxy) -> None:
    """Without the database nobody is let in and nobody is told that something is done: 503 with
    ``Retry-After``, at once or after the time that a request may wait; nothing hangs, and all works
    again when it is back."""
    token = await fragile.token()
    proxy.refuse(True)
    for answer in await asyncio.gather(
        fragile.get("/v1/me", cookie=token),
        fragile.get("/v1/auth", cookie="A" * 43),
        fragile.log_in(),
        fragile.register("bob"),
        fragile.post("/v1/logout_user", cookie=token),
        fragile.get("/health/ready"),
    ):
        assert answer.status == 503
        assert int(answer.headers["Retry-After"]) > 0
    assert (await fragile.get("/health/alive")).status == 200
    assert (await fragile.get("/v1/me")).status == 401
    proxy.refuse(False)

    async def is_back() -> bool:
        return (await fragile.get("/v1/me", cookie=token)).status == 200

    await until(is_back, within_s=60)
    assert (await fragile.register("bob")).status == 201


async def test_v16_5_3(
    fragile: Service, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the check itself, the verification of a password or the recording of a login breaks,
    the answer is 500 or 503: no handler runs, no token is given, and nothing is in the log."""
    token = await fragile.token()

    def broken(*_: object, **__: object) -> bool:
        raise RuntimeError("a defect")

    with monkeypatch.context() as patch:
        patch.setattr("gatelog.http.guard.token_digest", broken)
        assert (await fragile.get("/v1/me", cookie=token)).status == 500
        assert (await fragile.post("/v1/sessions/end_all", cookie=token)).status == 500
    assert (await fragile.get("/v1/me", cookie=token)).status == 200
    started = "SELECT count(*) FROM events WHERE type = 'session_started'"
    before = await connection.fetchval(started)
    for place in (
        "gatelog.accounts.service.passwords.PasswordPool.verify",
        "gatelog.accounts.service.logins.token_digest",
        "gatelog.accounts.rules.login.StartSession.decide_permitted",
    ):
        with monkeypatch.context() as patch:
            patch.setattr(place, broken)
            answer = await fragile.log_in()
        assert answer.status in {500, 503}, place
        assert "Set-Cookie" not in answer.headers
    assert await connection.fetchval(started) == before
    assert (await fragile.log_in()).status == 200


async def test_v16_5_4(fragile: Service, caplog: pytest.LogCaptureFixture) -> None:
    """Around every handler, the product's and the application's, stands one that catches all: it
    answers 500, logs, and the process and its other requests go on."""
    async with asyncio.TaskGroup() as group:
        bad = [group.create_task(fragile.get("/breaks")) for _ in range(20)]
        good = [group.create_task(fragile.get("/health/alive")) for _ in range(20)]
    assert {task.result().status for task in bad} == {500}
    assert {task.result().status for task in good} == {200}
    logged = [r for r in caplog.records if r.name == "gatelog.http.problems"]
    assert len(logged) == 20
