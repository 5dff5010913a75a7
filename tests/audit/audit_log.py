"""A log of random events, written past the appender, and what a plain loop over it finds."""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import msgspec
from gatelog.audit.rules.shown import AuditFilter
from gatelog.audit.store.queries import Sought
from gatelog.log.rules.events import EVENT_TYPES

from tests.builders import NOON

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection

USERS = [UUID(int=n, version=4) for n in range(1, 5)]
LOGINS = [1, 2, -3]


class From(msgspec.Struct, frozen=True):
    """An address and the networks around it, as the blind indexes have them."""

    address: bytes
    near: int
    middle: int
    wide: int

    @property
    def sought(self) -> list[Sought]:
        """All that it can be asked for by."""
        return [
            Sought("address", self.address),
            Sought("near", self.near),
            Sought("middle", self.middle),
            Sought("wide", self.wide),
        ]


ORIGINS = [
    From(bytes([1]) * 16, 11, 21, 31),
    From(bytes([2]) * 16, 11, 21, 31),
    From(bytes([3]) * 16, 12, 21, 31),
    From(bytes([4]) * 16, -13, 22, 31),
]
ADDRESSES = [origin.address for origin in ORIGINS]
TYPES = list(EVENT_TYPES)


class Row(msgspec.Struct, frozen=True):
    """What the columns of an event, and of the blind indexes, say of it."""

    position: int
    type: str
    recorded_at: datetime
    user: UUID | None
    session: UUID | None
    origin: From | None
    login: int | None


class RandomLog:
    """Grows by events of a few users, types, sessions and addresses; time stands still at times."""

    def __init__(self, owner: Connection, seed: int) -> None:
        self._owner = owner
        self._random = random.Random(seed)
        self._now = NOON
        self.rows: list[Row] = []
        self.sessions = [UUID(int=n, version=4) for n in range(100, 110)]

    async def append(self, count: int) -> None:
        fresh = [self._row(len(self.rows) + n) for n in range(1, count + 1)]
        await self._owner.executemany(
            "INSERT INTO events VALUES ($1, $2, $3, 1, $4, $5, $6, $7, $8)",
            [
                (r.position, uuid4(), r.type, r.session, r.user, r.recorded_at, b"", bytes(32))
                for r in fresh
            ],
        )
        await self._owner.executemany(
            "INSERT INTO event_addresses VALUES ($1, $2, $3)",
            [(r.origin.address, r.position, r.user) for r in fresh if r.origin is not None],
        )
        await self._owner.executemany(
            "INSERT INTO event_origins (position, subject_id, near, middle, wide, login)"
            " VALUES ($1, $2, $3, $4, $5, $6)",
            [
                (
                    r.position,
                    r.user,
                    *((r.origin.near, r.origin.middle, r.origin.wide) if r.origin else [None] * 3),
                    r.login,
                )
                for r in fresh
                if r.origin is not None or r.login is not None
            ],
        )
        self.rows += fresh
        await self._owner.execute(
            "UPDATE log_head SET position = $1, recorded_at = $2", len(self.rows), self._now
        )
        await self._owner.execute("UPDATE origins_head SET traced_to = $1", len(self.rows))

    def _row(self, position: int) -> Row:
        choose = self._random.choice
        self._now += timedelta(seconds=choose([0, 0, 0, 1, 7]))
        weights = [1 if name in {"user_erased", "role_revoked"} else 9 for name in TYPES]
        kind = self._random.choices(TYPES, weights)[0]
        return Row(
            position,
            kind,
            self._now,
            choose([*USERS, None]),
            choose(self.sessions) if kind.startswith("session_") else None,
            choose([*ORIGINS, None]),
            choose([*LOGINS, None]),
        )

    def matching(self, wanted: AuditFilter, sought: Sought) -> list[int]:
        """The positions that fit, in the order that is asked for, whatever the page."""
        found = [row.position for row in self.rows if fits(row, wanted, sought)]
        return found if wanted.order == "asc" else found[::-1]


def fits(row: Row, wanted: AuditFilter, sought: Sought) -> bool:
    """The filter, spelt out."""
    return (
        (wanted.user is None or row.user == wanted.user)
        and (wanted.session is None or row.session == wanted.session)
        and (not wanted.types or row.type in wanted.types)
        and (wanted.since is None or row.recorded_at >= wanted.since)
        and (wanted.until is None or row.recorded_at < wanted.until)
        and (wanted.after is None or row.position > wanted.after)
        and (wanted.before is None or row.position < wanted.before)
        and (sought.place is None or _is_from(row, sought))
        and (sought.login is None or row.login == sought.login)
    )


def _is_from(row: Row, sought: Sought) -> bool:
    return row.origin is not None and getattr(row.origin, str(sought.place)) == sought.place_index
