"""The projection held against the log: compare the two (``check``), or make it anew (``rebuild``).

Both fold the log with the same ``evolve`` that the appender uses. ``check`` reads everything in
one snapshot and also holds each row's columns and leaf hash against its entry, and the marks
against the fold. ``rebuild`` folds beside the running service and takes the head's lock only for
the last stretch. Of a log that was purged the fold begins with the state at the cut, which the
purge has kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg
import msgspec

from gatelog.accounts.store.users import user_of
from gatelog.audit.store.asof import retained
from gatelog.audit.store.sql import NEXT_SESSION_MARK, USERS_AT_MARK
from gatelog.errors import LogDamaged
from gatelog.log.rules import events as ev
from gatelog.log.rules.state import ActiveSession, PutSession, User, evolve, evolve_user
from gatelog.log.store import sql
from gatelog.log.store.cuts import cut_position
from gatelog.log.store.database import PATIENT, connect, translated_errors

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection

PAGE = 10_000  # events
MAX_DIFFERENCES = 1000  # told one by one; beyond them only counted

Progress = Callable[[int, int], None]  # position reached, position of the head


class Fold:
    """The state after folding events: who exists and which sessions are active."""

    def __init__(self) -> None:
        self.position = 0
        self.sessions: dict[bytes, ActiveSession] = {}
        self.users: dict[UUID, User] = {}
        self.starts: dict[bytes, int] = {}  # where each of the sessions has started
        self.changed: set[UUID] = set()  # users, for whoever wants to know: empty it

    def take(self, position: int, event: ev.AnyEvent) -> None:
        """Fold one more event in. Raises LogDamaged for a gap or an impossible event."""
        if position != self.position + 1:
            raise LogDamaged(f"position {self.position + 1} is missing: {position} comes next")
        for change in evolve(event):
            if isinstance(change, PutSession):
                self.sessions[change.session.token_digest] = change.session
                self.starts[change.session.token_digest] = position
            else:
                self.sessions.pop(change.token_digest, None)
                self.starts.pop(change.token_digest, None)
        if event.subject_id is not None:
            known = self.users.get(event.subject_id)
            user = evolve_user(known, event)
            if user is not None and user is not known:
                self.users[event.subject_id] = user
                self.changed.add(event.subject_id)
        self.position = position

    async def begin(self, connection: Connection) -> None:
        """Take up the state at the cut, of a log that was purged."""
        self.position = await cut_position(connection)
        if not self.position:
            return
        async with connection.transaction():
            async for row in connection.cursor(sql.SESSIONS_AT_CUT, self.position, prefetch=PAGE):
                session = retained(row)
                self.sessions[session.token_digest] = session
                self.starts[session.token_digest] = row["position"]
            async for row in connection.cursor(sql.USERS_AT_CUT, self.position, prefetch=PAGE):
                user = user_of(row)
                self.users[user.subject_id] = user


class Report(msgspec.Struct, kw_only=True):
    """What ``check`` found. The projection is right when there is no difference.

    The log begins after ``purged_to``, with a state that cannot be checked any more.
    """

    events: int = 0
    purged_to: int = 0
    sessions: int = 0
    users: int = 0
    differences: list[str] = []
    untold: int = 0

    def differ(self, text: str) -> None:
        if len(self.differences) < MAX_DIFFERENCES:
            self.differences.append(text)
        else:
            self.untold += 1


class Rebuilt(msgspec.Struct, frozen=True):
    """What ``rebuild`` did; ``changed`` rows of the projection were not what the log says."""

    events: int
    sessions: int
    users: int
    changed: int


def _no_progress(position: int, head: int) -> None:
    pass


async def check(dsn: str, progress: Progress = _no_progress) -> Report:
    """Fold the log and compare it with the projection row by row, in one snapshot."""
    connection = await connect(dsn, settings=PATIENT)
    try:
        with translated_errors():
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                return await _check(connection, progress)
    finally:
        await connection.close()


async def _check(connection: Connection, progress: Progress) -> Report:
    report, fold = Report(), Fold()
    await fold.begin(connection)
    report.purged_to = fold.position
    head: int = await connection.fetchval(sql.LAST_POSITION)
    mark = await _next_mark(connection, fold.position)
    recorded_at: datetime | None = None
    while rows := await connection.fetch(sql.READ_ROWS, fold.position, PAGE):
        for row in rows:
            for text in _row_faults(row, recorded_at):
                report.differ(text)
            recorded_at = row["recorded_at"]
            try:
                fold.take(row["position"], ev.decode(row["entry"]))
            except LogDamaged as error:
                report.differ(f"log: position {row['position']}: {error}")
                return report  # what follows cannot be folded
            if mark is not None and fold.position == mark["position"]:
                await _check_mark(connection, fold, mark, report)
                mark = await _next_mark(connection, fold.position)
        progress(fold.position, head)
    if mark is not None and mark["position"] > head:
        report.differ(f"mark at {mark['position']}: the log is not that long")
    if fold.position != head:
        report.differ(f"log: the head says {head}, the last event is {fold.position}")
    for row in await connection.fetch(sql.WRONG_EVENT_IDS, report.purged_to):
        report.differ(f"event_ids: {row['event_id']}: noted {row['noted']}, is {row['position']}")
    await _compare(connection, fold, report)
    for row in await connection.fetch(sql.WRONG_KEYS):
        what = "is left of an erased user" if row["erased"] else "is missing"
        report.differ(f"{row['name']}: {row['subject_id']} {what}")
    report.events, report.sessions, report.users = (
        fold.position - report.purged_to,
        len(fold.sessions),
        len(fold.users),
    )
    return report


async def _next_mark(connection: Connection, after: int) -> asyncpg.Record | None:
    return await connection.fetchrow(NEXT_SESSION_MARK, after + 1)


async def _check_mark(
    connection: Connection, fold: Fold, mark: asyncpg.Record, report: Report
) -> None:
    """Hold a mark against the fold at its position."""
    where = f"mark at {fold.position}:"
    if sorted(fold.starts.values()) != mark["starts"]:
        report.differ(f"{where} other sessions than the log says")
    rows = await connection.fetch(USERS_AT_MARK, fold.position)
    marked = {user.subject_id: user for user in map(user_of, rows)}
    for subject_id in fold.changed | marked.keys():
        if fold.users.get(subject_id) != marked.get(subject_id):
            report.differ(f"{where} user {subject_id} is not as the log says")
    fold.changed.clear()


def _row_faults(row: asyncpg.Record, previous: datetime | None) -> Iterator[str]:
    """What is wrong within one row of the log."""
    where = f"log: position {row['position']}:"
    if ev.leaf_hash(row["entry"]) != row["leaf_hash"]:
        yield f"{where} the leaf hash is not that of the entry"
    if previous is not None and row["recorded_at"] < previous:
        yield f"{where} recorded_at goes back"
    try:
        event = ev.decode(row["entry"])
    except LogDamaged:
        return  # the fold reports it
    columns = {
        "event_id": event.event_id,
        "type": event.type,
        "session_id": getattr(event, "session_id", None),
        "subject_id": event.subject_id,
    }
    for name, value in columns.items():
        if row[name] != value:
            yield f"{where} column {name} says {row[name]}, the entry {value}"


async def _compare(connection: Connection, fold: Fold, report: Report) -> None:
    sessions, users = dict(fold.sessions), dict(fold.users)
    async for row in connection.cursor(sql.ALL_SESSIONS, prefetch=PAGE):
        found = _session(row)
        _differ(report, "active_sessions", found.session_id, sessions.pop(row[0], None), found)
    for missing in sessions.values():
        _differ(report, "active_sessions", missing.session_id, missing, None)
    async for row in connection.cursor(sql.ALL_USERS, prefetch=PAGE):
        user = user_of(row)
        _differ(report, "users", user.subject_id, users.pop(row[0], None), user)
    for subject_id, expected in users.items():
        _differ(report, "users", subject_id, expected, None)


def _session(row: asyncpg.Record) -> ActiveSession:
    return ActiveSession(
        token_digest=row[0],
        session_id=row[1],
        subject_id=row[2],
        started_at=row[3],
        expires_at=row[4],
        roles=tuple(row[5]),
    )


def _differ(report: Report, table: str, key: UUID, expected: object, found: object) -> None:
    if expected is None:
        report.differ(f"{table}: {key} is there, and not in the log")
    elif found is None:
        report.differ(f"{table}: {key} is missing")
    elif expected != found:
        report.differ(f"{table}: {key} differs: the log says {expected}, the table {found}")


async def rebuild(owner_dsn: str, progress: Progress = _no_progress) -> Rebuilt:
    """Make the projection anew from the log, beside the running service; swap it in when complete.

    Runs as the owner. When anything differed, the epoch changes, so that every replica is rebuilt
    too. Raises LogDamaged, and changes nothing, when the log cannot be folded.
    """
    connection = await connect(owner_dsn, role=None)
    try:
        with translated_errors():
            await connection.execute(sql.CREATE_REBUILD_TABLES)
            fold = Fold()
            await fold.begin(connection)
            await _fold_on(connection, fold, progress)
            await _copy(connection, fold)
            return await _swap(connection, fold, progress)
    finally:
        await connection.close()


async def _fold_on(connection: Connection, fold: Fold, progress: Progress) -> set[bytes]:
    """Fold what is there beyond ``fold.position``; returns the digests that this concerned."""
    touched: set[bytes] = set()
    head: int = await connection.fetchval(sql.LAST_POSITION)
    while rows := await connection.fetch(sql.READ_EVENTS, fold.position, PAGE):
        for row in rows:
            event = ev.decode(row["entry"])
            fold.take(row["position"], event)
            if isinstance(event, ev.SessionStarted | ev.SessionEnded):
                touched.add(event.token_digest)
        progress(fold.position, max(head, fold.position))
    return touched


async def _copy(connection: Connection, fold: Fold) -> None:
    await connection.copy_records_to_table(
        sql.REBUILT_SESSIONS, records=(_session_row(s) for s in fold.sessions.values())
    )
    await connection.copy_records_to_table(
        sql.REBUILT_USERS, records=(_user_row(u) for u in fold.users.values())
    )


def _session_row(session: ActiveSession) -> tuple[Any, ...]:
    return (
        session.token_digest,
        session.session_id,
        session.subject_id,
        session.started_at,
        session.expires_at,
        list(session.roles),
    )


def _user_row(user: User) -> tuple[Any, ...]:
    return (
        user.subject_id,
        user.registered_at,
        user.disabled,
        user.credential_version,
        list(user.roles),
        user.erased,
    )


async def _swap(connection: Connection, fold: Fold, progress: Progress) -> Rebuilt:
    async with connection.transaction():
        await connection.execute(sql.LOCK_HEAD)
        before = fold.position
        touched = await _fold_on(connection, fold, progress)
        if fold.position != before:
            await _catch_up(connection, fold, touched)
        changed = 0
        for statement in sql.SWAP_IN:
            status = await connection.execute(statement)
            verb, _, count = status.rpartition(" ")
            changed += int(count) if verb.startswith(("DELETE", "INSERT")) else 0
        if changed:
            await connection.execute(sql.BUMP_EPOCH)
    return Rebuilt(fold.position, len(fold.sessions), len(fold.users), changed)


async def _catch_up(connection: Connection, fold: Fold, touched: set[bytes]) -> None:
    """Bring the rebuilt tables to the state of the fold, for what came in meanwhile."""
    await connection.execute(sql.FORGET_REBUILT_SESSIONS, list(touched))
    sessions = [fold.sessions[digest] for digest in touched if digest in fold.sessions]
    await connection.copy_records_to_table(
        sql.REBUILT_SESSIONS, records=[_session_row(s) for s in sessions]
    )
    await connection.execute(sql.FORGET_REBUILT_USERS)
    await connection.copy_records_to_table(
        sql.REBUILT_USERS, records=(_user_row(u) for u in fold.users.values())
    )
