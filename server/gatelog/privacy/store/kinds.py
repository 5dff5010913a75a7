"""Keys and the blind index as kinds of state: how a batch reads and writes their tables."""

from __future__ import annotations

from collections.abc import Sequence

from gatelog.log.store.kinds import Kind, Read, Write
from gatelog.privacy.rules import Addresses, CurrentMasterKey, OriginRow, SubjectKeys
from gatelog.privacy.store import sql

ORIGIN_COLUMNS = 6


def origin_columns(rows: Sequence[OriginRow]) -> tuple[list[object], ...]:
    """Rows of ``event_origins`` as the arrays that statements take."""
    return tuple([row[column] for row in rows] for column in range(ORIGIN_COLUMNS))


def _enter_master_key(state: SubjectKeys, key_id: bytes | None) -> None:
    state.current = key_id


SUBJECT_KEYS = Kind(
    state=SubjectKeys,
    reads=(
        Read(
            need=CurrentMasterKey,
            expression=sql.CURRENT_MASTER_KEY,
            arguments=lambda _: (),
            enter=_enter_master_key,
        ),
    ),
    writes=(
        Write(
            name="keys_erased",
            statement=sql.ERASE_SUBJECT_KEYS,
            arguments=lambda state: (state.erased,),
            before=True,
        ),
        Write(
            name="keys_new",
            statement=sql.INSERT_SUBJECT_KEYS,
            arguments=lambda state: (
                list(state.new),
                [key.wrapped for key in state.new.values()],
                [key.master_key_id for key in state.new.values()],
            ),
        ),
    ),
)

ADDRESSES = Kind(
    state=Addresses,
    writes=(
        Write(
            name="addresses_erased",
            statement=sql.ERASE_ADDRESSES,
            arguments=lambda state: (state.erased,),
            before=True,
        ),
        Write(
            name="addresses_traced",
            statement=sql.INSERT_ADDRESSES,
            arguments=lambda state: (
                [index for index, _, _ in state.rows],
                [position for _, position, _ in state.rows],
                [person for _, _, person in state.rows],
            ),
        ),
        Write(
            name="origins_erased",
            statement=sql.ERASE_ORIGINS,
            arguments=lambda state: (state.erased,),
            before=True,
        ),
        Write(
            name="origins_traced",
            statement=sql.INSERT_ORIGINS,
            arguments=lambda state: origin_columns(state.origins),
        ),
        Write(
            name="traced",
            statement=sql.MOVE_TRACED_TO,
            arguments=lambda state: ([state.first - 1], [state.last]) if state.last else ([], []),
        ),
    ),
)
