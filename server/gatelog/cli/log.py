"""``log``: the event log, as it is stored."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click
from msgspec.structs import replace

from gatelog.cli.output import json_option, limit_option, print_json, print_table
from gatelog.cli.purge import purge
from gatelog.cli.tail import as_row, as_stored, from_option, tail
from gatelog.cli.verify import export_proofs, key, verify
from gatelog.config import Config

if TYPE_CHECKING:
    from gatelog.audit.rules.shown import AuditFilter
    from gatelog.log.store.reading import StoredEvent


@click.group()
def log() -> None:
    """Read the event log, verify it, purge what is old."""


for command in (tail, verify, export_proofs, key, purge):
    log.add_command(command)


@log.command("show")
@from_option("the last events")
@limit_option(20)
@click.option("--user", type=click.UUID, help="Only what is about this user (an id).")
@click.option("--login", help="Only what has this login name in it, also one that nobody has.")
@click.option("--address", help="Only what came from this IP address.")
@click.option("--network", help="Only what came from this network: /8, /16, /24; /32, /48, /64.")
@click.option("--type", "types", multiple=True, help="Only events of this type; may be repeated.")
@json_option
@click.pass_obj
def show(config: Config, /, *, as_json: bool, **asked: Any) -> None:
    """Show the last events, or those from a position on; all, or those that fit."""
    from gatelog.host.database import reachable_database
    from gatelog.kinds import register_all

    register_all()
    wanted = _wanted(**asked)
    with reachable_database(config, "log show") as urls:
        events = asyncio.run(_read(config, urls.app, wanted))
    if as_json:
        for event in events:
            print_json(as_stored(event))
        return
    rows = [as_row(event) for event in events]
    print_table("Events", ["position", "recorded (UTC)", "type", "user", "what"], rows)


def _wanted(
    *,
    first: int | None,
    limit: int,
    user: UUID | None,
    login: str | None,
    address: str | None,
    network: str | None,
    types: tuple[str, ...],
) -> AuditFilter:
    """The question. Raises InvalidInput."""
    from gatelog.accounts.rules.credentials import normalise_login
    from gatelog.audit.rules.shown import AuditFilter
    from gatelog.errors import InvalidInput
    from gatelog.log.rules.events import EVENT_TYPES
    from gatelog.privacy.rules import normalise_address, normalise_network

    if address is not None and network is not None:
        raise InvalidInput("Give --address or --network.")
    if unknown := [name for name in types if name not in EVENT_TYPES]:
        known = ", ".join(EVENT_TYPES)
        raise InvalidInput(f"There are no events of type {unknown[0]}; there are {known}.")
    return AuditFilter(
        user=user,
        types=types,
        login=None if login is None else normalise_login(login),
        address=None if address is None else normalise_address(address),
        network=None if network is None else normalise_network(network),
        after=None if first is None else first - 1,
        order="desc" if first is None else "asc",
        limit=limit,
    )


async def _read(config: Config, dsn: str, wanted: AuditFilter) -> list[StoredEvent]:
    """The first events that fit, in the order of the log."""
    from gatelog.audit.rules.shown import MAX_PAGE
    from gatelog.audit.service.seeking import seek
    from gatelog.audit.store.queries import read_page
    from gatelog.audit.store.statements import PLANNED_FOR_INDEXES
    from gatelog.log.store.database import Database
    from gatelog.privacy.service.personal import PersonalData

    database = Database(
        dsn, timeout_s=config.database_timeout_s, pool_size=1, settings=PLANNED_FOR_INDEXES
    )
    try:
        sought = await seek(PersonalData(config, database), wanted)
        found: list[StoredEvent] = []
        cursor = None
        while True:
            asked = replace(wanted, cursor=cursor, limit=min(wanted.limit - len(found), MAX_PAGE))
            async with database.acquire() as connection:
                page = await read_page(connection, asked, sought)
            found += page.events
            cursor = page.next
            if cursor is None or len(found) == wanted.limit:
                return found if wanted.order == "asc" else found[::-1]
    finally:
        await database.close()
