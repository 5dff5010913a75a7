"""``status``: the log, and how far each host has got with it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from gatelog.cli.output import json_option, print_json, print_table
from gatelog.config import Config

if TYPE_CHECKING:
    from gatelog.mail.store.outbox import MailCounts
    from gatelog.sessions.service.hosts import HostStatus
    from gatelog.sessions.store.leases import Look


@click.command()
@json_option
@click.pass_obj
def status(config: Config, as_json: bool) -> None:
    """Show the log's head and, for each host: mode, lease, applied position, lag, sessions.

    And the mails that wait to be sent, where mail is sent.

    The mode is "memory" where the host's replica may answer, else "primary": its workers ask the
    database. Workers with GATELOG_CHECK=strict always do, whatever the mode; "check" is the setting
    of this command's environment.
    """
    from gatelog.host.database import reachable_database
    from gatelog.sessions.service.hosts import host_status

    with reachable_database(config, "status") as urls:
        look, mails = asyncio.run(_look(urls.app, mails=config.mails))
    hosts = [host_status(lease, look) for lease in look.leases]
    if as_json:
        told = {"head": look.head, "epoch": look.epoch, "check": config.check, "hosts": hosts}
        print_json(told if mails is None else told | {"mails": mails})
        return
    click.echo(f"The log's head is {look.head}, in epoch {look.epoch}; check: {config.check}.")
    if mails is not None:
        click.echo(
            f"Mails that wait: {mails.waiting}, {mails.delayed} of them delayed;"
            f" given up in 30 days: {mails.dead}."
        )
    columns = ["host", "replica", "mode", "renewed", "applied", "lag", "sessions"]
    print_table("Hosts", columns, [_row(host) for host in hosts])


async def _look(dsn: str, *, mails: bool) -> tuple[Look, MailCounts | None]:
    from gatelog.log.store.database import connect
    from gatelog.mail.store.outbox import read_counts
    from gatelog.sessions.store.leases import read_leases

    connection = await connect(dsn)
    try:
        counts = await read_counts(connection) if mails else None
        return await read_leases(connection), counts
    finally:
        await connection.close()


def _row(host: HostStatus) -> list[object]:
    renewed = f"{host.renewed_s_ago:.1f} s ago (lease {host.lease_s:g} s)"
    return [host.host, host.replica, host.mode, renewed, host.applied, host.lag, host.sessions]
