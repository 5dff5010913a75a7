"""The projections held against the log: compare them (``check``), or make them anew (``rebuild``).

Both fold the log with what the kinds of state register (``log.store.kinds``), which is what the
appender uses. ``check`` reads everything in one snapshot and also holds each row's columns and leaf
hash against its entry. ``rebuild`` folds beside the running service and takes the head's lock only
for the last stretch. Of a log that was purged the fold begins with the state at the cut, which the
purge has kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

import asyncpg
import msgspec

from gatelog.errors import LogDamaged, OperatorError
from gatelog.log.rules import events as ev
from gatelog.log.store import sql
from gatelog.log.store.cuts import cut_position
from gatelog.log.store.database import PATIENT, connect, translated_errors
from gatelog.log.store.kinds import Projection, registered_kinds

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection

PAGE = 10_000  # events
MAX_DIFFERENCES = 1000  # told one by one; beyond them only counted

Progress = Callable[[int, int], None]  # position reached, position of the head


class Rows:
    """One projection as the fold has it: its rows by key, and at which position each came to be.

    ``changed``: the keys of what has changed, for whoever wants to know: empty it.
    """

    def __init__(self, projection: Projection) -> None:
        self.projection = projection
        self.by_key: dict[Any, Any] = {}
        self.born: dict[Any, int] = {}
        self.changed: set[Any] = set()

    def take(self, position: int, event: ev.Event) -> None:
        """Fold an event in that concerns this projection. Raises LogDamaged."""
        for part in self.projection.parts(event):
            self._take_part(position, part)

    def _take_part(self, position: int, part: object) -> None:
        key = self.projection.key(part)
        known = self.by_key.get(key)
        row = self.projection.evolve(known, part)
        if row is known:
            return
        self.changed.add(key)
        if row is None:
            del self.by_key[key], self.born[key]
        else:
            self.by_key[key] = row
            if known is None:
                self.born[key] = position

    async def begin(self, connection: Connection, cut: int) -> None:
        """Take up the state at the cut. Raises OperatorError where nobody has kept it."""
        projection = self.projection
        if projection.at_cut is None:
            raise OperatorError(
                f"the log begins after {cut}, and what {projection.table.name} was then is not kept"
            )
        async for row in connection.cursor(projection.at_cut, cut, prefetch=PAGE):
            born, *columns = row
            key = columns[0]
            self.by_key[key], self.born[key] = projection.record(columns), born


class Fold:
    """The state after folding events: the rows of every projection."""

    def __init__(self) -> None:
        self.position = 0
        self.rows = {
            kind.projection.table.name: Rows(kind.projection)
            for kind in registered_kinds()
            if kind.projection is not None
        }
        self._concerned: dict[type[ev.Event], tuple[Rows, ...]] = {}

    def take(self, position: int, event: ev.Event) -> None:
        """Fold one more event in. Raises LogDamaged for a gap or an impossible event."""
        if position != self.position + 1:
            raise LogDamaged(f"position {self.position + 1} is missing: {position} comes next")
        concerned = self._concerned.get(type(event))
        if concerned is None:
            concerned = self._concerned[type(event)] = tuple(
                rows for rows in self.rows.values() if isinstance(event, rows.projection.concerns)
            )
        for rows in concerned:
            rows.take(position, event)
        self.position = position

    async def begin(self, connection: Connection) -> None:
        """Take up the state at the cut, of a log that was purged."""
        self.position = await cut_position(connection)
        if not self.position:
            return
        async with connection.transaction():
            for rows in self.rows.values():
                await rows.begin(connection, self.position)

    def count(self, table: str) -> int:
        """How many rows a table should have."""
        return len(self.rows[table].by_key)


class Report(msgspec.Struct, kw_only=True):
    """What ``check`` found. The projections are right when there is no difference.

    The log begins after ``purged_to``, with a state that cannot be checked any more. ``rows``: how
    many each projection should have, by table.
    """

    events: int = 0
    purged_to: int = 0
    rows: dict[str, int] = {}
    differences: list[str] = []
    untold: int = 0

    def differ(self, text: str) -> None:
        """Note a difference."""
        if len(self.differences) < MAX_DIFFERENCES:
            self.differences.append(text)
        else:
            self.untold += 1


class Rebuilt(msgspec.Struct, frozen=True):
    """What ``rebuild`` did; ``changed`` rows of the projections were not what the log says."""

    events: int
    rows: dict[str, int]
    changed: int


class Companion(Protocol):
    """Something else that is held against the fold on its way, at some positions."""

    async def due(self, connection: Connection, after: int) -> int | None:
        """The first position after this one at which it wants to look."""

    async def look(self, connection: Connection, fold: Fold, report: Report) -> None:
        """Compare, with the fold at that position."""


def _no_progress(position: int, head: int) -> None:
    pass


async def check(
    dsn: str, progress: Progress = _no_progress, companion: Companion | None = None
) -> Report:
    """Fold the log and compare it with the projections row by row, in one snapshot."""
    connection = await connect(dsn, settings=PATIENT)
    try:
        with translated_errors():
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                return await _check(connection, progress, companion)
    finally:
        await connection.close()


async def _check(connection: Connection, progress: Progress, companion: Companion | None) -> Report:
    report, fold = Report(), Fold()
    await fold.begin(connection)
    report.purged_to = fold.position
    head: int = await connection.fetchval(sql.LAST_POSITION)
    due = await companion.due(connection, fold.position) if companion else None
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
            if companion is not None and fold.position == due:
                await companion.look(connection, fold, report)
                due = await companion.due(connection, fold.position)
        progress(fold.position, head)
    if companion is not None and due is not None:
        await companion.look(connection, fold, report)  # further than the log reaches
    if fold.position != head:
        report.differ(f"log: the head says {head}, the last event is {fold.position}")
    for row in await connection.fetch(sql.WRONG_EVENT_IDS, report.purged_to):
        report.differ(f"event_ids: {row['event_id']}: noted {row['noted']}, is {row['position']}")
    await _compare(connection, fold, report)
    report.events = fold.position - report.purged_to
    report.rows = {table: fold.count(table) for table in fold.rows}
    return report


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
    for rows in fold.rows.values():
        await _compare_table(connection, rows, report)
    for kind in registered_kinds():
        for statement in kind.faults:
            for table, key, what in await connection.fetch(statement):
                report.differ(f"{table}: {key} {what}")


async def _compare_table(connection: Connection, rows: Rows, report: Report) -> None:
    projection, left = rows.projection, dict(rows.by_key)
    async for row in connection.cursor(projection.table.select(), prefetch=PAGE):
        found = projection.record(row)
        _differ(report, projection, left.pop(row[0], None), found)
    for missing in left.values():
        _differ(report, projection, missing, None)


def _differ(report: Report, projection: Projection, expected: object, found: object) -> None:
    if expected == found:
        return
    table = projection.table.name
    key = getattr(found if found is not None else expected, projection.shown)
    if expected is None:
        report.differ(f"{table}: {key} is there, and not in the log")
    elif found is None:
        report.differ(f"{table}: {key} is missing")
    else:
        report.differ(f"{table}: {key} differs: the log says {expected}, the table {found}")


async def rebuild(owner_dsn: str, progress: Progress = _no_progress) -> Rebuilt:
    """Make the projections anew from the log, beside the running service; swap them in at the end.

    Runs as the owner. When anything differed, the epoch changes, so that every replica is rebuilt
    too. Raises LogDamaged, and changes nothing, when the log cannot be folded.
    """
    connection = await connect(owner_dsn, role=None)
    try:
        with translated_errors():
            fold = Fold()
            for rows in fold.rows.values():
                await connection.execute(rows.projection.table.create_rebuilt())
            await fold.begin(connection)
            await _fold_on(connection, fold, progress)
            for rows in fold.rows.values():
                await _copy(connection, rows, list(rows.by_key.values()))
                rows.changed.clear()
            return await _swap(connection, fold, progress)
    finally:
        await connection.close()


async def _fold_on(connection: Connection, fold: Fold, progress: Progress) -> None:
    """Fold what is there beyond ``fold.position``."""
    head: int = await connection.fetchval(sql.LAST_POSITION)
    while rows := await connection.fetch(sql.READ_EVENTS, fold.position, PAGE):
        for row in rows:
            fold.take(row["position"], ev.decode(row["entry"]))
        progress(fold.position, max(head, fold.position))


async def _copy(connection: Connection, rows: Rows, records: Sequence[object]) -> None:
    await connection.copy_records_to_table(
        rows.projection.table.rebuilt, records=(rows.projection.row(record) for record in records)
    )


async def _swap(connection: Connection, fold: Fold, progress: Progress) -> Rebuilt:
    async with connection.transaction():
        await connection.execute(sql.LOCK_HEAD)
        await _fold_on(connection, fold, progress)
        changed = 0
        for rows in fold.rows.values():
            await _catch_up(connection, rows)
            for statement in rows.projection.table.swap_in():
                status = await connection.execute(statement)
                verb, _, count = status.rpartition(" ")
                changed += int(count) if verb.startswith(("DELETE", "INSERT")) else 0
        if changed:
            await connection.execute(sql.BUMP_EPOCH)
    return Rebuilt(fold.position, {table: fold.count(table) for table in fold.rows}, changed)


async def _catch_up(connection: Connection, rows: Rows) -> None:
    """Bring a rebuilt table to the state of the fold, for what came in meanwhile."""
    if rows.changed:
        await connection.execute(rows.projection.table.forget_rebuilt(), list(rows.changed))
        found = [rows.by_key[key] for key in rows.changed if key in rows.by_key]
        await _copy(connection, rows, found)
