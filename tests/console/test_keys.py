"""What the console asks is answered by a key: no statement looks at much more than it shows.

The tables are large enough for that to be seen, and what is counted are rows, not time: so it holds
for tables of any size.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from gatelog.audit.store.statements import PLANNED_FOR_INDEXES
from gatelog.console.rules.minutes import TYPES
from gatelog.console.rules.paging import FIRST
from gatelog.console.store import sql
from gatelog.log.store.database import connect

from tests.conftest import Dsns

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection

MANY = 20_000
PAGE = 50
USER = UUID(int=77)
OFFICE = b"o" * 16
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
NOW = datetime.now(UTC)

FILL = (
    f"""INSERT INTO users (subject_id, registered_at, disabled, credential_version, roles)
    SELECT lpad(to_hex(n), 32, '0')::uuid, now() - n * interval '1 minute', n % 50 = 0, 1,
           CASE WHEN n % 2 = 0 THEN '{{admin}}' ELSE '{{}}' END::text[]
    FROM generate_series(1, {MANY}) AS n""",
    f"""INSERT INTO credentials (subject_id, login, password_hash, changed_at)
    SELECT lpad(to_hex(n), 32, '0')::uuid, 'user' || n, '', now()
    FROM generate_series(1, {MANY}) AS n""",
    f"""INSERT INTO active_sessions (token_digest, session_id, subject_id, started_at, expires_at,
                                     roles, is_token)
    SELECT sha256(n::text::bytea), lpad(to_hex(n + 1000000), 32, '0')::uuid,
           lpad(to_hex(n % 1000), 32, '0')::uuid, now() - n * interval '1 minute',
           now() + interval '300 days', '{{}}', n % 3 = 0
    FROM generate_series(1, {MANY}) AS n""",
    f"""INSERT INTO events (position, event_id, type, schema_version, session_id, recorded_at,
                            entry, leaf_hash)
    SELECT n, gen_random_uuid(), CASE WHEN n % 4 = 0 THEN 'session_started' ELSE 'audit_read' END,
           1, lpad(to_hex({MANY} + 1 - n + 1000000), 32, '0')::uuid,
           now() - ({MANY} - n) * interval '1 minute', '', sha256('')
    FROM generate_series(1, {MANY}) AS n""",
    f"""INSERT INTO event_addresses (address_index, position)
    SELECT decode(repeat('6f', 16), 'hex'), n FROM generate_series(1, {MANY}) AS n""",
    f"UPDATE log_head SET position = {MANY}, recorded_at = now()",
    "ANALYZE users, credentials, active_sessions, events, event_addresses",
)
KEY = (FIRST.at, FIRST.id)
# What is asked, with what, and how many rows may be looked at for it. A session that is found by an
# address is one of twelve events here, and each is looked up in two tables; of a user there are 20.
QUESTIONS: dict[str, tuple[tuple[Any, ...], int]] = {
    "NEWEST_SESSIONS": ((*KEY, PAGE, NOW), 3 * PAGE),
    "NEWEST_SESSIONS_OF": ((*KEY, PAGE, NOW, USER), 8 * PAGE),
    "OLDEST_START": ((), 5),
    "SESSIONS_FROM": ((OFFICE, 2**62, PAGE, NOW, LONG_AGO), 12 * PAGE),
    "NEWEST_USERS": ((*KEY, PAGE), 12 * PAGE),
    "FIND_USER": ((USER,), 20),
    "FIND_LOGIN": (("user77",), 5),
    "HEAD_NOW": ((timedelta(minutes=59),), 10),
    "MINUTES": ((MANY - PAGE, MANY, list(TYPES)), 8 * PAGE),
    "FEW_ADMINISTRATORS": ((), 10),
}


@pytest.fixture
async def crowd(database: Dsns) -> AsyncIterator[Connection]:
    """A connection as auditors have it, on many users, sessions and events."""
    owner = await connect(database.owner, role=None)
    for statement in FILL:
        await owner.execute(statement)
    await owner.close()
    connection = await connect(database.app, settings=PLANNED_FOR_INDEXES)
    yield connection
    await connection.close()


def looked_at(node: dict[str, Any]) -> Iterator[float]:
    """The rows that each node of a plan has found or thrown away."""
    thrown = [value for key, value in node.items() if key.startswith("Rows Removed")]
    yield (node["Actual Rows"] + sum(thrown)) * node["Actual Loops"]
    for inner in node.get("Plans", ()):
        yield from looked_at(inner)


async def rows_of(connection: Connection, statement: str, arguments: tuple[Any, ...]) -> float:
    explained = f"EXPLAIN (ANALYZE, TIMING off, FORMAT json) {statement}"
    (plan,) = json.loads(await connection.fetchval(explained, *arguments))
    return sum(looked_at(plan["Plan"]))


async def test_no_statement_looks_at_much_more_than_it_shows(crowd: Connection) -> None:
    named = {name for name in vars(sql) if name.isupper() and not name.startswith("_")}
    assert named == QUESTIONS.keys()
    for name, (arguments, most) in QUESTIONS.items():
        rows = await rows_of(crowd, getattr(sql, name), arguments)
        assert rows <= most, (name, rows)


async def test_a_page_deep_inside_costs_no_more(crowd: Connection) -> None:
    deep = (NOW - timedelta(minutes=MANY // 2), USER)
    for name, more in (
        ("NEWEST_SESSIONS", (PAGE, NOW)),
        ("NEWEST_USERS", (PAGE,)),
    ):
        rows = await rows_of(crowd, getattr(sql, name), (*deep, *more))
        assert rows <= QUESTIONS[name][1], (name, rows)


async def test_without_its_key_it_would_be_seen(crowd: Connection, database: Dsns) -> None:
    owner = await connect(database.owner, role=None)
    await owner.execute("DROP INDEX active_sessions_started, users_registered")
    await owner.close()
    for name in ("NEWEST_SESSIONS", "NEWEST_USERS"):
        arguments, most = QUESTIONS[name]
        assert await rows_of(crowd, getattr(sql, name), arguments) > most
