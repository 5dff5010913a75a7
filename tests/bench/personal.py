"""What personal data costs: sealing, opening a page, forgetting somebody who did a lot.

- sealing: one event, in this process;
- opening: ``open_personal`` of pages of the log, keys from the database for each page;
- erasing: a user with many events, while others append one event after the other; the slowest of
  these appends is what the erasure costs them.
"""

from __future__ import annotations

import asyncio
import secrets
import tempfile
import time
from pathlib import Path
from uuid import UUID

import msgspec
import uvloop
from gatelog.accounts.rules.events import UserEnabled
from gatelog.accounts.rules.login import RecordLoginFailure
from gatelog.accounts.service.accounts import Accounts
from gatelog.accounts.service.passwords import PasswordPool
from gatelog.host.embedded import EmbeddedPostgres
from gatelog.log.store.appender import Appender
from gatelog.log.store.database import Database
from gatelog.log.store.migrate import migrate
from gatelog.log.store.reading import read_events
from gatelog.privacy.rules import Client, Personal, WrappedKey
from gatelog.privacy.service.personal import PersonalData
from gatelog.privacy.store.keys import KeyStore
from gatelog.sessions.rules.lease import lease_terms
from gatelog.sessions.service.barrier import Barrier
from rich.console import Console
from rich.table import Table

from tests.bench.machine import quantile
from tests.builders import CHEAP_CONFIG, NOON, failure

USERS = 5_000
EVENTS = 100_000
SEALED = 20_000
SHORT_TTL_S = 0.1  # there is no replica to wait for
ROUNDS = 9
PAGES = (100, 1_000, 10_000)
AGENT = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0"
CLIENT = Client("192.0.2.1", AGENT)
PASSWORD = "a phrase for the benchmark"
CONFIG = msgspec.structs.replace(CHEAP_CONFIG, registration="open")


class Bench:
    """A log with many users, one of whom did most of it."""

    def __init__(self, database: Database, appender: Appender, accounts: Accounts) -> None:
        self.database = database
        self.appender = appender
        self.accounts = accounts
        self.personal = PersonalData(CONFIG, database)
        self.users: list[UUID] = []
        self.keys: dict[UUID, WrappedKey] = {}

    async def fill(self) -> None:
        for _ in range(USERS // 50):
            names = [secrets.token_hex(8) for _ in range(50)]
            self.users += await asyncio.gather(
                *(self.accounts.logins.register(name, PASSWORD, CLIENT) for name in names)
            )
        self.keys = await KeyStore(self.database).subject_keys(self.users)
        busy = self.users[0]
        origin = await self.personal.origin_of(CLIENT, "somebody")
        for start in range(0, EVENTS, 2_000):
            await asyncio.gather(
                *(
                    self.appender.submit(
                        self.failed(self.users[n % USERS] if n % 2 else busy), origin
                    )
                    for n in range(start, start + 2_000)
                )
            )

    def failed(self, subject_id: UUID) -> RecordLoginFailure:
        event = msgspec.structs.replace(
            failure().event, subject_id=subject_id, reason="wrong_password"
        )
        personal = Personal("somebody", CLIENT.address, CLIENT.agent)
        return RecordLoginFailure(
            event=self.personal.sealed(event, personal, self.keys[subject_id])
        )

    def seal(self) -> float:
        """Events sealed per second."""
        event = UserEnabled(event_id=UUID(int=1), occurred_at=NOON, subject_id=UUID(int=2))
        personal, key = Personal("somebody", CLIENT.address, CLIENT.agent), secrets.token_bytes(32)
        began = time.perf_counter()
        for _ in range(SEALED):
            self.personal.sealed_with(event, personal, key)
        return SEALED / (time.perf_counter() - began)

    async def open(self, page: int) -> list[float]:
        """Events opened per second, in pages of this size, a few times."""
        async with self.database.acquire() as connection:
            events = [stored.event() for stored in await read_events(connection, 0, 3 * USERS)]
        events = [event for event in events if event.sealed is not None][: 2 * USERS]
        rates = []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            for start in range(0, len(events), page):
                opened = await self.personal.open_personal(events[start : start + page])
                if None in opened:
                    raise RuntimeError("an event that has a key was not opened")
            rates.append(len(events) / (time.perf_counter() - began))
        return sorted(rates)

    async def erase(self, subject_id: UUID) -> tuple[float, list[float]]:
        """Seconds that the erasure takes, and the milliseconds of appends meanwhile."""
        over, times = asyncio.Event(), []

        async def others() -> None:
            while not over.is_set():
                began = time.perf_counter()
                await self.appender.submit(failure())
                times.append((time.perf_counter() - began) * 1000)

        appending = asyncio.create_task(others())
        began = time.perf_counter()
        await self.accounts.users.erase(subject_id)
        taken = time.perf_counter() - began
        over.set()
        await appending
        return taken, sorted(times)


async def measure(server: EmbeddedPostgres, console: Console) -> None:
    await migrate(server.owner_dsn())
    database = Database(server.app_dsn(), timeout_s=60, pool_size=4)
    passwords = PasswordPool(CONFIG)
    async with (
        Appender(database.connect, timeout_s=60) as appender,
        Barrier(database.connect, terms=lease_terms(SHORT_TTL_S)) as barrier,
    ):
        accounts = Accounts(
            CONFIG, database=database, appender=appender, passwords=passwords, barrier=barrier
        )
        bench = Bench(database, appender, accounts)
        await bench.fill()
        table = Table(title="Personal data")
        table.add_column("")
        table.add_column("", justify="right")
        table.add_row("sealed, events/s", f"{bench.seal():,.0f}")
        for page in PAGES:
            rates = await bench.open(page)
            table.add_row(
                f"opened in pages of {page:,}, events/s (min, median)",
                f"{rates[0]:,.0f}, {rates[ROUNDS // 2]:,.0f}",
            )
        for name, user in (("an ordinary user", 1), (f"a user with {EVENTS // 2:,} events", 0)):
            taken, times = await bench.erase(bench.users[user])
            table.add_row(f"erasing {name}, ms", f"{taken * 1000:,.0f}")
            table.add_row(
                f"  appends meanwhile, ms (p50, max of {len(times)})",
                f"{quantile(times, 0.5):.1f}, {times[-1]:.1f}",
            )
        console.print(table)
    passwords.close()
    await database.close()


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
