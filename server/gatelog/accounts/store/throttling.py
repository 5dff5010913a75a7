"""Brute-force limits as kinds of state, and what is read and swept of them outside of a batch.

None of it follows from the log: a try is admitted before anything has happened. So ``check`` and
``rebuild`` have nothing to compare; what is lost with these tables is only what was counted.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from gatelog.accounts.rules.devices import (
    DEVICE_LIFETIME_S,
    MAX_DEVICES,
    Devices,
    KnownDevices,
)
from gatelog.accounts.rules.throttling import (
    DAY_S,
    Noted,
    NotedAt,
    StreakOf,
    Streaks,
    Tries,
    TriesAt,
    TriesFrom,
    Try,
)
from gatelog.accounts.store import sql_throttling as sql
from gatelog.log.store.database import Database
from gatelog.log.store.kinds import Kind, Read, Write

SWEPT_AT_ONCE = 5_000  # rows, in one transaction


def _enter_tries(state: Tries, rows: Sequence[Sequence[Any]]) -> None:
    for try_id, at, account, place, device, subject_id, settled in rows:
        state.add(
            Try(
                try_id=try_id,
                at=at,
                account=account,
                place=place,
                device=device,
                subject_id=subject_id,
                settled=settled,
            )
        )


def _enter_streaks(state: Streaks, rows: Sequence[Sequence[Any]]) -> None:
    for subject_id, failures in rows:
        state.enter(subject_id, failures)


def _enter_noted(state: Noted, rows: Sequence[Sequence[Any]]) -> None:
    state.at.update((place, at) for place, at in rows)


def _at(needs: Sequence[TriesAt]) -> tuple[object, ...]:
    accounts = list({need.account for need in needs})
    return accounts, min(need.since for need in needs), max(need.most for need in needs)


def _from(needs: Sequence[TriesFrom]) -> tuple[object, ...]:
    places = list({need.place for need in needs})
    return places, min(need.since for need in needs), max(need.most for need in needs)


def _new_tries(state: Tries) -> tuple[Sequence[object], ...]:
    new = state.new.values()
    return (
        [one.try_id for one in new],
        [one.at for one in new],
        [one.account for one in new],
        [one.place for one in new],
        [one.device for one in new],
        [one.subject_id for one in new],
    )


TRIES = Kind(
    state=Tries,
    reads=(
        Read(need=TriesAt, expression=sql.TRIES_AT, arguments=_at, enter=_enter_tries),
        Read(need=TriesFrom, expression=sql.TRIES_FROM, arguments=_from, enter=_enter_tries),
    ),
    writes=(
        Write(name="tries_new", statement=sql.INSERT_TRIES, arguments=_new_tries),
        Write(
            name="tries_settled",
            statement=sql.SETTLE_TRIES,
            arguments=lambda state: (state.settled,),
        ),
        Write(
            name="tries_forgotten",
            statement=sql.FORGET_TRIES,
            arguments=lambda state: (
                [one.account for one in state.forgotten],
                [one.place for one in state.forgotten],
                [one.device for one in state.forgotten],
            ),
            before=True,
        ),
        Write(
            name="tries_cleared",
            statement=sql.CLEAR_TRIES,
            arguments=lambda state: (state.cleared,),
            before=True,
        ),
    ),
)

STREAKS = Kind(
    state=Streaks,
    reads=(
        Read(
            need=StreakOf,
            expression=sql.STREAKS,
            arguments=lambda needs: (list({need.subject_id for need in needs}),),
            enter=_enter_streaks,
        ),
    ),
    writes=(
        Write(
            name="streaks_put",
            statement=sql.PUT_STREAKS,
            arguments=lambda state: (
                [one for one, failures in state.changed.items() if failures],
                [failures for failures in state.changed.values() if failures],
            ),
        ),
        Write(
            name="streaks_ended",
            statement=sql.END_STREAKS,
            arguments=lambda state: (
                [one for one, failures in state.changed.items() if not failures],
            ),
        ),
    ),
)

NOTED = Kind(
    state=Noted,
    reads=(
        Read(
            need=NotedAt,
            expression=sql.NOTED,
            arguments=lambda needs: (list({need.place for need in needs}),),
            enter=_enter_noted,
        ),
    ),
    writes=(
        Write(
            name="places_noted",
            statement=sql.NOTE_PLACES,
            arguments=lambda state: (list(state.changed), list(state.changed.values())),
        ),
    ),
)

DEVICES = Kind(
    state=Devices,
    writes=(
        Write(
            name="devices_forgotten",
            statement=sql.FORGET_DEVICES,
            arguments=lambda state: (state.forgotten,),
            before=True,
        ),
        Write(
            name="devices_seen",
            statement=sql.SEE_DEVICES,
            arguments=lambda state: (
                [subject_id for subject_id, _ in state.seen],
                [digest for _, digest in state.seen],
                [seen.at for seen in state.seen.values()],
                [seen.is_place for seen in state.seen.values()],
            ),
        ),
        Write(
            name="devices_crowded_out",
            statement=sql.CROWD_OUT_DEVICES.replace("{2}", str(MAX_DEVICES - 1)),
            arguments=lambda state: (
                list({subject_id for subject_id, _ in state.seen}),
                [digest for _, digest in state.seen],
            ),
        ),
    ),
)


class Throttled:
    """What is read and swept of the limits outside of a batch."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def known_device(
        self, login: str, digests: Collection[bytes], now: datetime
    ) -> bytes | None:
        """The one of these devices that the account with this login knows, if there is one."""
        since = now - timedelta(seconds=DEVICE_LIFETIME_S)
        async with self._database.acquire() as connection:
            found: bytes | None = await connection.fetchval(
                sql.FIND_DEVICE, login, list(digests), since
            )
        return found

    async def known(self, subject_id: UUID, place_digest: bytes, now: datetime) -> KnownDevices:
        """What the account is known by, and whether this place is among it."""
        since = now - timedelta(seconds=DEVICE_LIFETIME_S)
        async with self._database.acquire() as connection:
            (row,) = await connection.fetch(sql.KNOWN_DEVICES, subject_id, since, place_digest)
        return KnownDevices(*row)

    async def sweep(self, now: datetime) -> None:
        """Forget what no limit reaches any more. Many may call it."""
        day = now - timedelta(seconds=DAY_S)
        devices = now - timedelta(seconds=DEVICE_LIFETIME_S)
        async with self._database.acquire() as connection:
            for statement, before in (
                (sql.SWEEP_TRIES, day),
                (sql.SWEEP_PLACES, day),
                (sql.SWEEP_DEVICES, devices),
            ):
                while await connection.execute(statement, before, SWEPT_AT_ONCE) != "DELETE 0":
                    pass
