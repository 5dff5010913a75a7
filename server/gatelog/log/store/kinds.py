"""How kinds of state are read under the head's lock and written with a batch: one round trip each.

A kind describes what it reads and writes as fragments of SQL; here they become one statement for
those that a batch needs. Rules:

- ``{0}``, ``{1}``, … in a fragment are the places of its own parameters; ``{recorded_at}`` is
  when the batch is recorded.
- A statement is composed once for each set of fragments, and is prepared once by each connection.
- What is written ``before`` the batch (an erasure) runs as a statement of its own, and only when
  there is any: a row that it deletes may come again in the same batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from string import Formatter
from typing import Any, Generic, TypeVar

import asyncpg
import msgspec

from gatelog.log.rules.events import Event
from gatelog.log.rules.kinds import Need, State, World, register_states
from gatelog.log.store import sql

StateT = TypeVar("StateT", bound=State)
NeedT = TypeVar("NeedT", bound=Need)
Row = asyncpg.Record | Sequence[Any]


class Read(msgspec.Struct, Generic[NeedT, StateT], frozen=True, kw_only=True):
    """How one sort of need is read: an expression in the one row that is read under the lock.

    ``arguments``: from all needs of this sort in the batch; ``enter``: what was read, into the
    state.
    """

    need: type[NeedT]
    expression: str
    arguments: Callable[[Sequence[NeedT]], tuple[object, ...]]
    enter: Callable[[StateT, Any], None]


class Write(msgspec.Struct, Generic[StateT], frozen=True, kw_only=True):
    """How one sort of change is written: a statement that goes into the batch's.

    ``arguments``: as many as the statement has places; the first one is empty when there is
    nothing to write.
    """

    name: str
    statement: str
    arguments: Callable[[StateT], tuple[Sequence[object], ...]]
    before: bool = False


class Column(msgspec.Struct, frozen=True):
    """A column; one of type ``text[]`` travels as comma-separated text, because ``unnest`` would
    flatten an array of arrays."""

    name: str
    type: str

    @property
    def travels(self) -> str:
        return "text" if self.type == "text[]" else self.type

    @property
    def taken(self) -> str:
        return f"string_to_array({self.name}, ',')" if self.type == "text[]" else self.name


class Table(msgspec.Struct, frozen=True):
    """A table that follows from the log: its name, and its columns; the first one is the key."""

    name: str
    columns: tuple[Column, ...]

    @property
    def key(self) -> Column:
        return self.columns[0]

    @property
    def names(self) -> str:
        return ", ".join(column.name for column in self.columns)

    def select(self) -> str:
        """All rows."""
        return f"SELECT {self.names} FROM {self.name}"

    def insert(self, *, replacing: bool) -> str:
        """Rows, each column as an array; ``replacing``: in place of those with the same key."""
        arrays = ", ".join(f"{{{n}}}::{column.travels}[]" for n, column in enumerate(self.columns))
        taken = ", ".join(column.taken for column in self.columns)
        statement = (
            f"INSERT INTO {self.name} ({self.names})"
            f" SELECT {taken} FROM unnest({arrays}) AS t ({self.names})"
        )
        if replacing:
            others = [column.name for column in self.columns[1:]]
            sets = ", ".join(f"{name} = EXCLUDED.{name}" for name in others)
            statement += f" ON CONFLICT ({self.key.name}) DO UPDATE SET {sets}"
        return statement

    def delete(self) -> str:
        """The rows with these keys, an array."""
        return f"DELETE FROM {self.name} WHERE {self.key.name} = ANY({{0}}::{self.key.type}[])"

    def arrays(self, rows: Sequence[Row]) -> tuple[Sequence[object], ...]:
        """Rows in the order of the columns, as the arrays that ``insert`` takes."""
        if not rows:
            return tuple([] for _ in self.columns)
        return tuple(
            [",".join(value) for value in values] if column.type == "text[]" else values
            for column, values in zip(self.columns, zip(*rows, strict=True), strict=True)
        )

    # --- made anew beside the real one (log.store.rebuild); gone with its connection

    @property
    def rebuilt(self) -> str:
        """The name of the table that is made anew."""
        return f"rebuilt_{self.name}"

    def create_rebuilt(self) -> str:
        return f"CREATE TEMPORARY TABLE {self.rebuilt} (LIKE {self.name} INCLUDING INDEXES)"

    def forget_rebuilt(self) -> str:
        """Take these keys out of it again. $1 keys"""
        return f"DELETE FROM {self.rebuilt} WHERE {self.key.name} = ANY($1::{self.key.type}[])"

    def swap_in(self) -> tuple[str, ...]:
        """Make the real table what the rebuilt one is, in this order; only rows that differ."""
        key, others = self.key.name, [column.name for column in self.columns[1:]]
        same = " AND ".join(f"r.{name} IS NOT DISTINCT FROM a.{name}" for name in others)
        return (
            f"ANALYZE {self.rebuilt}",
            f"DELETE FROM {self.name} a WHERE NOT EXISTS ("
            f" SELECT FROM {self.rebuilt} r WHERE r.{key} = a.{key} AND {same})",
            f"INSERT INTO {self.name} ({self.names}) SELECT {self.names} FROM {self.rebuilt} r"
            f" WHERE NOT EXISTS (SELECT FROM {self.name} a WHERE a.{key} = r.{key})",
        )


def _whole(event: Event) -> tuple[Event]:
    return (event,)


class Projection(msgspec.Struct, frozen=True, kw_only=True):
    """How a table follows from the log: each part of an event concerns one row, by its key.

    ``parts``: of an event; as a rule it is one as a whole. ``evolve``: the row after a part, None
    when it is gone; ``row`` and ``record`` turn what it works on into the table's columns and back.
    ``shown``: the column that a difference is told by.
    ``at_cut``: reads the state where a purged log begins, as the position at which a row came to
    be and the columns ($1 the cut); without it the table cannot be made anew from a purged log.
    """

    table: Table
    concerns: tuple[type[Event], ...]
    key: Callable[[Any], Any]
    evolve: Callable[[Any, Any], Any]
    row: Callable[[Any], Sequence[Any]]
    record: Callable[[Row], Any]
    shown: str
    at_cut: str | None = None
    parts: Callable[[Any], Sequence[Any]] = _whole


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of state. ``faults``: reads what is wrong beside the projection (table, key, what)."""

    state: type[State]
    reads: tuple[Read[Any, Any], ...] = ()
    writes: tuple[Write[Any], ...] = ()
    projection: Projection | None = None
    faults: tuple[str, ...] = ()


_kinds: dict[type[State], Kind] = {}
_reads: dict[type[Need], tuple[type[State], Read[Any, Any]]] = {}


def register_kinds(*kinds: Kind) -> None:
    """Let batches, rebuilds and checks know of these kinds."""
    for kind in kinds:
        _kinds[kind.state] = kind
        _reads.update({read.need: (kind.state, read) for read in kind.reads})
    register_states(*(kind.state for kind in kinds))


def registered_kinds() -> tuple[Kind, ...]:
    """All kinds of state, in the order of their registration."""
    return tuple(_kinds.values())


# --- reading


class Reading(msgspec.Struct, frozen=True):
    """What to ask for these needs, and how the answer becomes a world."""

    statement: str
    arguments: list[object]
    sorts: tuple[type[Need], ...]

    def world(self, values: Sequence[Any]) -> World:
        """The world, from what the expressions gave, in their order."""
        world = World()
        for sort, value in zip(self.sorts, values, strict=True):
            state, read = _reads[sort]
            read.enter(world.of(state), value)
        return world


def reading(needs: Iterable[Need], first: int) -> Reading:
    """How all this is read at once. ``first``: the place of the first parameter.

    Raises RuntimeError for a need that no registered kind knows: it is a defect.
    """
    by_sort: dict[type[Need], list[Need]] = {}
    for need in needs:
        by_sort.setdefault(type(need), []).append(need)
    sorts = tuple(sort for sort in _reads if sort in by_sort)
    if len(sorts) != len(by_sort):
        raise RuntimeError(f"nobody reads {by_sort.keys() - _reads.keys()}")
    arguments: list[object] = []
    for sort in sorts:
        arguments += _reads[sort][1].arguments(by_sort[sort])
    return Reading(reading_statement(sorts, first), arguments, sorts)


@lru_cache(maxsize=256)
def reading_statement(sorts: tuple[type[Need], ...], first: int) -> str:
    """The batch's reading statement for these sorts of needs."""
    expressions = []
    for sort in sorts:
        expression, first = _placed(_reads[sort][1].expression, first)
        expressions.append(f", {expression}")
    return sql.LOAD_BATCH.replace("/* expressions */", "".join(expressions))


# --- writing


class Writing(msgspec.Struct, frozen=True):
    """A statement that writes some kinds' changes, and its parameters of theirs."""

    statement: str
    arguments: list[object]


def erasing(world: World) -> Writing | None:
    """What runs before the batch is written; None when there is nothing."""
    found = _written(world, before=True)
    if not found:
        return None
    statement = erasing_statement(tuple(write for write, _ in found))
    return Writing(statement, [one for _, arguments in found for one in arguments])


def writing(world: World, first: int) -> Writing:
    """The batch's statement. ``first``: the place of the first parameter that is a kind's."""
    found = _written(world, before=False)
    statement = writing_statement(tuple(write for write, _ in found), first)
    return Writing(statement, [one for _, arguments in found for one in arguments])


def _written(world: World, *, before: bool) -> list[tuple[Write[Any], tuple[Any, ...]]]:
    found = []
    for state in world:
        for write in _kinds[type(state)].writes:
            if write.before == before:
                arguments = write.arguments(state)
                if arguments[0]:
                    found.append((write, arguments))
    return found


@lru_cache(maxsize=256)
def writing_statement(writes: tuple[Write[Any], ...], first: int) -> str:
    """The batch's writing statement with these parts."""
    parts = []
    for write in writes:
        statement, first = _placed(write.statement, first)
        parts.append(f", {write.name} AS ({statement})")
    return sql.WRITE_BATCH.replace("/* parts */", "".join(parts))


@lru_cache(maxsize=64)
def erasing_statement(writes: tuple[Write[Any], ...]) -> str:
    """The statement that runs before the batch's."""
    first, parts = 1, []
    for write in writes:
        statement, first = _placed(write.statement, first)
        parts.append(f"{write.name} AS ({statement})")
    return f"WITH {', '.join(parts)} SELECT"


def _placed(fragment: str, first: int) -> tuple[str, int]:
    """The fragment with the places of its parameters, and the next free place."""
    places = {int(name) for _, name, _, _ in Formatter().parse(fragment) if name and name.isdigit()}
    end = first + len(places)
    numbers = [f"${n}" for n in range(first, end)]
    return fragment.format(*numbers, recorded_at="$2::timestamptz"), end
