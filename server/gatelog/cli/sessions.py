"""``session``: who is logged in."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

import click

from gatelog.cli.output import json_option, limit_option, print_json, print_table
from gatelog.config import Config

if TYPE_CHECKING:
    from gatelog.accounts.service.accounts import Accounts
    from gatelog.accounts.service.acting import Ended
    from gatelog.sessions.rules.state import ActiveSession

_NO_SESSION = UUID(int=0)

user_option = click.option("--user", "login", metavar="LOGIN", help="Only those of this user.")


@click.group()
def session() -> None:
    """List and end sessions."""


@session.command("list")
@user_option
@limit_option(1000)
@json_option
@click.pass_obj
def list_sessions(config: Config, login: str | None, limit: int, as_json: bool) -> None:
    """List active sessions."""
    from gatelog.cli.services import with_accounts

    async def work(accounts: Accounts) -> list[ActiveSession]:
        if login is None:
            return await accounts.sessions.list_all_sessions(_NO_SESSION, limit)
        subject_id = (await accounts.users.find_user(login)).subject_id
        return (await accounts.sessions.list_sessions(subject_id))[:limit]

    sessions = with_accounts(config, "session list", work)
    if as_json:
        print_json([_shown(found) for found in sessions])
        return
    rows = [tuple(_shown(found).values()) for found in sessions]
    columns = ["session", "user", "started (UTC)", "expires (UTC)", "roles", "login (UTC)", "by"]
    print_table("Active sessions", columns, rows)


def _shown(found: ActiveSession) -> dict[str, object]:
    """A session without its token's digest, which is nobody's business."""
    return {
        "session_id": found.session_id,
        "user_id": found.subject_id,
        "started_at": found.started_at,
        "expires_at": found.expires_at,
        "roles": found.roles,
        "authenticated_at": found.authenticated_at,
        "amr": found.amr,
    }


@session.command("end")
@click.argument("session_id", type=click.UUID, required=False)
@click.option("--user", "login", metavar="LOGIN", help="End all sessions of this user.")
@click.option("--tokens", is_flag=True, help="With --user: end the tokens for machines, too.")
@json_option
@click.pass_obj
def end(
    config: Config, session_id: UUID | None, login: str | None, *, tokens: bool, as_json: bool
) -> None:
    """End one session or token, or all sessions of a user."""
    from gatelog.cli.services import with_accounts

    if (session_id is None) == (login is None):
        raise click.UsageError("Give a SESSION_ID or --user LOGIN.")
    if tokens and login is None:
        raise click.UsageError("Give --tokens with --user LOGIN.")

    async def work(accounts: Accounts) -> Ended:
        if session_id is not None:
            return await accounts.sessions.revoke_session(session_id)
        return await accounts.sessions.revoke_all(
            (await accounts.users.find_user(login or "")).subject_id, tokens=tokens
        )

    ended = with_accounts(config, "session end", work)
    if as_json:
        print_json({"ended": ended.ended, "position": ended.position})
    else:
        click.echo(f"Sessions ended: {ended.ended}.")
