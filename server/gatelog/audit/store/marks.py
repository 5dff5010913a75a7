"""Marks: the state of the projection at positions behind, written a while after them.

At every 2^14th position it is noted which sessions had not ended, by where they started, and which
users have changed since the mark before. Whoever needs the state at any position takes the mark
before it and what happened since: that is little, wherever the position is. A mark at a position
never changes, because the log does not. With more sessions than that, marks are as many positions
apart as there are sessions, up to 2^17, so that they stay small beside the log and quick to make.
There is always one at the end of a partition, where the log may be cut.

Rules:

- Marks are derived data, made in order from the log and the mark before; ``check`` holds them
  against a fold of ``evolve``. Several processes may make the same one.
- Users change by ``evolve_user``. Sessions are a set operation in SQL, for speed; a test holds it
  to ``evolve``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

import asyncpg
import msgspec

from gatelog.accounts.rules.users import User, evolve_user
from gatelog.accounts.store.kinds import USERS_TABLE, user_of
from gatelog.audit.rules.events import AuditRead
from gatelog.audit.store import sql
from gatelog.errors import LogDamaged
from gatelog.log.rules import events as ev
from gatelog.log.store.rebuild import Fold, Report
from gatelog.sessions.rules.events import SessionEnded, SessionStarted, TokenCreated
from gatelog.sessions.store.kind import TABLE as SESSIONS_TABLE

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection, PooledConnection

PARTITION = 1 << 20  # positions

_CHANGE_NO_USER = (SessionStarted, TokenCreated, SessionEnded, AuditRead)


def user_event_types() -> list[str]:
    """The types of events that may change a user."""
    return sorted(
        name
        for name, cls in ev.EVENT_TYPES.items()
        if issubclass(cls, ev.UserEvent) and not issubclass(cls, _CHANGE_NO_USER)
    )


class Spacing(msgspec.Struct, frozen=True):
    """How far apart marks are, at least and at most, and where there is always one; positions."""

    every: int = 1 << 14
    most: int = 1 << 17
    partition: int = PARTITION

    def next(self, before: int, sessions: int) -> int:
        """The position of the mark that follows one with so many sessions."""
        distance = min(-(-max(sessions, 1) // self.every) * self.every, self.most)
        return min(before + distance, (before // self.partition + 1) * self.partition)


SPACING = Spacing()


class LastMark(msgspec.Struct, frozen=True):
    """The newest mark, 0 before the first, how many sessions it has; and the log's head."""

    position: int
    sessions: int
    head: int


async def last_mark(connection: PooledConnection) -> LastMark:
    """How far the marks reach."""
    row = await connection.fetchrow(sql.LAST_MARK)
    if row is None:
        raise LogDamaged("the log has no head")
    return LastMark(*row)


async def mark_before(connection: PooledConnection, position: int) -> int:
    """The newest mark up to this position; 0 when there is none."""
    found: int = await connection.fetchval(sql.MARK_BEFORE, position)
    return found


async def make_next_mark(
    connection: Connection, spacing: Spacing = SPACING, *, end: int | None = None
) -> int | None:
    """Make the mark that is due; returns its position, or None when the log is not that far.

    ``end``: at this position at the latest.
    Raises LogDamaged for events that cannot happen.
    """
    last = await last_mark(connection)
    position = spacing.next(last.position, last.sessions)
    if end is not None:
        position = min(position, end)
    if position > last.head:
        return None
    users = await _changed_users(connection, last.position, position)
    async with connection.transaction():
        await _write_users(connection, position, users)
        await connection.execute(sql.JOIN_BY_HASH)
        await connection.execute(sql.MARK_SESSIONS, last.position, position)
    return position


async def _changed_users(connection: Connection, before: int, position: int) -> list[User]:
    """The users whom something changed between two marks, as they are at the second."""
    rows = await connection.fetch(sql.READ_USER_EVENTS, before, position, user_event_types())
    events = [ev.decode(row["entry"]) for row in rows]
    subjects = {event.subject_id for event in events if event.subject_id is not None}
    found = [user_of(row) for row in await connection.fetch(sql.MARKED_USERS, list(subjects))]
    users: dict[UUID, User] = {user.subject_id: user for user in found}
    for event in events:
        if event.subject_id is not None:
            user = evolve_user(users.get(event.subject_id), event)
            if user is not None:
                users[event.subject_id] = user
    return list(users.values())


async def _write_users(connection: Connection, position: int, rows: list[User]) -> None:
    await connection.execute(
        sql.MARK_USERS,
        position,
        [user.subject_id for user in rows],
        [user.registered_at for user in rows],
        [user.disabled for user in rows],
        [user.credential_version for user in rows],
        [",".join(user.roles) for user in rows],
        [user.erased for user in rows],
        [user.factors for user in rows],
    )


class MarksCheck:
    """Holds the marks against the fold of a check, each at its position."""

    def __init__(self) -> None:
        self._mark: asyncpg.Record | None = None

    async def due(self, connection: Connection, after: int) -> int | None:
        """The position of the next mark."""
        self._mark = await connection.fetchrow(sql.NEXT_SESSION_MARK, after + 1)
        return self._mark["position"] if self._mark is not None else None

    async def look(self, connection: Connection, fold: Fold, report: Report) -> None:
        """Compare the mark with the fold, which is at its position or ends before it."""
        mark = self._mark
        if mark is None:
            return
        where = f"mark at {mark['position']}:"
        if mark["position"] > fold.position:
            report.differ(f"{where} the log is not that long")
            return
        if sorted(fold.rows[SESSIONS_TABLE.name].born.values()) != mark["starts"]:
            report.differ(f"{where} other sessions than the log says")
        rows = await connection.fetch(sql.USERS_AT_MARK, fold.position)
        marked = {user.subject_id: user for user in map(user_of, rows)}
        users = fold.rows[USERS_TABLE.name]
        for subject_id in users.changed | marked.keys():
            if users.by_key.get(subject_id) != marked.get(subject_id):
                report.differ(f"{where} user {subject_id} is not as the log says")
        users.changed.clear()
