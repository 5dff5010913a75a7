"""``python -m tests.bench.renewals [SESSIONS]``: how quickly the use of sessions is recorded.

A million sessions with an idle time of 30 minutes, all of them in use, need 1,000,000 / 450 s =
2,222 renewals a second. One process records the use of all sessions there are, as a worker does
(``gatelog.sessions.service.renewals``): in events of up to 256, one after the other, in no order,
with fsync on; each batch holds the log's lock for as long as it takes.
"""

from __future__ import annotations

import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import uvloop
from gatelog.clock import new_event_id
from gatelog.host.embedded import EmbeddedPostgres
from gatelog.kinds import register_all
from gatelog.log.store.appender import Appender
from gatelog.log.store.database import connect
from gatelog.log.store.migrate import migrate
from gatelog.sessions.rules.lifetimes import MOST_RENEWED
from gatelog.sessions.rules.renewing import RenewSessions
from rich.console import Console
from rich.table import Table

SESSIONS = 1_000_000
NEEDED_PER_S = 1_000_000 / 450

# Sessions that were used half of their idle time ago, in no order.
FILL = """
INSERT INTO active_sessions
SELECT sha256(int8send(n)), gen_random_uuid(), gen_random_uuid(), now() - interval '15 minutes',
       now() + interval '15 minutes', '{}', now() + interval '12 hours', 1800,
       now() - interval '15 minutes'
FROM generate_series(1, $1) AS t (n)
"""


class Figures(msgspec.Struct):
    """What it took."""

    sessions: int
    took_s: float
    batches_s: list[float]
    log_bytes: int
    wal_bytes: int


async def measure(postgres: EmbeddedPostgres, sessions: int) -> Figures:
    """Fill a database, and record the use of everything in it once."""
    await migrate(postgres.owner_dsn("bench"))
    owner = await connect(postgres.owner_dsn("bench"), role=None, timeout_s=600)
    await owner.execute(FILL, sessions)
    await owner.execute("ANALYZE active_sessions")
    digests = [row[0] for row in await owner.fetch("SELECT token_digest FROM active_sessions")]
    random.shuffle(digests)
    wal = await owner.fetchval("SELECT pg_current_wal_lsn()")
    batches_s, began = [], time.perf_counter()
    async with Appender(lambda: connect(postgres.app_dsn("bench")), timeout_s=60) as appender:
        for first in range(0, sessions, MOST_RENEWED):
            since = time.perf_counter()
            wanted = tuple(digests[first : first + MOST_RENEWED])
            await appender.submit(RenewSessions(event_id=new_event_id(), token_digests=wanted))
            batches_s.append(time.perf_counter() - since)
    took_s = time.perf_counter() - began
    log_bytes = await owner.fetchval(
        "SELECT sum(octet_length(entry)) FROM events WHERE type = 'sessions_renewed'"
    )
    wal_bytes = await owner.fetchval("SELECT pg_current_wal_lsn() - $1::pg_lsn", wal)
    await owner.close()
    return Figures(sessions, took_s, batches_s, int(log_bytes), int(wal_bytes))


def report(console: Console, figures: Figures) -> None:
    """Print them beside what is needed."""
    rate = figures.sessions / figures.took_s
    table = Table(title=f"Renewals of {figures.sessions:,} sessions, one process, fsync on")
    for column in ("", "measured", "needed"):
        table.add_column(column, justify="left" if not column else "right")
    table.add_row("sessions/s", f"{rate:,.0f}", f"{NEEDED_PER_S:,.0f}")
    table.add_row("of one process' time", f"{NEEDED_PER_S / rate:.0%}", "< 100%")
    p99_ms = sorted(figures.batches_s)[int(len(figures.batches_s) * 0.99)] * 1000
    table.add_row(
        "a batch: median, p99 (ms)",
        f"{statistics.median(figures.batches_s) * 1000:.1f}, {p99_ms:.1f}",
        "",
    )
    table.add_row("bytes of the log a session", f"{figures.log_bytes / figures.sessions:.0f}", "")
    table.add_row("bytes of WAL a session", f"{figures.wal_bytes / figures.sessions:.0f}", "")
    console.print(table)


def main(sessions: int = SESSIONS) -> None:
    register_all()
    with tempfile.TemporaryDirectory() as directory:
        postgres = EmbeddedPostgres(Path(directory))
        postgres.start()
        try:
            postgres.create_database("bench")
            report(Console(), uvloop.run(measure(postgres, sessions)))
        finally:
            postgres.stop()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
