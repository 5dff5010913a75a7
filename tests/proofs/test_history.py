"""A database that lacks what was signed is refused, until an operator has taken it over."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from uuid import UUID

import pytest
from gatelog.config import Config
from gatelog.errors import HistoryLost, SealingRefused
from gatelog.host.embedded import EmbeddedPostgres
from gatelog.hosting.services import open_services
from gatelog.log.store.appender import Appender
from gatelog.log.store.database import Database, connect, connect_if
from gatelog.log.store.reading import read_head
from gatelog.proofs.service.history import HistoryGuard, TakenOver, take_over
from gatelog.proofs.service.sealer import LastNote, Sealer

from tests.builders import NOON, end, registration, start
from tests.conftest import Dsns
from tests.proofs.sealing import SIGNER, append, seal

if TYPE_CHECKING:
    from gatelog.accounts.rules.login import StartSession

_numbers = itertools.count(1)


class Restored:
    """A database, and what a backup of it from before its last events would bring back."""

    def __init__(self, now: Dsns, backup: Dsns, note: LastNote) -> None:
        self.now = now
        self.backup = backup
        self.note = note
        self.guard = HistoryGuard(note)


@pytest.fixture
def restored(postgres: EmbeddedPostgres, database: Dsns, tmp_path: Path) -> Iterator[Restored]:
    """Two sessions are in the backup; one of them has ended since, and that was signed."""
    note = tmp_path / "checkpoint"
    sessions = asyncio.run(_two_sessions(database))
    asyncio.run(seal(database.app, note))
    name = f"backup_{next(_numbers)}"
    postgres.create_database(name, template=urlsplit(database.app).path[1:])
    backup = Dsns(postgres.app_dsn(name), postgres.owner_dsn(name), postgres.superuser_dsn(name))
    asyncio.run(_end(database, sessions[0]))
    asyncio.run(seal(database.app, note))
    yield Restored(database, backup, LastNote(note))
    postgres.drop_database(name)


async def _two_sessions(database: Dsns) -> list[StartSession]:
    user = registration("ada")
    commands = [start(user.event.subject_id) for _ in range(2)]
    async with Appender(lambda: connect(database.app), timeout_s=30) as appender:
        await appender.submit(user)
        for command in commands:
            await appender.submit(command)
    return commands


async def _end(database: Dsns, session: StartSession) -> None:
    async with Appender(lambda: connect(database.app), timeout_s=30) as appender:
        await appender.submit(end(session))


async def taken_over(restored: Restored, *, keep_sessions: bool = False) -> TakenOver:
    config = Config(lease_ttl_s=0.1, checkpoint_file=str(restored.note.path))
    connection = await connect(restored.backup.app)
    owner = await connect(restored.backup.owner, role=None)
    try:
        async with open_services(config, restored.backup.app, guarded=False) as services:
            return await take_over(
                services.accounts,
                connection,
                owner,
                Sealer(connection, SIGNER, restored.note, lambda: NOON),
                restored.note,
                keep_sessions=keep_sessions,
            )
    finally:
        await connection.close()
        await owner.close()


async def sessions_in(database: Dsns) -> int:
    connection = await connect(database.app)
    try:
        return int(await connection.fetchval("SELECT count(*) FROM active_sessions"))
    finally:
        await connection.close()


async def accepted(restored: Restored, database: Dsns) -> None:
    await (await connect_if(restored.guard, database.app, timeout_s=10)).close()


async def test_what_was_signed_is_in_the_database(restored: Restored) -> None:
    await accepted(restored, restored.now)


async def test_a_backup_is_refused_on_every_connection(restored: Restored) -> None:
    with pytest.raises(HistoryLost, match="restored from a backup"):
        await accepted(restored, restored.backup)
    pool = Database(restored.backup.app, timeout_s=5, pool_size=1, accept=restored.guard)
    with pytest.raises(HistoryLost):
        await pool.connect()
    with pytest.raises(HistoryLost):
        async with pool.acquire():
            pass
    await pool.close()


async def test_another_log_of_the_same_length_is_refused(restored: Restored) -> None:
    await append(restored.backup.app, 1)
    await seal(restored.backup.app, restored.note.path.with_name("elsewhere"))

    with pytest.raises(HistoryLost, match="another log"):
        await accepted(restored, restored.backup)


async def test_without_a_note_nothing_is_refused(restored: Restored, tmp_path: Path) -> None:
    guard = HistoryGuard(LastNote(tmp_path / "none"))

    await (await connect_if(guard, restored.backup.app, timeout_s=10)).close()


async def test_a_note_that_cannot_be_read_is_no_permission(restored: Restored) -> None:
    restored.note.write(b"something else")
    with pytest.raises(HistoryLost, match="no checkpoint"):
        await accepted(restored, restored.now)

    restored.note.path.unlink()
    restored.note.path.mkdir()
    with pytest.raises(HistoryLost, match="cannot read"):
        await accepted(restored, restored.now)


async def test_taking_it_over_ends_all_sessions(restored: Restored) -> None:
    signed = restored.note.read()

    taken = await taken_over(restored)

    assert (taken.ended, taken.epoch, taken.lost_to) == (2, 2, 4)
    assert await sessions_in(restored.backup) == 0
    await accepted(restored, restored.backup)
    assert taken.set_aside is not None
    assert Path(taken.set_aside).read_bytes() == signed, "the evidence is kept"
    await seal(restored.backup.app, restored.note.path)


async def test_the_sessions_can_be_kept(restored: Restored) -> None:
    taken = await taken_over(restored, keep_sessions=True)

    assert taken.ended == 0
    assert await sessions_in(restored.backup) == 2
    connection = await connect(restored.backup.app)
    assert (await read_head(connection)).epoch == 2
    await connection.close()


async def test_what_was_interrupted_is_done_by_the_next_call(restored: Restored) -> None:
    """As if it had been killed after the sessions were ended: the log is long enough by then."""
    note = restored.note.read()
    assert note is not None
    await taken_over(restored)
    restored.note.write(note)
    with pytest.raises(SealingRefused):
        await seal(restored.backup.app, restored.note.path)

    taken = await taken_over(restored)

    assert taken.lost_to == 4
    await seal(restored.backup.app, restored.note.path)


async def test_a_restore_that_lost_nothing_keeps_the_note(restored: Restored) -> None:
    signed = restored.note.read()
    whole = Restored(restored.now, restored.now, restored.note)

    taken = await taken_over(whole)

    assert (taken.ended, taken.lost_to, taken.set_aside) == (1, None, None)
    assert restored.note.read() == signed
    await seal(restored.now.app, restored.note.path)


async def test_everybody_is_ended_also_when_there_are_many(database: Dsns, tmp_path: Path) -> None:
    users = [registration(f"user {number}") for number in range(300)]
    async with Appender(lambda: connect(database.app), timeout_s=30) as appender:
        await asyncio.gather(*map(appender.submit, users))
        starts = [start(user.event.subject_id) for user in users for _ in range(2)]
        await asyncio.gather(*map(appender.submit, starts))
    config = Config(lease_ttl_s=0.1, data_dir=str(tmp_path))

    async with open_services(config, database.app) as services:
        assert (await services.accounts.sessions.end_everybody()).ended == len(starts)
        assert await services.accounts.sessions.list_all_sessions(UUID(int=0), 10) == []
