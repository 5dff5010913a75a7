"""Active sessions as a kind of state: how a batch reads and writes their table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from gatelog.log.store.kinds import Column, Kind, Projection, Read, Row, Table, Write
from gatelog.sessions.rules.events import (
    SessionEnded,
    SessionsRenewed,
    SessionStarted,
    TokenCreated,
)
from gatelog.sessions.rules.lifetimes import Idle
from gatelog.sessions.rules.state import (
    ActiveSession,
    CrowdOf,
    Sessions,
    SessionsBehind,
    SessionsOf,
    evolve,
    evolve_session,
)
from gatelog.sessions.store import sql

TABLE = Table(
    "active_sessions",
    (
        Column("token_digest", "bytea"),
        Column("session_id", "uuid"),
        Column("subject_id", "uuid"),
        Column("started_at", "timestamptz"),
        Column("expires_at", "timestamptz"),
        Column("roles", "text[]"),
        Column("absolute_at", "timestamptz"),
        Column("idle_s", "integer"),
        Column("seen_at", "timestamptz"),
        Column("authenticated_at", "timestamptz"),
        Column("amr", "text[]"),
        Column("is_token", "boolean"),
    ),
)


def session_of(row: Row) -> ActiveSession:
    """The session in a row of the table, in the order of its columns."""
    token_digest, session_id, subject_id, started_at, expires_at, roles, *more = row
    absolute_at, idle_s, seen_at, authenticated_at, amr, is_token = more
    return ActiveSession(
        token_digest=token_digest,
        session_id=session_id,
        subject_id=subject_id,
        started_at=started_at,
        expires_at=expires_at,
        roles=tuple(roles),
        idle=idle_of(absolute_at, idle_s, seen_at),
        authenticated=authenticated_at,
        amr=tuple(amr),
        is_token=is_token,
        used_at=seen_at if is_token else None,
    )


def idle_of(
    absolute_at: datetime | None, idle_s: int | None, seen_at: datetime | None
) -> Idle | None:
    """How a session may idle, by these columns: ``idle_s`` is NULL if it may for ever."""
    if absolute_at is None or idle_s is None or seen_at is None:
        return None
    return Idle(idle_s, seen_at, absolute_at)


def row_of(session: ActiveSession) -> tuple[Any, ...]:
    """The session as a row, in the order of the table's columns."""
    idle, renewed = session.idle, session.idle is not None or session.is_token
    return (
        session.token_digest,
        session.session_id,
        session.subject_id,
        session.started_at,
        session.expires_at,
        session.roles,
        session.absolute_at if renewed else None,
        idle.limit_s if idle else None,
        idle.seen_at if idle else session.used_at,
        session.authenticated,
        session.amr,
        session.is_token,
    )


def _users(needs: Sequence[SessionsOf]) -> tuple[list[UUID]]:
    return (list({need.subject_id for need in needs}),)


def _crowds(needs: Sequence[CrowdOf]) -> tuple[list[UUID], int]:
    """Who may have too many after this batch, if each of its logins succeeds."""
    starting = Counter(need.subject_id for need in needs)
    return list(starting), min(need.most for need in needs) - max(starting.values())


def _digests(needs: Sequence[SessionsBehind]) -> tuple[list[bytes]]:
    return (list({digest for need in needs for digest in need.token_digests}),)


def _enter(state: Sessions, rows: Sequence[Sequence[Any]]) -> None:
    for row in rows:
        state.add(session_of(row))


SESSIONS = Kind(
    state=Sessions,
    reads=(
        Read(need=SessionsOf, expression=sql.SESSIONS_OF, arguments=_users, enter=_enter),
        Read(need=CrowdOf, expression=sql.CROWDS_OF, arguments=_crowds, enter=_enter),
        Read(need=SessionsBehind, expression=sql.SESSIONS_BEHIND, arguments=_digests, enter=_enter),
    ),
    writes=(
        Write(
            name="sessions_put",
            statement=TABLE.insert(replacing=False),
            arguments=lambda state: TABLE.arrays([row_of(s) for s in state.put.values()]),
        ),
        Write(
            name="sessions_seen",
            statement=sql.SEE_SESSIONS,
            arguments=lambda state: (
                list(state.seen),
                [session.expires_at for session in state.seen.values()],
                [session.last_seen_at for session in state.seen.values()],
            ),
        ),
        Write(
            name="sessions_dropped",
            statement=TABLE.delete(),
            arguments=lambda state: (state.dropped,),
        ),
    ),
    projection=Projection(
        table=TABLE,
        concerns=(SessionStarted, TokenCreated, SessionEnded, SessionsRenewed),
        parts=evolve,
        key=lambda change: change.token_digest,
        evolve=evolve_session,
        row=row_of,
        record=session_of,
        shown="session_id",
        at_cut=sql.SESSIONS_AT_CUT,
    ),
)
