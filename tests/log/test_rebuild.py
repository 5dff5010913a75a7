"""The projection against the log: ``check`` finds every difference, ``rebuild`` mends it."""

from __future__ import annotations

import asyncio
import random
from uuid import UUID

import pytest
from gatelog.accounts.rules.administration import ChangeUser
from gatelog.accounts.rules.ending import EndSessions
from gatelog.accounts.rules.events import UserDisabled, UserEnabled
from gatelog.clock import new_event_id
from gatelog.errors import GatelogError, LogDamaged
from gatelog.log.rules.kinds import Command
from gatelog.log.store.appender import Appender
from gatelog.log.store.database import connect
from gatelog.log.store.reading import read_head
from gatelog.log.store.rebuild import check, rebuild

from tests.builders import NOON, failure, registration, start
from tests.conftest import Dsns


async def populate(appender: Appender, *, users: int = 5, steps: int = 60, seed: int = 1) -> None:
    """A log with a bit of everything, in concurrent batches."""
    rng = random.Random(seed)
    commands = [registration(f"user{n}", roles=("admin",) * (n % 2)) for n in range(users)]
    await asyncio.gather(*(appender.submit(command) for command in commands))
    subjects = [command.event.subject_id for command in commands]
    work = [_random_command(rng, subjects) for _ in range(steps)]
    results = await asyncio.gather(
        *(appender.submit(command) for command in work), return_exceptions=True
    )
    for result in results:
        assert not isinstance(result, BaseException) or isinstance(result, GatelogError)


def _random_command(rng: random.Random, subjects: list[UUID]) -> Command:
    subject_id = rng.choice(subjects)
    kind = rng.random()
    if kind < 0.6:
        return start(subject_id)
    if kind < 0.75:
        return EndSessions(
            event_id=new_event_id(), at=NOON, subject_id=subject_id, reason="revoked"
        )
    if kind < 0.9:
        return failure()
    if kind < 0.95:
        return ChangeUser(
            event=UserDisabled(event_id=new_event_id(), occurred_at=NOON, subject_id=subject_id)
        )
    return ChangeUser(
        event=UserEnabled(event_id=new_event_id(), occurred_at=NOON, subject_id=subject_id)
    )


async def test_a_sound_log_has_no_differences(database: Dsns, appender: Appender) -> None:
    await populate(appender, users=5, steps=150)
    report = await check(database.app)
    assert report.differences == []
    assert report.rows["users"] == 5
    assert report.events > 50


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("DELETE FROM active_sessions WHERE session_id = (SELECT min(session_id::text)::uuid"
         " FROM active_sessions)", "is missing"),
        ("INSERT INTO active_sessions SELECT sha256('x'), gen_random_uuid(), subject_id,"
         " started_at, expires_at, roles FROM active_sessions LIMIT 1", "not in the log"),
        ("UPDATE active_sessions SET expires_at = expires_at + interval '1 s'", "differs"),
        ("UPDATE users SET disabled = NOT disabled", "differs"),
        ("DELETE FROM users", "is missing"),
    ],
)  # fmt: skip
async def test_a_wrong_projection_is_found_and_mended(
    database: Dsns, appender: Appender, damage: str, told: str
) -> None:
    await populate(appender, steps=0)
    user = registration("eve")
    await appender.submit(user)
    await asyncio.gather(*(appender.submit(start(user.event.subject_id)) for _ in range(3)))
    owner = await connect(database.owner, role=None)
    epoch = (await read_head(owner)).epoch
    await owner.execute(damage)
    report = await check(database.app)
    assert any(told in text for text in report.differences)
    assert (await rebuild(database.owner)).changed > 0
    assert (await check(database.app)).differences == []
    assert (await read_head(owner)).epoch == epoch + 1
    assert (await rebuild(database.owner)).changed == 0
    assert (await read_head(owner)).epoch == epoch + 1
    await owner.close()


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("UPDATE events SET leaf_hash = sha256('x') WHERE position = 2", "position 2"),
        ("UPDATE events SET subject_id = gen_random_uuid() WHERE position = 1", "subject_id"),
        ("DELETE FROM events WHERE position = 2", "position 2 is missing"),
        ("UPDATE events SET entry = '\\x7b7d' WHERE position = 2", "cannot be decoded"),
        ("UPDATE log_head SET position = position + 1", "the head says"),
        ("DELETE FROM event_ids WHERE position = 1", "event_ids"),
    ],
)
async def test_a_damaged_log_is_found(
    database: Dsns, appender: Appender, damage: str, told: str
) -> None:
    await populate(appender, steps=0)
    attacker = await connect(database.superuser, role=None)
    await attacker.execute("SET session_replication_role = replica")  # no trigger stops this one
    await attacker.execute(damage)
    await attacker.close()
    report = await check(database.app)
    assert any(told in text for text in report.differences), report.differences


async def test_a_log_that_cannot_be_folded_is_not_rebuilt_from(
    database: Dsns, appender: Appender
) -> None:
    await populate(appender, steps=0)
    attacker = await connect(database.superuser, role=None)
    await attacker.execute("SET session_replication_role = replica")
    await attacker.execute("DELETE FROM events WHERE position = 2")
    users = await attacker.fetchval("SELECT count(*) FROM users")
    with pytest.raises(LogDamaged):
        await rebuild(database.owner)
    assert await attacker.fetchval("SELECT count(*) FROM users") == users
    await attacker.close()


async def test_a_rebuild_goes_on_beside_appends(database: Dsns, appender: Appender) -> None:
    await populate(appender, users=20, steps=200)
    owner = await connect(database.owner, role=None)
    await owner.execute("DELETE FROM active_sessions")
    done = asyncio.Event()

    async def keep_appending() -> int:
        count = 0
        while not done.is_set():
            user = registration(f"later{count}")
            await appender.submit(user)
            await appender.submit(start(user.event.subject_id))
            count += 1
        return count

    writer = asyncio.create_task(keep_appending())
    await rebuild(database.owner)
    done.set()
    assert await writer > 0
    assert (await check(database.app)).differences == []
    await owner.close()
