"""The barrier on real rows, with leases that only the test's clock sees the end of."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest
from gatelog.errors import DatabaseUnavailable, OutcomeUnknown
from gatelog.log.store import sql
from gatelog.log.store.appender import Appender
from gatelog.log.store.database import connect
from gatelog.sessions.rules.lease import LeaseRow, Verdict, lease_terms
from gatelog.sessions.service.barrier import CALM_AFTER, Barrier, Waited
from gatelog.sessions.store.leases import LOG_CHANNEL, acknowledge, read_leases, write_lease
from gatelog.sessions.store.replica_place import boottime_ns

from tests.builders import registration
from tests.conftest import Dsns
from tests.waiting import until

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection

S = 1_000_000_000
TERMS = lease_terms(60)  # far longer than any test, however often it is held up
SHORT = lease_terms(0.3)
SOON_NS = 15 * S  # by the test's clock nothing has happened meanwhile


class Clock:
    """CLOCK_BOOTTIME, which the test can put forward."""

    def __init__(self) -> None:
        self._ahead_ns = 0

    def __call__(self) -> int:
        return boottime_ns() + self._ahead_ns

    def advance(self, ns: int) -> None:
        self._ahead_ns += ns


@pytest.fixture
def waits() -> list[Waited]:
    return []


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def young(database: Dsns, waits: list[Waited], clock: Clock) -> AsyncIterator[Barrier]:
    """A barrier that has just begun."""
    async with Barrier(
        lambda: connect(database.app), terms=TERMS, clock_ns=clock, on_wait=waits.append
    ) as barrier:
        yield barrier


@pytest.fixture
async def barrier(young: Barrier, clock: Clock) -> Barrier:
    """A barrier that has known the epoch for long enough."""
    await until(lambda: young.looks > 0)
    clock.advance(TERMS.wait_ns)
    return young


async def looked_again(barrier: Barrier) -> None:
    """Return when the rows have been read for those who wait now; they were not answered then."""
    looks = barrier.looks
    await until(lambda: barrier.looks > looks + 1)


async def joined(
    connection: Connection, replica_id: str = "a", *, applied: int = 5, epoch: str | None = None
) -> str:
    """Write a row; returns the epoch it has, the current one unless told otherwise."""
    epoch = epoch or (await read_leases(connection)).epoch
    row = LeaseRow(replica_id, boottime_ns(), applied, epoch, TERMS.ttl_ns)
    await write_lease(connection, row, host="here")
    return epoch


async def test_without_replicas_the_answer_comes_at_once(
    barrier: Barrier, waits: list[Waited], clock: Clock
) -> None:
    waited = await barrier.wait(5, clock())

    assert (waited.outcome, waited.reason) == (Verdict.ACKNOWLEDGED, None)
    assert waited.waited_ns < SOON_NS
    assert waits == [waited]


async def test_the_answer_waits_for_every_replica(
    barrier: Barrier, connection: Connection, clock: Clock
) -> None:
    epoch = await joined(connection, "a", applied=5)
    await joined(connection, "b", applied=4)
    waiting = asyncio.create_task(barrier.wait(5, clock()))
    await looked_again(barrier)
    assert not waiting.done()

    await acknowledge(connection, "b", epoch=epoch, position=5)
    waited = await waiting

    assert (waited.outcome, waited.reason) == (Verdict.ACKNOWLEDGED, Verdict.REPLICA_BEHIND)


async def test_a_replica_that_says_nothing_is_waited_out(
    barrier: Barrier, connection: Connection, clock: Clock
) -> None:
    await joined(connection, applied=4)
    waiting = asyncio.create_task(barrier.wait(5, clock()))
    await looked_again(barrier)
    clock.advance(TERMS.wait_ns - SOON_NS)
    await looked_again(barrier)
    assert not waiting.done()

    clock.advance(SOON_NS)
    waited = await waiting

    assert (waited.outcome, waited.reason) == (Verdict.WAITED_OUT, Verdict.REPLICA_BEHIND)
    assert TERMS.wait_ns <= waited.waited_ns < TERMS.wait_ns + SOON_NS


async def test_a_row_of_another_epoch_acknowledges_nothing(
    barrier: Barrier, connection: Connection, clock: Clock
) -> None:
    await joined(connection, applied=900, epoch="an old one")

    assert (await waited_out(barrier, clock)).outcome is Verdict.WAITED_OUT


async def waited_out(barrier: Barrier, clock: Clock) -> Waited:
    """A wait in which the full time passes as soon as the rows have been read."""
    waiting = asyncio.create_task(barrier.wait(5, clock()))
    await looked_again(barrier)
    clock.advance(TERMS.wait_ns)
    return await waiting


async def test_a_dead_replica_delays_only_the_first_logouts(
    barrier: Barrier, connection: Connection, clock: Clock
) -> None:
    await joined(connection, applied=4)
    assert (await waited_out(barrier, clock)).outcome is Verdict.WAITED_OUT

    async def is_removed() -> bool:
        return (await read_leases(connection)).rows == ()

    await until(is_removed)
    assert (await barrier.wait(6, clock())).outcome is Verdict.ACKNOWLEDGED


async def test_a_young_process_does_not_trust_the_rows(young: Barrier, clock: Clock) -> None:
    waited = await waited_out(young, clock)

    assert (waited.outcome, waited.reason) == (Verdict.WAITED_OUT, Verdict.YOUNG_EPOCH)
    assert waited.waited_ns >= TERMS.wait_ns


async def test_another_epoch_makes_the_process_young_again(
    barrier: Barrier, database: Dsns, clock: Clock
) -> None:
    assert (await barrier.wait(5, clock())).reason is None
    owner = await connect(database.owner, role=None)
    await owner.execute(sql.BUMP_EPOCH)
    await owner.close()

    waited = await waited_out(barrier, clock)

    assert (waited.outcome, waited.reason) == (Verdict.WAITED_OUT, Verdict.YOUNG_EPOCH)


async def looked(barrier: Barrier) -> str:
    """The incarnation that it knows, as soon as it knows one."""
    await until(lambda: barrier.looks > 0)
    incarnation = await barrier.incarnation()
    assert incarnation is not None
    return incarnation


async def test_the_first_look_is_waited_for(database: Dsns) -> None:
    async with Barrier(lambda: connect(database.app), terms=TERMS) as barrier:
        assert barrier.looks == 0
        assert await barrier.incarnation() is not None


async def test_without_a_database_no_incarnation_is_known() -> None:
    async def refused() -> Connection:
        raise DatabaseUnavailable

    async with Barrier(refused, terms=SHORT) as barrier, asyncio.timeout(15):
        assert await barrier.incarnation() is None


async def test_in_a_log_that_was_empty_nothing_is_unknown(young: Barrier, clock: Clock) -> None:
    incarnation = await looked(young)

    waited = await young.wait(5, clock(), ended_in=incarnation)

    assert (waited.outcome, waited.reason) == (Verdict.ACKNOWLEDGED, None)


async def test_that_it_was_empty_says_nothing_of_what_was_ended_before(
    young: Barrier, clock: Clock
) -> None:
    await looked(young)
    waiting = asyncio.create_task(young.wait(5, clock(), ended_in="the one before"))
    await looked_again(young)
    assert not waiting.done()
    clock.advance(TERMS.wait_ns)

    assert (await waiting).reason is Verdict.YOUNG_EPOCH


async def test_who_comes_later_learns_that_the_log_was_empty(
    young: Barrier, appender: Appender, database: Dsns, connection: Connection
) -> None:
    await looked(young)
    await until_noted(connection, empty=True)
    await appender.submit(registration("ada"))

    async with Barrier(lambda: connect(database.app), terms=TERMS) as later:
        incarnation = await looked(later)
        ended = await later.wait(5, boottime_ns(), ended_in=incarnation)
        nothing_ended = asyncio.create_task(later.wait(5, boottime_ns()))
        await looked_again(later)
        assert not nothing_ended.done()
        nothing_ended.cancel()

    assert ended.outcome is Verdict.ACKNOWLEDGED


async def until_noted(
    connection: Connection, *, empty: bool = False, age_ns: int | None = None
) -> None:
    async def is_noted() -> bool:
        noted = (await read_leases(connection)).noted
        return noted.empty is empty and (age_ns is None or noted.age_ns >= age_ns)

    await until(is_noted)


@pytest.fixture
async def later(
    appender: Appender, database: Dsns, waits: list[Waited], clock: Clock, connection: Connection
) -> AsyncIterator[Barrier]:
    """A barrier that has just begun, where another one has known the incarnation for long."""
    await appender.submit(registration("ada"))
    async with Barrier(lambda: connect(database.app), terms=TERMS, clock_ns=clock) as earlier:
        await looked(earlier)
        assert (await read_leases(connection)).noted.age_ns == 0, "it has only just begun"
        clock.advance(TERMS.wait_ns)
        waiting = asyncio.create_task(earlier.wait(1, clock()))  # it looks again
        await until_noted(connection, age_ns=TERMS.wait_ns // 1_000_000 * 1_000_000)
        await waiting
    async with Barrier(
        lambda: connect(database.app), terms=TERMS, clock_ns=clock, on_wait=waits.append
    ) as barrier:
        yield barrier


async def test_what_one_process_knows_another_needs_not_wait_for(
    later: Barrier, clock: Clock
) -> None:
    waited = await later.wait(5, clock())

    assert (waited.outcome, waited.reason) == (Verdict.ACKNOWLEDGED, None)


async def test_rows_that_are_complete_are_still_waited_for(
    later: Barrier, connection: Connection, clock: Clock
) -> None:
    await joined(connection, applied=4)

    assert (await waited_out(later, clock)).reason is Verdict.REPLICA_BEHIND


async def test_a_note_of_another_incarnation_says_nothing(
    later: Barrier, database: Dsns, clock: Clock
) -> None:
    owner = await connect(database.owner, role=None)
    await owner.execute("TRUNCATE replica_lease")
    await owner.close()

    assert (await waited_out(later, clock)).reason is Verdict.YOUNG_EPOCH


async def test_a_longer_lease_needs_a_longer_life(
    later: Barrier, connection: Connection, clock: Clock
) -> None:
    """The note says that the incarnation has lasted for shorter leases."""
    epoch = (await read_leases(connection)).epoch
    longer = LeaseRow("a", boottime_ns(), 5, epoch, 2 * TERMS.ttl_ns)
    await write_lease(connection, longer, host="here")
    waiting = asyncio.create_task(later.wait(5, clock()))
    await looked_again(later)
    assert not waiting.done()
    clock.advance(2 * TERMS.wait_ns)

    assert (await waiting).reason is Verdict.YOUNG_EPOCH


async def test_the_timer_counts_from_the_commit(
    barrier: Barrier, connection: Connection, clock: Clock
) -> None:
    await joined(connection, applied=4)
    committed_at_ns = clock() - TERMS.wait_ns // 2
    waiting = asyncio.create_task(barrier.wait(5, committed_at_ns))
    await looked_again(barrier)
    assert not waiting.done()

    clock.advance(TERMS.wait_ns // 2)
    waited = await waiting

    assert waited.waited_ns >= TERMS.wait_ns
    assert clock() - committed_at_ns < TERMS.wait_ns + SOON_NS


async def test_without_a_database_the_timer_is_enough(database: Dsns) -> None:
    async def refused() -> Connection:
        raise DatabaseUnavailable

    async with Barrier(refused, terms=SHORT) as barrier, asyncio.timeout(15):
        waited = await barrier.wait(5, boottime_ns())

    assert (waited.outcome, waited.reason) == (Verdict.WAITED_OUT, None)
    assert waited.waited_ns >= SHORT.wait_ns


async def test_a_lost_connection_is_replaced(
    barrier: Barrier, connection: Connection, clock: Clock
) -> None:
    epoch = await joined(connection, applied=4)
    waiting = asyncio.create_task(barrier.wait(5, clock()))
    assert barrier._connection is not None
    barrier._connection.terminate()
    await acknowledge(connection, "a", epoch=epoch, position=5)

    assert (await waiting).outcome is Verdict.ACKNOWLEDGED


async def test_a_calm_barrier_looks_again_when_its_connection_ends(database: Dsns) -> None:
    """It looks as rarely as no test would wait for, once the database has been the same a while."""
    async with Barrier(
        lambda: connect(database.app), terms=lease_terms(0.1), idle_look_s=600
    ) as calm:
        await until(lambda: calm.looks > CALM_AFTER + 1)
        looks = calm.looks
        superuser = await connect(database.superuser, role=None)
        await superuser.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND datname = current_database()"
        )
        await superuser.close()
        await until(lambda: calm.looks > looks)


async def test_one_look_serves_all_who_wait(
    barrier: Barrier, connection: Connection, clock: Clock
) -> None:
    await joined(connection, applied=100)
    before = barrier.looks

    waited = await asyncio.gather(*(barrier.wait(n, clock()) for n in range(100)))

    assert {w.outcome for w in waited} == {Verdict.ACKNOWLEDGED}
    assert barrier.looks - before <= 3


async def test_a_wait_takes_no_look_that_was_sent_before_it(
    barrier: Barrier, connection: Connection, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look comes back with everything acknowledged; meanwhile a replica has joined behind."""
    sent, come_back = asyncio.Event(), asyncio.Event()

    async def slow_look(connection: Connection) -> object:
        look = await read_leases(connection)
        sent.set()
        await come_back.wait()
        return look

    monkeypatch.setattr("gatelog.sessions.service.barrier.read_leases", slow_look)
    first = asyncio.create_task(barrier.wait(4, clock()))
    await sent.wait()
    await joined(connection, applied=4)
    second = asyncio.create_task(barrier.wait(5, clock()))
    await asyncio.sleep(0)  # it waits now
    come_back.set()

    assert (await first).outcome is Verdict.ACKNOWLEDGED
    await looked_again(barrier)
    clock.advance(TERMS.wait_ns)
    assert (await second).outcome is Verdict.WAITED_OUT


async def test_projectors_are_woken(barrier: Barrier, connection: Connection, clock: Clock) -> None:
    woken = asyncio.Event()
    await connection.add_listener(LOG_CHANNEL, lambda *_: woken.set())

    await barrier.wait(5, clock())

    async with asyncio.timeout(30):
        await woken.wait()
    await connection.remove_listener(LOG_CHANNEL, lambda *_: None)


async def test_a_stop_reports_an_unknown_outcome(database: Dsns, connection: Connection) -> None:
    await joined(connection, applied=4)
    async with Barrier(lambda: connect(database.app), terms=TERMS) as stopping:
        waiting = asyncio.create_task(stopping.wait(5, boottime_ns()))
        await asyncio.sleep(0)

    with pytest.raises(OutcomeUnknown):
        await waiting
