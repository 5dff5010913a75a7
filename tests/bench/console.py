"""The console's pages: ``python -m tests.bench.console [--events N] [--people N] [--quick]``.

So many events, and so many users and active sessions, are written straight into PostgreSQL, as rows
that the pages ask for; then an auditor opens each page again and again, over a socket on loopback,
by one connection. What is told is the time until the whole page is there. Everything runs on one
machine; its load stands beside the figures.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import aiohttp
import msgspec
import uvloop
from aiohttp import web
from gatelog.config import Config
from gatelog.host.embedded import EmbeddedPostgres
from gatelog.hosting.app import create_app, make_runner
from gatelog.hosting.services import open_services
from gatelog.log.rules.events import encode
from gatelog.log.store.database import Database, connect
from gatelog.log.store.migrate import migrate
from gatelog.privacy.service.personal import PersonalData
from rich.console import Console

from tests.bench.machine import make_table, quantile
from tests.builders import CHEAP_CONFIG, start
from tests.serving import PASSWORD

EVENTS = 10_000_000
PEOPLE = 1_000_000
QUICK = 2_000
TIMES = 200
CELL_S = 10.0
SETTINGS = {
    "shared_buffers": "512MB",
    "synchronous_commit": "off",
    "max_wal_size": "4GB",
    "maintenance_work_mem": "512MB",
}
OFFICE = "198.51.100.7"  # one of forty events came from there
SOMEBODY = UUID(int=77)
HTML = {"Accept": "text/html"}

# $1 how many
USERS = """
INSERT INTO users (subject_id, registered_at, disabled, credential_version, roles)
SELECT lpad(to_hex(n), 32, '0')::uuid, now() - n * interval '10 seconds', n % 50 = 0, 1, '{}'
FROM generate_series(1, $1::bigint) AS n
"""
CREDENTIALS = """
INSERT INTO credentials (subject_id, login, password_hash, changed_at)
SELECT lpad(to_hex(n), 32, '0')::uuid, 'user' || n, '', now()
FROM generate_series(1, $1::bigint) AS n
"""
SESSIONS = """
INSERT INTO active_sessions (token_digest, session_id, subject_id, started_at, expires_at, roles)
SELECT sha256(n::text::bytea), lpad(to_hex(n + 1000000000), 32, '0')::uuid,
       lpad(to_hex(1 + n % $1::bigint), 32, '0')::uuid, now() - n * interval '1 second',
       now() + interval '30 days', '{}'
FROM generate_series(1, $1::bigint) AS n
"""
# A third of the events start sessions, the newest of which are those that are active.
# $1 after, $2 up to, $3 the last, $4 an entry
LOG = """
INSERT INTO events (position, event_id, type, schema_version, session_id, subject_id, recorded_at,
                    entry, leaf_hash)
SELECT n, gen_random_uuid(),
       (ARRAY['session_started', 'session_ended', 'login_failed'])[1 + n % 3], 3,
       CASE WHEN n % 3 = 0 THEN lpad(to_hex(($3 - n) / 3 + 1000000001), 32, '0')::uuid END,
       lpad(to_hex(1 + n % 1000000), 32, '0')::uuid, now() - ($3 - n) * interval '1 second',
       $4, sha256('')
FROM generate_series($1 + 1, $2::bigint) AS n
"""
# $1 after, $2 up to, $3 the address' index
ADDRESSES = """
INSERT INTO event_addresses (address_index, position)
SELECT $3, n FROM generate_series($1 + 1, $2::bigint) AS n WHERE n % 39 = 0
"""
PART = 1 << 18


async def fill(config: Config, postgres: EmbeddedPostgres, events: int, people: int) -> None:
    """Write all of it."""
    database = Database(postgres.app_dsn(), timeout_s=60, pool_size=1)
    index = await PersonalData(config, database).address_index(OFFICE)
    await database.close()
    owner = await connect(postgres.owner_dsn(), role=None, timeout_s=3600)
    for statement in (USERS, CREDENTIALS, SESSIONS):
        await owner.execute(statement, people)
    first: int = await owner.fetchval("SELECT position FROM log_head")
    entry, last = encode(start(SOMEBODY).event), first + events
    for after in range(first, last, PART):
        up_to = min(after + PART, last)
        while await owner.fetchval("SELECT partitioned_to FROM log_head") <= up_to:
            await owner.execute("SELECT add_event_partition()")
        await owner.execute(LOG, after, up_to, last, entry)
        await owner.execute(ADDRESSES, after, up_to, index)
    await owner.execute("UPDATE log_head SET position = $1, recorded_at = now()", last)
    await owner.execute("VACUUM ANALYZE")
    await owner.close()


def pages() -> dict[str, str]:
    """What is opened, by what it shows."""
    deep = f"{int((datetime.now(UTC) - timedelta(days=3)).timestamp() * 1e6)}.{SOMEBODY.hex}"
    return {
        "overview": "/console/",
        "users, the newest": "/console/users",
        "users, deep inside": f"/console/users?cursor={deep}",
        "users, nobody found": "/console/users?find=nobody",
        "a user": f"/console/users/{SOMEBODY}",
        "sessions, the newest": "/console/sessions",
        "sessions, deep inside": f"/console/sessions?cursor={deep}",
        "sessions of a user": "/console/sessions?user=user77",
        "sessions from an office": f"/console/sessions?address={OFFICE}",
        "sessions from nowhere": "/console/sessions?address=203.0.113.9",
        "sessions on a device": "/console/sessions?device=firefox",
    }


async def measure(config: Config, dsn: str, console: Console, cell_s: float) -> None:
    async with open_services(config, dsn) as services:
        await services.accounts.logins.add_user("olga", PASSWORD, ("auditor",))
    runner = make_runner(create_app(config, dsn), config)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    origin = f"http://127.0.0.1:{runner.addresses[0][1]}"
    table = make_table("A page of the console, ms", "page", "first", "p50", "p99", "KB")
    async with aiohttp.ClientSession(headers=HTML) as client:
        body = {"login": "olga", "password": PASSWORD}
        async with client.post(f"{origin}/v1/login_user", json=body) as answer:
            cookie = answer.headers.getall("Set-Cookie")[0].partition(";")[0]
        headers = {"Cookie": cookie}
        for name, path in pages().items():
            times: list[float] = []
            size, over = 0, time.perf_counter() + cell_s
            while len(times) < TIMES and (not times or time.perf_counter() < over):
                began = time.perf_counter()
                async with client.get(origin + path, headers=headers) as answer:
                    size = len(await answer.read())
                    assert answer.status in {200, 422}, (name, answer.status)
                times.append((time.perf_counter() - began) * 1000)
            p50, p99 = quantile(times, 0.5), quantile(times, 0.99)
            table.add_row(name, f"{times[0]:.1f}", f"{p50:.1f}", f"{p99:.1f}", f"{size / 1e3:.0f}")
    await runner.cleanup()
    console.print(table)
    console.print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()}")


async def run(postgres: EmbeddedPostgres, directory: Path, options: argparse.Namespace) -> None:
    console = Console()
    config = msgspec.structs.replace(
        CHEAP_CONFIG, data_dir=str(directory), lease_ttl_s=0.5, database_timeout_s=60.0
    )
    await migrate(postgres.owner_dsn())
    began = time.perf_counter()
    await fill(config, postgres, options.events, options.people)
    filled = f"{options.events:,} events, {options.people:,} users and sessions"
    console.print(f"{filled} in {time.perf_counter() - began:.0f} s")
    await measure(config, postgres.app_dsn(), console, options.cell_s)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--events", type=int, default=EVENTS)
    parser.add_argument("--people", type=int, default=PEOPLE)
    parser.add_argument("--quick", action="store_true", help="only show that it runs")
    options = parser.parse_args()
    options.cell_s = CELL_S
    if options.quick:
        options.events, options.people, options.cell_s = QUICK, QUICK, 0.1
    with tempfile.TemporaryDirectory(prefix="gatelog-bench-") as temporary:
        directory = Path(temporary) / "var"
        directory.mkdir()
        postgres = EmbeddedPostgres(directory, settings=SETTINGS)
        postgres.start()
        try:
            uvloop.run(run(postgres, directory, options))
        finally:
            postgres.stop()


if __name__ == "__main__":
    main()
