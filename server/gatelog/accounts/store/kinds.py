"""Users and their credentials as kinds of state: how a batch reads and writes their tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gatelog.accounts.rules.logins import Logins, OwnerOf
from gatelog.accounts.rules.users import (
    Administrators,
    Anybody,
    TheUser,
    User,
    Users,
    evolve_user,
)
from gatelog.accounts.store import sql
from gatelog.log.rules.events import UserEvent
from gatelog.log.store.batch import MAX_BATCH
from gatelog.log.store.kinds import Column, Kind, Projection, Read, Row, Table, Write

MAX_ADMINS = MAX_BATCH + 2  # read where one must stay: more than a batch can take away

USERS_TABLE = Table(
    "users",
    (
        Column("subject_id", "uuid"),
        Column("registered_at", "timestamptz"),
        Column("disabled", "boolean"),
        Column("credential_version", "integer"),
        Column("roles", "text[]"),
        Column("erased", "boolean"),
        Column("factors", "integer"),
    ),
)


def user_of(row: Row) -> User:
    """The user in a row of the table, in the order of its columns."""
    subject_id, registered_at, disabled, credential_version, roles, erased, factors = row
    return User(
        subject_id=subject_id,
        registered_at=registered_at,
        disabled=disabled,
        credential_version=credential_version,
        roles=tuple(roles),
        erased=erased,
        factors=factors,
    )


def row_of(user: User) -> tuple[Any, ...]:
    """The user as a row, in the order of the table's columns."""
    return (
        user.subject_id,
        user.registered_at,
        user.disabled,
        user.credential_version,
        user.roles,
        user.erased,
        user.factors,
    )


def _enter_users(state: Users, rows: Sequence[Sequence[Any]]) -> None:
    for row in rows:
        state.add(user_of(row))


def _enter_anybody(state: Users, populated: bool) -> None:
    state.populated = populated


def _enter_administrators(state: Users, admins: Sequence[Any]) -> None:
    state.admins.update(admins)


def _enter_owners(state: Logins, rows: Sequence[Sequence[Any]]) -> None:
    state.owners.update((login, subject_id) for login, subject_id in rows)


def _changed_credentials(state: Logins) -> tuple[Sequence[object], ...]:
    subjects = list(state.hashes | state.guards)
    guarded = [one in state.guards for one in subjects]
    covers = [state.guards.get(one) for one in subjects]
    return (
        subjects,
        [state.hashes.get(one) for one in subjects],
        [
            cover is not None if known else None
            for known, cover in zip(guarded, covers, strict=True)
        ],
        covers,
    )


USERS = Kind(
    state=Users,
    reads=(
        Read(
            need=TheUser,
            expression=sql.USERS,
            arguments=lambda needs: (list({need.subject_id for need in needs}),),
            enter=_enter_users,
        ),
        Read(
            need=Anybody,
            expression=sql.ANYBODY,
            arguments=lambda _: (),
            enter=_enter_anybody,
        ),
        Read(
            need=Administrators,
            expression=sql.ADMINISTRATORS,
            arguments=lambda _: (MAX_ADMINS,),
            enter=_enter_administrators,
        ),
    ),
    writes=(
        Write(
            name="users_changed",
            statement=USERS_TABLE.insert(replacing=True),
            arguments=lambda state: USERS_TABLE.arrays([row_of(u) for u in state.changed.values()]),
        ),
    ),
    projection=Projection(
        table=USERS_TABLE,
        concerns=(UserEvent,),
        key=lambda event: event.subject_id,
        evolve=evolve_user,
        row=row_of,
        record=user_of,
        shown="subject_id",
        at_cut=sql.USERS_AT_CUT,
    ),
    faults=(sql.WRONG_KEYS,),
)

LOGINS = Kind(
    state=Logins,
    reads=(
        Read(
            need=OwnerOf,
            expression=sql.OWNERS,
            arguments=lambda needs: ([need.login for need in needs],),
            enter=_enter_owners,
        ),
    ),
    writes=(
        Write(
            name="credentials_erased",
            statement=sql.ERASE_CREDENTIALS,
            arguments=lambda state: (state.erased,),
            before=True,
        ),
        Write(
            name="credentials_new",
            statement=sql.INSERT_CREDENTIALS,
            arguments=lambda state: (
                [new.subject_id for new in state.new.values()],
                [new.login for new in state.new.values()],
                [new.password_hash for new in state.new.values()],
                [new.imported_cost for new in state.new.values()],
            ),
        ),
        Write(
            name="credentials_changed",
            statement=sql.CHANGE_CREDENTIALS,
            arguments=_changed_credentials,
        ),
    ),
    faults=(sql.LEFT_CREDENTIALS,),
)
