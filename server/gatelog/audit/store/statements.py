"""The statements of questions to the log: one for each combination of what is asked for.

Parameters of all: $1 after this position, $2 before it, $3 recorded at or after, $4 recorded before
(NULL: any time), $5 how many.

The plans must not depend on statistics, which know little of a partition that is being filled. So
each probe is said in a way that makes the right index the obvious one: with one bound, or with a
range that holds one value. LIMIT and OFFSET 0 keep probes from becoming joins. The partitions hold
the positions in order, so one after the other is read until a page is full.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec

from gatelog.privacy.rules import REACHES, Reach

Direction = Literal["ASC", "DESC"]
Place = Literal["address"] | Reach
"""By what events of a place are found: a single address, or the networks around it."""

# For connections that ask such questions. A plan that was made while a partition was small, or
# unknown to the statistics, must be right when it is large; so what counts is how many entries of
# an index are looked at, far more than how many pages that is at the moment.
PLANNED_FOR_INDEXES = {
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "cpu_tuple_cost": "100",
    "cpu_index_tuple_cost": "100",
    "cpu_operator_cost": "1",
}


class BlindIndex(msgspec.Struct, frozen=True):
    """One of the blind indexes beside the events: each holds a value beside a position."""

    table: str
    column: str
    type: str

    def listed(self, direction: Direction, value: str, limit: str) -> str:
        """The positions of one value, in order."""
        return f"""
    SELECT position FROM {self.table} WHERE {self.column} = {value} AND {_WITHIN}
    ORDER BY position {direction} LIMIT {limit}"""  # noqa: S608

    def has(self, position: str, value: str) -> str:
        """True, if the event at a position has this value."""
        return f"""
        SELECT true FROM {self.table}
        WHERE {self.column} BETWEEN {value} AND {value} AND position = {position}
        ORDER BY {self.column} LIMIT 1"""  # noqa: S608


PLACES: dict[Place, BlindIndex] = {
    "address": BlindIndex("event_addresses", "address_index", "bytea"),
    **{reach: BlindIndex("event_origins", reach, "bigint") for reach in REACHES},
}
LOGIN = BlindIndex("event_origins", "login", "bigint")
INDEXES: dict[str, BlindIndex] = {**PLACES, "login": LOGIN}  # type: ignore[dict-item]

_BOUNDS = """
WITH bounds AS MATERIALIZED (
    SELECT GREATEST($1::bigint, first_position_from($3::timestamptz) - 1) AS low,
           LEAST($2::bigint, first_position_from($4::timestamptz)) AS high
)"""
_WITHIN = "position > (SELECT low FROM bounds) AND position < (SELECT high FROM bounds)"
_COLUMNS = "position, recorded_at, entry, leaf_hash"


def _at(position: str) -> str:
    """The event at a position."""
    return f"position BETWEEN {position} AND {position} ORDER BY position LIMIT 1"


def _log(direction: Direction) -> str:
    """Any event."""
    return f"""{_BOUNDS}
SELECT {_COLUMNS}, NULL::bigint AS stopped
FROM events WHERE {_WITHIN} ORDER BY position {direction} LIMIT $5
"""  # noqa: S608


def _found(direction: Direction, positions: str) -> str:
    """The events at positions that were found."""
    return f"""{_BOUNDS}, found AS ({positions})
SELECT e.*, NULL::bigint AS stopped
FROM found CROSS JOIN LATERAL (
    SELECT {_COLUMNS} FROM events WHERE {_at("found.position")}) AS e
ORDER BY position {direction}
"""  # noqa: S608


def _merged(direction: Direction, limit: str, user: str | None = None) -> str:
    """The first positions of what one probe for each type finds, in order. $6 types

    A probe has one bound, the one that it begins at, and stops after a page: a range between two
    unknown values would make the planner believe that a scan of it is cheap.
    """
    about = "" if user is None else f"subject_id = {user} AND "
    begins, ends = ("< (SELECT high", "> (SELECT low")
    if direction == "ASC":
        begins, ends = ends, begins
    return f"""
    SELECT p.position FROM unnest($6::text[]) AS t (type) CROSS JOIN LATERAL (
        SELECT position FROM events
        WHERE {about}type = t.type AND position {begins} FROM bounds)
        ORDER BY position {direction} LIMIT {limit}) AS p
    WHERE p.position {ends} FROM bounds)
    ORDER BY p.position {direction} LIMIT {limit}"""  # noqa: S608


def _types(direction: Direction) -> str:
    """Events of these types. $6 types"""
    return _found(direction, _merged(direction, "$5"))


def _user(direction: Direction) -> str:
    """Events of these types about a user. $6 types, $7 user"""
    return _found(direction, _merged(direction, "$5", "$7"))


def _session(direction: Direction, *indexes: BlindIndex) -> str:
    """Events of a session, which are few. $6 types, $7 session, $8 user, or NULL; $9 and so on:
    the values that they must have"""
    having = "".join(
        f" AND ({index.has('own.position', f'${number}')})"
        for number, index in enumerate(indexes, start=9)
    )
    return f"""{_BOUNDS}
SELECT {_COLUMNS}, NULL::bigint AS stopped
FROM (SELECT * FROM events WHERE session_id = $7 OFFSET 0) AS own
WHERE type = ANY($6::text[]) AND ($8::uuid IS NULL OR subject_id = $8) AND {_WITHIN}{having}
ORDER BY position {direction} LIMIT $5
"""  # noqa: S608


def _indexed(direction: Direction, index: BlindIndex) -> str:
    """Events with a value. $6 value"""
    return _found(direction, index.listed(direction, "$6", "$5"))


def _of_both(
    direction: Direction, index: BlindIndex, others: str, *, having: str = "", about: str = "true"
) -> str:
    """Events with a value that another probe finds, too, out of the next candidates of both sides.

    ``others``: that probe; ``having``: what an event with the value must have, besides, to be one
    of the others, if its type and its user do not tell. $6 types, $7 value, $8 how many candidates
    """
    further, furthest = ("<", "LEAST") if direction == "DESC" else (">", "GREATEST")
    checked = f"CROSS JOIN LATERAL ({having}) AS b" if having else ""
    return f"""{_BOUNDS}, of_index AS MATERIALIZED ({index.listed(direction, "$7", "$8")}
), of_others AS MATERIALIZED ({others}
), ends AS MATERIALIZED (
    SELECT (SELECT position FROM of_index OFFSET $8 - 1) AS index_end,
           (SELECT position FROM of_others OFFSET $8 - 1) AS others_end
), search AS MATERIALIZED (
    SELECT index_end IS NOT NULL
           AND (others_end IS NULL OR others_end {further} index_end) AS by_others,
           CASE WHEN index_end IS NOT NULL AND others_end IS NOT NULL
                THEN {furthest}(index_end, others_end) END AS stopped
    FROM ends
), candidates AS (
    SELECT of_index.position FROM of_index {checked} WHERE NOT (SELECT by_others FROM search)
    UNION ALL
    SELECT of_others.position
    FROM of_others CROSS JOIN LATERAL ({index.has("of_others.position", "$7")}) AS a
    WHERE (SELECT by_others FROM search)
)
SELECT e.*, search.stopped
FROM search LEFT JOIN LATERAL (
    SELECT e.position, e.recorded_at, e.entry, e.leaf_hash
    FROM candidates CROSS JOIN LATERAL (
        SELECT {_COLUMNS}, type, subject_id FROM events
        WHERE {_at("candidates.position")}) AS e
    WHERE e.type = ANY($6::text[]) AND {about}
    ORDER BY position {direction} LIMIT $5) AS e ON true
ORDER BY position {direction}
"""  # noqa: S608


def _and_types(direction: Direction, index: BlindIndex) -> str:
    """Events with a value, of these types. $6 types, $7 value, $8 how many candidates"""
    return _of_both(direction, index, _merged(direction, "$8"))


def _and_user(direction: Direction, index: BlindIndex) -> str:
    """Events with a value, of these types, about a user. As above, and $9 user"""
    others = _merged(direction, "$8", "$9")
    return _of_both(direction, index, others, about="e.subject_id = $9")


def _and_login(direction: Direction, place: BlindIndex) -> str:
    """Events from a place with a login name. As above; $9 user, or NULL, $10 login"""
    return _of_both(
        direction,
        place,
        LOGIN.listed(direction, "$10", "$8"),
        having=LOGIN.has("of_index.position", "$10"),
        about="($9::uuid IS NULL OR e.subject_id = $9)",
    )


def _statements(direction: Direction) -> Iterator[tuple[str, str]]:
    yield "log", _log(direction)
    yield "types", _types(direction)
    yield "user", _user(direction)
    yield "session", _session(direction)
    for name, index in INDEXES.items():
        yield name, _indexed(direction, index)
        yield f"{name} types", _and_types(direction, index)
        yield f"{name} user", _and_user(direction, index)
        yield f"session {name}", _session(direction, index)
    for name, place in PLACES.items():
        yield f"{name} login", _and_login(direction, place)
        yield f"session {name} login", _session(direction, place, LOGIN)


STATEMENTS: dict[Direction, dict[str, str]] = {
    "ASC": dict(_statements("ASC")),
    "DESC": dict(_statements("DESC")),
}

# Whether the event at a position is about a user. $1 position, $2 user
IS_ABOUT = "SELECT EXISTS (SELECT FROM events WHERE position = $1 AND subject_id = $2)"
