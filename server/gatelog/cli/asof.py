"""``as-of``: who was logged in then."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import UUID

import click

from gatelog.cli.output import json_option, limit_option, print_json, print_table
from gatelog.cli.times import TIME
from gatelog.config import Config

if TYPE_CHECKING:
    from gatelog.audit.store.asof import SessionPage, SessionThen


@click.command("as-of")
@click.option("--at", type=TIME, metavar="TIME", help="A time, like 2026-01-31T12:00:00Z (UTC).")
@click.option("--position", type=click.IntRange(min=1), help="A position of the log.")
@click.option("--user", type=click.UUID, metavar="ID", help="Only the sessions of this user.")
@limit_option(1000)
@json_option
@click.pass_obj
def as_of(
    config: Config,
    *,
    at: datetime | None,
    position: int | None,
    user: UUID | None,
    limit: int,
    as_json: bool,
) -> None:
    """Show who was logged in at a time or a position, and how each session ended since."""
    from gatelog.host.database import reachable_database

    if (at is None) == (position is None):
        raise click.UsageError("Give --at or --position.")
    with reachable_database(config, "as-of") as urls:
        pages = asyncio.run(_read(urls.app, config, limit, at=at, position=position, user=user))
    moment, found = pages[-1].moment, [then for page in pages for then in page.sessions]
    if as_json:
        print_json(
            {
                "position": moment.position,
                "at": moment.at,
                "sessions": [_shown(then) for then in found],
                "complete": pages[-1].before is None,
            }
        )
        return
    title = (
        f"Logged in at position {moment.position}, {moment.at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
    )
    print_table(
        title,
        ["session", "user", "position", "started (UTC)", "expires (UTC)", "ended (UTC)", "why"],
        [_row(then) for then in found],
    )
    if pages[-1].before is not None:
        click.echo(f"There are more: --limit shows {limit} at most.")


async def _read(
    dsn: str,
    config: Config,
    limit: int,
    *,
    at: datetime | None,
    position: int | None,
    user: UUID | None,
) -> list[SessionPage]:
    """The pages up to so many sessions; the last one tells whether there are more."""
    from gatelog.audit.service.asof import AsOf
    from gatelog.audit.store.asof import MAX_PAGE, PLANNED_FOR_MARKS
    from gatelog.log.store.database import Database

    database = Database(
        dsn, timeout_s=config.database_timeout_s, pool_size=1, settings=PLANNED_FOR_MARKS
    )
    pages: list[SessionPage] = []
    try:
        service, before, left = AsOf(database), None, limit
        while left > 0:
            page = await service.sessions(
                at=at, position=position, user=user, before=before, limit=min(left, MAX_PAGE)
            )
            pages.append(page)
            left -= len(page.sessions)
            if page.before is None:
                break
            before = page.before
        return pages
    finally:
        await database.close()


def _shown(then: SessionThen) -> dict[str, object]:
    """A session without its token's digest, which is nobody's business."""
    session = then.session
    return {
        "session_id": session.session_id,
        "user_id": session.subject_id,
        "position": then.position,
        "started_at": session.started_at,
        "expires_at": session.absolute_at,
        "roles": session.roles,
        "is_token": session.is_token,
        "ended": then.ended,
    }


def _row(then: SessionThen) -> tuple[object, ...]:
    session, ended = then.session, then.ended
    return (
        session.session_id,
        session.subject_id,
        then.position,
        session.started_at,
        session.absolute_at,
        ended.at if ended else None,
        ended.reason if ended else None,
    )
