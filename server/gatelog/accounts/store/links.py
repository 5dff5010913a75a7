"""Links, requests for them and addresses of mail: as kinds of state, and outside of a batch.

None of it follows from the log, in which there is neither a digest nor an address: what is lost
with these tables are links, which can be made again, and addresses, which can be verified again.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec

from gatelog.accounts.rules.links import (
    LIFETIMES_S,
    MOST_LINKS,
    Link,
    LinkOf,
    Links,
    MailAddresses,
    Requests,
)
from gatelog.accounts.store import sql
from gatelog.log.rules import events as ev
from gatelog.log.store.database import Database
from gatelog.log.store.kinds import Kind, Read, Write
from gatelog.mail.rules.outbox import GIVEN_UP_AFTER_S

KEPT_FOR = timedelta(seconds=2 * GIVEN_UP_AFTER_S)


def _enter_links(state: Links, rows: Sequence[Sequence[Any]]) -> None:
    for row in rows:
        state.add(Link(*row))


def _new_links(state: Links) -> tuple[Sequence[object], ...]:
    new = state.new.values()
    return (
        [link.digest for link in new],
        [link.subject_id for link in new],
        [link.purpose for link in new],
        [link.credential_version for link in new],
        [link.expires_at for link in new],
        [link.sealed for link in new],
    )


LINKS = Kind(
    state=Links,
    reads=(
        Read(
            need=LinkOf,
            expression=sql.LINKS,
            arguments=lambda needs: (list({need.digest for need in needs}),),
            enter=_enter_links,
        ),
    ),
    writes=(
        Write(
            name="links_ended",
            statement=sql.END_LINKS,
            arguments=lambda state: (state.ended,),
            before=True,
        ),
        Write(
            name="links_crowded_out",
            statement=sql.CROWD_OUT_LINKS.replace("{1}", str(MOST_LINKS - 1)),
            arguments=lambda state: (list({link.subject_id for link in state.new.values()}),),
            before=True,
        ),
        Write(name="links_new", statement=sql.INSERT_LINKS, arguments=_new_links),
        Write(name="links_used", statement=sql.USE_LINKS, arguments=lambda state: (state.used,)),
    ),
    faults=(sql.LEFT_LINKS,),
)

REQUESTS = Kind(
    state=Requests,
    writes=(
        Write(
            name="requests_new",
            statement=sql.INSERT_REQUESTS,
            arguments=lambda state: (list(state.new), list(state.new.values())),
        ),
        Write(
            name="requests_answered",
            statement=sql.ANSWER_REQUESTS,
            arguments=lambda state: (state.answered,),
        ),
    ),
)

MAIL_ADDRESSES = Kind(
    state=MailAddresses,
    writes=(
        Write(
            name="addresses_gone",
            statement=sql.FORGET_ADDRESSES,
            arguments=lambda state: (state.gone,),
            before=True,
        ),
        Write(
            name="addresses_verified",
            statement=sql.PUT_ADDRESSES,
            arguments=lambda state: (
                list(state.put),
                [sealed for sealed, _ in state.put.values()],
                [at for _, at in state.put.values()],
            ),
        ),
    ),
)


class Waiting(msgspec.Struct, frozen=True):
    """A request for a link that waits; ``event``: who asked, if the log still has it."""

    event_id: UUID
    asked_at: datetime
    event: ev.Event | None


class LinkStore:
    """Links and addresses of mail outside of a batch."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, digest: bytes) -> Link | None:
        """The link, used or not is for the log to say."""
        async with self._database.acquire() as connection:
            row = await connection.fetchrow(sql.FIND_LINK, digest)
        return Link(*row) if row is not None else None

    async def sent_at(self, digest: bytes, now: datetime) -> bool:
        """The link goes out now, and its time begins; False when it is good no more."""
        async with self._database.acquire() as connection:
            found = await connection.fetchval(
                sql.EXTEND_LINK,
                digest,
                now,
                list(LIFETIMES_S),
                [timedelta(seconds=lifetime_s) for lifetime_s in LIFETIMES_S.values()],
            )
        return found is not None

    async def address(self, subject_id: UUID) -> tuple[bytes, datetime] | None:
        """The user's verified address, sealed, and since when it is."""
        async with self._database.acquire() as connection:
            row = await connection.fetchrow(sql.FIND_ADDRESS, subject_id)
        return (row[0], row[1]) if row is not None else None

    async def requests(self, limit: int) -> list[Waiting]:
        """Requests that wait, the oldest first."""
        async with self._database.acquire() as connection:
            rows = await connection.fetch(sql.READ_REQUESTS, limit)
        return [
            Waiting(event_id, at, ev.decode(entry) if entry is not None else None)
            for event_id, at, entry in rows
        ]

    async def drop_request(self, event_id: UUID) -> None:
        """There is nobody to send a link to."""
        async with self._database.acquire() as connection:
            await connection.execute(sql.DROP_REQUEST, event_id)

    async def sweep(self, now: datetime) -> None:
        """Forget links that are long over: the time of one whose mail waits may begin yet."""
        async with self._database.acquire() as connection:
            await connection.execute(sql.SWEEP_LINKS, now - KEPT_FOR)
