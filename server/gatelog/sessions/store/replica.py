"""The replica: the sessions of the whole service in memory, one copy per host, in LMDB.

One process writes it (the projector), any number of workers read it. It is derived data: what is
lost or doubted is made anew from PostgreSQL. Rules:

- ``peek`` answers only under a valid lease; deadline and session come from one snapshot, taken
  after the call began (see ``sessions.rules.lease``). Whatever is wrong with the replica, the
  answer is None: ask the primary.
- A change and the position that it belongs to are written in one transaction.
- An environment has a name of its own that is never used again: boot id, schema, random. The name
  is the ``replica_id`` of its lease. So a replaced environment, which workers may have open for a
  while, keeps the lease row that stands for it, and needs nobody's trust to be dropped.
- An environment is filled first and then made the current one, by a symbolic link in the data
  directory. A reader looks at the link when its lease is not valid, so a replaced environment
  costs the hot path nothing: nobody renews its lease.
- Nothing is synced to a disk: after a crash of the machine the boot id differs and the files are
  not even opened.

- That a session has idled too long is not answered from memory: it may have been used just now, and
  memory not know of it yet. Only until its end is recorded, which is within a minute or so.

Keys of 32 bytes are token digests; shorter ones are the lease, the state, and what was announced.
Values of digests are the records of ``sessions.rules.record``: sessions that ended stay as
tombstones until the time at which they would have expired, so that a dead cookie is refused from
memory.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal
from weakref import WeakSet

import lmdb

from gatelog.sessions.rules.lease import lease_valid
from gatelog.sessions.rules.record import ACTIVE, ENDED, Session, over_by_idling
from gatelog.sessions.store.replica_place import (
    ANNOUNCED_KEY,
    LEASE_KEY,
    MAX_READERS,
    OTHER_KEYS,
    STATE_KEY,
    ReplicaPlace,
    ReplicaStatus,
    boottime_ns,
    state_decoder,
    written_here,
)

logger = logging.getLogger(__name__)
LOOK_AGAIN_NS = 50_000_000  # how often a reader without a lease looks for another environment
DIGEST_BYTES = 32
_ACTIVE, _TOMBSTONE = bytes([ACTIVE]), bytes([ENDED])  # how a record of either begins
Known = Session | Literal[False] | None
Use = Callable[[bytes], None]
readers_here: WeakSet[ReplicaReader] = WeakSet()


class ReplicaReader:
    """A worker's view of the replica. Open it after the fork; it finds environments by itself."""

    def __init__(
        self,
        place: ReplicaPlace,
        *,
        clock_ns: Callable[[], int] = boottime_ns,
        wall_ns: Callable[[], int] = time.time_ns,
        on_use: Use = lambda _: None,
    ) -> None:
        """``on_use`` is told the digest of a session whose use is to be recorded."""
        self._place = place
        self._clock_ns = clock_ns
        self._wall_ns = wall_ns
        self._on_use = on_use
        self._looking = False
        self._path: Path | None = None
        self._environment: lmdb.Environment | None = None
        self._begin: Callable[[], lmdb.Transaction] = _no_environment
        self._looked_ns = -LOOK_AGAIN_NS
        self.answered = 0  # how many times memory knew
        self._note_lease(b"")
        readers_here.add(self)

    def peek(self, digest: bytes) -> Known:
        """The session if memory knows it is active, False if it knows it is not, else None.

        It is for who uses the session; see ``look``.
        """
        try:
            transaction = self._begin()
            get = transaction.get
            lease = get(LEASE_KEY)
            if lease != self._lease:
                self._note_lease(bytes(lease or b""))
            if not lease_valid(self._deadline_ns, self._clock_ns()):
                transaction.abort()
                return self.peek(digest) if self._look_for_another() else None
            record: bytes | None = get(digest)  # type: ignore[assignment]  # no buffers asked for
            transaction.abort()
        except lmdb.Error as error:
            return self.peek(digest) if self._recover(error) else None
        if record is None:
            return None
        self.answered += 1
        if self._quiet_throughout < record < _TOMBSTONE:
            return Session(record)
        return self._looked_at(digest, bytes(record))

    def look(self, digest: bytes) -> Known:
        """The same for who only wants to know: no use of the session."""
        self._looking = True
        try:
            return self.peek(digest)
        finally:
            self._looking = False

    def announced(self) -> bytes | None:
        """What was announced last, packed; None where memory cannot know (``peek``)."""
        try:
            transaction = self._begin()
            lease = transaction.get(LEASE_KEY)
            if lease != self._lease:
                self._note_lease(bytes(lease or b""))
            if not lease_valid(self._deadline_ns, self._clock_ns()):
                transaction.abort()
                return self.announced() if self._look_for_another() else None
            packed: bytes | None = transaction.get(ANNOUNCED_KEY)  # type: ignore[assignment]
            transaction.abort()
        except lmdb.Error as error:
            return self.announced() if self._recover(error) else None
        return packed

    def _note_lease(self, lease: bytes) -> None:
        """Work out, once per lease, of which sessions there is nothing to do while it lasts."""
        self._lease = lease
        self._deadline_ns = int.from_bytes(lease, "big")
        ends_in_ns = max(0, self._deadline_ns - self._clock_ns())
        until_us = (self._wall_ns() + ends_in_ns) // 1000 + 1
        self._quiet_throughout = _ACTIVE + until_us.to_bytes(8, "big") + b"\xff"

    def _looked_at(self, digest: bytes, record: bytes) -> Known:
        """What is known of a session that is over, soon will be, or whose use is to be told."""
        if record[0] != ACTIVE:
            return False
        session, now_us = Session(record), self._wall_ns() // 1000
        if session.expires_us <= now_us:
            return None if over_by_idling(record) else False
        if session.quiet_until_us <= now_us and not self._looking:
            self._on_use(digest)
        return session

    @property
    def leased(self) -> bool:
        """Whether memory may be trusted now."""
        status = self.status()
        return status is not None and status.lease_ns > 0

    def status(self) -> ReplicaStatus | None:
        """What the current environment holds, or None when there is none to be read."""
        self._look_for_another()
        if self._environment is None:
            return None
        try:
            with self._environment.begin() as transaction:
                return status_of(self._environment, transaction, self._clock_ns())
        except lmdb.Error as error:
            self._recover(error)
            return None

    def close(self) -> None:
        """Let go of the environment; the next look finds it again."""
        self._forget()
        self._looked_ns = -LOOK_AGAIN_NS

    def _look_for_another(self) -> bool:
        """Open the current environment if it is not the one in use; looks only now and then."""
        now_ns = self._clock_ns()
        if now_ns - self._looked_ns < LOOK_AGAIN_NS:
            return False
        self._looked_ns = now_ns
        path = self._place.current()
        if path is None or path == self._path:
            return False
        self._forget()
        try:
            self._environment = _open_to_read(path, self._place.max_bytes)
        except (lmdb.Error, OSError) as error:
            logger.info("the replica cannot be opened: %s", error)
            return False
        self._path = path
        self._begin = self._environment.begin
        return True

    def _recover(self, error: lmdb.Error) -> bool:
        """Let go of an environment that cannot be read; True if there is another one now."""
        if self._environment is not None:
            logger.warning("the replica cannot be read: %s", error)
            self._forget()
        return self._look_for_another()

    def _forget(self) -> None:
        environment, self._environment, path, self._path = self._environment, None, self._path, None
        self._begin = _no_environment
        if environment is not None and path is not None and path not in written_here:
            environment.close()


def _no_environment() -> lmdb.Transaction:
    raise lmdb.Error("there is no environment")


def _open_to_read(path: Path, max_bytes: int) -> lmdb.Environment:
    if path in written_here:
        return written_here[path]
    return lmdb.open(
        str(path),
        map_size=max_bytes,  # as the writer: what is smaller would have to be opened as it grows
        readonly=True,
        create=False,
        readahead=False,
        max_readers=MAX_READERS,
    )


def status_of(
    environment: lmdb.Environment, transaction: lmdb.Transaction, now_ns: int
) -> ReplicaStatus | None:
    state = transaction.get(STATE_KEY)
    if state is None:
        return None
    deadline_ns = int.from_bytes(transaction.get(LEASE_KEY, b""), "big")
    info, stat = environment.info(), transaction.stat(environment.open_db())
    return ReplicaStatus(
        replica_id=Path(environment.path()).name,
        state=state_decoder.decode(state),
        entries=stat["entries"] - OTHER_KEYS,
        bytes_used=(info["last_pgno"] + 1) * stat["psize"],
        lease_ns=deadline_ns - now_ns,
    )
