"""Brute-force limits over HTTP, on a real database: who is let in, who is not, what is recorded."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from gatelog.accounts.service import throttling
from gatelog.accounts.service.passwords import PasswordPool
from gatelog.accounts.web import ACCOUNTS
from gatelog.clock import utc_now
from gatelog.config import Config
from gatelog.hosting.app import create_app

from tests.conftest import Clock, Dsns
from tests.serving import NEW_PASSWORD, PASSWORD, Answer, Service, serving

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection

LIMITED = {"login_tries": 5, "registration_tries": 20, "trusted_proxies": "127.0.0.0/8"}
EVENTS = "SELECT type, count(*) FROM events GROUP BY type"
WRONG = "not the right phrase"

Serve = Callable[..., Awaitable[Service]]


@pytest.fixture
async def serve(config: Config, database: Dsns, clock: Clock) -> AsyncIterator[Serve]:
    """Serves with the limits that are the default, and a clock that moves when told to."""
    async with AsyncExitStack() as stack:

        async def start(**settings: Any) -> Service:
            limited = msgspec.structs.replace(config, **(LIMITED | settings))
            app = create_app(limited, database.app)
            service = await stack.enter_async_context(serving(app, limited))
            move(service, clock)
            return service

        yield start


def move(service: Service, clock: Clock) -> None:
    """Let the accounts of this service, and what it remembers of refusals, go by this clock."""
    accounts = service.runner.app[ACCOUNTS]
    accounts.logins._acting.now = clock
    accounts.throttle._clock = lambda: clock().timestamp()


@pytest.fixture
def clock() -> Clock:
    """Now: sessions are checked by the real clock."""
    clock = Clock()
    clock.now = utc_now()
    return clock


async def register(service: Service, login: str = "alice") -> None:
    body = {"login": login, "password": PASSWORD}
    headers = {"X-Forwarded-For": "203.0.113.99"}
    assert (await service.post("/v1/register_user", json=body, headers=headers)).status == 201


async def log_in(
    service: Service,
    login: str = "alice",
    password: str = WRONG,
    *,
    address: str = "192.0.2.1",
    device: str = "",
    **body: str,
) -> Answer:
    headers = {"X-Forwarded-For": address, "Host": "gate.example"}
    if device:
        headers["Cookie"] = device
    sent = {"login": login, "password": password} | body
    return await service.post("/v1/login_user", json=sent, headers=headers)


async def counted(connection: Connection) -> Counter[str]:
    return Counter({row[0]: row[1] for row in await connection.fetch(EVENTS)})


async def test_wrong_passwords_are_slowed_down(serve: Serve, clock: Clock) -> None:
    service = await serve()
    await register(service)
    for wait_s in (1, 2, 4, 8):
        while (answer := await log_in(service)).status == 401:
            pass
        assert (answer.status, answer.code) == (429, "too_many_attempts")
        assert answer.headers["Retry-After"] == str(wait_s)
        assert (await log_in(service, password=PASSWORD)).status == 429
        clock.advance(wait_s)
    assert (await log_in(service, password=PASSWORD)).status == 200
    # a right password forgives what was tried from there
    assert [(await log_in(service)).status for _ in range(6)] == [401] * 5 + [429]


async def test_a_name_that_nobody_has_is_treated_alike(serve: Serve, clock: Clock) -> None:
    service = await serve()
    await register(service)
    for _ in range(8):
        known, unknown = await log_in(service), await log_in(service, "nobody")
        assert (known.status, known.body) == (unknown.status, unknown.body)
        assert known.headers.keys() == unknown.headers.keys()
        assert known.headers.get("Retry-After") == unknown.headers.get("Retry-After")
    assert known.status == 429
    clock.advance(1)
    assert [(await log_in(service, name)).status for name in ("alice", "nobody")] == [401, 401]


async def test_no_password_is_hashed_while_throttled(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed = 0
    verify = PasswordPool.verify

    async def counting(
        pool: PasswordPool, password_hash: str | None, password: str, **how: Any
    ) -> bool:
        nonlocal hashed
        hashed += 1
        return await verify(pool, password_hash, password, **how)

    monkeypatch.setattr(PasswordPool, "verify", counting)
    service = await serve()
    await register(service)
    answers = await asyncio.gather(*(log_in(service) for _ in range(100)))
    assert Counter(answer.status for answer in answers) == {401: 5, 429: 95}
    assert hashed == 5


@pytest.mark.parametrize("hosts", [1, 3])
async def test_parallel_guessing_gets_no_more_tries(
    serve: Serve, connection: Connection, hosts: int
) -> None:
    services = [await serve() for _ in range(hosts)]
    await register(services[0])
    answers = await asyncio.gather(*(log_in(services[n % hosts]) for n in range(60)))
    assert Counter(answer.status for answer in answers) == {401: 5, 429: 55}
    assert (await counted(connection))["login_failed"] == 5


async def test_one_account_from_many_addresses(serve: Serve) -> None:
    service = await serve()
    await register(service)
    statuses = [(await log_in(service, address=f"198.51.100.{n}")).status for n in range(25)]
    assert statuses == [401] * 20 + [429] * 5


@pytest.mark.parametrize(
    "address", ["2001:db8:1:2::{:x}", "::ffff:192.0.2.7", "192.0.2.7", "2001:db8:1:2:{:x}::"]
)
async def test_many_accounts_from_one_prefix(serve: Serve, address: str) -> None:
    service = await serve()
    answers = [await log_in(service, f"user{n}", address=address.format(n + 1)) for n in range(103)]
    assert [answer.status for answer in answers] == [401] * 100 + [429] * 3
    assert (await log_in(service, address="2001:db8:1:3::1")).status == 401


async def test_ones_own_password_forgives_nothing_at_other_accounts(serve: Serve) -> None:
    """Whoever has an account cannot buy tries with it, from where it is."""
    service = await serve()
    await register(service, "mallory")
    for n in range(100):
        assert (await log_in(service, f"user{n}")).status == 401
        if n % 25 == 0:
            assert (await log_in(service, "mallory", PASSWORD)).status == 200
    assert (await log_in(service, "another")).status == 429


async def test_the_owner_gets_in_on_a_known_device(serve: Serve, clock: Clock) -> None:
    service = await serve()
    await register(service)
    first = await log_in(service, password=PASSWORD)
    device = first.device
    assert device.startswith("__Host-gatelog-device=")
    for n in range(30):
        await log_in(service, address=f"198.51.100.{n}")
    assert (await log_in(service, password=PASSWORD)).status == 429
    # from another place, and from the very place of the attack
    for address in ("203.0.113.7", "198.51.100.1"):
        answer = await log_in(service, password=PASSWORD, device=device, address=address)
        assert answer.status == 200
        assert answer.device == device  # the same one
    # its own budget, and no more
    statuses = [(await log_in(service, device=device)).status for _ in range(6)]
    assert statuses == [401] * 5 + [429]


async def test_a_device_is_known_to_its_account_only(serve: Serve) -> None:
    service = await serve()
    await register(service)
    await register(service, "mallory")
    own = (await log_in(service, "mallory", PASSWORD)).device
    for n in range(30):
        await log_in(service, address=f"198.51.100.{n}")
    for device in (own, "__Host-gatelog-device=" + "x" * 43, "gatelog-device=" + "x" * 43):
        assert (await log_in(service, password=PASSWORD, device=device)).status == 429


async def test_a_token_that_somebody_else_chose_makes_no_device(serve: Serve) -> None:
    service = await serve()
    await register(service)
    planted = "x" * 43
    answer = await log_in(service, password=PASSWORD, device=f"__Host-gatelog-device={planted}")
    fresh, *others = answer.device.partition("=")[2].split(".")
    assert fresh != planted
    assert others == [planted]  # of another account, for all that anybody knows
    for n in range(30):
        await log_in(service, address=f"198.51.100.{n}")
    for token, status in ((planted, 429), (fresh, 200)):
        device = f"__Host-gatelog-device={token}"
        assert (await log_in(service, password=PASSWORD, device=device)).status == status


async def test_people_who_share_a_browser_are_both_known(serve: Serve) -> None:
    service = await serve()
    device = ""
    for login in ("ada", "bob", "cyd", "dan"):
        await register(service, login)
        device = (await log_in(service, login, PASSWORD, device=device)).device
    for login in ("ada", "bob", "cyd", "dan"):
        for n in range(22):
            await log_in(service, login, address=f"198.51.100.{n}")
        assert (await log_in(service, login, PASSWORD)).status == 429
        answer = await log_in(service, login, PASSWORD, device=device)
        assert answer.status == 200
        device = answer.device
    assert len(device.split(".")) == 4


async def test_the_device_cookie(serve: Serve) -> None:
    service = await serve()
    await register(service)
    answer = await log_in(service, password=PASSWORD)
    (line,) = [line for line in answer.headers.getall("Set-Cookie") if "device" in line]
    _, *attributes = line.split("; ")
    assert attributes == ["Max-Age=34560000", "Path=/", "Secure", "HttpOnly", "SameSite=Lax"]
    local = await service.log_in()
    assert local.device.startswith("gatelog-device=")
    assert (await service.log_in(password=WRONG)).headers.getall("Set-Cookie", []) == []
    bearer = await log_in(service, password=PASSWORD, token="bearer")
    assert "Set-Cookie" not in bearer.headers


async def test_a_changed_password_leaves_one_device(serve: Serve) -> None:
    service = await serve()
    await register(service)
    stolen = (await log_in(service, password=PASSWORD)).device
    here = await log_in(service, password=PASSWORD)
    body = {"current_password": PASSWORD, "new_password": NEW_PASSWORD}
    headers = {
        "Cookie": f"__Host-gatelog={here.token}; {here.device}",
        "Host": "gate.example",
        "X-Forwarded-For": "192.0.2.1",
    }
    changed = await service.post("/v1/change_password", json=body, headers=headers)
    assert changed.status == 200
    assert changed.device == here.device
    for n in range(30):
        await log_in(service, address=f"198.51.100.{n}")
    assert (await log_in(service, password=NEW_PASSWORD, device=stolen)).status == 429
    assert (await log_in(service, password=NEW_PASSWORD, device=here.device)).status == 200


async def test_an_account_has_at_most_ten_devices(serve: Serve, clock: Clock) -> None:
    service = await serve()
    await register(service)
    devices = []
    for _ in range(12):
        devices.append((await log_in(service, password=PASSWORD)).device)
        clock.advance(1)
    for n in range(30):
        await log_in(service, address=f"198.51.100.{n}")
    statuses = [(await log_in(service, password=PASSWORD, device=d)).status for d in devices]
    assert statuses == [429] * 2 + [200] * 10


async def test_guessing_from_within_a_session_is_throttled(serve: Serve, clock: Clock) -> None:
    """Whoever stole a session does not get the password by it; nor do strangers take it away."""
    service = await serve()
    await register(service)
    token = (await log_in(service, password=PASSWORD, token="bearer")).json["token"]
    for n in range(30):
        await log_in(service, address=f"198.51.100.{n}")

    async def change(current: str, new: str = NEW_PASSWORD) -> Answer:
        body = {"current_password": current, "new_password": new}
        return await service.post("/v1/change_password", json=body, bearer=token)

    assert [(await change(WRONG)).status for _ in range(6)] == [401] * 5 + [429]
    clock.advance(1)
    assert (await change(PASSWORD)).status == 200


# --- failures in a row


async def fail(service: Service, clock: Clock, times: int, **more: str) -> None:
    """So many wrong passwords, as quickly as they are let through."""
    for n in range(times):
        while True:
            address = more.get("address", f"198.51.100.{n}")
            answer = await log_in(service, address=address, device=more.get("device", ""))
            if answer.status == 401:
                break
            assert answer.status == 429
            clock.advance(int(answer.headers["Retry-After"]))


async def test_a_password_is_locked_after_too_many_failures(
    serve: Serve, clock: Clock, connection: Connection
) -> None:
    service = await serve(password_failures=20)
    await register(service)
    device = (await log_in(service, password=PASSWORD)).device
    await fail(service, clock, 10)
    assert (await counted(connection))["password_locked"] == 1
    clock.advance(86_400)
    # for strangers it is one that fits nothing, and is answered and recorded like that
    locked, unknown = await log_in(service, password=PASSWORD), await log_in(service, "nobody")
    assert (locked.status, locked.body) == (unknown.status, unknown.body) == (401, unknown.body)
    # a known device gets in, and ends the row
    assert (await log_in(service, password=PASSWORD, device=device)).status == 200
    assert (await log_in(service, password=PASSWORD, address="203.0.113.7")).status == 200


async def test_a_locked_password_is_locked_for_all_in_the_end(
    serve: Serve, clock: Clock, connection: Connection
) -> None:
    service = await serve(password_failures=20)
    await register(service)
    device = (await log_in(service, password=PASSWORD)).device
    await register(service, "root")
    await fail(service, clock, 10)
    await fail(service, clock, 10, device=device)
    assert (await counted(connection))["password_locked"] == 2
    clock.advance(86_400)
    assert (await log_in(service, password=PASSWORD, device=device)).status == 401
    accounts = service.runner.app[ACCOUNTS]
    user = (await accounts.users.find_user("alice")).subject_id
    await accounts.users.unlock(user)
    assert (await log_in(service, password=PASSWORD, device=device)).status == 200
    assert (await log_in(service, password=PASSWORD)).status == 200
    assert (await counted(connection))["password_unlocked"] == 1
    await accounts.users.unlock(user)  # nothing to forgive
    assert (await counted(connection))["password_unlocked"] == 1


async def test_an_admin_unlocks_a_password(serve: Serve, clock: Clock) -> None:
    service = await serve(password_failures=20)
    await register(service)
    accounts = service.runner.app[ACCOUNTS]
    await accounts.logins.add_user("root", PASSWORD, ("admin",))
    await fail(service, clock, 10)
    user = (await accounts.users.find_user("alice")).subject_id
    admin = (await log_in(service, "root", PASSWORD, token="bearer")).json["token"]
    unlocked = await service.post(f"/v1/users/{user}/unlock", bearer=admin)
    assert (unlocked.status, unlocked.json["status"]) == (200, "unlocked")
    assert (await log_in(service, password=PASSWORD)).status == 200
    nobody = await service.post(f"/v1/users/{'0' * 8}-{'0000-' * 3}{'0' * 12}/unlock", bearer=admin)
    assert nobody.status == 404


async def test_a_hundred_in_a_row_and_not_one_more(
    serve: Serve, clock: Clock, connection: Connection
) -> None:
    """Many at once, with a budget that lets them: what is under way counts."""
    service = await serve(login_tries=10_000, password_failures=100, hashing_queue=1000)
    await register(service)
    answers: list[Answer] = []
    for _ in range(6):
        answers += await asyncio.gather(*(log_in(service) for _ in range(40)))
    reasons = "SELECT convert_from(entry, 'UTF8') FROM events WHERE type = 'password_locked'"
    assert len(await connection.fetch(reasons)) == 1
    assert await connection.fetchval("SELECT failures FROM password_streaks") == 90


# --- what is recorded, and left


async def test_refused_tries_are_one_event_a_minute(
    serve: Serve, clock: Clock, connection: Connection
) -> None:
    hosts = [await serve(), await serve()]
    await register(hosts[0])
    throttles = [host.runner.app[ACCOUNTS].throttle for host in hosts]
    refused = 0
    for _ in range(4):
        answers = await asyncio.gather(*(log_in(hosts[n % 2]) for n in range(50)))
        refused += sum(answer.status == 429 for answer in answers)
        for throttle in throttles:
            await asyncio.gather(*throttle._telling)
            await throttle.tell()
        clock.advance(15)
    assert (await counted(connection))["logins_throttled"] == 1
    for _ in range(3):
        clock.advance(60)
        for throttle in throttles:
            await throttle.tell()
    events = await connection.fetch(
        "SELECT convert_from(entry, 'UTF8') FROM events WHERE type = 'logins_throttled'"
    )
    counts = [msgspec.json.decode(row[0])["count"] for row in events]
    assert sum(counts) == refused
    assert len(counts) <= 4


async def test_the_log_grows_by_no_more_than_is_promised(
    serve: Serve, clock: Clock, connection: Connection
) -> None:
    """Everything that a stranger can do, from one address, for an hour."""
    service = await serve()
    await register(service)
    throttle = service.runner.app[ACCOUNTS].throttle
    headers = {"X-Forwarded-For": "192.0.2.1", "Host": "gate.example"}
    before = (await counted(connection)).total()
    for minute in range(60):
        for n in range(12):
            await log_in(service, f"user{minute}.{n}")
            await log_in(service)
            body = {"login": f"new{minute}.{n}", "password": PASSWORD}
            await service.post("/v1/register_user", json=body, headers=headers)
        bad = {"Cookie": "__Host-gatelog=" + "x" * 43} | headers
        assert (await service.get("/v1/me", headers=bad)).status == 401
        assert (await service.post("/v1/logout_user", headers=bad)).status == 200
        assert (await service.post("/v1/change_password", json={}, headers=bad)).status == 401
        clock.advance(60)
        await asyncio.gather(*throttle._telling)
        await throttle.tell()
    events = await counted(connection)
    assert events["login_failed"] <= 112
    assert events["user_registered"] <= 1 + 32
    assert events["logins_throttled"] <= 2 * 61  # logins, and registrations
    assert events.total() - before <= 112 + 32 + 122


async def test_what_was_counted_is_forgotten(
    serve: Serve, clock: Clock, connection: Connection
) -> None:
    service = await serve()
    await register(service)
    for _ in range(7):
        await log_in(service)
        await log_in(service, "nobody")
    accounts = service.runner.app[ACCOUNTS]
    await asyncio.gather(*accounts.throttle._telling)
    tables = ("login_tries", "throttled_places")
    assert all([await connection.fetchval(f"SELECT count(*) FROM {name}") for name in tables])
    for _ in range(2):  # the first time something is told
        clock.now += timedelta(days=1, seconds=1)
        await accounts.logins.forget_overdue()
    for name in tables:
        assert await connection.fetchval(f"SELECT count(*) FROM {name}") == 0


async def test_an_erased_user_leaves_nothing(serve: Serve, connection: Connection) -> None:
    service = await serve()
    await register(service)
    await log_in(service, password=PASSWORD)
    await log_in(service)
    accounts = service.runner.app[ACCOUNTS]
    await accounts.users.erase((await accounts.users.find_user("alice")).subject_id)
    for name in ("known_devices", "password_streaks"):
        assert await connection.fetchval(f"SELECT count(*) FROM {name}") == 0
    named = "SELECT count(*) FROM login_tries WHERE subject_id IS NOT NULL"
    assert await connection.fetchval(named) == 0


async def test_a_flood_leaves_room_for_others(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """400 wrong logins at once from one place: another place, and a known device, get in."""
    service = await serve(hashing_queue=64, argon2_memory_kib=4096, login_tries=10_000)
    await register(service)
    device = (await log_in(service, password=PASSWORD)).device
    flood = [asyncio.create_task(log_in(service, f"user{n}")) for n in range(400)]
    await asyncio.wait(flood, return_when=asyncio.FIRST_COMPLETED)
    owner, guest = await asyncio.gather(
        log_in(service, password=PASSWORD, device=device),
        log_in(service, password=PASSWORD, address="203.0.113.7"),
    )
    assert not all(task.done() for task in flood)
    assert (owner.status, guest.status) == (200, 200)
    statuses = Counter(answer.status for answer in await asyncio.gather(*flood))
    assert statuses.keys() == {401, 503}


async def test_what_is_counted_for_operators(serve: Serve) -> None:
    service = await serve()
    await register(service)
    before = await metrics(service)
    device = (await log_in(service, password=PASSWORD)).device
    for _ in range(7):
        await log_in(service)
    for _ in range(2):
        await log_in(service, password=PASSWORD, device=device)
    counted = {name: value - before[name] for name, value in (await metrics(service)).items()}
    tries = 'gatelog_login_tries_total{outcome="%s",who="%s"}'
    assert counted[tries % ("admitted", "stranger")] == 6
    assert counted[tries % ("throttled", "stranger")] == 2
    assert counted[tries % ("admitted", "known")] == 2
    assert counted['gatelog_login_queue_seconds_count{known="true"}'] == 2
    assert counted['gatelog_login_queue_seconds_count{known="false"}'] == 8


async def metrics(service: Service) -> Counter[str]:
    """The metrics by name and labels, those of the whole process."""
    lines = (await service.get("/metrics")).body.decode().splitlines()
    return Counter({n: float(v) for n, _, v in (x.rpartition(" ") for x in lines if x[0] != "#")})


async def test_refusals_are_remembered_for_a_moment_only(
    serve: Serve, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = await serve()
    await register(service)
    for _ in range(3):  # until the wait is longer than the memory
        while (answer := await log_in(service)).status == 401:
            pass
        clock.advance(int(answer.headers["Retry-After"]))
    await log_in(service)
    refused = await log_in(service)
    assert refused.headers["Retry-After"] == "8"
    accounts = service.runner.app[ACCOUNTS]
    await accounts.users.unlock((await accounts.users.find_user("alice")).subject_id)
    assert (await log_in(service, password=PASSWORD)).status == 429
    clock.advance(throttling.REMEMBERED_S)
    assert (await log_in(service, password=PASSWORD)).status == 200
