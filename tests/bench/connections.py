"""``python -m tests.bench.connections``: 10,000 connections that stay, and clients that are slow.

``--quick`` only shows that it runs; ``--churn N`` has N logins a second, and as many logouts, in
place of 200, for a machine that does other things as well.

A real ``run.py serve`` with two workers and the embedded PostgreSQL. First so many connections are
kept, each with a session of its own; checks are answered on all of them in turn, while others log
in and out. Then, with few honest clients, more and more connections of an attacker who sends a byte
a second, half of them in heads and half in bodies, and comes again as soon as they are closed.

Every answer is checked: one that is wrong, or does not come, ends the measurement. So does a token
that is accepted after its logout was answered.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import msgspec
import psutil
import uvloop
from gatelog.config import Config
from gatelog.host.embedded import EmbeddedPostgres
from gatelog.hosting.server import raise_file_limit
from gatelog.http.credentials import LOCAL_COOKIE
from gatelog.http.identity import ME_PATH
from gatelog.log.store.database import connect
from rich.console import Console

from tests.bench.footprint import pss_mib
from tests.bench.load import Answer, Dialogue, Paced, WrongAnswer, dialogue
from tests.bench.machine import make_table, quantile
from tests.bench.population import Tokens, bearer, fill_postgres, post
from tests.stack.service import Service, serving

USERS = 50
PASSWORD = "a phrase for the benchmark"
WORKERS = "2"
AT_A_TIME = 100  # connections that are opened together
MEMORY_LOOKS = 6
ATTACKER_TICKS = 20  # a second is cut into so many, lest all bytes come at once
GROWTH = 1.3  # of the memory of the workers, while nothing but time goes by
HEAD = b"GET / HTTP/1.1\r\nHost: x\r\n"
BODY = (
    b"POST /v1/login_user HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    b"Content-Length: 16000\r\n\r\n"
)


class Plan(msgspec.Struct, frozen=True):
    """How much is measured. ``rate``: checks a second; ``churn``: logins, and as many logouts."""

    connections: int = 10_000
    seconds: float = 60.0
    rate: float = 1000.0
    churn: float = 200.0
    churning: int = 48
    honest: int = 32
    honest_rate: float = 500.0
    slow: tuple[int, ...] = (0, 1000, 4000, 8000, 16_000)
    slow_s: float = 10.0


QUICK = Plan(
    connections=1000,
    seconds=4.0,
    rate=300,
    churn=20,
    churning=8,
    honest=4,
    honest_rate=50,
    slow=(0, 400),
    slow_s=3.0,
)


class Kept(Paced):
    """A fixed rate over connections that have all shown that they work."""

    async def connect(self, connections: int) -> None:
        for first in range(0, connections, AT_A_TIME):
            made = min(AT_A_TIME, connections - first)
            await super().connect(made)
            for connection in self._connections[-made:]:
                connection.sent_ns = time.perf_counter_ns()
                connection.send(next(self.requests))
            while len(self._free) < first + made:
                await self.wait(0.002)

    async def run_on(self, rate: float, seconds: float) -> list[float]:
        """Latencies in ms, on the connections that there are."""
        kept, self._connections = self._connections, []
        self.latencies_ms.clear()
        try:
            return await self.run(0, rate, seconds)
        finally:
            self._connections = kept


class Churn:
    """Logins and logouts at a fixed rate; each token is tried once more when it has ended."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.logins_ms: list[float] = []
        self.logouts_ms: list[float] = []

    async def register(self) -> None:
        async with dialogue(self._port) as talk:
            for number in range(USERS):
                request = post("/v1/register_user", self._user(number))
                expect(await talk.ask(request), 201)

    def _user(self, number: int) -> dict[str, str]:
        return {"login": f"user{number % USERS}", "password": PASSWORD}

    async def run(self, clients: int, rate: float, seconds: float) -> None:
        due: asyncio.Queue[int | None] = asyncio.Queue()
        async with asyncio.TaskGroup() as group:
            for _ in range(clients):
                group.create_task(self._client(due))
            began, number = time.perf_counter(), 0
            while number < rate * seconds:
                while number < min(rate * seconds, (time.perf_counter() - began) * rate):
                    due.put_nowait(number)
                    number += 1
                await asyncio.sleep(0.002)
            for _ in range(clients):
                due.put_nowait(None)

    async def _client(self, due: asyncio.Queue[int | None]) -> None:
        async with dialogue(self._port) as talk, dialogue(self._port) as other:
            while (number := await due.get()) is not None:
                await self._in_and_out(talk, other, number)

    async def _in_and_out(self, talk: Dialogue, other: Dialogue, number: int) -> None:
        began = time.perf_counter()
        answer = expect(
            await talk.ask(post("/v1/login_user", {**self._user(number), "token": "bearer"})), 200
        )
        self.logins_ms.append((answer.at_s - began) * 1000)
        token = str(json.loads(answer.body)["token"])
        began = time.perf_counter()
        answer = expect(await talk.ask(bearer("POST", "/v1/logout_user", token)), 200)
        self.logouts_ms.append((answer.at_s - began) * 1000)
        expect(await other.ask(bearer("GET", ME_PATH, token)), 401)


def expect(answer: Answer, status: int) -> Answer:
    """The answer, if it has this status. Raises WrongAnswer."""
    if answer.status != status:
        raise WrongAnswer(f"{answer.status} {answer.body[:200]!r} instead of {status}")
    return answer


class Attacker:
    """So many connections, each of which sends a byte a second, for ever."""

    def __init__(self, port: int, connections: int) -> None:
        self._port = port
        self._wanted = connections
        self.open: set[Slow] = set()
        self.cut = 0

    async def run(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._fill())
                group.create_task(self._tick())
        finally:
            for slow in list(self.open):
                slow.abort()

    async def _fill(self) -> None:
        loop = asyncio.get_running_loop()
        number = 0
        while True:
            missing = min(AT_A_TIME, self._wanted - len(self.open))
            for _ in range(missing):
                number += 1
                start = HEAD if number % 2 else BODY
                with suppress(OSError):
                    await loop.create_connection(
                        partial(Slow, self, start), "127.0.0.1", self._port
                    )
            await asyncio.sleep(0.01)

    async def _tick(self) -> None:
        part = 0
        while True:
            for slow in list(self.open)[part::ATTACKER_TICKS]:
                slow.send()
            part = (part + 1) % ATTACKER_TICKS
            await asyncio.sleep(1 / ATTACKER_TICKS)

    async def settled(self, within_s: float = 60) -> None:
        """Return when nearly all are there."""
        give_up = time.monotonic() + within_s
        while (  # noqa: ASYNC110 - near enough, not a moment
            len(self.open) < 0.9 * self._wanted and time.monotonic() < give_up
        ):
            await asyncio.sleep(0.05)


class Slow(asyncio.Protocol):
    """One connection of an attacker."""

    def __init__(self, attacker: Attacker, start: bytes) -> None:
        self._attacker = attacker
        self._start = start

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._write = transport.write  # type: ignore[attr-defined]
        self._write(self._start)
        self._attacker.open.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._attacker.open.discard(self)
        self._attacker.cut += 1

    def send(self) -> None:
        self._write(b"x")

    def abort(self) -> None:
        self._transport.abort()  # type: ignore[attr-defined]


# --- the service


@contextmanager
def filled(sessions: int) -> Iterator[Service]:
    """A service with so many sessions in its replica."""
    with tempfile.TemporaryDirectory(prefix="connections-", ignore_cleanup_errors=True) as place:
        directory = Path(place) / "var"
        settings = {"GATELOG_WORKERS": WORKERS, "GATELOG_REGISTRATION": "open"}
        with serving(directory, **settings):
            dsn = EmbeddedPostgres(directory).superuser_dsn("gatelog")
            asyncio.run(_fill(dsn, sessions))
        shutil.rmtree(directory / "memory", ignore_errors=True)  # the next start loads them
        with serving(directory, **settings) as service:
            yield service


async def _fill(dsn: str, sessions: int) -> None:
    owner = await connect(dsn, role=None)
    try:
        await fill_postgres(owner, sessions)
    finally:
        await owner.close()


def memory_mib(service: Service) -> list[float]:
    """The memory of each worker (PSS)."""
    return [pss_mib(psutil.Process(worker.pid)) for worker in service.workers()]


# --- many


class Many(msgspec.Struct):
    """What was measured of connections that stay."""

    checks_ms: list[float]
    logins_ms: list[float]
    logouts_ms: list[float]
    opened_s: float
    took_s: float
    memory_mib: list[float]


async def measure_many(service: Service, plan: Plan) -> Many:
    tokens = Tokens(plan.connections).requests(ME_PATH, LOCAL_COOKIE)
    requests = (request.replace(b"gate.example", b"localhost") for request in tokens)
    churn, kept = Churn(service.port), Kept(service.port, requests)
    await churn.register()
    await churn.run(plan.churning, 2 * plan.churning, 1.0)  # connections to the database, caches
    churn.logins_ms.clear()
    churn.logouts_ms.clear()
    memory = [sum(memory_mib(service))]
    began = time.perf_counter()
    try:
        await kept.connect(plan.connections)
        opened_s = time.perf_counter() - began
        memory.append(sum(memory_mib(service)))

        async def look() -> None:
            for _ in range(MEMORY_LOOKS):
                await asyncio.sleep(plan.seconds / MEMORY_LOOKS)
                memory.append(sum(await asyncio.to_thread(memory_mib, service)))

        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            checks = group.create_task(kept.run_on(plan.rate, plan.seconds))
            group.create_task(churn.run(plan.churning, plan.churn, plan.seconds))
            group.create_task(look())
        took_s = time.perf_counter() - began
    finally:
        await kept.close()
    if memory[-1] > GROWTH * memory[2]:
        raise RuntimeError(f"the workers' memory grows: {memory} MiB")
    return Many(checks.result(), churn.logins_ms, churn.logouts_ms, opened_s, took_s, memory)


def show_many(console: Console, many: Many, plan: Plan) -> None:
    table = make_table(
        f"{plan.connections:,} kept connections, {WORKERS} workers, {many.took_s:.0f} s"
        f" (opened in {many.opened_s:.1f} s)",
        "",
        "per second",
        "p50 ms",
        "p99 ms",
        "max ms",
    )
    for title, times in (
        ("checks, on all of them in turn", many.checks_ms),
        ("logins", many.logins_ms),
        ("logouts, each token refused afterwards", many.logouts_ms),
    ):
        numbers = (quantile(times, 0.5), quantile(times, 0.99), max(times))
        table.add_row(
            title, f"{len(times) / many.took_s:,.0f}", *(f"{number:.2f}" for number in numbers)
        )
    console.print(table)
    before, opened, *later = many.memory_mib
    console.print(
        f"memory of the workers (PSS): {before:.0f} MiB before, {opened:.0f} MiB when they were"
        f" open ({(opened - before) * 1024 / plan.connections:.1f} KiB each), then"
        f" {', '.join(f'{mib:.0f}' for mib in later)} MiB"
    )


# --- slow ones


class Suffering(msgspec.Struct):
    """What honest clients felt of so many slow connections."""

    slow: int
    kept_ms: list[float]
    fresh_ms: list[float]
    cut_per_s: float


async def measure_slow(service: Service, plan: Plan, connections: int) -> Suffering:
    """Checks on kept connections, and now and then one on a connection of its own."""
    attacker = Attacker(service.port, connections)
    attack = asyncio.create_task(attacker.run())
    tokens = Tokens(plan.honest).requests(ME_PATH, LOCAL_COOKIE)
    kept = Paced(service.port, (one.replace(b"gate.example", b"localhost") for one in tokens))
    fresh_ms: list[float] = []

    async def come_and_go() -> None:
        request = bearer("GET", ME_PATH, "x" * 43)
        while True:
            began = time.perf_counter()
            async with asyncio.timeout(30), dialogue(service.port) as talk:
                expect(await talk.ask(request), 401)
            fresh_ms.append((time.perf_counter() - began) * 1000)
            await asyncio.sleep(0.02)

    try:
        await attacker.settled()
        fresh = asyncio.create_task(come_and_go())
        cut, began = attacker.cut, time.perf_counter()
        kept_ms = await kept.run(plan.honest, plan.honest_rate, plan.slow_s)
        cut_per_s = (attacker.cut - cut) / (time.perf_counter() - began)
        if fresh.done():
            fresh.result()
        fresh.cancel()
        return Suffering(len(attacker.open), kept_ms, fresh_ms, cut_per_s)
    finally:
        await kept.close()
        attack.cancel()
        await asyncio.gather(attack, return_exceptions=True)


def show_slow(console: Console, found: list[Suffering], plan: Plan) -> None:
    table = make_table(
        f"What {plan.honest_rate:.0f} honest checks a second feel of clients that send a byte a"
        " second",
        "slow connections",
        "of them closed a second",
        "p50 ms",
        "p99 ms",
        "fresh connection p50 ms",
        "p99 ms",
    )
    for one in found:
        numbers = [quantile(times, q) for times in (one.kept_ms, one.fresh_ms) for q in (0.5, 0.99)]
        table.add_row(
            f"{one.slow:,}", f"{one.cut_per_s:.0f}", *(f"{number:.2f}" for number in numbers)
        )
    console.print(table)


def measure(console: Console, plan: Plan) -> None:
    """Measure everything and print it."""
    raise_file_limit(Config(connections=1))
    with filled(plan.connections) as service:
        try:
            many = uvloop.run(measure_many(service, plan))
        except BaseException:
            console.print(service.logged)
            raise
        show_many(console, many, plan)
        found = [uvloop.run(measure_slow(service, plan, number)) for number in plan.slow]
        show_slow(console, found, plan)
        if "Traceback" in service.logged or " ERROR " in service.logged:
            raise RuntimeError(service.logged)


def main() -> None:
    console = Console()
    if not console.is_terminal:
        console.width = 130
    parser = argparse.ArgumentParser(prog="tests.bench.connections")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--churn", type=float)
    asked = parser.parse_args()
    plan = QUICK if asked.quick else Plan()
    if asked.churn is not None:
        plan = msgspec.structs.replace(plan, churn=asked.churn)
    measure(console, plan)


if __name__ == "__main__":
    main()
