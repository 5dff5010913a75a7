"""Drafts, builds and what was recorded of users as kinds of state: how a batch reads and writes
their tables.

Contents do not follow from the log, which has their SHA-256: ``check`` holds one against the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from gatelog.composer.rules.state import (
    ComposerNow,
    Composing,
    Records,
    RecordsOf,
    Standing,
)
from gatelog.composer.store import sql
from gatelog.log.store.kinds import Kind, Read, Write


def _enter_standing(state: Composing, row: Sequence[Any]) -> None:
    state.enter(Standing(*row))


def _new_draft(state: Composing) -> tuple[Sequence[object], ...]:
    """The last one of the batch, with how many changes there were."""
    rows = [msgspec.structs.astuple(draft) for draft in state.drafts[-1:]]
    return tuple(list(column) for column in zip(*rows, strict=True)) or ([],) * 4


def _new_builds(state: Composing) -> tuple[Sequence[object], ...]:
    rows = [msgspec.structs.astuple(build) for build in state.builds]
    return tuple(list(column) for column in zip(*rows, strict=True)) or ([],) * 7


def _changes(state: Composing) -> tuple[Sequence[object], ...]:
    if not state.changed:
        return [], []
    return [state.standing.day], [state.standing.changes]


COMPOSING = Kind(
    state=Composing,
    reads=(
        Read(
            need=ComposerNow,
            expression=sql.STANDING,
            arguments=lambda _: (),
            enter=_enter_standing,
        ),
    ),
    writes=(
        # two statements of one batch cannot change the same row
        Write(
            name="composer_changes", statement=sql.COUNT_CHANGES, arguments=_changes, before=True
        ),
        Write(name="composer_draft", statement=sql.PUT_DRAFT, arguments=_new_draft),
        Write(name="composer_built", statement=sql.PUT_BUILDS, arguments=_new_builds),
    ),
    faults=(sql.WRONG_BUILDS, sql.WRONG_DRAFT),
)


def _enter_records(state: Records, rows: Sequence[Sequence[Any]]) -> None:
    for subject_id, name, since, count in rows:
        state.enter(subject_id, name, since, count)


def _changed_records(state: Records) -> tuple[Sequence[object], ...]:
    changed = [(*key, *state.hours[key]) for key in state.changed]
    return tuple(list(column) for column in zip(*changed, strict=True)) or ([],) * 4


RECORDS = Kind(
    state=Records,
    reads=(
        Read(
            need=RecordsOf,
            expression=sql.RECORDS,
            arguments=lambda needs: (
                [need.subject_id for need in needs],
                [need.name for need in needs],
            ),
            enter=_enter_records,
        ),
    ),
    writes=(
        Write(
            name="app_records_erased",
            statement=sql.ERASE_RECORDS,
            arguments=lambda state: (state.erased,),
            before=True,
        ),
        Write(name="app_records_put", statement=sql.PUT_RECORDS, arguments=_changed_records),
    ),
)
