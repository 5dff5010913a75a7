"""Guessing at the deployed settings: what gets through, who still gets in, what time tells.

``python -m tests.bench.guessing [--quick]``. Three hosts, a worker each, on one machine:

- fifty clients on all hosts at one account, against one client that does what it is told;
- a thousand tries of a name that nobody has against a wrong password, in turns; and a thousand
  registrations of a taken name against a free one, where registration is over;
- a thousand strangers, each from an address of its own, while a known device logs in and a
  session is used.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

import aiohttp
import msgspec
import uvloop
from gatelog.kinds import register_all
from rich.console import Console

from tests.bench.machine import make_table, quantile
from tests.faults.cluster import running_cluster
from tests.faults.guessing import (
    PASSWORD,
    SETTINGS,
    WRONG,
    Guessing,
    Tried,
    ks_distance,
    ks_p_value,
    let_through,
    most_within,
)
from tests.scratch import in_temporary_directory

HOME = "203.0.113.1"


class Plan(msgspec.Struct, frozen=True):
    """How much is measured."""

    guessed_s: float = 40.0
    clients: int = 50
    samples: int = 1000
    strangers: int = 1000
    logins: int = 60
    gets: int = 400


QUICK = Plan(guessed_s=2, clients=10, samples=20, strangers=20, logins=3, gets=20)


async def timed(tries: Iterable[Awaitable[Tried]]) -> tuple[list[Tried], float]:
    """All of them at once, and how long that took: a while lets another one through."""
    began_s = time.monotonic()
    return await asyncio.gather(*tries), time.monotonic() - began_s


class Bench:
    """The measurements, on workers that are up."""

    def __init__(self, console: Console, plan: Plan, clients: Guessing, url: str) -> None:
        self._console = console
        self._plan = plan
        self._clients = clients
        self._url = url

    async def guess(self) -> None:
        """Many clients against one."""
        plan, clients = self._plan, self._clients
        for login in ("serial", "parallel"):
            await clients.register(login)
        one = await clients.one_by_one("serial", "192.0.2.1", plan.guessed_s)
        many = await clients.all_at_once(
            "parallel", itertools.repeat("192.0.2.2"), plan.guessed_s, plan.clients
        )
        table = make_table(
            f"Guessing one account for {plan.guessed_s:.0f} s", "", "sent", "looked at"
        )
        table.add_row("one client", str(len(one)), str(let_through(one)))
        table.add_row(f"{plan.clients} clients, 3 hosts", str(len(many)), str(let_through(many)))
        table.add_row("by the curve, at most", "", str(most_within(plan.guessed_s)))
        self._console.print(table)

    async def spread_out(self) -> None:
        """One account from many addresses, and many accounts from one /64."""
        clients, n = self._clients, 5 * self._plan.clients
        await clients.register("spread")
        from_all, from_all_s = await timed(
            clients.log_in("spread", WRONG, f"198.51.{i // 200}.{i % 200 + 1}") for i in range(n)
        )
        at_all, at_all_s = await timed(
            clients.log_in(f"some{i}", WRONG, f"2001:db8::{i + 1:x}") for i in range(n)
        )
        table = make_table(f"{n} tries at once", "", "looked at", "429", "503", "at most")
        for title, tries, most in (
            ("one account, as many addresses", from_all, most_within(from_all_s, 20)),
            ("as many accounts, one /64", at_all, most_within(at_all_s, 100)),
        ):
            counts = [sum(t.status == status for t in tries) for status in (429, 503)]
            table.add_row(title, str(let_through(tries)), *map(str, counts), str(most))
        self._console.print(table)

    async def tell_time(
        self, title: str, pairs: dict[str, Callable[[int], Awaitable[Tried]]]
    ) -> None:
        """Whether the time of an answer tells which of two it is."""
        times: dict[str, list[float]] = {name: [] for name in pairs}
        for number in range(self._plan.samples):
            order = list(pairs) if number % 2 else list(reversed(pairs))
            for name in order:
                times[name].append((await pairs[name](number)).took_s * 1000)
        first, second = times.values()
        distance = ks_distance(first, second)
        table = make_table(title, "", "median ms", "p10", "p90")
        for name, found in times.items():
            shown = (statistics.median(found), quantile(found, 0.1), quantile(found, 0.9))
            table.add_row(name, *(f"{value:.2f}" for value in shown))
        self._console.print(table)
        p_value = ks_p_value(distance, len(first), len(second))
        self._console.print(f"Kolmogorov-Smirnov: distance {distance:.4f}, p = {p_value:.4f}")

    async def flood(self, http: aiohttp.ClientSession) -> None:
        """A known device, and a session, while strangers try."""
        plan, clients = self._plan, self._clients
        await clients.register("owner")
        device = (await clients.log_in("owner", PASSWORD, HOME)).device
        body = {"login": "owner", "password": PASSWORD, "token": "bearer"}
        async with http.post(f"{self._url}/v1/login_user", json=body) as answer:
            bearer = {"Authorization": f"Bearer {(await answer.json())['token']}"}
        idle = await self._gets(http, bearer)
        async with clients.flood(plan.strangers) as answers:
            logins = [
                await clients.log_in("owner", PASSWORD, HOME, device) for _ in range(plan.logins)
            ]
            before, began_s = answers.total(), time.monotonic()
            busy = await self._gets(http, bearer)
            rate = (answers.total() - before) / (time.monotonic() - began_s)
        assert {login.status for login in logins} == {200}
        table = make_table(
            f"While {plan.strangers} strangers try ({rate:.0f} answers/s)",
            "",
            "p50 ms",
            "p99",
            "max",
        )
        for title, found in (
            ("a known device logs in (goal: p99 2,000)", [t.took_s * 1000 for t in logins]),
            ("GET /v1/me, nobody else there", idle),
            ("GET /v1/me meanwhile (goal: p99 twice that)", busy),
        ):
            shown = (quantile(found, 0.5), quantile(found, 0.99), max(found))
            table.add_row(title, *(f"{value:.1f}" for value in shown))
        self._console.print(table)
        self._console.print(f"answers to strangers: {dict(sorted(answers.items()))}")

    async def _gets(self, http: aiohttp.ClientSession, headers: dict[str, str]) -> list[float]:
        times = []
        for _ in range(self._plan.gets):
            began_s = time.perf_counter()
            async with http.get(f"{self._url}/v1/me", headers=headers) as answer:
                assert answer.status == 200
                await answer.read()
            times.append((time.perf_counter() - began_s) * 1000)
        return times


async def measure(console: Console, plan: Plan, directory: Path) -> None:
    """Measure and print the tables."""
    await _on_hosts(console, plan, directory / "limits", SETTINGS, _limited)
    unlimited = {"GATELOG_LOGIN_TRIES": "100000"}
    await _on_hosts(console, plan, directory / "times", SETTINGS | unlimited, _timed)
    over = unlimited | {"GATELOG_REGISTRATION": "first"}
    await _on_hosts(console, plan, directory / "over", SETTINGS | over, _timed_registration)


async def _limited(bench: Bench, clients: Guessing, http: aiohttp.ClientSession) -> None:
    await bench.guess()
    await bench.spread_out()
    await bench.flood(http)


async def _timed(bench: Bench, clients: Guessing, http: aiohttp.ClientSession) -> None:
    # forgiven by a right password now and then, so that no password is locked meanwhile
    await clients.register("alice")

    async def wrong(number: int) -> Tried:
        if number % 50 == 0:
            await clients.log_in("alice", PASSWORD, HOME)
        return await clients.log_in("alice", WRONG, HOME)

    await bench.tell_time(
        "A failed login",
        {
            "wrong password": wrong,
            "nobody has this name": lambda number: clients.log_in(f"nobody{number}", WRONG, HOME),
        },
    )


async def _timed_registration(bench: Bench, clients: Guessing, http: aiohttp.ClientSession) -> None:
    await clients.register("alice")

    def register(login: str) -> Awaitable[Tried]:
        return clients.post("register_user", {"login": login, "password": PASSWORD}, HOME)

    await bench.tell_time(
        "A registration, when registration is over",
        {
            "this name is taken": lambda number: register("alice"),
            # of the same length: a longer name takes longer to look at, whoever has it
            "nobody has this name": lambda number: register("carol"),
        },
    )


Measuring = Callable[[Bench, Guessing, aiohttp.ClientSession], Awaitable[None]]


async def _on_hosts(
    console: Console, plan: Plan, directory: Path, settings: dict[str, str], work: Measuring
) -> None:
    directory.mkdir()
    connector = aiohttp.TCPConnector(limit=0)
    async with (
        running_cluster(
            directory,
            hosts=3,
            workers=1,
            hesitant=0,
            lease_ttl_s=3.0,
            settings=settings,
            proxied=False,
        ) as cluster,
        aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as http,
    ):
        urls = [f"http://127.0.0.1:{port}" for host in cluster.hosts for port in host.ports]
        clients = Guessing(urls, http)
        await work(Bench(console, plan, clients, urls[0]), clients, http)


def main() -> None:
    register_all()
    console = Console()
    if not console.is_terminal:
        console.width = 110
    plan = QUICK if "--quick" in sys.argv[1:] else Plan()
    with in_temporary_directory() as name:
        uvloop.run(measure(console, plan, Path(name)))


if __name__ == "__main__":
    main()
