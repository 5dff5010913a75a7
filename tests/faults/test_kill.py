"""kill -9 under load: nothing acknowledged is lost or doubled, and the service comes back.

Clients log in and out without pause and note what was acknowledged, while PostgreSQL and all
workers are killed in turn. Afterwards the log must hold each acknowledged event exactly once, at
the position that was told, without a gap, and the projection must be what the log says.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp
import msgspec
import psutil
import pytest
from gatelog.host.embedded import EmbeddedPostgres
from gatelog.log.store.database import connect
from gatelog.log.store.reading import StoredEvent, read_events
from gatelog.sessions.rules.events import SessionEnded, SessionStarted

from tests.scratch import in_temporary_directory
from tests.stack.service import PASSWORD, Service, run_command, serving

KILLS = 10  # of PostgreSQL, and as many of all workers
CLIENTS = 8
LOGINS_BETWEEN_KILLS = 20
PROBE = "probe"  # a client of its own, which sees when the service is back
BACK_WITHIN_S = 5.0  # mostly: a busy machine may hold up any of them
WITHIN_S = 60.0
REQUEST_TIMEOUT_S = 10.0
CLIENT_PAUSE_S = 0.05  # after a refusal


class Acknowledged(msgspec.Struct):
    """What clients were told: positions by session id, and answers that contradict it."""

    started: dict[str, int] = {}
    ended: dict[str, int] = {}
    contradictions: list[str] = []
    answers: Counter[int] = msgspec.field(default_factory=Counter)


async def client(base: str, login: str, told: Acknowledged) -> None:
    """Log in, look, log out, again and again; a lost answer says nothing."""
    while True:
        try:
            await cycle(base, login, told)
        except (aiohttp.ClientError, TimeoutError, ConnectionError):
            await asyncio.sleep(CLIENT_PAUSE_S)


async def cycle(base: str, login: str, told: Acknowledged) -> None:
    credentials = {"login": login, "password": PASSWORD, "token": "bearer"}
    async with aiohttp.ClientSession(
        base, timeout=aiohttp.ClientTimeout(REQUEST_TIMEOUT_S)
    ) as http:
        status, granted = await ask(http, told, "POST", "/v1/login_user", json=credentials)
        if status != 200:
            await asyncio.sleep(CLIENT_PAUSE_S)
            return
        session_id = granted["session_id"]
        told.started[session_id] = granted["position"]
        headers = {"Authorization": f"Bearer {granted['token']}"}
        status, _ = await ask(http, told, "GET", "/v1/me", headers=headers)
        if status not in {200, 503}:
            told.contradictions.append(f"{status} after the login of {session_id}")
        status, ending = await ask(http, told, "POST", "/v1/logout_user", headers=headers)
        if status != 200:
            return
        told.ended[session_id] = ending["position"]
        status, _ = await ask(http, told, "GET", "/v1/me", headers=headers)
        if status not in {401, 503}:
            told.contradictions.append(f"{status} after the logout of {session_id}")


async def ask(
    http: aiohttp.ClientSession, told: Acknowledged, method: str, path: str, **request: Any
) -> tuple[int, Any]:
    async with http.request(method, path, **request) as answer:
        content = await answer.json(content_type=None)
    told.answers[answer.status] += 1
    return answer.status, content


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait until the condition holds."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < WITHIN_S, f"{what}: not within {WITHIN_S} s"
        await asyncio.sleep(0.01)


async def some(find: Callable[[], list[psutil.Process]], what: str) -> list[psutil.Process]:
    """What is found, as soon as there is any."""
    found: list[psutil.Process] = []

    def look() -> bool:
        found[:] = find()
        return bool(found)

    await until(look, f"{what} runs")
    return found


async def kill_and_return(service: Service, base: str, told: Acknowledged, what: str) -> float:
    """Kill what serves; returns the seconds until a login sent afterwards is acknowledged."""
    find = service.postgres if what == "PostgreSQL" else service.workers
    processes = await some(find, what)
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    start = time.monotonic()
    await until(lambda: not any(map(alive, processes)), f"the death of {what}")
    probe, answered = asyncio.create_task(client(base, PROBE, seen := Acknowledged())), seen.started
    try:
        await until(lambda: bool(answered), f"back after {what}")
        took = time.monotonic() - start
    finally:
        probe.cancel()
        await asyncio.gather(probe, return_exceptions=True)
    enough = len(told.started) + LOGINS_BETWEEN_KILLS
    await until(lambda: len(told.started) >= enough, "load")
    return took


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def read_all(dsn: str) -> list[StoredEvent]:
    connection = await connect(dsn)
    try:
        found: list[StoredEvent] = []
        while page := await read_events(connection, len(found), 10_000):
            found += page
        return found
    finally:
        await connection.close()


@pytest.mark.timeout(600)
async def test_nothing_acknowledged_is_lost_or_doubled() -> None:
    with (
        in_temporary_directory() as directory,
        serving(
            Path(directory) / "var", GATELOG_WORKERS="2", GATELOG_REGISTRATION="open"
        ) as service,
    ):
        told = Acknowledged()
        logins = [f"user-{number}" for number in range(CLIENTS)]
        assert {service.register(login) for login in [*logins, PROBE]} == {201}
        base = f"http://127.0.0.1:{service.port}"
        load = [asyncio.create_task(client(base, login, told)) for login in logins]
        await until(lambda: len(told.started) >= LOGINS_BETWEEN_KILLS, "load")
        took: dict[str, list[float]] = {"PostgreSQL": [], "the workers": []}
        for _ in range(KILLS):
            for what, times in took.items():
                times.append(await kill_and_return(service, base, told, what))
        for task in load:
            task.cancel()
        await asyncio.gather(*load, return_exceptions=True)

        assert told.contradictions == []
        assert 500 not in told.answers
        for what, times in took.items():
            assert median(times) <= BACK_WITHIN_S, f"{what}: {times}"
        verify(told, await read_all(EmbeddedPostgres(service.data_dir).app_dsn()))
        checked = await asyncio.to_thread(run_command, service.data_dir, "check", "--json")
        assert checked.returncode == 0, checked.stdout


def verify(told: Acknowledged, log: list[StoredEvent]) -> None:
    """Each acknowledged event is in the log exactly once, where its answer said."""
    assert [event.position for event in log] == list(range(1, len(log) + 1))
    events = [(stored.position, stored.event()) for stored in log]
    ids = Counter(event.event_id for _, event in events)
    assert max(ids.values()) == 1
    for kind, acknowledged in ((SessionStarted, told.started), (SessionEnded, told.ended)):
        found: dict[str, list[int]] = {}
        for position, event in events:
            if isinstance(event, kind):
                found.setdefault(str(event.session_id), []).append(position)
        for session_id, position in acknowledged.items():
            assert found.get(session_id) == [position], f"{kind.__name__} of {session_id}"
