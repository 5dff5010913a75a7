"""Asking the primary for sessions: batching, freshness, limits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from gatelog.clock import utc_now, utc_now_us
from gatelog.errors import DatabaseUnavailable, Overloaded
from gatelog.log.store.appender import Appender
from gatelog.log.store.database import connect
from gatelog.log.store.sql import LOCK_HEAD
from gatelog.sessions.store.lookup import PrimaryLookup

from tests.builders import registration, start
from tests.conftest import Dsns
from tests.waiting import until


@pytest.fixture
async def lookup(database: Dsns) -> AsyncIterator[PrimaryLookup]:
    async with PrimaryLookup(lambda: connect(database.app), timeout_s=5) as lookup:
        yield lookup


async def test_a_session_is_found_with_all_its_fields(
    appender: Appender, lookup: PrimaryLookup
) -> None:
    user = registration("ada", roles=("admin", "auditor"))
    await appender.submit(user)
    command = start(user.event.subject_id)
    await appender.submit(command)
    session = await lookup.find(command.event.token_digest)
    assert session is not None
    assert session.session_id == command.event.session_id
    assert session.subject_id == user.event.subject_id
    assert session.started_at == command.event.occurred_at
    assert session.expires_at == command.event.expires_at
    assert session.roles == {"admin", "auditor"}
    assert await lookup.find(b"\0" * 32) is None


async def test_who_waits_together_is_answered_by_one_query(lookup: PrimaryLookup) -> None:
    digests = [n.to_bytes(32, "big") for n in range(500)]
    await asyncio.gather(*(lookup.find(digest) for digest in digests))
    assert lookup.queries <= 2


async def test_nobody_takes_the_answer_of_a_query_sent_before(database: Dsns) -> None:
    """While a query is in flight, the session ends; who asks after that is told so."""
    async with (
        Appender(lambda: connect(database.app), timeout_s=5) as appender,
        PrimaryLookup(lambda: connect(database.app), timeout_s=5) as lookup,
    ):
        user = registration("ada")
        await appender.submit(user)
        command = start(user.event.subject_id)
        await appender.submit(command)
        digest = command.event.token_digest
        assert await lookup.find(digest) is not None
        owner = await connect(database.owner, role=None)
        async with owner.transaction():
            await owner.execute("LOCK TABLE active_sessions")  # holds the first query back
            await owner.execute("DELETE FROM active_sessions")
            before = asyncio.create_task(lookup.find(digest))
            while lookup.queries < 2:  # noqa: ASYNC110 - it is the state of the test's own loop
                await asyncio.sleep(0)
            after = asyncio.create_task(lookup.find(digest))
            await asyncio.sleep(0)
        await before
        assert await after is None
        assert lookup.queries == 3
        await owner.close()


async def idling(appender: Appender, unused_s: float) -> bytes:
    """The digest of a session that may idle for a minute, and was used last so long ago."""
    user = registration("ada")
    await appender.submit(user)
    seen_at = utc_now() - timedelta(seconds=unused_s)
    command = start(user.event.subject_id, idle_s=60, at=seen_at, lifetime_s=3600)
    await appender.submit(command)
    return command.event.token_digest


@pytest.mark.parametrize("committed", [True, False])
async def test_nobody_is_told_that_a_session_idled_while_its_use_is_being_recorded(
    database: Dsns, appender: Appender, lookup: PrimaryLookup, *, committed: bool
) -> None:
    """It is over by what can be read. An append that holds the log's head may say otherwise."""
    digest = await idling(appender, unused_s=61)
    renewing, watching = [await connect(database.app) for _ in range(2)]
    transaction = renewing.transaction()
    await transaction.start()
    await renewing.fetchval(LOCK_HEAD)
    now = utc_now()
    await renewing.execute(
        "UPDATE active_sessions SET seen_at = $1, expires_at = $2", now, now + timedelta(minutes=1)
    )
    told = asyncio.create_task(lookup.find(digest))

    async def waits() -> bool:
        assert not told.done()
        return bool(await watching.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"))

    await until(waits)
    await (transaction.commit() if committed else transaction.rollback())
    assert (await told is not None) == committed
    await renewing.close()
    await watching.close()


async def test_a_session_that_was_told_to_be_over_holds_up_no_more_appends(
    database: Dsns, appender: Appender, lookup: PrimaryLookup
) -> None:
    """Whoever has its token may show it as often as they like."""
    digest = await idling(appender, unused_s=61)
    assert await lookup.find(digest) is None
    appending = await connect(database.app)
    async with appending.transaction():
        await appending.fetchval(LOCK_HEAD)
        assert await lookup.find(digest) is None
    await appending.close()


async def test_what_is_remembered_is_bounded(
    appender: Appender, lookup: PrimaryLookup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gatelog.sessions.store.lookup.MAX_REMEMBERED", 0)
    digest = await idling(appender, unused_s=61)
    for _ in range(2):
        assert await lookup.find(digest) is None
    assert not lookup._over


async def test_that_a_session_idled_is_for_the_clock_of_the_log_to_say(
    appender: Appender, lookup: PrimaryLookup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This host is two seconds ahead."""
    digest = await idling(appender, unused_s=59)
    ahead_us = 2_000_000 + utc_now_us()
    monkeypatch.setattr("gatelog.sessions.store.lookup.utc_now_us", lambda: ahead_us)
    assert await lookup.find(digest) is not None


async def test_a_lost_connection_costs_one_more_try(database: Dsns, lookup: PrimaryLookup) -> None:
    assert await lookup.find(b"\0" * 32) is None
    killer = await connect(database.superuser, role=None)
    await killer.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    await killer.close()
    assert await lookup.find(b"\0" * 32) is None


async def test_no_database_is_no_answer() -> None:
    nowhere = "postgresql://nobody@127.0.0.1:1/nothing"
    async with PrimaryLookup(lambda: connect(nowhere), timeout_s=1) as lookup:
        with pytest.raises(DatabaseUnavailable):
            await lookup.find(b"\0" * 32)


async def test_too_many_who_wait_are_refused(database: Dsns) -> None:
    async with PrimaryLookup(lambda: connect(database.app), timeout_s=5, max_queue=3) as lookup:
        digests = [n.to_bytes(32, "big") for n in range(5)]
        results = await asyncio.gather(
            *(lookup.find(digest) for digest in digests), return_exceptions=True
        )
    assert sum(isinstance(result, Overloaded) for result in results) == 2
