"""What fills a replica: the load and the pages after it."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from gatelog.errors import LogDiffers
from gatelog.log.store.appender import Appender
from gatelog.sessions.rules.record import packed
from gatelog.sessions.rules.state import DropSession, PutSession, evolve
from gatelog.sessions.store.feed import CopyParser, Pair, copy_sessions, read_page

from tests.builders import NOON, end, registration, start

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection


async def test_the_load_is_what_the_replica_would_have_made_of_the_events(
    appender: Appender, connection: Connection
) -> None:
    expected = {}
    for number in range(30):
        user = registration(f"user {number}", roles=("admin", "auditor")[: number % 3])
        await appender.submit(user)
        command = start(
            user.event.subject_id,
            at=NOON + timedelta(microseconds=number),
            lifetime_s=86_400,
            idle_s=(None, 3, 7777, 86_400)[number % 4],
            authenticated_at=(None, NOON - timedelta(seconds=1, microseconds=number))[number % 2],
            amr=("pwd", "otp", "mfa")[: number % 5],
        )
        recorded = await appender.submit(command)
        event = recorded.events[0]
        assert event.type == "session_started"
        (change,) = evolve(event)
        assert isinstance(change, PutSession)
        assert change.session.roles == ("admin", "auditor")[: number % 3]
        assert change.session.amr == ("pwd", "otp", "mfa")[: number % 5]
        expected[command.event.token_digest] = packed(change.session)
        last = recorded.position
    pairs: list[Pair] = []

    head = await copy_sessions(connection, pairs.extend)

    assert pairs == sorted(expected.items())
    assert head.position == last
    assert len(head.leaf_hash) == 32


async def test_an_empty_log_loads_as_nothing(connection: Connection) -> None:
    pairs: list[Pair] = []

    head = await copy_sessions(connection, pairs.extend)

    assert (pairs, head.position, head.leaf_hash) == ([], 0, b"")


@pytest.mark.parametrize("size", [1, 2, 7, 19, 20, 91, 100, 10_000])
async def test_the_copy_may_arrive_in_pieces_of_any_size(
    appender: Appender, connection: Connection, size: int
) -> None:
    user = registration("user")
    await appender.submit(user)
    for _ in range(5):
        await appender.submit(start(user.event.subject_id))
    whole: list[Pair] = []
    await copy_sessions(connection, whole.extend)
    data = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
    for digest, record in whole:
        data += b"\x00\x02\x00\x00\x00\x20" + digest + len(record).to_bytes(4, "big") + record
    data += b"\xff\xff"

    parser = CopyParser()
    pairs = [p for i in range(0, len(data), size) for p in parser.feed(data[i : i + size])]
    parser.close()

    assert pairs == whole
    assert len(pairs) == 5


def test_a_copy_that_is_cut_short_is_noticed() -> None:
    parser = CopyParser()
    parser.feed(b"PGCOPY\n\xff\r\n\x00" + bytes(8) + b"\x00\x02")
    with pytest.raises(ValueError, match="too early"):
        parser.close()


def test_another_format_is_refused() -> None:
    with pytest.raises(ValueError, match="COPY"):
        CopyParser().feed(b"token_digest,record\n1,2\n")


async def test_pages_give_the_changes_in_order(appender: Appender, connection: Connection) -> None:
    user = registration("user")
    await appender.submit(user)
    started = start(user.event.subject_id)
    await appender.submit(started)
    await appender.submit(end(started))

    first = await read_page(connection, position=0, leaf_hash=b"", limit=2)
    assert first is not None
    assert (first.position, first.ends) == (2, False)
    assert [type(change) for change in first.changes] == [PutSession]

    second = await read_page(
        connection, position=first.position, leaf_hash=first.leaf_hash, limit=2
    )
    assert second is not None
    assert (second.position, second.ends) == (3, True)
    digest = started.event.token_digest
    assert second.changes == [DropSession(started.event.session_id, digest)]

    assert (await read_page(connection, position=3, leaf_hash=second.leaf_hash, limit=2)) is None


@pytest.mark.parametrize(("position", "leaf_hash"), [(1, bytes(32)), (5, bytes(32))])
async def test_a_log_that_is_another_one_is_noticed(
    appender: Appender, connection: Connection, position: int, leaf_hash: bytes
) -> None:
    await appender.submit(registration("user"))

    with pytest.raises(LogDiffers):
        await read_page(connection, position=position, leaf_hash=leaf_hash, limit=10)
