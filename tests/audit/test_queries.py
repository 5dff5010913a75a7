"""Questions to the log: every page of every filter, and how they are planned."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, get_args
from uuid import UUID

import msgspec
import pytest
from alembic import command as alembic_command
from gatelog.audit.rules.shown import MAX_POSITION, AuditFilter, Cursor, Order, Side
from gatelog.audit.store import queries as audit
from gatelog.audit.store.queries import EventPage, Sought, is_about, read_page
from gatelog.audit.store.statements import PLANNED_FOR_INDEXES, STATEMENTS, Direction
from gatelog.errors import SearchIncomplete
from gatelog.host.embedded import EmbeddedPostgres
from gatelog.log.store.appender import Appender
from gatelog.log.store.database import connect
from gatelog.log.store.migrate import migrate
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.audit.audit_log import ADDRESSES, LOGINS, ORIGINS, TYPES, USERS, RandomLog
from tests.builders import NOON, failure
from tests.conftest import Dsns
from tests.older import appending_without_origins
from tests.proofs.sealing import tampering

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection

EVENTS = 400
NOBODY = UUID(int=99, version=4)


@pytest.fixture
async def reader(database: Dsns) -> AsyncIterator[Connection]:
    """A connection as audit queries have it."""
    connection = await connect(database.app, settings=PLANNED_FOR_INDEXES)
    yield connection
    await connection.close()


@pytest.fixture
async def log(database: Dsns) -> AsyncIterator[RandomLog]:
    async with tampering(database) as owner:
        log = RandomLog(owner, seed=1)
        await log.append(EVENTS)
        yield log


# --- pages


def maybe(*values: object) -> st.SearchStrategy[object]:
    return st.none() | st.sampled_from(values)


moments = st.none() | st.integers(-10, 1000).map(lambda s: NOON + timedelta(seconds=s))
positions = st.none() | st.integers(0, EVENTS + 20) | st.just(MAX_POSITION)
filters = st.builds(
    AuditFilter,
    user=maybe(*USERS, NOBODY),
    session=st.none() | st.integers(100, 110).map(lambda n: UUID(int=n, version=4)),
    types=st.lists(st.sampled_from(TYPES), max_size=3, unique=True).map(tuple),
    since=moments,
    until=moments,
    after=positions,
    before=positions,
    order=st.sampled_from(["asc", "desc"]),
    limit=st.integers(1, 40),
)
places = st.sampled_from(
    [
        Sought(),
        Sought("address", bytes(16)),
        Sought("wide", 99),
        *(sought for origin in ORIGINS for sought in origin.sought),
    ]
)
logins = st.sampled_from([None, *LOGINS, 99])


@st.composite
def all_sought(draw: st.DrawFn) -> Sought:
    """Any place, or none, and any login, or none."""
    return msgspec.structs.replace(draw(places), login=draw(logins))


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    wanted=filters,
    sought=all_sought(),
    scanned=st.integers(1, 60),
    growth=st.sampled_from([0, 0, 3]),
)
async def test_walking_gives_what_a_plain_loop_finds(
    reader: Connection,
    log: RandomLog,
    *,
    wanted: AuditFilter,
    sought: Sought,
    scanned: int,
    growth: int,
) -> None:
    """Forward by ``next`` to the end, and back by ``prev`` to the beginning, as the log grows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audit, "SCANNED_AT_ONCE", scanned)
        walk = Walk(reader, log, sought, growth)
        before = log.matching(wanted, sought)
        pages = await walk.by("next", await walk.read(wanted), wanted)
        found = positions_of(pages)
        assert found == (before if wanted.order == "desc" else walk.matching(wanted))

        back = await walk.by("prev", pages[-1], wanted)
        expected = walk.matching(wanted) if wanted.order == "desc" else found
        assert positions_of([*reversed(back[1:]), pages[-1]]) == expected


class Walk:
    """Goes from page to page, while the log may grow by some events with each."""

    def __init__(self, reader: Connection, log: RandomLog, sought: Sought, growth: int) -> None:
        self._reader, self._log = reader, log
        self._sought, self._growth = sought, growth
        self._left = 20  # pages after which the log has grown enough
        self._head = 0  # when the last page was read

    async def read(self, wanted: AuditFilter) -> EventPage:
        page = await read_page(self._reader, wanted, self._sought)
        assert len(page.events) <= wanted.limit
        self._head = len(self._log.rows)
        if self._growth and self._left > 0:
            self._left -= 1
            await self._log.append(self._growth)
        return page

    def matching(self, wanted: AuditFilter) -> list[int]:
        """What a plain loop finds in the log as it was when the last page was read."""
        found = self._log.matching(wanted, self._sought)
        return [position for position in found if position <= self._head]

    async def by(self, link: str, page: EventPage, wanted: AuditFilter) -> list[EventPage]:
        """The page, and all that follow by this link."""
        pages = [page]
        while (cursor := getattr(pages[-1], link)) is not None:
            pages.append(await self.read(msgspec.structs.replace(wanted, cursor=cursor)))
            assert len(pages) < 20 * EVENTS
        return pages


def positions_of(pages: list[EventPage]) -> list[int]:
    return [event.position for page in pages for event in page.events]


async def test_a_first_page_has_nothing_before_it(reader: Connection, log: RandomLog) -> None:
    for order in get_args(Order):
        page = await read_page(reader, AuditFilter(order=order, limit=5))
        assert page.prev is None
        assert page.next is not None
        all_of_it = await read_page(reader, AuditFilter(limit=EVENTS))
        assert (all_of_it.prev, all_of_it.next) == (None, None)


async def test_a_search_that_stops_says_where(
    reader: Connection, log: RandomLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An address that many events come from, and a type that there is no event of."""
    monkeypatch.setattr(audit, "SCANNED_AT_ONCE", 10)
    rare = next(name for name in TYPES if name == "user_erased")
    wanted = AuditFilter(types=(rare,), user=NOBODY)
    page = await read_page(reader, wanted, Sought("address", ADDRESSES[0]))
    assert (page.events, page.next) == ([], None), "nothing about this user: that is certain"
    wanted = AuditFilter(types=tuple(name for name in TYPES if name != rare), limit=1000)
    page = await read_page(reader, wanted, Sought("address", ADDRESSES[0]))
    assert 0 < len(page.events) <= 10
    assert page.next is not None
    assert page.next.position <= page.events[-1].position


async def test_cursors_at_the_ends_of_all_numbers(reader: Connection, log: RandomLog) -> None:
    sides, orders, ends = get_args(Side), get_args(Order), (0, 1, MAX_POSITION)
    for side, order, position in itertools.product(sides, orders, ends):
        wanted = AuditFilter(order=order, cursor=Cursor(side, position), limit=3)
        page = await read_page(reader, wanted)
        for cursor in (page.next, page.prev):
            assert cursor is None or 0 <= cursor.position <= MAX_POSITION


async def test_whose_event_it_is(reader: Connection, log: RandomLog) -> None:
    row = next(row for row in log.rows if row.user is not None)
    assert row.user is not None
    assert await is_about(reader, row.position, row.user)
    assert not await is_about(reader, row.position, NOBODY)
    assert not await is_about(reader, EVENTS + 1, row.user)


async def test_what_is_not_traced_is_not_searched(
    reader: Connection, log: RandomLog, database: Dsns
) -> None:
    """By network and by login, where an older version has appended; what lies before, is."""
    async with tampering(database) as owner:
        await owner.execute("UPDATE origins_head SET traced_to = 100")
    for sought in (ORIGINS[0].sought[1], Sought(login=LOGINS[0])):
        with pytest.raises(SearchIncomplete):
            await read_page(reader, AuditFilter(), sought)
        with pytest.raises(SearchIncomplete):
            await read_page(reader, AuditFilter(before=102), sought)
        page = await read_page(reader, AuditFilter(before=101, limit=1000), sought)
        assert positions_of([page]) == log.matching(AuditFilter(before=101), sought)
    address = Sought("address", ADDRESSES[0])
    page = await read_page(reader, AuditFilter(limit=1000), address)
    assert positions_of([page]) == log.matching(AuditFilter(), address)


# --- time as a position


async def position_from(reader: Connection, moment: datetime) -> int:
    found: int = await reader.fetchval("SELECT first_position_from($1)", moment)
    return found


async def test_a_moment_is_a_position(reader: Connection, log: RandomLog) -> None:
    last = int((log.rows[-1].recorded_at - NOON).total_seconds())
    for seconds in range(-2, last + 3):
        moment = NOON + timedelta(seconds=seconds)
        expected = next((r.position for r in log.rows if r.recorded_at >= moment), EVENTS + 1)
        assert await position_from(reader, moment) == expected


async def test_a_moment_in_an_empty_log(reader: Connection) -> None:
    assert await position_from(reader, NOON) == 1


async def test_a_moment_before_what_was_purged(
    reader: Connection, log: RandomLog, database: Dsns
) -> None:
    async with tampering(database) as owner:
        await owner.execute("DELETE FROM events WHERE position <= 100")
    assert await position_from(reader, NOON - timedelta(days=1)) == 101
    later = log.rows[250].recorded_at
    expected = next(r.position for r in log.rows if r.recorded_at >= later)
    assert await position_from(reader, later) == expected


# --- plans


BASIC: dict[str, tuple[tuple[object, ...], set[str]]] = {
    "log": ((), {"events_pkey"}),
    "types": ((["login_failed"],), {"events_type_position_idx", "events_pkey"}),
    "user": ((TYPES, USERS[0]), {"events_subject_id_type_position_idx", "events_pkey"}),
    "session": ((TYPES, NOBODY, USERS[0]), {"events_session_id_idx"}),
}
# The index of the partitions that each blind index is, and a value of it.
BLIND: dict[str, tuple[str, object]] = {
    "address": ("event_addresses_pkey", ADDRESSES[0]),
    "near": ("event_origins_near_position_idx", 11),
    "middle": ("event_origins_middle_position_idx", 21),
    "wide": ("event_origins_wide_position_idx", 31),
    "login": ("event_origins_login_position_idx", LOGINS[0]),
}


def asked(question: str) -> tuple[tuple[object, ...], set[str]]:
    """The parameters of a question after the common ones, and the indexes that answer it."""
    if question in BASIC:
        return BASIC[question]
    first, *rest = question.split()
    if first == "session":
        arguments, indexes = BASIC["session"]
        blind = [BLIND[name] for name in rest]
        return (*arguments, *(value for _, value in blind)), indexes | {name for name, _ in blind}
    index, value = BLIND[first]
    match rest:
        case []:
            return (value,), {index, "events_pkey"}
        case ["types"]:
            return (["login_failed"], value, 10), {index, *BASIC["types"][1]}
        case ["user"]:
            return (TYPES, value, 10, USERS[0]), {index, *BASIC["user"][1]}
        case _:
            other, login = BLIND["login"]
            return (TYPES, value, 10, USERS[0], login), {index, other, "events_pkey"}


FEW = 80


@pytest.mark.parametrize("events", [0, FEW, 1000])
@pytest.mark.parametrize("direction", get_args(Direction))
@pytest.mark.parametrize("question", list(STATEMENTS["ASC"]))
async def test_every_question_is_answered_from_its_indexes(
    reader: Connection, database: Dsns, question: str, direction: Direction, events: int
) -> None:
    """From the beginning, and whenever the statistics are collected."""
    if events:
        async with tampering(database) as owner:
            await RandomLog(owner, seed=2).append(events)
            await owner.execute("ANALYZE events_1, event_addresses_1, event_origins_1")
    statement = STATEMENTS[direction][question]
    await reader.prepare(statement)
    arguments, indexes = asked(question)
    rows = await reader.fetch(f"EXPLAIN {statement}", 0, MAX_POSITION, NOON, None, 10, *arguments)
    plan = [row[0] for row in rows]
    scans = [line for line in plan if "Scan" in line and " on event" in line]
    assert scans
    assert all("Index" in line for line in scans), "\n".join(plan)
    names = {without_number(line.split(" using ")[1].split(" on ")[0]) for line in scans}
    if events == FEW and question.endswith("user"):
        # of one type there is one entry, and then one of a user's and a type costs as much; what
        # has grown is planned anew when it is analysed
        names.discard("events_type_position_idx")
    assert names == indexes, "\n".join(plan)


def without_number(name: str) -> str:
    """The name of a partition's index without the number of the partition."""
    return re.sub(r"_[0-9]+", "", name)


async def test_a_new_partition_has_the_same_indexes_once(
    connection: Connection, database: Dsns
) -> None:
    await connection.execute("SELECT add_event_partition()")
    rows = await connection.fetch(
        "SELECT tablename, regexp_replace(indexdef, '(INDEX|ON) \\S+', '', 'g') AS definition"
        " FROM pg_indexes WHERE tablename ~ '^events_[0-9]+$'"
    )
    found: dict[str, list[str]] = {}
    for row in rows:
        found.setdefault(row["tablename"], []).append(
            row["definition"].replace(row["tablename"], "")
        )
    assert len(found) == 3
    shapes = {tuple(sorted(definitions)) for definitions in found.values()}
    assert len(shapes) == 1
    assert len(shapes.pop()) == 4
    orphans = await connection.fetchval(
        "SELECT count(*) FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid"
        " LEFT JOIN pg_inherits h ON h.inhrelid = i.indexrelid"
        " WHERE c.relname ~ '^events_[0-9]+$' AND h.inhparent IS NULL"
    )
    assert orphans == 0


# --- the migration


async def test_the_indexes_are_made_while_the_service_runs(
    postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing fails, nothing is lost, and what was there is found."""
    name = "test_live_migration"
    postgres.create_database(name)
    owner, app = postgres.owner_dsn(name), postgres.app_dsn(name)
    with monkeypatch.context() as patch:
        upgrade = alembic_command.upgrade
        patch.setattr(alembic_command, "upgrade", lambda config, _: upgrade(config, "0004"))
        await migrate(owner)
    async with AsyncExitStack() as stack:
        stack.enter_context(appending_without_origins())
        appender = await stack.enter_async_context(Appender(lambda: connect(app), timeout_s=60))
        await asyncio.gather(*(appender.submit(failure()) for _ in range(2000)))
        migrating = asyncio.create_task(migrate(owner))
        appended = 0
        while not migrating.done():
            await asyncio.gather(*(appender.submit(failure()) for _ in range(50)))
            appended += 50
        assert (await migrating)[0] == "0005"
    connection = await connect(app, settings=PLANNED_FOR_INDEXES)
    wanted = AuditFilter(types=("login_failed",), limit=2)
    page = await read_page(connection, wanted)
    assert page.events[0].position == 2000 + appended
    page = await read_page(connection, msgspec.structs.replace(wanted, order="asc"))
    assert page.events[0].position == 1
    await connection.close()
    postgres.drop_database(name)
