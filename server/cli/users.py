"""``user``: who may log in."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import click

from server.cli.output import json_option, limit_option, print_json, print_table
from server.config import Config
from server.core.commands import ROLES
from server.core.errors import OperatorError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from server.service.accounts import Accounts, Ended
    from server.store.users import ListedUser

MAX_PASSWORD_FILE_BYTES = 64 * 1024
_NOBODY = UUID(int=0)


@click.group()
def user() -> None:
    """Add, list, disable and enable users."""


@user.command("add")
@click.argument("login")
@click.option("--role", "roles", multiple=True, type=click.Choice(ROLES), help="May be repeated.")
@click.option(
    "--password-file",
    type=click.Path(path_type=Path, allow_dash=True),
    help="Read the password from this file, '-' for standard input, and do not ask for it.",
)
@json_option
@click.pass_obj
def add(
    config: Config, login: str, roles: tuple[str, ...], password_file: Path | None, as_json: bool
) -> None:
    """Add a user, with a password that is asked for twice."""
    password = _ask() if password_file is None else _read(password_file)
    subject_id = add_user(config, login, password, roles)
    if as_json:
        print_json({"user_id": subject_id, "login": login, "roles": roles})
    else:
        click.echo(f"Added {login} ({subject_id}).")


def add_user(config: Config, login: str, password: str, roles: tuple[str, ...] = ()) -> UUID:
    """Add a user to the configured database; returns the id."""
    from server.cli.services import with_accounts

    async def work(accounts: Accounts) -> UUID:
        return await accounts.add_user(login, password, tuple(roles))

    return with_accounts(config, "user add", work)


def _ask() -> str:
    if not sys.stdin.isatty():
        raise OperatorError("there is no terminal to ask for the password; use --password-file")
    return str(click.prompt("Password", hide_input=True, confirmation_prompt=True))


def _read(path: Path) -> str:
    """The file's first line; an editor's line break at its end is no part of the password."""
    try:
        with click.open_file(str(path), "rb") as file:
            text = file.read(MAX_PASSWORD_FILE_BYTES).decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise OperatorError(f"--password-file: cannot read {path}: {reason}") from error
    lines = text.splitlines()
    if len(lines) != 1:
        raise OperatorError(f"--password-file: {path} must hold one line, the password")
    return str(lines[0])


@user.command("list")
@limit_option(1000)
@json_option
@click.pass_obj
def list_users(config: Config, limit: int, as_json: bool) -> None:
    """List users, by id."""
    from server.cli.services import with_accounts

    async def work(accounts: Accounts) -> list[ListedUser]:
        return await accounts.list_users(_NOBODY, limit)

    users = with_accounts(config, "user list", work)
    if as_json:
        print_json(users)
        return
    rows = [(u.login, u.subject_id, u.registered_at, u.disabled, u.roles) for u in users]
    print_table("Users", ["login", "id", "registered (UTC)", "disabled", "roles"], rows)


@user.command("disable")
@click.argument("login")
@json_option
@click.pass_obj
def disable(config: Config, login: str, as_json: bool) -> None:
    """Keep a user from logging in, and end all their sessions."""

    async def work(accounts: Accounts) -> Ended:
        return await accounts.disable((await accounts.find_user(login)).subject_id)

    _change(config, login, "disabled", work, as_json)


@user.command("enable")
@click.argument("login")
@json_option
@click.pass_obj
def enable(config: Config, login: str, as_json: bool) -> None:
    """Let a disabled user log in again."""

    async def work(accounts: Accounts) -> Ended:
        return await accounts.enable((await accounts.find_user(login)).subject_id)

    _change(config, login, "enabled", work, as_json)


def _change(
    config: Config,
    login: str,
    done: str,
    work: Callable[[Accounts], Awaitable[Ended]],
    as_json: bool,
) -> None:
    from server.cli.services import with_accounts

    ended = with_accounts(config, f"user {done}", work)
    if as_json:
        print_json({"login": login, "status": done, "ended": ended.ended})
    else:
        click.echo(f"{login} is {done}; sessions ended: {ended.ended}.")
