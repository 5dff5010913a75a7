"""The replica by itself: how quickly it is there, what it takes of memory, what a lookup costs.

``python -m tests.bench.replica [SESSIONS]`` runs this alone, with any number of sessions.

- Cold: from nothing to the first lease; the raw limit is the COPY whose rows nobody looks at. The
  projector's own memory, by how much it grows meanwhile, does not depend on the sessions.
- Warm: from the start of a projector over a replica that is there to its lease.
- Memory: the blocks of the environment, and by how much each worker's own memory grows while it
  looks up every session once.

A start has all cores; otherwise the server's core is left alone here, too. A lookup is given as
CPU time.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import msgspec
import psutil
import uvloop
from gatelog.config import Config
from gatelog.log.store.database import connect
from gatelog.proofs.service.history import history_guard
from gatelog.sessions.rules.record import Session
from gatelog.sessions.rules.tokens import token_digest
from gatelog.sessions.service.projector import projecting
from gatelog.sessions.store import sql
from gatelog.sessions.store.replica import ReplicaReader
from gatelog.sessions.store.replica_place import ReplicaPlace
from rich.console import Console

from tests.bench.machine import make_table, spread
from tests.bench.population import token
from tests.bench.stage import Stage, open_stage
from tests.waiting import until

MEMORY_GOAL_BYTES = 200
LOOKUP_CHUNK = 10_000


class Plan(msgspec.Struct, frozen=True):
    """How often what is measured, and the goals for this number of sessions, if there are any."""

    starts: int = 3
    workers: tuple[int, ...] = (1, 4)


QUICK = Plan(starts=1, workers=(1,))
COLD_GOALS_S = {1_000_000: 3.0, 10_000_000: 40.0}
WARM_GOALS_S = {1_000_000: 0.2}


async def measure(stage: Stage, plan: Plan) -> None:
    """Print the tables."""
    config, dsn, sessions = stage.host, stage.postgres.app_dsn(), stage.tokens.count
    colds: list[Start] = []
    warms: list[Start] = []
    with all_cores(stage):
        copy_s = await bare_copy(dsn)
        for _ in range(plan.starts):
            forget(config)
            colds.append(await start(config, dsn))
            warms.append(await start(config, dsn))
    cold_s, warm_s = ([one.seconds for one in starts] for starts in (colds, warms))
    grown = max(one.grown_bytes for one in colds) / 2**20
    table = make_table(f"Starts with {sessions:,} sessions", "", "measured", "goal")
    table.add_row("the COPY alone, s", f"{copy_s:.2f}", "")
    table.add_row(
        "cold: loaded and leased, s", spread(cold_s, ".2f"), _goal(COLD_GOALS_S, sessions)
    )
    table.add_row("warm: leased, s", spread(warm_s, ".3f"), _goal(WARM_GOALS_S, sessions))
    table.add_row("own memory of the projector, cold, MiB", f"{grown:.0f}", "")
    stage.console.print(table)
    with stage.projector():
        await print_memory(stage, plan)


@contextmanager
def all_cores(stage: Stage) -> Iterator[None]:
    """Let this process and PostgreSQL's next backends use the whole machine."""
    pid = stage.postgres.running_pid()
    processes = [psutil.Process(), psutil.Process(pid)]
    for process in processes:
        process.cpu_affinity(sorted(stage.cores.all))
    try:
        yield
    finally:
        for process in processes:
            process.cpu_affinity(sorted(stage.cores.others))


def _goal(goals: dict[int, float], sessions: int) -> str:
    return f"≤ {goals[sessions]}" if sessions in goals else ""


async def print_memory(stage: Stage, plan: Plan) -> None:
    config, sessions = stage.host, stage.tokens.count
    environment = ReplicaPlace(config).current()
    assert environment is not None
    blocks = allocated_bytes(environment)
    table = make_table(
        f"Memory of {sessions:,} sessions on one host, and one lookup in a worker",
        "workers",
        "replica, bytes/session",
        "all, bytes/session",
        "goal",
        "lookup, µs",
    )
    for count in plan.workers:
        seen = read_in_workers(config, sessions, count)
        total = blocks + sum(worker.grown_bytes for worker in seen)
        table.add_row(
            str(count),
            f"{blocks / sessions:.0f}",
            f"{total / sessions:.0f}",
            f"≤ {MEMORY_GOAL_BYTES}",
            f"{median(worker.lookup_ns for worker in seen) / 1000:.2f}",
        )
    stage.console.print(table)


async def bare_copy(dsn: str) -> float:
    """How long the COPY takes when nobody looks at its rows."""

    async def drop(_: bytes) -> None:
        pass

    connection = await connect(dsn)
    async with connection.transaction():
        await connection.execute(sql.SORT_SESSIONS)
        began = time.perf_counter()
        await connection.copy_from_query(sql.COPY_SESSIONS, output=drop, format="binary")
        took = time.perf_counter() - began
    await connection.close()
    return took


def forget(config: Config) -> None:
    """Leave no replica behind."""
    place = ReplicaPlace(config)
    place.link.unlink(missing_ok=True)
    place.remove_others(None)


class Start(msgspec.Struct, frozen=True):
    """Seconds until workers may trust the replica, and what the projector took of memory."""

    seconds: float
    grown_bytes: int


async def start(config: Config, dsn: str) -> Start:
    """Start a projector in this process."""
    before = most = own_bytes()

    def leased() -> bool:
        nonlocal most
        most = max(most, own_bytes())
        return reader.leased

    began = time.perf_counter()
    async with projecting(config, dsn, history_guard(config)):
        reader = ReplicaReader(ReplicaPlace(config))
        await until(leased, within_s=600)
        took = time.perf_counter() - began
        reader.close()
    return Start(took, most - before)


def allocated_bytes(environment: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in environment.iterdir())


# --- workers


class Seen(msgspec.Struct, frozen=True):
    """What a worker process saw of itself."""

    lookup_ns: float
    grown_bytes: int


def read_in_workers(config: Config, sessions: int, workers: int) -> list[Seen]:
    """Look up every session in so many processes side by side."""
    text = msgspec.json.encode(config).decode()
    command = [sys.executable, "-m", "tests.bench.replica", "worker", text, str(sessions)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(workers)]
    outputs = [process.communicate()[0] for process in processes]
    return [msgspec.json.decode(output, type=Seen) for output in outputs]


def look_up_all(config: Config, sessions: int) -> Seen:
    """Be a worker: look up every session, a part of them at a time."""
    reader = ReplicaReader(ReplicaPlace(config))
    assert reader.leased
    peek = reader.peek
    before = own_bytes()
    times: list[float] = []
    for digests in _chunks(sessions):
        began = time.process_time_ns()
        for digest in digests:
            peek(digest)
        times.append((time.process_time_ns() - began) / len(digests))
        assert isinstance(peek(digests[0]), Session)
    return Seen(median(times), own_bytes() - before)


def own_bytes() -> int:
    """This process's own memory: without the pages that it shares, as those of the replica."""
    memory = psutil.Process().memory_info()
    return int(memory.rss - memory.shared)


def _chunks(sessions: int) -> Iterator[list[bytes]]:
    for first in range(0, sessions, LOOKUP_CHUNK):
        last = min(first + LOOKUP_CHUNK, sessions)
        yield [token_digest(token(number)) for number in range(first, last)]


def main() -> None:
    if sys.argv[1:2] == ["worker"]:
        config = msgspec.json.decode(sys.argv[2], type=Config)
        print(msgspec.json.encode(look_up_all(config, int(sys.argv[3]))).decode())
        return
    sessions = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with open_stage(Console(), sessions, 1, hosts=1) as stage:
        uvloop.run(measure(stage, Plan()))


if __name__ == "__main__":
    main()
