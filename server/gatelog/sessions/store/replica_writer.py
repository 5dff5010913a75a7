"""The writing side of the replica: the projector fills an environment, and keeps it up to date.

Rules: a change and the position that it belongs to are written in one transaction; nothing is
synced to a disk (``sessions.store.replica``).
"""

from __future__ import annotations

import logging
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import lmdb
import msgspec

from gatelog.sessions.rules.lease import NO_LEASE
from gatelog.sessions.rules.record import ACTIVE, forgettable_us, packed, seen, tombstone
from gatelog.sessions.rules.state import Change, PutSession, SeenSession
from gatelog.sessions.store.replica import DIGEST_BYTES, readers_here, status_of
from gatelog.sessions.store.replica_place import (
    ANNOUNCED_KEY,
    DATA_FILE,
    LEASE_KEY,
    MAX_READERS,
    OTHER_KEYS,
    STATE_KEY,
    Announced,
    ReplicaFull,
    ReplicaPlace,
    ReplicaState,
    ReplicaStatus,
    ReplicaUnwritable,
    announced_decoder,
    announced_encoder,
    name_prefix,
    state_decoder,
    state_encoder,
    written_here,
)

logger = logging.getLogger(__name__)
_NOTHING_ANNOUNCED = announced_encoder.encode({})


class ReplicaWriter:
    """The projector's side of one environment. Every write may raise ReplicaError."""

    def __init__(self, path: Path, environment: lmdb.Environment, state: ReplicaState) -> None:
        self.path = path
        self.state = state
        self._environment = environment
        self._purged_to = b""
        written_here[path] = environment

    @property
    def replica_id(self) -> str:
        return self.path.name

    @classmethod
    def create(cls, place: ReplicaPlace) -> ReplicaWriter:
        """A new, empty environment, which nobody reads before ``place.make_current``.

        It counts as incomplete until ``loaded``.
        """
        path = place.base() / f"{name_prefix()}{secrets.token_hex(8)}"
        try:
            path.mkdir(mode=0o700)  # LMDB would give it the mode of its files
            environment = _open_to_write(path, place.max_bytes)
        except (lmdb.Error, OSError) as error:
            raise ReplicaUnwritable(str(error)) from error
        writer = cls(path, environment, ReplicaState("", 0, b"", 0))
        writer.set_deadline(NO_LEASE)
        return writer

    @classmethod
    def open_current(cls, place: ReplicaPlace) -> ReplicaWriter | None:
        """The current environment, if it is of this boot and schema and complete."""
        path = place.current()
        if path is None or not (path / DATA_FILE).exists():
            return None
        for reader in readers_here:
            reader.close()
        try:
            environment = _open_to_write(path, place.max_bytes)
            with environment.begin() as transaction:
                packed = transaction.get(STATE_KEY)
            if packed is None:
                environment.close()
                return None
            return cls(path, environment, state_decoder.decode(packed))
        except (lmdb.Error, OSError, msgspec.DecodeError) as error:
            logger.warning("the replica is not usable: %s", error)
            return None

    @property
    def entries(self) -> int:
        """Sessions and tombstones."""
        with self._environment.begin() as transaction:
            return int(transaction.stat(self._environment.open_db())["entries"]) - OTHER_KEYS

    @property
    def deadline_ns(self) -> int:
        with self._environment.begin() as transaction:
            return int.from_bytes(transaction.get(LEASE_KEY, b""), "big")

    def set_deadline(self, deadline_ns: int) -> None:
        """Grant a lease until then, or end it with NO_LEASE."""
        with self._writing() as transaction:
            transaction.put(LEASE_KEY, deadline_ns.to_bytes(8, "big"))

    def apply(
        self,
        changes: Iterable[Change],
        position: int,
        leaf_hash: bytes,
        announced: Announced | None = None,
    ) -> None:
        """Take in all changes of the log up to ``position``, in one transaction.

        ``announced``: what was, among them; other topics stay as they are.
        """
        with self._writing() as transaction:
            if announced:
                before = announced_decoder.decode(
                    transaction.get(ANNOUNCED_KEY, _NOTHING_ANNOUNCED)
                )
                packed = announced_encoder.encode(before | announced)
                transaction.put(ANNOUNCED_KEY, packed)
            active = self.state.active
            for change in changes:
                active += _apply(transaction, change)
            state = ReplicaState(self.state.epoch, position, leaf_hash, active)
            transaction.put(STATE_KEY, state_encoder.encode(state))
        self.state = state

    def load(self, rows: Iterable[tuple[bytes, bytes]]) -> int:
        """Append (digest, record) pairs in ascending order, after all that is there."""
        with self._writing() as transaction:
            _consumed, added = transaction.cursor().putmulti(rows, append=True)
        return int(added)

    def loaded(self, state: ReplicaState, announced: Announced | None = None) -> None:
        """Say what has been loaded, and what was announced last until then."""
        with self._writing() as transaction:
            transaction.put(ANNOUNCED_KEY, announced_encoder.encode(announced or {}))
            transaction.put(STATE_KEY, state_encoder.encode(state))
        self.state = state

    def purge(self, now_us: int, limit: int) -> int:
        """Look at the next ``limit`` entries and remove those whose time is over; returns how many.

        What is removed is unknown from here on, and the primary answers for it.
        """
        removed = 0
        active = self.state.active
        with self._writing() as transaction:
            cursor = transaction.cursor()
            found = cursor.set_range(self._purged_to or bytes(DIGEST_BYTES))
            for _ in range(limit):
                if not found:
                    break
                record = bytes(cursor.value())
                if forgettable_us(record) <= now_us:
                    active -= record[0] == ACTIVE
                    removed += 1
                    cursor.delete()  # and step to the next one, if there is one
                    found = bool(cursor.key())
                else:
                    found = cursor.next()
            self._purged_to = bytes(cursor.key()) if found else b""
            if active != self.state.active:
                state = msgspec.structs.replace(self.state, active=active)
                transaction.put(STATE_KEY, state_encoder.encode(state))
        self.state = msgspec.structs.replace(self.state, active=active)
        return removed

    def clear_stale_readers(self) -> int:
        """Free the slots of readers that were killed; their snapshots would pin old pages."""
        return self._environment.reader_check()

    def status(self, now_ns: int) -> ReplicaStatus | None:
        with self._environment.begin() as transaction:
            return status_of(self._environment, transaction, now_ns)

    def close(self) -> None:
        written_here.pop(self.path, None)
        self._environment.close()

    @contextmanager
    def _writing(self) -> Iterator[lmdb.Transaction]:
        try:
            with self._environment.begin(write=True) as transaction:
                yield transaction
        except lmdb.MapFullError as error:
            raise ReplicaFull(str(error)) from error
        except lmdb.Error as error:
            raise ReplicaUnwritable(str(error)) from error


def _open_to_write(path: Path, max_bytes: int) -> lmdb.Environment:
    return lmdb.open(
        str(path),
        map_size=max_bytes,
        mode=0o600,
        sync=False,
        metasync=False,
        meminit=False,
        readahead=False,
        max_readers=MAX_READERS,
    )


def _apply(transaction: lmdb.Transaction, change: Change) -> int:
    """Make one change; returns by how much the number of active sessions grew."""
    if isinstance(change, PutSession):
        before = transaction.replace(change.token_digest, packed(change.session))
        return int(before is None or before[0] != ACTIVE)
    record = bytes(transaction.get(change.token_digest, b""))
    if not record or record[0] != ACTIVE:
        return 0  # it had ended before the replica was loaded: the primary knows
    if isinstance(change, SeenSession):
        transaction.put(change.token_digest, seen(record, change.at))
        return 0
    transaction.put(change.token_digest, tombstone(record))
    return -1


def drop_environment(writer: ReplicaWriter) -> None:
    """Close an environment and delete its files."""
    writer.close()
    with suppress(OSError):
        shutil.rmtree(writer.path)
