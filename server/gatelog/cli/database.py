"""``migrate``, ``check``, ``rebuild`` and ``after-restore``: the schema and the projection."""

from __future__ import annotations

import asyncio
import sys

import click

from gatelog.cli.output import console, json_option, print_json, print_table, progress_bar
from gatelog.config import Config


@click.command()
@json_option
@click.pass_obj
def migrate(config: Config, as_json: bool) -> None:
    """Bring the database's schema to the version of this program.

    Works as the owner: GATELOG_OWNER_DATABASE_URL, or GATELOG_DATABASE_URL when its role may.
    """
    from gatelog.host.database import reachable_database
    from gatelog.log.store.migrate import migrate as apply
    from gatelog.log.store.schema import newest_revision

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
    from gatelog.audit.store.marks import MarksCheck
    from gatelog.host.database import reachable_database
    from gatelog.log.store.rebuild import check as compare

    with reachable_database(config, "check") as urls, progress_bar("check") as progress:
        report = asyncio.run(compare(urls.app, progress, MarksCheck()))
    if as_json:
        print_json(report)
    else:
        counts = [("events", report.events), *report.rows.items()]
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
    from gatelog.host.database import reachable_database
    from gatelog.log.store.rebuild import rebuild as fold

    with reachable_database(config, "rebuild") as urls, progress_bar("rebuild") as progress:
        report = asyncio.run(fold(urls.owner, progress))
    if as_json:
        print_json(report)
    else:
        tables = ", ".join(f"{table} {rows}" for table, rows in report.rows.items())
        click.echo(
            f"Rebuilt from {report.events} events: {tables}; rows that changed: {report.changed}."
        )


@click.command("after-restore")
@click.option(
    "--keep-sessions",
    is_flag=True,
    help="Let the sessions live that the backup has. Some of them may have ended since.",
)
@json_option
@click.pass_obj
def after_restore(config: Config, keep_sessions: bool, as_json: bool) -> None:
    """Take a restored database into service; run it once after every restore.

    Until then a database that lacks what was signed is refused. Ends all sessions, begins a new
    epoch, and puts the last checkpoint aside where the log does not extend it any more. Needs the
    signing key and the checkpoint file, so run it where the sealer runs, and as the owner.
    """
    from gatelog.clock import utc_now
    from gatelog.host.database import reachable_database
    from gatelog.host.sealer import last_note, signing_key
    from gatelog.hosting.services import open_services
    from gatelog.log.store.database import connect, translated_errors
    from gatelog.proofs.service.history import TakenOver, take_over
    from gatelog.proofs.service.sealer import Sealer

    async def run(app: str, owner: str) -> TakenOver:
        note = last_note(config)
        connection = await connect(app)
        as_owner = await connect(owner, role=None)
        try:
            with translated_errors():
                async with open_services(config, app, guarded=False) as services:
                    return await take_over(
                        services.accounts,
                        connection,
                        as_owner,
                        Sealer(connection, signing_key(config), note, utc_now),
                        note,
                        keep_sessions=keep_sessions,
                    )
        finally:
            await connection.close()
            await as_owner.close()

    with reachable_database(config, "after-restore") as urls:
        taken = asyncio.run(run(urls.app, urls.owner))
    if as_json:
        print_json(taken)
        return
    click.echo(
        f"The log of {taken.position} events counts from now on, in epoch {taken.epoch};"
        f" sessions ended: {taken.ended}."
    )
    if taken.lost_to is not None:
        click.echo(
            f"Events up to {taken.lost_to} had been signed and are lost; what was signed is kept"
            f" in {taken.set_aside}."
        )
