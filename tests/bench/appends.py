"""Durable appends per second: the service's path against what PostgreSQL takes raw.

Both append session_started events with fsync on, in batches of the same size, from one process
and one connection, alternating within one run; those of gatelog are sealed, and found by
nothing, by address, and by all (address, networks, login name):

- raw: ``INSERT … SELECT unnest`` of finished rows into a table like ``events`` with three unique
  indexes, and the COMMIT;
- gatelog: ``Appender.submit``: lock, state, decide, encode, hash, events, ids, projection, head,
  COMMIT.
"""

from __future__ import annotations

import asyncio
import gc
import secrets
import statistics
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from uuid import uuid4

import msgspec
import uvloop
from gatelog.accounts.rules.events import UserRegistered
from gatelog.accounts.rules.login import StartSession
from gatelog.host.embedded import EmbeddedPostgres
from gatelog.log.store.appender import Appender
from gatelog.log.store.batch import MAX_BATCH
from gatelog.log.store.database import connect
from gatelog.log.store.migrate import migrate
from gatelog.privacy.rules import KEY_BYTES, NONCE_BYTES, Origin, Personal, origin_of, seal
from rich.console import Console
from rich.table import Table

from tests.builders import registration, start

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection

GOAL_PER_S = 25_000
ROUNDS = 7
EVENTS_PER_ROUND = 20 * MAX_BATCH
USERS = 20_000
CLIENTS = 4 * MAX_BATCH
KEY = secrets.token_bytes(KEY_BYTES)
AGENT = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0"

RAW_TABLE = """
CREATE TABLE raw_events (
    position bigint PRIMARY KEY, event_id uuid UNIQUE, type text, schema_version smallint,
    session_id uuid, subject_id uuid, recorded_at timestamptz, entry bytea,
    leaf_hash bytea UNIQUE
)
"""
RAW_INSERT = """
INSERT INTO raw_events
SELECT $1::bigint + n, event_id, 'session_started', 1, session_id, subject_id, $2, entry, leaf_hash
FROM unnest($3::uuid[], $4::uuid[], $5::uuid[], $6::bytea[], $7::bytea[]) WITH ORDINALITY
     AS t (event_id, session_id, subject_id, entry, leaf_hash, n)
"""


async def raw_round(connection: Connection, base: int) -> float:
    """Seconds for one round of raw batches; the rows are made beforehand."""
    batches = []
    for offset in range(0, EVENTS_PER_ROUND, MAX_BATCH):
        entries = [b'{"type":"session_started"}' + secrets.token_bytes(350)] * MAX_BATCH
        batches.append(
            (
                base + offset,
                datetime.now(UTC),
                [uuid4() for _ in range(MAX_BATCH)],
                [uuid4() for _ in range(MAX_BATCH)],
                [uuid4() for _ in range(MAX_BATCH)],
                entries,
                [secrets.token_bytes(32) for _ in range(MAX_BATCH)],
            )
        )
    began = time.perf_counter()
    for batch in batches:
        async with connection.transaction():
            await connection.execute(RAW_INSERT, *batch)
    return time.perf_counter() - began


async def gatelog_round(
    appender: Appender, subjects: list[UserRegistered], found: Found = "all"
) -> float:
    """Seconds for one round of logins, by so many clients that every batch is full."""
    commands = iter([login(subjects[n % len(subjects)], found) for n in range(EVENTS_PER_ROUND)])

    async def client() -> None:
        for command in commands:
            await appender.submit(*command)

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return time.perf_counter() - began


Found = Literal["nothing", "address", "all"]


def login(user: UserRegistered, found: Found = "all") -> tuple[StartSession, Origin | None]:
    """The command of a login and what it is found by: each user has an address of their own."""
    event = start(user.subject_id).event
    who = Personal(f"user {user.subject_id.node}", "192.0.2.1", AGENT)
    sealed = seal(who, KEY, secrets.token_bytes(NONCE_BYTES), event.event_id, event.type)
    event = msgspec.structs.replace(event, sealed=sealed)
    address = f"10.{'.'.join(map(str, user.subject_id.bytes[:3]))}"
    origin = None if found == "nothing" else origin_of(address, who.login, KEY)
    if origin is not None and found == "address":
        origin = Origin(origin.address)
    return StartSession(event=event, credential_version=1, max_sessions=1000), origin


async def latency(appender: Appender, subjects: list[UserRegistered]) -> list[float]:
    """Milliseconds of single appends, one after the other by each of 32 clients."""
    times: list[float] = []

    async def client(number: int) -> None:
        for _ in range(30):
            command = login(subjects[number])
            began = time.perf_counter()
            await appender.submit(*command)
            times.append((time.perf_counter() - began) * 1000)

    await asyncio.gather(*(client(number) for number in range(32)))
    return sorted(times)


async def measure(server: EmbeddedPostgres, console: Console) -> None:
    await migrate(server.owner_dsn())
    owner = await connect(server.owner_dsn(), role=None)
    await owner.execute(RAW_TABLE)
    async with Appender(
        lambda: connect(server.app_dsn()), timeout_s=60, max_queue=USERS
    ) as appender:
        users = [registration(f"user{n}") for n in range(USERS)]
        await asyncio.gather(*(appender.submit(user) for user in users))
        subjects = [user.event for user in users]
        raw: list[float] = []
        ours: dict[Found, list[float]] = {"nothing": [], "address": [], "all": []}
        await gatelog_round(appender, subjects)
        gc.collect()
        gc.freeze()  # as a worker does when it has started
        for number in range(ROUNDS):
            raw.append(EVENTS_PER_ROUND / await raw_round(owner, number * EVENTS_PER_ROUND))
            for found, rates in ours.items():
                rates.append(EVENTS_PER_ROUND / await gatelog_round(appender, subjects, found))
        times = await latency(appender, subjects)
    await owner.close()
    table = Table(title=f"Durable appends, one process, batches of {MAX_BATCH}, fsync on")
    for column in ("", "events/s (median)", "min", "max", "of raw"):
        table.add_column(column, justify="left" if not column else "right")
    named = {"raw INSERT … SELECT unnest": raw} | {
        f"decide + log + projection, found by {found}": rates for found, rates in ours.items()
    }
    for name, rates in named.items():
        share = statistics.median(a / b for a, b in zip(rates, raw, strict=True))
        numbers = (statistics.median(rates), min(rates), max(rates))
        table.add_row(name, *(f"{number:,.0f}" for number in numbers), f"{share:.2f}")
    console.print(table)
    console.print(f"goal: at least {GOAL_PER_S:,} events/s through decide and projection")
    console.print(
        f"32 clients, one append each at a time: p50 {times[len(times) // 2]:.2f} ms,"
        f" p99 {times[len(times) * 99 // 100]:.2f} ms"
    )


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="gatelog-bench-") as directory:
        server = EmbeddedPostgres(Path(directory) / "pg")
        server.start()
        try:
            uvloop.run(measure(server, Console()))
        finally:
            server.stop()


if __name__ == "__main__":
    main()
