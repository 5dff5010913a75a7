"""``keys``: the master key, which opens all others."""

from __future__ import annotations

import asyncio

import click

from gatelog.cli.output import json_option, print_json, progress_bar
from gatelog.config import Config


@click.group()
def keys() -> None:
    """Care for the keys that seal personal data."""


@keys.command("rotate")
@click.option(
    "--lost",
    is_flag=True,
    help="The old master key is lost for good: give up what it sealed, and go on with fresh keys.",
)
@click.option("--yes", is_flag=True, help="Do not ask whether it is lost for good.")
@json_option
@click.pass_obj
def rotate(config: Config, lost: bool, yes: bool, as_json: bool) -> None:
    """Put every key under a new master key, or finish an interrupted rotation.

    The service may keep running meanwhile. With GATELOG_MASTER_KEY, put the new key in front of
    the old one there and start the service again first; a file in the data directory is taken
    care of.
    """
    from gatelog.host.database import reachable_database
    from gatelog.privacy.service.rotation import rotate as work

    if lost and not yes:
        click.confirm(
            "What a missing master key sealed can never be read again. Go on?", abort=True
        )
    with reachable_database(config, "keys rotate") as urls, progress_bar("rewrap") as progress:
        done = asyncio.run(work(config, urls.app, lost=lost, progress=progress))
    if as_json:
        print_json(done)
        return
    what = "Finished: t" if done.resumed else "T"
    click.echo(
        f"{what}he master key is {done.master_key_id} now; keys rewrapped: {done.rewrapped}"
        + (f", replaced because their master key is lost: {done.lost}" if lost else "")
        + "."
    )
    if not done.in_file:
        click.echo("Take the old key out of GATELOG_MASTER_KEY and start the service again.")
