"""Sealing and verifying: ``python -m tests.bench.sealing [--events N] [--quick]``.

How many events a second are sealed when there is a backlog, whether the sealer keeps up with 20,000
events written a second, and how many a second are verified, live and from an export;
beside each the limit of hashing alone.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop
from gatelog.clock import utc_now
from gatelog.host.embedded import EmbeddedPostgres
from gatelog.log.store import sql
from gatelog.log.store.database import connect
from gatelog.log.store.migrate import migrate
from gatelog.log.store.reading import read_head
from gatelog.proofs.rules.merkle import Edge, grow, leaf_hashes
from gatelog.proofs.rules.notes import Signer
from gatelog.proofs.service.sealer import LastNote, Sealer, keep_sealing
from gatelog.proofs.service.sources import LiveLog, Report, SignedNote
from gatelog.proofs.service.tlog_files import LogDirectory, export_log
from gatelog.proofs.service.verify import verify_log
from gatelog.proofs.service.verify_proof import kept_checkpoint
from gatelog.proofs.store.tiles import read_last_checkpoint, take_sealer_lock
from rich.console import Console

from tests.bench.machine import make_table, quantile

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection

EVENTS = 1_000_000
QUICK_EVENTS = 20_000
UNDER_LOAD_S = 15.0
QUICK_UNDER_LOAD_S = 1.0
ENTRY_BYTES = 400  # about what an event with sealed personal data has
SAMPLE_S = 0.05
SIGNER = Signer("gatelog.local/bench", b"\x01" * 32)
PACE = 22_000  # events a second; some more than must be kept up with

# Not through the appender: it is the sealer that is measured.
FILL = """
WITH made AS (
    SELECT n, convert_to('{"type":"login_failed","n":' || n || ',"pad":"'
                         || rpad(md5(n::text), $3, md5((n * 7)::text)) || '"}', 'UTF8') AS entry
    FROM generate_series($1::bigint, $2::bigint) AS n
)
INSERT INTO events (position, event_id, type, schema_version, recorded_at, entry, leaf_hash)
SELECT n, gen_random_uuid(), 'login_failed', 1, '2026-01-01', entry,
       sha256('\\x00'::bytea || entry)
FROM made ORDER BY n
"""
FILL_AT_ONCE = 100_000


async def fill(owner: Connection, events: int) -> None:
    """So many events, with the head behind them."""
    while await owner.fetchval("SELECT partitioned_to FROM log_head") <= events + (1 << 21):
        await owner.execute("SELECT add_event_partition()")
    for first in range(1, events + 1, FILL_AT_ONCE):
        await owner.execute(FILL, first, min(first + FILL_AT_ONCE - 1, events), ENTRY_BYTES - 45)
    await owner.execute("UPDATE log_head SET position = $1, recorded_at = '2026-01-01'", events)
    await owner.execute("ANALYZE events")


def hashing_alone() -> float:
    """Events a second of leaf and node hashes, with nothing to read and nothing to write."""
    entries = [b"%0*d" % (ENTRY_BYTES, number) for number in range(65_536)]
    began = time.perf_counter()
    grow(Edge(), leaf_hashes(entries))
    return len(entries) / (time.perf_counter() - began)


async def seal_backlog(dsn: str, note: Path) -> float:
    """Events a second, from a log of which nothing is sealed."""
    connection = await connect(dsn)
    assert await take_sealer_lock(connection)
    sealer = Sealer(connection, SIGNER, LastNote(note), utc_now)
    await sealer.load()
    began = time.perf_counter()
    while await sealer.seal_next():
        pass
    rate = sealer.size / (time.perf_counter() - began)
    await connection.close()
    return rate


# --- under load


def appending(dsn: str, seconds: float) -> None:
    """A process that writes events at a steady pace, whatever the pace of the appender here is."""
    uvloop.run(_appending(dsn, seconds))


async def _appending(dsn: str, seconds: float) -> None:
    owner = await connect(dsn, role=None)
    began, written = time.monotonic(), 0
    while (now := time.monotonic()) < began + seconds:
        async with owner.transaction():
            head = await owner.fetchval(sql.LOCK_HEAD)
            due = int((now - began) * PACE) - written
            await owner.execute(FILL, head + 1, head + due, ENTRY_BYTES - 45)
            await owner.execute("UPDATE log_head SET position = $1", head + due)
        written += due
        await asyncio.sleep(0.02)
    await owner.close()


def sealing(dsn: str, note: str) -> None:
    """A process that seals, as the product's own does."""
    uvloop.run(
        keep_sealing(
            lambda: connect(dsn), SIGNER, LastNote(Path(note)), now=utc_now, interval_s=0.5
        )
    )


async def under_load(
    server: EmbeddedPostgres, note: Path, seconds: float
) -> tuple[float, list[float]]:
    """Events appended a second, and how long the oldest unsealed event had waited, sampled."""
    dsn = server.app_dsn()
    context = multiprocessing.get_context("spawn")
    sealer = context.Process(target=sealing, args=(dsn, str(note)), daemon=True)
    writer = context.Process(target=appending, args=(server.owner_dsn(), seconds), daemon=True)
    connection = await connect(dsn)
    first = (await read_head(connection)).position
    sealer.start()
    writer.start()
    seen: list[tuple[float, int]] = []
    waits: list[float] = []
    began, rate = 0.0, 0.0
    try:
        while writer.is_alive():
            head = (await read_head(connection)).position
            last = await read_last_checkpoint(connection)
            now, sealed = time.monotonic(), last.size if last else 0
            if head == first:
                began = now
            elif now > began:
                rate = (head - first) / (now - began)
            if head > first and (not seen or head > seen[-1][1]):
                seen.append((now, head))
            # the first moment at which the head was seen beyond what is sealed now
            waits.append(next((now - at for at, position in seen if position > sealed), 0.0))
            seen = [item for item in seen if item[1] > sealed] or seen[-1:]
            await asyncio.sleep(SAMPLE_S)
    finally:
        for process in (sealer, writer):
            process.kill()
            process.join()
        await connection.close()
    return rate, waits


# --- verification


async def verify_live(dsn: str, note: Path) -> tuple[float, Report]:
    connection = await connect(dsn)
    kept: list[SignedNote] = [kept_checkpoint(note.read_bytes(), "kept")]
    began = time.perf_counter()
    report = await verify_log(LiveLog(connection), SIGNER.verifier, kept=kept)
    rate = report.events / (time.perf_counter() - began)
    await connection.close()
    return rate, report


async def export_and_verify(dsn: str, directory: Path) -> tuple[float, float, Report]:
    connection = await connect(dsn)
    began = time.perf_counter()
    size = await export_log(connection, directory, lambda *_: None)
    exported = size / (time.perf_counter() - began)
    await connection.close()
    began = time.perf_counter()
    report = await verify_log(LogDirectory(directory), SIGNER.verifier)
    return exported, report.events / (time.perf_counter() - began), report


async def measure(
    server: EmbeddedPostgres, console: Console, directory: Path, events: int, load_s: float
) -> None:
    await migrate(server.owner_dsn())
    owner = await connect(server.owner_dsn(), role=None)
    began = time.perf_counter()
    await fill(owner, events)
    await owner.close()
    console.print(
        f"{events:,} events of about {ENTRY_BYTES} bytes, made in"
        f" {time.perf_counter() - began:.0f} s"
    )
    note = directory / "checkpoint"
    dsn = server.app_dsn()
    table = make_table("Sealing and verifying, one process each", "", "events/s", "of hashing")
    limit = hashing_alone()
    table.add_row("hashing alone (leaves and nodes)", f"{limit:,.0f}", "1.00")
    rates = {"sealing a backlog (no leaf to hash)": await seal_backlog(dsn, note)}
    rates["verify, live"], live = await verify_live(dsn, note)
    exported, rate, files = await export_and_verify(dsn, directory / "export")
    rates |= {"export to a directory": exported, "verify, export": rate}
    assert live.findings == files.findings == []
    for name, value in rates.items():
        table.add_row(name, f"{value:,.0f}", f"{value / limit:.2f}")
    console.print(table)
    appended, waits = await under_load(server, note, load_s)
    console.print(
        f"One process writes {appended:,.0f} events/s, one seals: the oldest unsealed event has"
        f" waited p50 {quantile(waits, 0.5):.2f} s, p99 {quantile(waits, 0.99):.2f} s,"
        f" at most {max(waits):.2f} s ({len(waits)} samples)"
    )
    _, report = await verify_live(dsn, note)
    console.print(
        f"verified: {report.events:,} events, {report.checkpoints} checkpoints,"
        f" {len(report.findings)} findings"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--events", type=int, default=EVENTS)
    parser.add_argument("--quick", action="store_true", help="only show that it runs")
    options = parser.parse_args()
    events = QUICK_EVENTS if options.quick else options.events
    load_s = QUICK_UNDER_LOAD_S if options.quick else UNDER_LOAD_S
    with tempfile.TemporaryDirectory(prefix="gatelog-bench-") as name:
        directory = Path(name)
        server = EmbeddedPostgres(directory / "pg", settings={"shared_buffers": "512MB"})
        server.start()
        try:
            uvloop.run(measure(server, Console(), directory, events, load_s))
        finally:
            server.stop()


if __name__ == "__main__":
    main()
