"""Whether a database goes on from what was signed, and how one that does not is taken over.

A backup that is restored brings back sessions that have ended since: the log that said so is gone.
The last signed checkpoint, which the sealer keeps outside of the database, knows better. Rules:

- Every connection is looked at before it is used (``HistoryGuard``): a log that is shorter than
  what was signed, or another one, is DatabaseUnavailable (503), for checks too. A database cannot
  be exchanged under a connection, so nothing slips between two looks.
- Only an operator decides that a restored log counts (``take_over``). It ends every session unless
  told otherwise, moves the epoch on, so that replicas start anew, and puts the checkpoint that the
  log does not extend aside, as evidence of what was lost. In this order: whoever is interrupted
  does it again, and nothing is served before it is done.
- What was recorded but not signed yet, the last second at most, has no such witness.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import msgspec

from gatelog.accounts.service.accounts import Accounts
from gatelog.config import Config
from gatelog.errors import HistoryLost, NotVerified, OperatorError, SealingRefused
from gatelog.log.store.reading import next_epoch
from gatelog.proofs.rules.notes import parse_note
from gatelog.proofs.rules.tlog import Checkpoint, parse_checkpoint
from gatelog.proofs.service.sealer import LastNote, Sealer
from gatelog.proofs.store.tiles import read_head_and_checkpoint, read_last_checkpoint

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection

logger = logging.getLogger(__name__)


def history_guard(config: Config) -> HistoryGuard:
    """The guard that goes by the checkpoint file of this configuration."""
    return HistoryGuard(LastNote(config.checkpoint_path))


class HistoryGuard:
    """Refuses connections to a database that lacks what was signed."""

    def __init__(self, last_note: LastNote) -> None:
        self._last_note = last_note

    async def __call__(self, connection: Connection) -> None:
        """Raises HistoryLost. Without a note nothing was signed, and nothing is refused."""
        try:
            note = self._last_note.read()
        except OperatorError as error:  # then nobody can tell
            raise HistoryLost(str(error)) from error
        if note is None:
            return
        noted = self._noted(note)
        head, stored = await read_head_and_checkpoint(connection, noted.size)
        if head < noted.size:
            raise self._lost(f"it ends at {head}, and a log of {noted.size} events was signed")
        # none: the sealer was between file and database. What else may be wrong is its to find out.
        if stored is not None and _root(stored) not in (None, noted.root):
            raise self._lost(f"another log of {noted.size} events was signed")

    def _noted(self, note: bytes) -> Checkpoint:
        try:
            return _checkpoint(note)
        except NotVerified as error:
            raise HistoryLost(f"{self._last_note.path} holds no checkpoint: {error}") from error

    def _lost(self, what: str) -> HistoryLost:
        return HistoryLost(
            f"The database was restored from a backup, or exchanged: {what}"
            f" ({self._last_note.path}). See 'after-restore'."
        )


def _checkpoint(note: bytes) -> Checkpoint:
    return parse_checkpoint(parse_note(note).text)


def _root(note: bytes) -> bytes | None:
    try:
        return _checkpoint(note).root
    except NotVerified:
        return None


class TakenOver(msgspec.Struct, frozen=True):
    """What came of it. ``lost_to``: the size that was signed, when the log does not reach it."""

    position: int
    epoch: int
    ended: int
    lost_to: int | None = None
    set_aside: str | None = None


async def take_over(
    accounts: Accounts,
    connection: Connection,
    owner: Connection,
    sealer: Sealer,
    last_note: LastNote,
    *,
    keep_sessions: bool,
) -> TakenOver:
    """Make a restored log the one that counts.

    ``connection`` and ``sealer`` act as the application, ``owner`` as the schema's owner.
    """
    lost = await _lost_checkpoint(sealer, last_note)
    ended = 0 if keep_sessions else (await accounts.sessions.end_everybody()).ended
    epoch = await next_epoch(owner)
    aside = None
    if lost is not None:
        stored = await read_last_checkpoint(connection)
        aside = last_note.set_aside(lost.size, stored.note if stored else None)
        logger.warning("events up to %d were signed and are lost; see %s", lost.size, aside)
    head, _ = await read_head_and_checkpoint(connection, 0)
    return TakenOver(head, epoch, ended, lost.size if lost else None, str(aside) if aside else None)


async def _lost_checkpoint(sealer: Sealer, last_note: LastNote) -> Checkpoint | None:
    """The last checkpoint that was signed, if the log is not an extension of it."""
    try:
        await sealer.load()
    except SealingRefused as error:
        note = last_note.read()
        if note is None:  # then it is the database that contradicts itself
            raise
        logger.warning("%s", error)
        return _checkpoint(note)
    return None
