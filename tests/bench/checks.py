"""What a session check costs: the same handler bare, behind Gatelog, behind what others use.

One process per contestant with one core to itself; the client, PostgreSQL and Redis have the
others. Contestants run in turn, in rounds of a second or less, and each round is compared with
the first contestant's of the same turn. Every response is checked.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack

import msgspec
from gatelog.http.credentials import SECURE_COOKIE
from gatelog.http.identity import AUTH_PATH, ME_PATH
from rich.table import Table

from tests.bench.contestants import HOSTED_PATH, PATH
from tests.bench.load import Flood, Paced
from tests.bench.machine import ServerProcess, make_table, spread
from tests.bench.population import (
    REDIS_COOKIE,
    SELECT_COOKIE,
    Tokens,
    jwt_requests,
    machine_requests,
    wrong_requests,
)
from tests.bench.stage import Stage

HANDLER_GOAL = 0.85  # of bare aiohttp
IDENTITY_GOAL = 0.9
PEER_GOAL = 3.0  # times ahead
SIGNED = f"{AUTH_PATH}?audience=orders"
ACTIVE_SESSIONS = 100  # of those that ask for a signed identity


class Plan(msgspec.Struct, frozen=True):
    """How much is measured."""

    pairs: int = 24
    peer_rounds: int = 8
    round_s: float = 0.8
    warm_up_s: float = 0.15
    connections: int = 128


QUICK = Plan(pairs=2, peer_rounds=2, round_s=0.15, warm_up_s=0.05, connections=8)


class Contestant(msgspec.Struct, frozen=True):
    """One row of the table: a server, what is asked of it, and the least ratio wanted."""

    title: str
    server: str
    requests: Iterator[bytes]
    goal: float | None = None


class Round(msgspec.Struct, frozen=True):
    """One contestant's round."""

    per_second: float
    cpu_us: float


Rounds = dict[str, list[Round]]
Goals = dict[str, str]


# --- measuring


async def one_round(server: ServerProcess, requests: Iterator[bytes], plan: Plan) -> Round:
    load = Flood(server.port, requests)
    await load.start(plan.connections)
    try:
        await load.wait(plan.warm_up_s)
        began, cpu, answered = time.perf_counter(), server.cpu_s(), load.answered
        await load.wait(plan.round_s)
        seconds, cpu = time.perf_counter() - began, server.cpu_s() - cpu
        answered = load.answered - answered
    finally:
        await load.close()
    return Round(answered / seconds, cpu / answered * 1e6)


async def alternate(
    servers: Mapping[str, ServerProcess],
    contestants: Sequence[Contestant],
    rounds: int,
    plan: Plan,
) -> Rounds:
    """So many rounds of each, there and back again, so that a drift of the machine cancels."""
    measured: Rounds = {contestant.title: [] for contestant in contestants}
    for number in range(rounds):
        for contestant in contestants[:: 1 if number % 2 == 0 else -1]:
            one = await one_round(servers[contestant.server], contestant.requests, plan)
            measured[contestant.title].append(one)
    return measured


# --- the tables


def print_against_bare(stage: Stage, measured: Rounds, goals: Goals, plan: Plan) -> None:
    """Everything as a share of the first one."""
    first = next(iter(measured.values()))
    stage.console.print(
        make_rounds_table(
            f"A session check against none: {stage.tokens.count:,} sessions,"
            f" {len(first)} rounds of {plan.round_s} s each; medians (quartiles)",
            "of bare, req/s",
            "of bare, CPU",
            measured,
            lambda other: ratios(other, first),
            goals=goals,
        )
    )


def print_against_peers(stage: Stage, measured: Rounds, goals: Goals) -> None:
    """The first one as a multiple of each other one."""
    first = next(iter(measured.values()))
    stage.console.print(
        make_rounds_table(
            f"The protected GET against other ways to check a session: {len(first)} rounds each",
            "Gatelog is ahead by",
            "in CPU",
            measured,
            lambda other: ratios(first, other),
            goals=goals,
        )
    )


def ratios(ours: list[Round], theirs: list[Round]) -> tuple[list[float], list[float]]:
    """Pair by pair: requests per second, and the inverse of the CPU time."""
    pairs = list(zip(ours, theirs, strict=True))
    return (
        [a.per_second / b.per_second for a, b in pairs],
        [b.cpu_us / a.cpu_us for a, b in pairs],
    )


def make_rounds_table(
    title: str,
    by_rate: str,
    by_cpu: str,
    measured: Rounds,
    compare: Callable[[list[Round]], tuple[list[float], list[float]]],
    *,
    goals: Goals,
) -> Table:
    table = make_table(title, "", "requests/s", "CPU µs/request", by_rate, "goal", by_cpu)
    for number, (name, rounds) in enumerate(measured.items()):
        rates, cpu = compare(rounds)
        table.add_row(
            name,
            spread([one.per_second for one in rounds], ",.0f"),
            spread([one.cpu_us for one in rounds], ".1f"),
            spread(rates, ".2f") if number else "1",
            goals[name],
            spread(cpu, ".2f") if number else "1",
        )
    return table


# --- the contestants


def against_bare(stage: Stage) -> list[Contestant]:
    """The raw limit first, then the product."""
    requests = stage.tokens.requests
    return [
        Contestant("bare aiohttp, no check", "bare", requests(PATH, SECURE_COOKIE)),
        Contestant("protected by Gatelog", "gatelog", requests(PATH, SECURE_COOKIE), HANDLER_GOAL),
        Contestant("the same, by a token", "gatelog", machine_requests(PATH), HANDLER_GOAL),
        Contestant(
            "the same, hosted", "hosted", requests(HOSTED_PATH, SECURE_COOKIE), HANDLER_GOAL
        ),
        Contestant("GET /v1/me", "gatelog", requests(ME_PATH, SECURE_COOKIE), IDENTITY_GOAL),
        Contestant("GET /v1/auth", "gatelog", requests(AUTH_PATH, SECURE_COOKIE), IDENTITY_GOAL),
        Contestant("GET /v1/auth, signed", "gatelog", asked_again(requests(SIGNED, SECURE_COOKIE))),
    ]


def asked_again(requests: Iterator[bytes]) -> Iterator[bytes]:
    """The same sessions over and over, as a proxy asks: what was signed for one is used again."""
    return itertools.cycle(tuple(itertools.islice(requests, ACTIVE_SESSIONS)))


def against_peers(stage: Stage) -> list[Contestant]:
    """The product first, then what else there is."""
    requests = stage.tokens.requests
    contestants = [
        Contestant("protected by Gatelog", "gatelog", requests(PATH, SECURE_COOKIE)),
        Contestant("one SELECT, asyncpg", "select", requests(PATH, SELECT_COOKIE), PEER_GOAL),
        Contestant("PyJWT, HS256", "jwt", jwt_requests(PATH, stage.other_sessions), PEER_GOAL),
    ]
    if stage.redis_socket is not None:
        title = "aiohttp-session, Redis"
        tokens = Tokens(stage.other_sessions)
        asked = tokens.requests(PATH, REDIS_COOKIE)
        contestants.append(Contestant(title, "redis", asked, PEER_GOAL))
    return contestants


def goals_of(contestants: Sequence[Contestant]) -> Goals:
    return {one.title: f"≥ {one.goal:g}" if one.goal else "" for one in contestants}


async def check_answers(server: ServerProcess, contestant: Contestant) -> None:
    """Good credentials are let through, others get a 401. Raises WrongAnswer."""
    await ask_once(server, next(contestant.requests), 200)
    if contestant.server != "bare":
        for request in wrong_requests(HOSTED_PATH if contestant.server == "hosted" else PATH):
            await ask_once(server, request, 401)


async def ask_once(server: ServerProcess, request: bytes, status: int) -> None:
    load = Paced(server.port, itertools.repeat(request), status)
    try:
        await load.run(connections=1, rate=1000, seconds=0.001)
    finally:
        await load.close()


async def measure(stage: Stage, plan: Plan) -> None:
    """Measure everything and print both tables."""
    main, peers = against_bare(stage), against_peers(stage)
    with ExitStack() as stack:
        stack.enter_context(stage.projector())
        servers = {
            name: stack.enter_context(stage.server(name))
            for name in dict.fromkeys(contestant.server for contestant in (*main, *peers))
        }
        for contestant in (*main, *peers):
            await check_answers(servers[contestant.server], contestant)
        measured = await alternate(servers, main, plan.pairs, plan)
        print_against_bare(stage, measured, goals_of(main), plan)
        measured = await alternate(servers, peers, plan.peer_rounds, plan)
        print_against_peers(stage, measured, goals_of(peers))
    if stage.redis_socket is None:
        stage.console.print("aiohttp-session on Redis: skipped, there is no redis-server here")
