"""As of any position, the answer is that of a fold of ``evolve`` over the log up to it."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec
import pytest
from gatelog.audit.service.asof import AsOf
from gatelog.audit.store.asof import PLANNED_FOR_MARKS, SessionThen
from gatelog.audit.store.marks import (
    PARTITION,
    SPACING,
    MarksCheck,
    Spacing,
    last_mark,
    make_next_mark,
)
from gatelog.clock import new_random_id, utc_now
from gatelog.errors import InvalidInput
from gatelog.log.store.appender import Appender
from gatelog.log.store.database import Database, connect
from gatelog.log.store.rebuild import check
from gatelog.sessions.rules.state import ActiveSession

from tests.audit.history import Told, fill, told
from tests.builders import end, registration, start
from tests.conftest import Dsns
from tests.partitions import SPACING as SMALL
from tests.partitions import small_partitions

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection


@pytest.fixture
async def as_of(database: Dsns) -> AsyncIterator[AsOf]:
    reader = Database(database.app, timeout_s=10, pool_size=1, settings=PLANNED_FOR_MARKS)
    yield AsOf(reader)
    await reader.close()


async def mark_all(connection: Connection, spacing: Spacing = SMALL) -> list[int]:
    made = []
    while (position := await make_next_mark(connection, spacing)) is not None:
        made.append(position)
    return made


async def everything(
    as_of: AsOf, limit: int, *, position: int | None = None, user: UUID | None = None, **at: object
) -> list[SessionThen]:
    """All pages, one after the other."""
    found: list[SessionThen] = []
    before: int | None = None
    while True:
        page = await as_of.sessions(
            position=position,
            user=user,
            before=before,
            limit=limit,
            **at,  # type: ignore[arg-type]
        )
        assert len(page.sessions) <= limit
        found += page.sessions
        if page.before is None:
            return found
        assert before is None or page.before < before
        before = page.before


def unused(session: ActiveSession) -> ActiveSession:
    """The session without how it was used: of that an answer tells nothing but the end."""
    return msgspec.structs.replace(session, expires_at=session.absolute_at, idle=None, used_at=None)


def same(found: list[SessionThen], log: Told, position: int, user: UUID | None = None) -> bool:
    expected = log.active(position, log.recorded_at[position])
    if user is not None:
        expected = [(start, session) for start, session in expected if session.subject_id == user]
    assert [(then.position, unused(then.session)) for then in found] == [
        (start, unused(session)) for start, session in expected
    ]
    now = utc_now()
    for then in found:
        ended = (then.ended.position, then.ended.reason) if then.ended else None
        assert ended == log.ends.get(then.session.session_id)
        assert then.ended or then.session.absolute_at > now
    return bool(expected)


@pytest.mark.parametrize("seed", range(3))
async def test_every_position_is_what_a_fold_says(
    database: Dsns,
    appender: Appender,
    as_of: AsOf,
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
) -> None:
    connection = await connect(database.app)
    await small_partitions(database, monkeypatch)
    monkeypatch.setattr("gatelog.audit.store.asof.CANDIDATES", 4)
    monkeypatch.setattr("gatelog.audit.store.asof.MAX_ROUNDS", 3)
    users = await fill(appender, events=150, seed=seed)
    log, rng = await told(connection), random.Random(seed)
    if seed:  # without any mark it is right, too
        made = await mark_all(connection)
        assert made[-1] + SMALL.partition > log.head
        assert {p for p in range(64, log.head, 64)} <= set(made)
    found = 0
    for position in range(1, log.head + 1):
        limit = rng.choice([1, 2, 5, 1000])
        found += same(await everything(as_of, limit, position=position), log, position)
        user = rng.choice(users)
        same(await everything(as_of, limit, position=position, user=user), log, position, user)
    assert found > log.head // 2
    await connection.close()
    assert (await check(database.app, companion=MarksCheck())).differences == []


async def test_a_time_is_the_last_position_by_then(
    appender: Appender, connection: Connection, as_of: AsOf
) -> None:
    await fill(appender, events=60, seed=9)
    log = await told(connection)
    instant = timedelta(microseconds=1)
    moments = [
        when + shift for when in log.recorded_at.values() for shift in (-instant, 0 * instant)
    ]
    for at in [*moments, utc_now()]:
        page = await as_of.sessions(at=at)
        position = log.position_at(at)
        assert (page.moment.position, page.moment.at) == (position, at)
        expected = log.active(position, at) if position else []
        assert [unused(then.session) for then in page.sessions] == [
            unused(session) for _, session in expected
        ]


async def test_what_is_still_to_come_is_refused(
    appender: Appender, connection: Connection, as_of: AsOf
) -> None:
    await fill(appender, events=5, seed=1)
    head = (await last_mark(connection)).head
    for question in ({"at": utc_now() + timedelta(minutes=1)}, {"position": head + 1}, {}):
        with pytest.raises(InvalidInput):
            await as_of.sessions(**question)


async def test_a_session_whose_time_is_over_was_not_logged_in(
    appender: Appender, connection: Connection, as_of: AsOf
) -> None:
    """Whether its end has been recorded or not; and before, it was."""
    user = registration("ada")
    await appender.submit(user)
    now = utc_now()
    await appender.submit(start(user.event.subject_id, at=now, lifetime_s=3600))
    over = start(user.event.subject_id, at=now - timedelta(hours=2), lifetime_s=3600)
    position = (await appender.submit(over)).position
    page = await as_of.sessions(position=position)
    assert [then.position for then in page.sessions] == [position - 1]
    assert page.sessions[0].ended is None


async def test_an_end_that_nobody_has_recorded_is_told(appender: Appender, database: Dsns) -> None:
    user = registration("ada")
    await appender.submit(user)
    login = start(user.event.subject_id, at=utc_now(), lifetime_s=60)
    position = (await appender.submit(login)).position
    reader = Database(database.app, timeout_s=10, pool_size=1)
    later = AsOf(reader, lambda: utc_now() + timedelta(hours=1))
    (then,) = (await later.sessions(position=position)).sessions
    assert then.ended is not None
    assert (then.ended.at, then.ended.reason) == (login.event.expires_at, "absolute_timeout")
    assert then.ended.position is None
    await appender.submit(end(login))
    (then,) = (await later.sessions(position=position)).sessions
    assert then.ended is not None
    assert (then.ended.position, then.ended.reason) == (position + 1, "logout")
    await reader.close()


async def test_marks_are_the_same_whoever_makes_them(
    database: Dsns,
    appender: Appender,
    connection: Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await small_partitions(database, monkeypatch)
    await fill(appender, events=100, seed=3)
    other = await connect(database.app)
    made = [await make_next_mark(connection, SMALL), await make_next_mark(other, SMALL)]
    while made[-1] is not None:
        made.append(await make_next_mark(connection if len(made) % 2 else other, SMALL))
    await other.close()
    assert made[:2] == [16, 32]
    assert (await check(database.app, companion=MarksCheck())).differences == []


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE session_marks SET starts = starts[2:] WHERE position = 64",
        "UPDATE session_marks SET starts = starts || 5::bigint WHERE position = 16",
        "DELETE FROM user_marks WHERE position = 16",
        "UPDATE user_marks SET disabled = NOT disabled WHERE position = 16",
        "INSERT INTO session_marks VALUES (100000, '{}')",
        "INSERT INTO user_marks SELECT gen_random_uuid(), 16, now(), false, 1, '{}', false, 0",
    ],
)
async def test_a_wrong_mark_is_found(
    database: Dsns,
    appender: Appender,
    connection: Connection,
    monkeypatch: pytest.MonkeyPatch,
    damage: str,
) -> None:
    await small_partitions(database, monkeypatch)
    user = registration("ada")
    await appender.submit(user)
    for _ in range(80):
        await appender.submit(start(user.event.subject_id))
    await mark_all(connection)
    assert (await check(database.app, companion=MarksCheck())).differences == []
    owner = await connect(database.owner, role=None)
    await owner.execute(damage)
    await owner.close()
    assert any(
        "mark at" in told
        for told in (await check(database.app, companion=MarksCheck())).differences
    )


def test_marks_are_as_far_apart_as_there_are_sessions_and_never_cross_a_partition() -> None:
    assert SPACING.next(0, 0) == SPACING.every
    assert SPACING.next(SPACING.every, 1000) == 2 * SPACING.every
    assert SPACING.next(0, 3 * SPACING.every + 1) == 4 * SPACING.every
    assert SPACING.next(0, 10**9) == SPACING.most
    assert SPACING.next(PARTITION - SPACING.every, 10**9) == PARTITION
    assert SPACING.next(5, 0) == 5 + SPACING.every
    assert PARTITION % SPACING.every == 0


async def test_nobody_is_nobody(appender: Appender, as_of: AsOf) -> None:
    await fill(appender, events=10, seed=2)
    page = await as_of.sessions(position=1, user=new_random_id())
    assert (page.sessions, page.before) == ([], None)
