"""``migrate``, ``check`` and ``rebuild``: the schema, and the projection held against the log."""

from __future__ import annotations

import asyncio
import sys

import click

from server.cli.output import console, json_option, print_json, print_table, progress_bar
from server.config import Config


@click.command()
@json_option
@click.pass_obj
def migrate(config: Config, as_json: bool) -> None:
    """Bring the database's schema to the version of this program.

    Works as the owner: GATELOG_OWNER_DATABASE_URL, or GATELOG_DATABASE_URL when its role may.
    """
    from server.database import reachable_database
    from server.store.migrate import migrate as apply
    from server.store.migrate import newest_revision

    with reachable_database(config, "migrate", migrated=False) as urls:
        applied = asyncio.run(apply(urls.owner))
    if as_json:
        print_json({"applied": applied, "schema": newest_revision()})
    else:
        done = f"applied {', '.join(applied)}" if applied else "nothing to do"
        click.echo(f"Schema {newest_revision()}: {done}.")


@click.command()
@json_option
@click.pass_obj
def check(config: Config, as_json: bool) -> int:
    """Fold the log and compare it with the projection, row by row.

    The exit code is 1 when there is any difference.
    """
    from server.database import reachable_database
    from server.store.rebuild import check as compare

    with reachable_database(config, "check") as urls, progress_bar("check") as progress:
        report = asyncio.run(compare(urls.app, progress))
    if as_json:
        print_json(report)
    else:
        counts = [("events", report.events), ("sessions", report.sessions), ("users", report.users)]
        if report.purged_to:
            counts.append(("purged, not checked, up to position", report.purged_to))
        counts.append(("differences", len(report.differences) + report.untold))
        print_table("Log and projection", ["what", "number"], counts)
        for difference in report.differences:
            console(sys.stdout).print(difference)
    return 1 if report.differences or report.untold else 0


@click.command()
@json_option
@click.pass_obj
def rebuild(config: Config, as_json: bool) -> None:
    """Make the projection anew from the log, and swap it in when it is complete.

    The service may keep running meanwhile.
    """
    from server.database import reachable_database
    from server.store.rebuild import rebuild as fold

    with reachable_database(config, "rebuild") as urls, progress_bar("rebuild") as progress:
        report = asyncio.run(fold(urls.owner, progress))
    if as_json:
        print_json(report)
    else:
        click.echo(
            f"Rebuilt from {report.events} events: {report.sessions} sessions,"
            f" {report.users} users; rows that changed: {report.changed}."
        )
