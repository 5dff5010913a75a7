"""A long log: ``python -m tests.bench.audit [--events N] [--quick] [--keep DIR] [--only PART …]``.

- load: a history with realistic skew (``tests.bench.history``), 10,000,000 events unless told;
- seal: the Merkle tree over all of it, from nothing; then marks, for as-of queries;
- queries: every filter alone and the common pairs, the first page and one deep inside, of 100
  events with what is personal opened; a user with no events, a type that never occurs;
- asof: who was logged in at a random moment;
- export: all fields sealed, and opened;
- verify: the whole log against its tiles and the checkpoint;
- purge: half of the log, while logins go on.

With ``--keep`` the data directory stays and is used again; it is then purged only if ``purge`` is
asked for. Everything runs on one machine: PostgreSQL, this process, and the purge in one of its
own; the load of the machine stands beside the figures.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import multiprocessing
import os
import random
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from ipaddress import ip_network
from multiprocessing.synchronize import Event
from pathlib import Path
from uuid import UUID

import msgspec
import uvloop
from gatelog.audit.rules.shown import AuditFilter, Cursor
from gatelog.audit.service.asof import AsOf
from gatelog.audit.service.audit import Audit
from gatelog.audit.service.export import ExportFormat
from gatelog.audit.service.retention import Purged, purge
from gatelog.audit.store.marks import Spacing, last_mark, make_next_mark
from gatelog.cli.output import progress_bar
from gatelog.clock import utc_now
from gatelog.config import Config
from gatelog.host.embedded import EmbeddedPostgres
from gatelog.hosting.services import Services, open_services
from gatelog.log.store.cuts import cut_position
from gatelog.log.store.database import connect
from gatelog.log.store.migrate import migrate
from gatelog.log.store.reading import read_head
from gatelog.privacy.rules import Client
from gatelog.proofs.service.sealer import LastNote, Sealer
from gatelog.proofs.service.sources import LiveLog
from gatelog.proofs.service.verify import verify_log
from gatelog.proofs.service.verify_proof import kept_checkpoint
from gatelog.proofs.store.tiles import take_sealer_lock
from gatelog.sessions.rules.record import from_us
from rich.console import Console
from rich.table import Table

from tests.bench.history import (
    CONFIG,
    HEAVY_USERS,
    OFFICES,
    History,
    address_of,
    load,
    loaded,
    user_id,
)
from tests.bench.machine import make_table, quantile
from tests.bench.sealing import SIGNER

EVENTS = 10_000_000
QUICK_EVENTS = 20_000
PARTS = ("seal", "queries", "asof", "export", "verify", "purge")
SETTINGS = {"shared_buffers": "512MB"}
PAGE = 100
CELL_S = 4.0  # for one figure at most,
TIMES = 300  # or so many measurements
EXPORTED = 1_000_000  # events at most
LOGIN_CLIENTS = 8
LOGINS_S = 8.0
PASSWORD = "a phrase for the benchmark"
AGENT = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0"


class Plan(msgspec.Struct, frozen=True):
    """How much of everything."""

    times: int = TIMES
    cell_s: float = CELL_S
    exported: int = EXPORTED
    logins_s: float = LOGINS_S


QUICK = Plan(times=5, cell_s=0.2, exported=4_000, logins_s=0.3)


class Bench(msgspec.Struct, frozen=True):
    """What is measured, and with what."""

    postgres: EmbeddedPostgres
    history: History
    directory: Path
    console: Console
    plan: Plan

    @property
    def app(self) -> str:
        return self.postgres.app_dsn()

    @property
    def note(self) -> Path:
        return self.directory / "checkpoint"

    @property
    def config(self) -> Config:
        """As in production, but for hashing: it is not what is measured here."""
        return msgspec.structs.replace(
            CONFIG,
            data_dir=str(self.directory),
            replica_dir=str(self.directory / "replica"),
            argon2_memory_kib=8,
            argon2_time_cost=1,
            database_timeout_s=60.0,
            lease_ttl_s=0.5,
        )

    def show(self, table: Table) -> None:
        """The table, with the machine's load beside it (getloadavg(3), the last minute)."""
        self.console.print(table)
        self.console.print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()}")


async def timed(plan: Plan, work: Callable[[], Awaitable[object]]) -> list[float]:
    """Milliseconds, again and again."""
    times: list[float] = []
    give_up = time.perf_counter() + plan.cell_s
    while len(times) < plan.times and (not times or time.perf_counter() < give_up):
        began = time.perf_counter()
        await work()
        times.append((time.perf_counter() - began) * 1000)
    return times


def _ms(times: Sequence[float]) -> tuple[str, str]:
    return f"{quantile(times, 0.5):.1f}", f"{quantile(times, 0.99):.1f}"


# --- sealing and marks


async def seal(bench: Bench) -> None:
    """Seal what is not sealed, and make the marks that are missing."""
    table = make_table("Following the log", "", "events", "events/s")
    connection = await connect(bench.app)
    while not await take_sealer_lock(connection):  # noqa: ASYNC110 - the server has just started
        await asyncio.sleep(0.1)
    sealer = Sealer(connection, SIGNER, LastNote(bench.note), utc_now)
    await sealer.load()
    first, began = sealer.size, time.perf_counter()
    with progress_bar("seal") as progress:
        while await sealer.seal_next():
            progress(sealer.size, bench.history.events)
    _rate(table, "sealed", sealer.size - first, began)
    first, began = (await last_mark(connection)).position, time.perf_counter()
    with progress_bar("mark") as progress:
        while (position := await make_next_mark(connection, bench.history.spacing)) is not None:
            progress(position, bench.history.events)
    _rate(table, "marked", (await last_mark(connection)).position - first, began)
    await connection.close()
    bench.show(table)


def _rate(table: Table, name: str, events: int, began: float) -> None:
    taken = time.perf_counter() - began
    table.add_row(name, f"{events:,}", f"{events / taken:,.0f}" if events else "")


# --- queries

Question = Callable[[random.Random], AuditFilter]


class Asking:
    """What is asked about: picked anew each time."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._span = history.until_us - history.begin_us
        self.many = range(HEAVY_USERS)
        self.others = range(HEAVY_USERS, int(history.events * 0.085))

    def heavy(self, rng: random.Random) -> UUID:
        return user_id(rng.choice(self.many))

    def ordinary(self, rng: random.Random) -> UUID:
        return user_id(rng.choice(self.others))

    def home(self, rng: random.Random) -> str:
        return address_of(rng.choice(self.others), rng.randrange(self._history.events))

    def office(self, rng: random.Random) -> str:
        return f"198.51.100.{rng.randrange(OFFICES)}"

    def network(self, prefix: int) -> Callable[[random.Random], object]:
        return lambda rng: str(ip_network(f"{self.home(rng)}/{prefix}", strict=False))

    def name(self, numbers: range) -> Callable[[random.Random], object]:
        return lambda rng: f"user{rng.choice(numbers)}"

    def of_time(self, width: timedelta, **parts: Callable[[random.Random], object]) -> Question:
        def question(rng: random.Random) -> AuditFilter:
            since = from_us(self._history.begin_us + int(rng.random() * self._span))
            return msgspec.structs.replace(ask(**parts)(rng), since=since, until=since + width)

        return question


def ask(**parts: Callable[[random.Random], object]) -> Question:
    return lambda rng: AuditFilter(
        limit=PAGE,
        **{name: part(rng) for name, part in parts.items()},  # type: ignore[arg-type]
    )


def same(value: object) -> Callable[[random.Random], object]:
    return lambda _: value


HOUR, MONTH = timedelta(hours=1), timedelta(days=30)
START, NEVER, RARE = same(("session_started",)), same(("user_erased",)), same(("role_granted",))
TWO = same(("login_failed", "credential_changed"))
ALL_OFFICES = same("198.51.100.0/24")


def questions(history: History, sessions: Sequence[UUID]) -> dict[str, Question]:
    """Every filter alone, and the common pairs."""
    the = Asking(history)
    return {
        "nothing": ask(),
        "user, 10⁵ events": ask(user=the.heavy),
        "user, ten events": ask(user=the.ordinary),
        "user, none": ask(user=same(UUID(int=1))),
        "session": ask(session=lambda rng: rng.choice(sessions)),
        "type, frequent": ask(types=START),
        "type, rare": ask(types=RARE),
        "type, never": ask(types=NEVER),
        "two types": ask(types=TWO),
        "an hour": the.of_time(HOUR),
        "a month": the.of_time(MONTH),
        "address of few": ask(address=the.home),
        "address of many": ask(address=the.office),
        "address of nobody": ask(address=same("203.0.113.9")),
        "user 10⁵, type": ask(user=the.heavy, types=TWO),
        "user 10⁵, rare type": ask(user=the.heavy, types=RARE),
        "user 10⁵, a month": the.of_time(MONTH, user=the.heavy),
        "user ten, type": ask(user=the.ordinary, types=START),
        "user none, type": ask(user=same(UUID(int=1)), types=START),
        "type, an hour": the.of_time(HOUR, types=START),
        "rare type, a month": the.of_time(MONTH, types=RARE),
        "address many, an hour": the.of_time(HOUR, address=the.office),
        "address many, type": ask(address=the.office, types=TWO),
        "address many, rare type": ask(address=the.office, types=RARE),
        "address many, user 10⁵": ask(address=the.office, user=the.heavy),
        "address few, user ten": ask(address=the.home, user=the.ordinary),
        **_by_origin(the),
    }


def _by_origin(the: Asking) -> dict[str, Question]:
    """By network and by login name: most events are of one /8, a tenth of one /24."""
    return {
        "network /8, nine of ten": ask(network=the.network(8)),
        "network /16, few": ask(network=the.network(16)),
        "network /24, few": ask(network=the.network(24)),
        "network /24, one of ten": ask(network=ALL_OFFICES),
        "network of nobody": ask(network=same("203.0.0.0/16")),
        "network /8, rare type": ask(network=the.network(8), types=RARE),
        "network /8, user 10⁵": ask(network=the.network(8), user=the.heavy),
        "network /8, a month": the.of_time(MONTH, network=the.network(8)),
        "network one of ten, two types": ask(network=ALL_OFFICES, types=TWO),
        "login, 10⁵ events": ask(login=the.name(the.many)),
        "login, ten events": ask(login=the.name(the.others)),
        "login of nobody": ask(login=same("nobody at all")),
        "login 10⁵, rare type": ask(login=the.name(the.many), types=RARE),
        "login 10⁵, a month": the.of_time(MONTH, login=the.name(the.many)),
        "login 10⁵, network /8": ask(login=the.name(the.many), network=the.network(8)),
        "login ten, network one of ten": ask(login=the.name(the.others), network=ALL_OFFICES),
        "login 10⁵, address of many": ask(login=the.name(the.many), address=the.office),
    }


def read_all_files(directory: Path) -> None:
    """Have the database's files in the system's page cache, as they are where they are asked for.

    What is measured cold is the disk: 0.1 ms for each page of the table.
    """
    buffer = bytearray(1 << 20)
    for path in directory.rglob("base/*/*"):
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


async def queries(bench: Bench, audit: Audit) -> None:
    """The first page and one deep inside, of every question."""
    read_all_files(bench.directory)
    rng, top = random.Random(1), bench.history.events
    table = make_table(
        f"A page of {PAGE} events, in the page cache, ms",
        "filter",
        "first p50",
        "p99",
        "deep p50",
        "p99",
        "events",
    )
    with progress_bar("queries") as progress:
        asked = questions(bench.history, await _some_sessions(bench))
        for number, (name, question) in enumerate(asked.items()):
            found: list[int] = []

            async def first(question: Question = question, found: list[int] = found) -> None:
                found.append(len((await audit.page(question(rng))).events))

            async def deep(question: Question = question) -> None:
                cursor = Cursor(rng.choice(("before", "after")), rng.randrange(1, top))
                await audit.page(msgspec.structs.replace(question(rng), cursor=cursor))

            firsts, deeps = await timed(bench.plan, first), await timed(bench.plan, deep)
            table.add_row(name, *_ms(firsts), *_ms(deeps), f"{sum(found) / len(found):.0f}")
            progress(number + 1, len(asked))
    bench.show(table)


async def _some_sessions(bench: Bench) -> list[UUID]:
    """Sessions from all over the log."""
    connection = await connect(bench.app)
    step = max(1, bench.history.events // 1000)
    rows = await connection.fetch(
        "SELECT session_id FROM generate_series(0, $1::bigint, $2::bigint) AS s (first),"
        " LATERAL (SELECT session_id FROM events WHERE type = 'session_started'"
        " AND position > s.first ORDER BY position LIMIT 1) AS e",
        bench.history.events - step,
        step,
    )
    await connection.close()
    return [row[0] for row in rows]


# --- as of


async def asof(bench: Bench, as_of: AsOf) -> None:
    """Who was logged in at random moments."""
    rng, history = random.Random(2), bench.history
    table = make_table("As of a random moment, ms", "", "p50", "p99", "sessions")
    users = int(history.events * 0.085)
    cases: dict[str, Callable[[], dict[str, object]]] = {
        "by position, page of 1,000": lambda: {"position": rng.randrange(1, history.events)},
        "by position, page of 100": lambda: {
            "position": rng.randrange(1, history.events),
            "limit": 100,
        },
        "by time, page of 1,000": lambda: {
            "at": from_us(rng.randrange(history.begin_us, history.until_us))
        },
        "user with 10⁵ events": lambda: {
            "position": rng.randrange(1, history.events),
            "user": user_id(rng.randrange(HEAVY_USERS)),
        },
        "user with ten events": lambda: {
            "position": rng.randrange(1, history.events),
            "user": user_id(rng.randrange(HEAVY_USERS, users)),
        },
    }
    for name, case in cases.items():
        found: list[int] = []

        async def ask(
            case: Callable[[], dict[str, object]] = case, found: list[int] = found
        ) -> None:
            page = await as_of.sessions(**case())  # type: ignore[arg-type]
            found.append(len(page.sessions))

        times = await timed(bench.plan, ask)
        table.add_row(name, *_ms(times), f"{sum(found) / len(found):.0f}")
    began, count, before = time.perf_counter(), 0, None
    position = history.events // 2
    while True:
        page = await as_of.sessions(position=position, before=before)
        count, before = count + len(page.sessions), page.before
        if before is None:
            break
    taken = (time.perf_counter() - began) * 1000
    table.add_row("all pages of one moment", f"{taken:.0f}", "", f"{count:,}")
    bench.show(table)


# --- export and verification


async def export(bench: Bench, services: Services) -> None:
    """The first million events, as text."""
    table = make_table("Export", "", "events/s", "MB/s")
    upto = min(bench.plan.exported, bench.history.events)
    cases: tuple[tuple[ExportFormat, bool], ...] = (
        ("ndjson", False),
        ("csv", False),
        ("ndjson", True),
        ("csv", True),
    )
    for form, opened in cases:
        size, began = 0, time.perf_counter()
        with progress_bar("export") as progress:
            async for piece in services.exports.export(AuditFilter(), upto, form, opened=opened):
                size += len(piece)
                progress(size, upto * 300)
        taken = time.perf_counter() - began
        name = f"{form}, {'opened' if opened else 'sealed'}"
        table.add_row(name, f"{upto / taken:,.0f}", f"{size / taken / 1e6:.0f}")
    bench.show(table)


async def verify(bench: Bench) -> None:
    """The whole log."""
    connection = await connect(bench.app)
    kept = [kept_checkpoint(bench.note.read_bytes(), "kept")] if bench.note.exists() else []
    began = time.perf_counter()
    with progress_bar("verify") as progress:
        report = await verify_log(
            LiveLog(connection), SIGNER.verifier, kept=kept, progress=progress
        )
    await connection.close()
    table = make_table(f"Verification: {len(report.findings)} findings", "", "events", "events/s")
    _rate(table, "verified", report.events, began)
    bench.show(table)


# --- purge


def purging(
    urls: tuple[str, str], before: datetime, spacing: Spacing, path: str, go: Event
) -> None:
    """A process that purges when it is told to, as the command does."""
    asyncio.run(purge(*urls, before, now=utc_now, dry_run=True))  # all that a start takes
    go.wait()
    done = asyncio.run(purge(*urls, before, now=utc_now, spacing=spacing))
    Path(path).write_bytes(msgspec.json.encode(done))


async def purge_half(bench: Bench, services: Services) -> None:
    """Logins alone, then while half of the log is purged."""
    accounts = services.accounts
    names = [f"login{os.urandom(4).hex()}-{n}" for n in range(LOGIN_CLIENTS)]
    for name in names:
        await accounts.logins.register(name, PASSWORD, Client("192.0.2.1", AGENT))
    result = bench.directory / "purged.json"
    connection = await connect(bench.app)
    before = await connection.fetchval(
        "SELECT recorded_at FROM events WHERE position > $1 ORDER BY position LIMIT 1",
        (await cut_position(connection) + (await read_head(connection)).position) // 2,
    )
    await connection.close()
    context = multiprocessing.get_context("spawn")
    urls, go = (bench.postgres.owner_dsn(), bench.app), context.Event()
    arguments = (urls, before, bench.history.spacing, str(result), go)
    process = context.Process(target=purging, args=arguments)
    process.start()
    alone = await _logins(services, names, asyncio.sleep(bench.plan.logins_s))
    go.set()
    meanwhile = await _logins(services, names, asyncio.to_thread(process.join))
    if process.exitcode:
        raise RuntimeError("the purge failed")
    done = msgspec.json.decode(result.read_bytes(), type=Purged)
    table = make_table(
        f"Purge of {done.events:,} events, {len(done.dropped)} partitions", "", "logins", "p50 ms",
        "p99 ms", "slowest ms",
    )  # fmt: skip
    for name, times in (("logins alone", alone), ("while purging", meanwhile)):
        table.add_row(name, f"{len(times):,}", *_ms(times), f"{max(times):.1f}")
    bench.show(table)
    bench.console.print(
        f"prepared in {done.prepare_s:.2f} s ({done.sessions_kept:,} sessions kept), purged in"
        f" {done.purge_s:.2f} s, space given back in {done.drop_s:.2f} s"
    )


async def _logins(
    services: Services, names: Sequence[str], until: Awaitable[object]
) -> list[float]:
    """Milliseconds of logins, one after the other by each of some clients, until something ends."""
    over, times = asyncio.Event(), []

    async def client(name: str) -> None:
        while not over.is_set():
            began = time.perf_counter()
            await services.accounts.logins.log_in(name, PASSWORD, Client("192.0.2.1", AGENT))
            times.append((time.perf_counter() - began) * 1000)

    clients = [asyncio.create_task(client(name)) for name in names]
    await until
    over.set()
    await asyncio.gather(*clients)
    return times


# --- all of it


async def measure(bench: Bench, parts: Sequence[str]) -> None:
    await migrate(bench.postgres.owner_dsn())
    if "seal" in parts:
        await seal(bench)
    async with AsyncExitStack() as stack:
        services = await stack.enter_async_context(open_services(bench.config, bench.app))
        gc.collect()
        gc.freeze()  # as a worker does when it has started
        if "queries" in parts:
            await queries(bench, services.audit)
        if "asof" in parts:
            await asof(bench, services.as_of)
        if "export" in parts:
            await export(bench, services)
        if "verify" in parts:
            await verify(bench)
        if "purge" in parts:
            await purge_half(bench, services)
            await verify(bench)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--events", type=int, default=EVENTS)
    parser.add_argument("--quick", action="store_true", help="only show that it runs")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="use this directory, and leave it")
    parser.add_argument("--only", nargs="+", choices=PARTS, help="only these parts")
    options = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory(prefix="gatelog-bench-") as temporary:
        directory = options.keep or Path(temporary) / "var"
        history = loaded(directory)
        if history is None:
            began = time.perf_counter()
            history = load(directory, QUICK_EVENTS if options.quick else options.events)
            taken = time.perf_counter() - began
            console.print(f"{history.events:,} events loaded in {taken:.0f} s")
        parts = options.only or [part for part in PARTS if part != "purge" or not options.keep]
        postgres = EmbeddedPostgres(directory, settings=SETTINGS)
        postgres.start()
        try:
            plan = QUICK if options.quick else Plan()
            uvloop.run(measure(Bench(postgres, history, directory, console, plan), parts))
        finally:
            postgres.stop()


if __name__ == "__main__":
    main()
