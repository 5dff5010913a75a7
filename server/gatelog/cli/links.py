"""``user reset`` and ``user invite``: one-time links, handed out by an operator."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from gatelog.cli.output import json_option, print_json
from gatelog.config import Config

if TYPE_CHECKING:
    from gatelog.accounts.service.accounts import Accounts
    from gatelog.accounts.service.recovery import MadeLink


@click.command("reset")
@click.argument("login")
@json_option
@click.pass_obj
def reset(config: Config, login: str, as_json: bool) -> None:
    """Print a link by which a user sets a new password, once, within 15 minutes.

    Hand it to the user, and to nobody else: whoever has it, has the account. Using it ends all
    sessions of the user. Without GATELOG_LINK_URL it is the token alone, for
    POST /v1/recover/confirm.
    """
    from gatelog.cli.services import with_accounts

    async def work(accounts: Accounts) -> MadeLink:
        user = await accounts.users.find_user(login)
        return await accounts.recovery.reset(user.subject_id)

    _print(with_accounts(config, "user reset", work), "", as_json=as_json)


@click.command("invite")
@click.argument("login")
@click.option("--role", "roles", multiple=True, help="May be repeated.")
@click.option("--address", help="Send the link to this address of mail, and do not print it.")
@json_option
@click.pass_obj
def invite(
    config: Config, login: str, roles: tuple[str, ...], address: str | None, as_json: bool
) -> None:
    """Add a user without a password, and print a link by which they choose one, within 7 days."""
    from gatelog.cli.services import with_accounts

    async def work(accounts: Accounts) -> MadeLink:
        return await accounts.recovery.invite(login, roles, address)

    made = with_accounts(config, "user invite", work)
    _print(made, f"Invited {login} ({made.subject_id}).", as_json=as_json)


def _print(made: MadeLink, first: str, *, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "user_id": made.subject_id,
                "lifetime_s": made.lifetime_s,
                "token": made.token,
                "link": made.link,
            }
        )
        return
    if first:
        click.echo(first)
    click.echo(made.link or made.token or "The link goes out by mail.")
