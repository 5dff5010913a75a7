"""``user``: who may log in."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import click
import msgspec

from gatelog.cli.importing import import_users
from gatelog.cli.links import invite, reset
from gatelog.cli.output import json_option, limit_option, print_json, print_table
from gatelog.config import Config
from gatelog.errors import OperatorError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gatelog.accounts.service.accounts import Accounts
    from gatelog.accounts.service.acting import Ended
    from gatelog.accounts.store.users import ListedUser
    from gatelog.host.database import Dsns
    from gatelog.sessions.rules.state import ActiveSession

MAX_PASSWORD_FILE_BYTES = 64 * 1024
_NOBODY = UUID(int=0)


@click.group()
def user() -> None:
    """Add, invite, import, list, disable, unlock and erase users; passwords, roles and tokens."""


user.add_command(import_users)
user.add_command(invite)
user.add_command(reset)


@user.command("add")
@click.argument("login")
@click.option("--role", "roles", multiple=True, help="May be repeated.")
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
    from gatelog.cli.services import with_accounts

    async def work(accounts: Accounts) -> UUID:
        return await accounts.logins.add_user(login, password, tuple(roles))

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
    from gatelog.cli.services import with_accounts

    async def work(accounts: Accounts) -> list[ListedUser]:
        return await accounts.users.list_users(_NOBODY, limit)

    users = with_accounts(config, "user list", work)
    if as_json:
        print_json(users)
        return
    rows = [(u.login, u.subject_id, u.registered_at, _state(u), u.roles) for u in users]
    print_table("Users", ["login", "id", "registered (UTC)", "state", "roles"], rows)


def _state(listed: ListedUser) -> str:
    if listed.erased:
        return "erased"
    return "disabled" if listed.disabled else "enabled"


@user.command("tokens")
@click.argument("login")
@json_option
@click.pass_obj
def list_tokens(config: Config, login: str, as_json: bool) -> None:
    """List a user's tokens for machines; 'session end' ends one."""
    from gatelog.accounts.service.tokens import last_used_on
    from gatelog.cli.services import with_accounts

    async def work(accounts: Accounts) -> list[ActiveSession]:
        return await accounts.tokens.listed((await accounts.users.find_user(login)).subject_id)

    rows = [
        {
            "token_id": token.session_id,
            "created_at": token.started_at,
            "expires_at": token.expires_at,
            "roles": token.roles,
            "last_used_on": last_used_on(token),
        }
        for token in with_accounts(config, "user tokens", work)
    ]
    if as_json:
        print_json(rows)
        return
    columns = ["token", "created (UTC)", "expires (UTC)", "roles", "last used (UTC)"]
    print_table(f"Tokens of {login}", columns, [tuple(row.values()) for row in rows])


@user.command("disable")
@click.argument("login")
@json_option
@click.pass_obj
def disable(config: Config, login: str, as_json: bool) -> None:
    """Keep a user from logging in, and end all their sessions."""

    async def work(accounts: Accounts) -> Ended:
        return await accounts.users.disable((await accounts.users.find_user(login)).subject_id)

    _change(config, login, "disabled", work, as_json=as_json)


@user.command("enable")
@click.argument("login")
@json_option
@click.pass_obj
def enable(config: Config, login: str, as_json: bool) -> None:
    """Let a disabled user log in again."""

    async def work(accounts: Accounts) -> Ended:
        return await accounts.users.enable((await accounts.users.find_user(login)).subject_id)

    _change(config, login, "enabled", work, as_json=as_json)


@user.command("unlock")
@click.argument("login")
@json_option
@click.pass_obj
def unlock(config: Config, login: str, as_json: bool) -> None:
    """Forgive a user's failed logins: too many in a row have locked the password."""
    from gatelog.cli.services import with_accounts

    async def work(accounts: Accounts) -> None:
        await accounts.users.unlock((await accounts.users.find_user(login)).subject_id)

    with_accounts(config, "user unlock", work)
    if as_json:
        print_json({"login": login, "status": "unlocked"})
    else:
        click.echo(f"The password of {login} is unlocked.")


@user.command("remove-factors")
@click.argument("login")
@json_option
@click.pass_obj
def remove_factors(config: Config, login: str, as_json: bool) -> None:
    """Remove all second factors of a user who has lost them, and end all their sessions.

    The password alone is enough again. See to it that whoever asks is who they say.
    """
    from gatelog.cli.services import with_accounts

    async def work(accounts: Accounts) -> Ended:
        found = await accounts.users.find_user(login)
        return await accounts.factors.reset(found.subject_id)

    ended = with_accounts(config, "user remove-factors", work)
    if as_json:
        print_json({"login": login, "status": "factors_removed", "ended": ended.ended})
    else:
        click.echo(f"{login} has no second factor any more; sessions ended: {ended.ended}.")


@user.command("grant")
@click.argument("login")
@click.argument("role")
@json_option
@click.pass_obj
def grant(config: Config, login: str, role: str, as_json: bool) -> None:
    """Give a user a role, and end all their sessions."""

    async def work(accounts: Accounts) -> Ended:
        return await accounts.users.grant_role(
            (await accounts.users.find_user(login)).subject_id, role
        )

    _change(config, login, "granted", work, as_json=as_json, role=role)


@user.command("revoke")
@click.argument("login")
@click.argument("role")
@json_option
@click.pass_obj
def revoke(config: Config, login: str, role: str, as_json: bool) -> None:
    """Take a role from a user, and end all their sessions."""

    async def work(accounts: Accounts) -> Ended:
        return await accounts.users.revoke_role(
            (await accounts.users.find_user(login)).subject_id, role
        )

    _change(config, login, "revoked", work, as_json=as_json, role=role)


@user.command("erase")
@click.argument("who", metavar="LOGIN|ID")
@click.option("--yes", is_flag=True, help="Do not ask; it cannot be undone.")
@json_option
@click.pass_obj
def erase(config: Config, who: str, yes: bool, as_json: bool) -> None:
    """Forget a person: end their sessions, destroy the key to all that is personal.

    The events stay, about a number. What erased rows leave in the database's files is vacuumed.
    """
    if not yes:
        click.confirm("This cannot be undone. Erase the user?", abort=True)
    from gatelog.host.database import reachable_database

    with reachable_database(config, "user erase") as urls:
        done = asyncio.run(_erase(config, urls, who))
    for warning in done.warnings:
        click.echo(f"gatelog: {warning}", err=True)
    if as_json:
        print_json({"user_id": done.user_id, "status": "erased", "ended": done.ended})
    else:
        click.echo(f"{done.user_id} is erased; sessions ended: {done.ended}.")


class _Erased(msgspec.Struct, frozen=True):
    user_id: UUID
    ended: int
    warnings: list[str]


async def _erase(config: Config, urls: Dsns, who: str) -> _Erased:
    from gatelog.hosting.services import open_services
    from gatelog.log.store.database import connect, translated_errors
    from gatelog.privacy.store.keys import vacuum_erased

    async with open_services(config, urls.app) as services:
        user_id = _id(who) or (await services.accounts.users.find_user(who)).subject_id
        ended = await services.accounts.users.erase(user_id)
    owner = await connect(urls.owner, role=None)
    try:
        with translated_errors():
            return _Erased(user_id, ended.ended, await vacuum_erased(owner))
    finally:
        await owner.close()


def _id(who: str) -> UUID | None:
    """The id, if it is one: what looks like an id is never taken for somebody's login."""
    try:
        return UUID(who)
    except ValueError:
        return None


def _change(
    config: Config,
    login: str,
    done: str,
    work: Callable[[Accounts], Awaitable[Ended]],
    *,
    as_json: bool,
    role: str | None = None,
) -> None:
    """Do something to a user, or to a role of the user, and say what came of it."""
    from gatelog.cli.services import with_accounts

    ended = with_accounts(config, f"user {done}", work)
    if as_json:
        print_json({"login": login, "status": done, "ended": ended.ended})
    else:
        what = f"The role {role} of {login}" if role else login
        click.echo(f"{what} is {done}; sessions ended: {ended.ended}.")
