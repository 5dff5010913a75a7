"""A program of the version before beside this one, on one database: the real one, from history.

It knows no factors. Who has one on a new host must not get in on an old one by the password alone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import pytest
from gatelog.accounts.web import ACCOUNTS
from gatelog.errors import InvalidCredentials
from gatelog.privacy.rules import UNKNOWN_CLIENT

from tests.accounts.factoring import Person
from tests.conftest import Dsns
from tests.older import log_in_with, program_before
from tests.serving import PASSWORD, Service

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection

LogIn = Callable[[str], Awaitable[str]]


@pytest.fixture
def older(tmp_path: Path, database: Dsns) -> LogIn:
    """Logs in with the program of before factors; says what comes of it."""
    packages = program_before("0013_factors.py", tmp_path / "older")

    async def log_in(login: str) -> str:
        return await log_in_with(packages, database.app, login, PASSWORD)

    return log_in


async def test_an_older_program_lets_nobody_in_who_has_a_factor(
    alice: Service, older: LogIn
) -> None:
    await alice.register("bob")
    person, bob = Person(alice), Person(alice, "bob")
    assert await older("alice") == "session"
    await person.enrolled()
    assert await older("alice") == "invalid_credentials"
    assert await older("bob") == "session"
    bearer = (await person.both(code=person.code())).token
    path = f"/v1/factors/{person.factor_id}"
    assert (await alice.send("DELETE", path, bearer=bearer)).status == 200
    assert await older("alice") == "session"
    assert (await bob.asked()).status == 200


async def test_a_login_that_was_under_way_fails(alice: Service) -> None:
    """On an old host as on a new one: both compare ``credential_version`` under the lock."""
    person = Person(alice)
    logins = alice.runner.app[ACCOUNTS].logins
    approach = await logins._throttle.approach("alice", client=UNKNOWN_CLIENT, tokens=())
    credential, _ = await logins._verified("alice", PASSWORD, approach, PASSWORD)
    await person.enrolled()
    with pytest.raises(InvalidCredentials):
        await logins.start(credential, approach, keeps_tokens=False, over=None)
    # and one that knows the version, and no more than the password: the rule itself
    credential, _ = await logins._verified("alice", PASSWORD, approach, PASSWORD)
    with pytest.raises(InvalidCredentials):
        await logins.start(credential, approach, keeps_tokens=False, over=None)


async def test_an_older_sealer_makes_no_marks_that_leave_factors_out(
    alice: Service, connection: Connection
) -> None:
    await Person(alice).enrolled()
    older = """
        INSERT INTO user_marks (position, subject_id, registered_at, disabled, credential_version,
                                roles, erased)
        SELECT 1, subject_id, registered_at, disabled, credential_version, roles, erased FROM users
        """
    with pytest.raises(asyncpg.NotNullViolationError):
        await connection.execute(older)
