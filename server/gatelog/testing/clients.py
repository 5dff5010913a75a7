"""Clients of an application behind the check, and logging them in."""

from __future__ import annotations

from collections.abc import Awaitable, Collection
from typing import Any, Protocol

from aiohttp import ClientSession, web
from aiohttp.test_utils import TestClient

from gatelog.accounts.service.accounts import Accounts
from gatelog.accounts.web import ACCOUNTS
from gatelog.config import Config
from gatelog.errors import NotFound
from gatelog.hosting.app import create_app
from gatelog.hosting.mount import application
from gatelog.http.credentials import LOCAL_COOKIE
from gatelog.http.settings import CONFIG

PASSWORD = "a password of the test kit's"  # noqa: S105 - opens nothing but databases of tests
# What settings of tests are wrapped with: nothing in such a database is worth a key.
MASTER_KEY = "A" * 43
SHORT_TTL_S = 0.1
UNLIMITED = 1_000_000

Client = TestClient[web.Request, web.Application]


class GatelogClient(Protocol):
    """Serves what ``GATELOG_APP`` may name, and gives a client: ``await gatelog_client(app)``."""

    def __call__(self, app: Any) -> Awaitable[Client]: ...


def config_for_tests(data_dir: str, dsn: str) -> Config:
    """Open registration, the cheapest hashing there is, and every check on the primary."""
    return Config(
        master_key=MASTER_KEY,
        argon2_memory_kib=8,
        argon2_time_cost=1,
        hashing_threads=1,
        login_tries=UNLIMITED,
        registration_tries=UNLIMITED,
        data_dir=data_dir,
        database_url=dsn,
        lease_ttl_s=SHORT_TTL_S,
        registration="open",
        check="strict",
        database_timeout_s=5,
        shutdown_timeout_s=1,
    )


async def hosted(app: Any, config: Config) -> web.Application:
    """The application as the service would host it; one with the product inside is left as it is.

    Raises ConfigError for what is no application, no routes and no factory.
    """
    found = await application(app)
    if CONFIG in found:
        return found
    return create_app(config, config.database_url, found)


async def login_as(
    client: Client,
    login: str,
    *,
    roles: Collection[str] | None = None,
    password: str = PASSWORD,
) -> str:
    """Log this client in; returns the session's token.

    The session is a real one: it is in the log, and its cookie is in the client's jar. A user who
    does not exist is made first. ``roles``: exactly those that the user has from now on, none if
    the user is made and they are left out; a change of roles ends the sessions that the user had.

    Raises NoSuchRole, InvalidInput for a login that cannot be, InvalidCredentials for a user with
    another password, and TypeError for an application that Gatelog is not in.
    """
    app = client.app
    if app is None or ACCOUNTS not in app:
        raise TypeError("Gatelog is not in this client's application: make it by gatelog_client")
    accounts = app[ACCOUNTS]
    await _ensure_user(accounts, login, roles, password)
    token = (await accounts.logins.log_in(login, password)).token
    session: ClientSession = client.session
    session.cookie_jar.update_cookies({LOCAL_COOKIE: token}, client.make_url("/"))
    return token


async def _ensure_user(
    accounts: Accounts, login: str, roles: Collection[str] | None, password: str
) -> None:
    if isinstance(roles, str):
        raise TypeError("roles are a set of names, not a name")
    try:
        user = await accounts.users.find_user(login)
    except NotFound:
        await accounts.logins.add_user(login, password, tuple(sorted(roles or ())))
        return
    if roles is None:
        return
    for role in sorted(set(roles) - set(user.roles)):
        await accounts.users.grant_role(user.subject_id, role)
    for role in sorted(set(user.roles) - set(roles)):
        await accounts.users.revoke_role(user.subject_id, role)
