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

import msgspec

from gatelog.accounts.store.users import user_of
from gatelog.audit.store import sql
from gatelog.errors import LogDamaged
from gatelog.log.rules import events as ev
from gatelog.log.rules.state import User, evolve_user

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection, PooledConnection

PARTITION = 1 << 20  # positions

_CHANGE_NO_USER = (ev.SessionStarted, ev.SessionEnded, ev.AuditRead)
USER_EVENT_TYPES = sorted(
    name
    for name, cls in ev.EVENT_TYPES.items()
    if issubclass(cls, ev.UserEvent) and not issubclass(cls, _CHANGE_NO_USER)
)
"""The types of events that may change a user."""


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
    rows = await connection.fetch(sql.READ_USER_EVENTS, before, position, USER_EVENT_TYPES)
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
    )
