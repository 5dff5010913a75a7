"""``log``: the event log, as it is stored."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import click
import msgspec

from server.cli.output import json_option, limit_option, print_json, print_table
from server.cli.verify import export_proofs, key, verify
from server.config import Config

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from server.store.database import Connection
    from server.store.log import StoredEvent

PAGE = 1000
TAIL_POLL_S = 0.2

from_option = click.option(
    "--from",
    "first",
    type=click.IntRange(min=1),
    help="Begin with this position instead of the last events.",
)


@click.group()
def log() -> None:
    """Read the event log, and verify it."""


for command in (verify, export_proofs, key):
    log.add_command(command)


@log.command("show")
@from_option
@limit_option(20)
@json_option
@click.pass_obj
def show(config: Config, first: int | None, limit: int, as_json: bool) -> None:
    """Show the last events, or those from a position on."""
    from server.database import reachable_database

    with reachable_database(config, "log show") as urls:
        events = asyncio.run(_read(urls.app, first, limit))
    if as_json:
        for event in events:
            print_json(_shown(event))
        return
    rows = [_row(event) for event in events]
    print_table("Events", ["position", "recorded (UTC)", "type", "user", "what"], rows)


@log.command("tail")
@from_option
@json_option
@click.pass_obj
def tail(config: Config, first: int | None, as_json: bool) -> None:
    """Print events as they are recorded, until stopped."""
    from server.database import reachable_database

    with reachable_database(config, "log tail") as urls, suppress(KeyboardInterrupt):
        asyncio.run(_print_new(urls.app, first, as_json))


@asynccontextmanager
async def _connected(dsn: str) -> AsyncIterator[Connection]:
    from server.store.database import connect, translated_errors

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
    from server.store.log import read_head

    if first is not None:
        return first - 1
    return max(0, (await read_head(connection)).position - limit)


async def _follow(connection: Connection, after: int) -> AsyncIterator[StoredEvent]:
    """The events after this position that are there now."""
    from server.store.log import read_events

    while events := await read_events(connection, after, PAGE):
        for event in events:
            yield event
        after = events[-1].position


async def _print_new(dsn: str, first: int | None, as_json: bool) -> None:
    async with _connected(dsn) as connection:
        after = await _before(connection, first, 0)
        while True:
            async for event in _follow(connection, after):
                after = event.position
                _print_line(event, as_json)
            await asyncio.sleep(TAIL_POLL_S)


def _print_line(event: StoredEvent, as_json: bool) -> None:
    if as_json:
        print_json(_shown(event))
        return
    position, recorded_at, kind, subject, what = _row(event)
    click.echo(f"{position} {recorded_at:%Y-%m-%d %H:%M:%S} {kind} {subject or '-'} {what}")


def _shown(event: StoredEvent) -> dict[str, object]:
    """An event for programs; the entry is given as the very bytes that are stored."""
    return {
        "position": event.position,
        "recorded_at": event.recorded_at,
        "leaf_hash": event.leaf_hash.hex(),
        "entry": msgspec.Raw(event.entry),
    }


_NOT_SHOWN = {"type", "v", "event_id", "occurred_at", "subject_id", "token_digest", "sealed"}


def _row(event: StoredEvent) -> tuple[int, Any, str, Any, str]:
    fields = msgspec.to_builtins(event.event())
    rest = [f"{k}={v}" for k, v in fields.items() if v and k not in _NOT_SHOWN]
    subject = fields.get("subject_id")
    return event.position, event.recorded_at, fields["type"], subject, " ".join(rest)
