"""``log purge``: give up the oldest part of the log."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import TYPE_CHECKING

import click

from gatelog.cli.output import json_option, print_json, progress_bar
from gatelog.cli.times import TIME
from gatelog.config import Config

if TYPE_CHECKING:
    from gatelog.audit.service.retention import Purged
    from gatelog.host.database import Dsns


@click.command("purge")
@click.option(
    "--before",
    type=TIME,
    required=True,
    metavar="TIME",
    help="Give up what was recorded before this time, like 2026-01-31 (UTC).",
)
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@click.pass_obj
def purge(config: Config, *, before: datetime, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Give up the oldest events for good, whole partitions of 1,048,576 at a time.

    Works as the owner, beside the running service. Only what is sealed goes, and its hashes stay:
    the rest still verifies, and 'check', 'rebuild' and 'as-of' go on from there. Verify the log
    first; of what is gone nobody can tell any more whether it was changed before.
    """
    from gatelog.host.database import reachable_database

    with reachable_database(config, "log purge") as urls:
        if not dry_run and not yes:
            planned = _purge(urls, before, dry_run=True)
            click.confirm(f"{_sentence(planned)} Go on?", abort=True, err=True)
        done = _purge(urls, before, dry_run=dry_run)
    if as_json:
        print_json(done)
        return
    if done.finished_earlier is not None and not dry_run:
        click.echo(f"Finished an interrupted purge up to position {done.finished_earlier}.")
    click.echo(_sentence(done))
    if done.dropped:
        click.echo(
            f"Prepared in {done.prepare_s:.2f} s, purged in {done.purge_s:.2f} s; the space of"
            f" {len(done.dropped)} partitions given back in {done.drop_s:.2f} s."
        )


def _purge(urls: Dsns, before: datetime, *, dry_run: bool) -> Purged:
    from gatelog.audit.service.retention import purge as work
    from gatelog.clock import utc_now

    with progress_bar("prepare") as progress:
        return asyncio.run(
            work(urls.owner, urls.app, before, now=utc_now, dry_run=dry_run, progress=progress)
        )


def _sentence(done: Purged) -> str:
    if not done.events:
        return "Nothing to purge: no whole, sealed partition is that old."
    verb = "would go" if done.dry_run else "are gone"
    return f"The {done.events} events up to position {done.up_to} {verb}."
