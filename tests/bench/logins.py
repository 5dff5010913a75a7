"""What other requests feel of logins: the p99 of a protected GET while hashing is saturated.

One worker as it is deployed (not pinned, default hashing) is asked at a fixed moderate rate, by
turns idle and while more logins are waiting than its hashing threads can serve. The bare handler
at the same rate is the raw limit.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator
from contextlib import ExitStack

import msgspec
from gatelog.http.credentials import SECURE_COOKIE

from tests.bench.contestants import PATH
from tests.bench.load import Flood, Paced
from tests.bench.machine import ServerProcess, make_table, quantile, spread
from tests.bench.population import post
from tests.bench.stage import Stage

GOAL = 2.0
USERS = 20
PASSWORD = "a phrase for the benchmark"
CONNECTIONS = 32
SETTLE_S = 0.3


class Plan(msgspec.Struct, frozen=True):
    """How much is measured. ``logging_in``: clients that log in without a pause."""

    rounds: int = 4
    round_s: float = 3.0
    rate: float = 1000.0
    logging_in: int = 16


QUICK = Plan(rounds=1, round_s=0.3, rate=200, logging_in=2)


def logins(path: str) -> Iterator[bytes]:
    """One user after the other, without end; for registering and for logging in."""
    bodies = [{"login": f"user{number}", "password": PASSWORD} for number in range(USERS)]
    return itertools.cycle([post(path, body) for body in bodies])


async def register_users(server: ServerProcess) -> None:
    load = Paced(server.port, logins("/v1/register_user"), 201)
    try:
        await load.run(connections=1, rate=1e6, seconds=USERS / 1e6)
    finally:
        await load.close()


async def gets(server: ServerProcess, requests: Iterator[bytes], plan: Plan) -> list[float]:
    """Latencies of the GET in ms."""
    load = Paced(server.port, requests)
    try:
        return await load.run(CONNECTIONS, plan.rate, plan.round_s)
    finally:
        await load.close()


async def gets_while_logging_in(
    server: ServerProcess, requests: Iterator[bytes], plan: Plan
) -> tuple[list[float], float]:
    """Latencies of the GET in ms, and how many logins per second were answered."""
    load = Flood(server.port, logins("/v1/login_user"))
    await load.start(plan.logging_in)
    try:
        await load.wait(SETTLE_S)
        before = load.answered
        latencies = await gets(server, requests, plan)
        return latencies, (load.answered - before) / plan.round_s
    finally:
        await load.close()


async def measure(stage: Stage, plan: Plan) -> None:
    """Measure and print the table."""
    requests = stage.tokens.requests(PATH, SECURE_COOKIE)
    bare_ms: list[list[float]] = []
    idle_ms: list[list[float]] = []
    busy_ms: list[list[float]] = []
    rates: list[float] = []
    with ExitStack() as stack:
        stack.enter_context(stage.projector())
        bare = stack.enter_context(stage.server("bare", pinned=False))
        gatelog = stack.enter_context(stage.server("gatelog", pinned=False))
        await register_users(gatelog)
        for server in (bare, gatelog):  # connections, caches
            await gets(server, requests, msgspec.structs.replace(plan, round_s=SETTLE_S))
        for _ in range(plan.rounds):
            bare_ms.append(await gets(bare, requests, plan))
            idle_ms.append(await gets(gatelog, requests, plan))
            latencies, rate = await gets_while_logging_in(gatelog, requests, plan)
            busy_ms.append(latencies)
            rates.append(rate)
    table = make_table(
        f"The protected GET at {plan.rate:,.0f}/s while logins saturate password hashing"
        f" ({statistics.median(rates):.0f} logins/s)",
        "",
        "p50 ms",
        "p99 ms",
        "max ms",
        "p99 of idle",
    )
    for title, rounds in (
        ("bare aiohttp, no logins", bare_ms),
        ("Gatelog, no logins", idle_ms),
        (f"Gatelog, {plan.logging_in} clients logging in", busy_ms),
    ):
        shares = [
            quantile(a, 0.99) / quantile(b, 0.99) for a, b in zip(rounds, idle_ms, strict=True)
        ]
        latencies = list(itertools.chain(*rounds))
        numbers = (quantile(latencies, 0.5), quantile(latencies, 0.99), max(latencies))
        table.add_row(title, *(f"{number:.2f}" for number in numbers), spread(shares, ".2f"))
    stage.console.print(table)
    stage.console.print(f"goal: p99 with logins at most {GOAL:.0f} times the idle p99")
