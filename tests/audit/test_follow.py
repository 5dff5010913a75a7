"""Following the log: everything once and in order, bounded, and nothing of who is erased."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from gatelog.audit.rules.shown import AuditFilter
from gatelog.audit.service.export import LogPages, Opened
from gatelog.audit.service.follow import HANDED_OUT, Follower, Frame, Stream
from gatelog.config import Config
from gatelog.errors import (
    EventsLost,
    InvalidCredentials,
    InvalidInput,
    LogDamaged,
    Overloaded,
    Purged,
    Unavailable,
)
from gatelog.hosting.services import Services, open_services
from gatelog.log.store.follow import Beyond, Mark, read_on
from gatelog.log.store.reading import StoredEvent
from gatelog.privacy.rules import Client

from tests.builders import CHEAP_CONFIG
from tests.conftest import SHORT_TTL_S, Dsns
from tests.proofs.sealing import append, tampering
from tests.waiting import until

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection

PASSWORD = "a rather long phrase"
CLIENT = Client("192.0.2.7", "Netscape")
EVERYTHING = AuditFilter()


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return msgspec.structs.replace(
        CHEAP_CONFIG,
        data_dir=str(tmp_path),
        lease_ttl_s=SHORT_TTL_S,
        stream_buffer=3000,
        streams=3,
    )


@pytest.fixture
async def services(config: Config, database: Dsns) -> AsyncIterator[Services]:
    async with open_services(config, database.app) as opened:
        yield opened


@pytest.fixture
def follower(services: Services) -> Follower:
    return services.follower


async def read_until(stream: Stream, position: int) -> list[Frame]:
    """What a stream hands out up to a position."""
    frames: list[Frame] = []
    async with asyncio.timeout(90):
        while stream.position < position:
            assert not stream.ended, "cut off"
            frames += await stream.next(1)
    return frames


def text(frames: list[Frame]) -> bytes:
    return b"".join(frame.data for frame in frames)


# --- order


async def test_streams_begin_and_end_where_they_say(follower: Follower, database: Dsns) -> None:
    await append(database.app, 1200)
    begins: list[int | None] = [0, 700, None]
    streams = [await follower.open(EVERYTHING, after) for after in begins]
    await append(database.app, 1300)
    for stream, after in zip(streams, begins, strict=True):
        frames = await read_until(stream, 2500)
        first = 1201 if after is None else after + 1
        assert [frame.position for frame in frames] == list(range(first, 2501))
        assert await stream.next(0.01) == []
        stream.close()


async def test_streams_join_the_task_while_events_come(follower: Follower, database: Dsns) -> None:
    """Streams that begin far behind catch up with a log that grows all the time."""
    follower.buffer = 7000  # whoever waits for a page is not cut off meanwhile
    await append(database.app, 3000)
    lasting = await follower.open(EVERYTHING, None)
    growing = asyncio.create_task(grow(database, 4000))
    late = [await follower.open(EVERYTHING, after) for after in (0, 1500)]
    read = [read_until(stream, 7000) for stream in (lasting, *late)]
    found = await asyncio.gather(*read)
    await growing
    for frames, after in zip(found, (3000, 0, 1500), strict=True):
        assert [frame.position for frame in frames] == list(range(after + 1, 7001))


async def test_a_stream_may_begin_ahead_of_the_task(
    follower: Follower, database: Dsns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gatelog.audit.service.follow.LOOK_EVERY_S", 0.5)
    lasting = await follower.open(EVERYTHING, None)
    await until(lambda: not lasting.is_behind())
    await append(database.app, 10)
    late = await follower.open(EVERYTHING, None)
    await append(database.app, 5)
    assert [frame.position for frame in await read_until(late, 15)] == list(range(11, 16))
    assert [frame.position for frame in await read_until(lasting, 15)] == list(range(1, 16))


async def test_short_pages_end_where_the_queue_begins(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is recorded between two short pages comes from the queue, and from there alone."""
    monkeypatch.setattr("gatelog.audit.store.queries.SCANNED_AT_ONCE", 3)
    follower = services.follower
    lasting = await follower.open(EVERYTHING, None)
    await fail_to_log_in(services, 10)
    await until(lambda: follower.position == 10)
    wanted = AuditFilter(address=CLIENT.address, types=("login_failed",))
    late = await follower.open(wanted, 0)
    first = await late.next(1)
    assert [frame.position for frame in first] == [1, 2, 3]
    await fail_to_log_in(services, 4)
    await until(lambda: follower.position == 14)
    rest = await read_until(late, 14)
    assert [frame.position for frame in rest] == list(range(4, 15))
    assert await late.next(0.01) == []
    lasting.close()
    late.close()


async def fail_to_log_in(services: Services, times: int) -> None:
    for _ in range(times):
        with pytest.raises(InvalidCredentials):
            await services.accounts.logins.log_in("nobody", PASSWORD, CLIENT)


async def grow(database: Dsns, count: int) -> None:
    for _ in range(count // 100):
        await append(database.app, 100)


async def test_it_reads_only_while_somebody_follows(follower: Follower, database: Dsns) -> None:
    first = await follower.open(EVERYTHING, None)
    second = await follower.open(EVERYTHING, None)
    first.close()
    await append(database.app, 10)
    await until(lambda: follower.position == 10)
    second.close()
    await append(database.app, 10)
    third = await follower.open(EVERYTHING, 15)
    assert [frame.position for frame in await read_until(third, 20)] == list(range(16, 21))
    third.close()
    third.close()  # may be said twice


# --- limits


async def test_no_more_streams_than_the_limit(follower: Follower) -> None:
    streams = [await follower.open(EVERYTHING, None) for _ in range(3)]
    with pytest.raises(Overloaded) as error:
        await follower.open(EVERYTHING, None)
    assert error.value.retry_after_s
    streams[0].close()
    (await follower.open(EVERYTHING, None)).close()
    with pytest.raises(InvalidInput):
        await follower.open(EVERYTHING, 1)
    (await follower.open(EVERYTHING, 0)).close()  # the refused one has left its place


async def test_a_slow_reader_is_cut_off_and_a_quick_one_is_not(
    follower: Follower, database: Dsns
) -> None:
    slow = await follower.open(EVERYTHING, None)
    quick = await follower.open(EVERYTHING, None)
    cut: list[bool] = []
    slow.on_end = lambda: cut.append(True)
    reading = asyncio.create_task(read_until(quick, 6000))
    for _ in range(3):
        await append(database.app, 2000)
    assert len(await reading) == 6000
    await until(lambda: slow.ended)
    assert cut == [True]
    assert await slow.next(1) == []
    assert not quick.ended


async def test_not_all_is_handed_out_at_once(follower: Follower, database: Dsns) -> None:
    stream = await follower.open(EVERYTHING, None)
    await append(database.app, 2 * HANDED_OUT)
    await until(lambda: follower.position == 2 * HANDED_OUT)
    assert len(await stream.next(1)) == HANDED_OUT
    assert stream.position == HANDED_OUT


async def test_nothing_is_opened_after_the_end(follower: Follower) -> None:
    stream = await follower.open(EVERYTHING, None)
    waiting = asyncio.create_task(stream.next(20))
    await follower.close()
    assert await waiting == []
    with pytest.raises(Unavailable):
        await follower.open(EVERYTHING, None)


# --- who is erased


async def test_nothing_of_an_erased_person_is_shown_from_memory(services: Services) -> None:
    """One event has been handed out and one waits in the buffer when the person is erased."""
    bob = await services.accounts.logins.add_user("bob", PASSWORD)
    follower = services.follower
    stream = await follower.open(EVERYTHING, None)
    first = await services.accounts.logins.log_in("bob", PASSWORD, CLIENT)
    await until(lambda: follower.position >= first.position)
    held = await stream.next(1)
    second = await services.accounts.logins.log_in("bob", PASSWORD, CLIENT)
    await until(lambda: follower.position >= second.position)
    assert b"Netscape" in text(held)
    await services.accounts.users.erase(bob)
    await until(lambda: b"Netscape" not in text(held))
    waiting = await stream.next(1)
    assert second.position in [frame.position for frame in waiting]
    for word in (b"Netscape", b"192.0.2.7", b'"bob"'):
        assert word not in text(held) + text(waiting)
    assert str(bob).encode() in text(waiting)


async def test_a_page_that_was_opened_before_an_erasure_is_read_again(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worst moment: opened for a stream that catches up, and not handed out yet."""
    bob = await services.accounts.logins.add_user("bob", PASSWORD)
    grant = await services.accounts.logins.log_in("bob", PASSWORD, CLIENT)
    follower = services.follower
    lasting = await follower.open(EVERYTHING, None)
    really_open, stale = LogPages.opened, list[Opened]()

    async def open_and_dawdle(pages: LogPages, rows: Sequence[StoredEvent]) -> list[Opened]:
        opened = await really_open(pages, rows)
        if not stale:
            stale.extend(opened)
            ended = await services.accounts.users.erase(bob)
            await until(lambda: follower.position >= (ended.position or 0))
        return opened

    monkeypatch.setattr(LogPages, "opened", open_and_dawdle)
    late = await follower.open(EVERYTHING, 0)
    frames = await read_until(late, grant.position)
    assert "Netscape" in {each.shown.user_agent for each in stale}
    assert grant.position in [frame.position for frame in frames]
    assert b"Netscape" not in text(frames)
    lasting.close()
    late.close()


# --- another log


async def test_a_log_that_was_cut_ends_all_streams(
    follower: Follower, database: Dsns, caplog: pytest.LogCaptureFixture
) -> None:
    await append(database.app, 10)
    streams = [await follower.open(EVERYTHING, after) for after in (None, 10)]
    async with tampering(database) as owner:
        await owner.execute("DELETE FROM events WHERE position > 8")
        await owner.execute("UPDATE log_head SET position = 8")
    await until(lambda: all(stream.ended for stream in streams))
    assert "the streams of events end" in caplog.text


@pytest.mark.parametrize("known", [True, False])
async def test_reading_on(database: Dsns, connection: Connection, known: bool) -> None:
    await append(database.app, 10)
    (fifth,) = [e for e in await read(connection, Mark(4), 1)]
    mark = Mark(5, fifth.leaf_hash if known else None)
    assert [event.position for event in await read(connection, mark, 3)] == [6, 7, 8]
    assert await read(connection, Mark(10), 3) == []
    assert [event.position for event in await read(connection, Mark(0), 2)] == [1, 2]
    with pytest.raises(EventsLost):
        await read_on(connection, Mark(11), 3)
    async with tampering(database) as owner:
        await owner.execute("UPDATE events SET leaf_hash = sha256('') WHERE position = 5")
    if known:
        with pytest.raises(EventsLost):
            await read_on(connection, mark, 3)
    async with tampering(database) as owner:
        await owner.execute("DELETE FROM events WHERE position <= 6")
    assert await read_on(connection, mark, 3) == Beyond(7)
    assert [event.position for event in await read(connection, Mark(6), 2)] == [7, 8]
    async with tampering(database) as owner:
        await owner.execute("DELETE FROM events WHERE position = 9")
    with pytest.raises(LogDamaged):
        await read_on(connection, Mark(7), 5)


async def read(connection: Connection, mark: Mark, limit: int) -> list[StoredEvent]:
    events = await read_on(connection, mark, limit)
    assert isinstance(events, list)
    return events


async def test_what_was_purged_is_no_beginning(follower: Follower, database: Dsns) -> None:
    await append(database.app, 10)
    async with tampering(database) as owner:
        await owner.execute("DELETE FROM events WHERE position <= 4")
    with pytest.raises(Purged):
        await follower.open(EVERYTHING, 3)
    for after, first in ((4, 5), (9, 10)):
        stream = await follower.open(EVERYTHING, after)
        assert (await read_until(stream, 10))[0].position == first
    async with tampering(database) as owner:
        await owner.execute("DELETE FROM events")
    with pytest.raises(Purged):
        await follower.open(EVERYTHING, 9)
    (await follower.open(EVERYTHING, 10)).close()
