"""``log``: the event log, as it is stored."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import click

from gatelog.cli.output import json_option, limit_option, print_json, print_table
from gatelog.cli.purge import purge
from gatelog.cli.tail import as_row, as_stored, from_option, tail
from gatelog.cli.verify import export_proofs, key, verify
from gatelog.config import Config

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gatelog.log.store.database import Connection
    from gatelog.log.store.reading import StoredEvent

PAGE = 1000


@click.group()
def log() -> None:
    """Read the event log, verify it, purge what is old."""


for command in (tail, verify, export_proofs, key, purge):
    log.add_command(command)


@log.command("show")
@from_option("the last events")
@limit_option(20)
@json_option
@click.pass_obj
def show(config: Config, first: int | None, limit: int, as_json: bool) -> None:
    """Show the last events, or those from a position on."""
    from gatelog.host.database import reachable_database

    with reachable_database(config, "log show") as urls:
        events = asyncio.run(_read(urls.app, first, limit))
    if as_json:
        for event in events:
            print_json(as_stored(event))
        return
    rows = [as_row(event) for event in events]
    print_table("Events", ["position", "recorded (UTC)", "type", "user", "what"], rows)


@asynccontextmanager
async def _connected(dsn: str) -> AsyncIterator[Connection]:
    from gatelog.log.store.database import connect, translated_errors

    connection = await connect(dsn)
    try:
        with translated_errors():
            yield connection
    finally:
        await connection.close()


async def _read(dsn: str, first: int | None, limit: int) -> list[StoredEvent]:
    async with _connected(dsn) as connection:
        after = await _before(connection, first, limit)
        found: list[StoredEvent] = []
        async for event in _follow(connection, after):
            found.append(event)
            if len(found) == limit:
                break
        return found


async def _before(connection: Connection, first: int | None, limit: int) -> int:
    """The position before the first one to show."""
    from gatelog.log.store.reading import read_head

    if first is not None:
        return first - 1
    return max(0, (await read_head(connection)).position - limit)


async def _follow(connection: Connection, after: int) -> AsyncIterator[StoredEvent]:
    """The events after this position that are there now."""
    from gatelog.log.store.reading import read_events

    while events := await read_events(connection, after, PAGE):
        for event in events:
            yield event
        after = events[-1].position
