"""What fills a replica: all sessions at a known position, then the events after it.

Rules: the sessions come in one COPY, streamed and in order, from the same snapshot as the position
that they belong to. Every page of events begins with the event that was applied last, so that a
log which is shorter or another one is noticed and not taken for a continuation.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import TYPE_CHECKING

import msgspec

from gatelog.errors import EventsLost, LogDamaged, LogDiffers, NotUnderstood
from gatelog.log.rules import events as ev
from gatelog.sessions.rules.state import Change, DropSession, evolve
from gatelog.sessions.store import sql
from gatelog.sessions.store.announced import read_announced
from gatelog.sessions.store.leases import EpochHead, read_epoch_head
from gatelog.sessions.store.replica_place import Announced

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection

COPY_SIGNATURE = b"PGCOPY\n\xff\r\n\x00"
_COPY_HEADER_BYTES = len(COPY_SIGNATURE) + 8  # flags, length of the extension
_ROW_HEAD = Struct(">hi32si")  # two fields; 32, the digest; the record's length
_END = b"\xff\xff"

Pair = tuple[bytes, bytes]


class Page(msgspec.Struct, frozen=True):
    """Some events as changes. ``ends``: there is the end of a session among them.

    ``announced``: what was, by topic.
    """

    changes: list[Change]
    position: int
    leaf_hash: bytes
    ends: bool
    announced: Announced = {}


async def read_page(
    connection: Connection, *, position: int, leaf_hash: bytes, limit: int
) -> Page | None:
    """The changes after ``position``, or None when there are none yet.

    Raises LogDiffers, or NotUnderstood for an event that this version does not know.
    """
    rows = await connection.fetch(sql.READ_TAIL, position, limit + (position > 0))
    if position > 0:
        if not rows or rows[0][0] != position or rows[0][1] != leaf_hash:
            raise EventsLost(f"The event at {position} is another one, or gone.")
        del rows[0]
    if not rows:
        return None
    if rows[0][0] != position + 1 or rows[-1][0] != position + len(rows):
        raise LogDiffers(f"There is a gap after {position}.")
    try:
        events = [ev.decode(row[2]) for row in rows]
        changes = [change for event in events for change in evolve(event)]
    except LogDamaged as error:
        raise NotUnderstood(f"After position {position}: {error}") from error
    ends = any(isinstance(change, DropSession) for change in changes)
    announced = {e.TOPIC: e.announced for e in events if isinstance(e, ev.Announcement)}
    return Page(changes, rows[-1][0], rows[-1][1], ends, announced)


async def copy_sessions(connection: Connection, sink: Callable[[list[Pair]], None]) -> EpochHead:
    """Hand all sessions to ``sink``, as ascending (digest, record) pairs, a bounded part at a time.

    Returns the position that they belong to, with its hash and epoch, and what was announced last
    until then.
    """
    parser = CopyParser()

    async def take(data: bytes) -> None:
        if pairs := parser.feed(data):
            sink(pairs)

    async with connection.transaction(isolation="repeatable_read", readonly=True):
        # the position is needed to ask for its hash; the snapshot is the same for all of it
        position = (await read_epoch_head(connection, 0)).position
        head = await read_epoch_head(connection, position)
        await connection.execute(sql.SORT_SESSIONS)
        await connection.copy_from_query(sql.COPY_SESSIONS, output=take, format="binary")
        announced = await read_announced(connection)
    parser.close()
    return msgspec.structs.replace(head, announced=announced)


class CopyParser:
    """Takes PostgreSQL's binary COPY format apart, in pieces of any size.

    The format: "COPY", "Binary Format" in PostgreSQL's documentation of SQL commands.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._started = False
        self._ended = False

    def feed(self, data: bytes) -> list[Pair]:
        """The rows that are complete with this piece."""
        data = self._rest + data
        start = 0
        if not self._started:
            if len(data) < _COPY_HEADER_BYTES:
                self._rest = data
                return []
            if not data.startswith(COPY_SIGNATURE):
                raise ValueError("this is not PostgreSQL's binary COPY format")
            start, self._started = _COPY_HEADER_BYTES, True
        pairs, end = self._rows(data, start)
        self._rest = data[end:]
        self._ended = self._rest == _END
        return pairs

    @staticmethod
    def _rows(data: bytes, start: int) -> tuple[list[Pair], int]:
        pairs = []
        unpack, head_bytes = _ROW_HEAD.unpack_from, _ROW_HEAD.size
        last = len(data) - head_bytes
        while start <= last:
            _fields, _length, digest, length = unpack(data, start)
            record_start = start + head_bytes
            record_end = record_start + length
            if record_end > len(data):
                break
            pairs.append((digest, data[record_start:record_end]))
            start = record_end
        return pairs, start

    def close(self) -> None:
        """Raises ValueError unless the end of the data has been seen."""
        if not self._ended:
            raise ValueError("the COPY ended too early")
