"""``status``: the log, and how far each host has got with it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click
import msgspec

from gatelog.cli.output import json_option, print_json, print_table
from gatelog.config import Config

if TYPE_CHECKING:
    from gatelog.sessions.store.leases import HostLease, Look


class HostStatus(msgspec.Struct, frozen=True):
    """One host's replica, as its row in the database tells.

    ``mode``: "memory" while its lease is renewed in time and it knows this log, else "primary":
    then its workers ask the database. It is the replica's: workers with GATELOG_CHECK=strict ask
    the database in any case. ``sessions``: active ones at the last renewal. ``renewed_s_ago`` is by
    the database's clock.
    """

    host: str
    replica: str
    mode: str
    renewed_s_ago: float
    lease_s: float
    applied: int
    lag: int
    sessions: int | None


@click.command()
@json_option
@click.pass_obj
def status(config: Config, as_json: bool) -> None:
    """Show the log's head and, for each host: mode, lease, applied position, lag, sessions.

    The mode is "memory" where the host's replica may answer, else "primary": its workers ask the
    database. Workers with GATELOG_CHECK=strict always do, whatever the mode; "check" is the setting
    of this command's environment.
    """
    from gatelog.host.database import reachable_database

    with reachable_database(config, "status") as urls:
        look = asyncio.run(_look(urls.app))
    hosts = [_host(lease, look) for lease in look.leases]
    if as_json:
        print_json({"head": look.head, "epoch": look.epoch, "check": config.check, "hosts": hosts})
        return
    click.echo(f"The log's head is {look.head}, in epoch {look.epoch}; check: {config.check}.")
    columns = ["host", "replica", "mode", "renewed", "applied", "lag", "sessions"]
    print_table("Hosts", columns, [_row(host) for host in hosts])


async def _look(dsn: str) -> Look:
    from gatelog.log.store.database import connect
    from gatelog.sessions.store.leases import read_leases

    connection = await connect(dsn)
    try:
        return await read_leases(connection)
    finally:
        await connection.close()


def _host(lease: HostLease, look: Look) -> HostStatus:
    row = lease.row
    age_s = lease.age.total_seconds()
    lease_s = row.ttl_ns / 1e9
    memory = row.epoch == look.epoch and age_s < lease_s
    return HostStatus(
        host=lease.host,
        replica=row.replica_id,
        mode="memory" if memory else "primary",
        renewed_s_ago=round(age_s, 2),
        lease_s=lease_s,
        applied=row.applied_position,
        lag=max(0, look.head - row.applied_position),
        sessions=lease.sessions,
    )


def _row(host: HostStatus) -> list[object]:
    renewed = f"{host.renewed_s_ago:.1f} s ago (lease {host.lease_s:g} s)"
    return [host.host, host.replica, host.mode, renewed, host.applied, host.lag, host.sessions]
