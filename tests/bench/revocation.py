"""How long a logout takes until every worker of every host refuses the session.

Several hosts on one database, each with a projector, a replica of its own and one worker. For a
sample a user logs in, every worker is seen to accept the session, and one worker gets the logout;
when that is answered, all are asked. One of them accepting it then is an error, whatever the
time. Measured:

- healthy: from the logout sent to the 401 of the last worker;
- with a projector stopped (SIGSTOP) right after it has renewed its lease: from the logout sent to
  its answer. The raw limit is the lease's time to live: what the stopped host has in memory may
  be believed for that long.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager

import msgspec
from gatelog.config import Config

from tests.bench.contestants import PATH
from tests.bench.load import Dialogue, WrongAnswer, dialogue
from tests.bench.machine import ServerProcess, make_table, quantile
from tests.bench.population import bearer, post
from tests.bench.stage import Stage, wait_for_renewal

LOGIN = {"login": "revoked", "password": "a phrase for the benchmark"}
HEALTHY_GOALS_MS = (3.0, 20.0)
SLACK_MS = 150.0
DRIFT = 1.01


class Plan(msgspec.Struct, frozen=True):
    """How much is measured."""

    samples: int = 400
    stopped_samples: int = 4
    lease_ttl_s: float = 3.0


QUICK = Plan(samples=5, stopped_samples=1, lease_ttl_s=0.5)


class Sample(msgspec.Struct, frozen=True):
    """Milliseconds from the logout sent to its answer, and to the last worker's 401."""

    answered_ms: float
    refused_ms: float


async def revoke(workers: list[Dialogue], number: int) -> Sample:
    """Start a session and end it at one of the workers. Raises WrongAnswer if it lives on."""
    token = await log_in(workers[number % len(workers)])
    question = bearer("GET", PATH, token)
    await expect(200, workers, question)
    sent = time.perf_counter()
    logout = await workers[(number + 1) % len(workers)].ask(
        bearer("POST", "/v1/logout_user", token)
    )
    if logout.status != 200:
        raise WrongAnswer(f"logout: {logout.status} {logout.body!r}")
    refused_s = await expect(401, workers, question)
    return Sample((logout.at_s - sent) * 1000, (refused_s - sent) * 1000)


async def log_in(worker: Dialogue) -> str:
    answer = await worker.ask(post("/v1/login_user", {**LOGIN, "token": "bearer"}))
    if answer.status != 200:
        raise WrongAnswer(f"login: {answer.status} {answer.body!r}")
    return str(msgspec.json.decode(answer.body)["token"])


async def expect(status: int, workers: list[Dialogue], question: bytes) -> float:
    """Ask all at once; returns when the last one answered. Raises WrongAnswer."""
    answers = await asyncio.gather(*(worker.ask(question) for worker in workers))
    if any(answer.status != status for answer in answers):
        raise WrongAnswer(f"{[answer.status for answer in answers]} instead of {status}")
    return max(answer.at_s for answer in answers)


async def healthy(workers: list[Dialogue], plan: Plan) -> list[Sample]:
    return [await revoke(workers, number) for number in range(plan.samples)]


async def with_one_stopped(
    workers: list[Dialogue], projector: ServerProcess, config: Config, plan: Plan
) -> list[Sample]:
    samples = []
    for number in range(plan.stopped_samples):
        await asyncio.to_thread(wait_for_renewal, config)
        with stopped(projector):
            samples.append(await revoke(workers, number))
    return samples


@contextmanager
def stopped(process: ServerProcess) -> Iterator[None]:
    os.kill(process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process.pid, signal.SIGCONT)


async def measure(stage: Stage, plan: Plan) -> None:
    """Measure both and print the table."""
    cheap = {"argon2_memory_kib": 8, "argon2_time_cost": 1, "lease_ttl_s": plan.lease_ttl_s}
    hosts = [msgspec.structs.replace(host, **cheap) for host in stage.hosts]
    async with AsyncExitStack() as stack:
        projectors = [stack.enter_context(stage.projector(host)) for host in hosts]
        servers = [
            stack.enter_context(stage.server("gatelog", host, pinned=False)) for host in hosts
        ]
        workers = [await stack.enter_async_context(dialogue(server.port)) for server in servers]
        await workers[0].ask(post("/v1/register_user", LOGIN))
        await healthy(workers, msgspec.structs.replace(plan, samples=len(workers)))
        well = await healthy(workers, plan)
        ill = await with_one_stopped(workers, projectors[-1], hosts[-1], plan)
    print_table(stage, well, ill, plan)


def print_table(stage: Stage, well: list[Sample], ill: list[Sample], plan: Plan) -> None:
    table = make_table(
        f"Revocation, {len(stage.hosts)} hosts on one machine, in ms from the logout sent",
        "",
        "samples",
        "p50",
        "p99",
        "max",
        "goal",
    )
    limit_ms = plan.lease_ttl_s * 1000
    p50, p99 = HEALTHY_GOALS_MS
    goal = f"p50 ≤ {p50:.0f}, p99 ≤ {p99:.0f}"
    stopped_goal = f"max ≤ {DRIFT * limit_ms + SLACK_MS:,.0f}"
    for title, times, aim in (
        ("healthy: logout answered", [sample.answered_ms for sample in well], ""),
        ("healthy: 401 from every worker", [sample.refused_ms for sample in well], goal),
        ("a projector stopped: logout answered", [s.answered_ms for s in ill], stopped_goal),
    ):
        numbers = (quantile(times, 0.5), quantile(times, 0.99), max(times))
        table.add_row(title, str(len(times)), *(f"{number:,.1f}" for number in numbers), aim)
    table.add_row("raw limit with one stopped: the lease", "", *[f"{limit_ms:,.1f}"] * 3, "")
    stage.console.print(table)
