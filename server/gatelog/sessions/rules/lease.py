"""The lease protocol: when a replica may answer from memory, and when a logout may be answered.

Gatelog promises: when a logout has been answered, no worker on any host accepts that session
again. Workers answer from a replica in memory, so a logout must know that no replica still holds
the session, or wait until those that may hold it have stopped answering. This module has the
rules of both sides; the tables are in PostgreSQL, the clocks and the waiting are elsewhere.

The parties

A *replica* is one copy of the sessions on one host, with the projector that feeds it from the log
and the workers that read it. It has a row in ``replica_lease`` and a *deadline*, kept in the
replica itself, beside the sessions. A *barrier* is the part of a worker that waits before a
command that ends sessions is answered. The *head* is the last position of the log. The *epoch*
names the history that positions belong to; it changes when another server, another timeline or a
restored backup takes over, because the same position may then mean another event. The
*incarnation* names a time in which the database lost no row that had been committed durably.

When trust starts. To join or to renew, the projector

1. reads the clock: ``t0``;
2. writes its row (``renewal_seq``, applied position, epoch) and commits, synchronously;
3. only then, in a later statement with a snapshot of its own, reads the head: position H, epoch;
4. applies the log up to H; then, if the epoch is the one that its replica was built in, sets the
   deadline to ``t0 + ttl``.

When trust ends. At the deadline, by the clock alone. Nothing has to reach the replica for that: a
stopped projector, a stopped host and a cut network all end in a deadline that passes. A worker
answers from memory only if ``now < deadline``, where the deadline and the session come from one
snapshot of the replica, taken after the request arrived, and ``now`` was read after the request
arrived (in which order does not matter).

When a logout may be answered. The command appends its event at position P. After the commit has
returned, the barrier starts a timer and reads the rows, on the primary. It answers when

- the rows are complete, and every one shows this epoch and an applied position of at least P, or
- ``wait_ns`` has passed since the commit: a little more than the lease lasts.

A row that has not moved for a whole ``wait_ns`` belongs to a replica whose deadline has passed:
it is removed (only if ``renewal_seq`` is still the one seen), so that a lost host delays the
logouts of the first seconds only. Its replica, should it live, finds no row to renew and joins
anew.

When the rows are complete. A replica may hold a lease whose row is lost: a standby was promoted
that had not got the row yet, or an older copy of the data is in use now (a backup or a snapshot
was put back, a dump loaded, a database copied). Each of these begins another incarnation: its name
is the epoch and with it the database, the file that holds the rows, and the moment at which the
server was started. That moment is a part of the name and measures nothing. No name comes back: a
promotion changes the timeline, files are not exchanged under a server that runs, and what is loaded
into one gets a file or a database of its own. A server that recovers from the crash of one of its
processes has lost no durable commit, and remains the same incarnation.

So what an incarnation has lost, it had lost when it began. Such a row was written before, by a
server that is not to be reached any more, and its lease is over ``wait_ns`` after the beginning.
The rows are complete

- for who has known the incarnation for ``wait_ns``: it had begun when it was first seen;
- for who finds a *note* in the database that somebody else has known it for that long. The note
  names the incarnation that it is about: one that came with a backup or a standby says nothing;
- at once, if the log was empty in it, as the process has seen itself, or as the note says (the
  migration that makes a log leaves such a note). All sessions of the log have begun since, and no
  replica from before knows any of them. That is enough for a command that has found its sessions
  in this log, sent by a process that knew the incarnation by then. It is not enough for one that
  finds nothing to end, or was committed before: it may be about a session of another log, which
  replicas accept until their leases are over.

Two things prove nothing. The time since the server's start, by its own clock: that may have been
set meanwhile, as it often is soon after a machine has booted, and a standby has been up for long
when it is promoted. And a new system identifier: the log may come from elsewhere.

Why this is sound. The replica writes its row and then reads the head; the logout writes the head
and then reads the rows. So one of them sees the other. If the replica's head read saw P, P was
applied before the deadline was set. If it did not, it came before the logout's commit, its row
had been committed before that, and ``t0`` before the row: the barrier saw the row and waited for
it, or it waited until after ``t0 + ttl``, which is before the timer's end because the timer
started after the commit.

What each rule is for; the tests break each and show that a session then outlives its logout:

- Row and head in one snapshot: the two can miss each other.
- Deadline from the reply and not from ``t0``: a lease granted on old news outlasts the timer.
- Granting before catching up: the position H was read, but a session that ended before H is
  still there.
- Timer started before the commit: it can end before a lease that was granted just before.
- ``renewal_seq`` never repeats, not even after the row was removed: a late removal could hit the
  row of a fresh lease. It is ``t0``, which grows on a host for as long as it is up.
- Rows that may not be complete are not trusted: there are leases that none of them stands for.
- The incarnation is not only the epoch: who knew that before, or has it in a note, would trust the
  rows of an older copy that was put back a moment ago.
- A note is written after ``wait_ns``: who reads it would trust the rows sooner.
- The server's uptime and a new system identifier count for nothing: see above.
- That the log was empty counts for what was found in it and ended since: see above.
- A logout that finds the session ended already is answered like any other, for the position of
  the head: another process may still be waiting for the replicas to learn of that end.

Clocks. All times are integer nanoseconds of one host's CLOCK_BOOTTIME, which runs through suspend
and is never set. Times of different hosts are never compared, only spans: rates may differ by
``drift_ppm``. The source of the idea is Gray and Cheriton, "Leases" (SOSP 1989).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum

import msgspec

NO_LEASE = 0
"""The deadline of a replica that must not answer: it has passed on every clock."""


class LeaseTerms(msgspec.Struct, frozen=True):
    """How long a lease lasts, and by how much two clocks may disagree about that span."""

    ttl_ns: int
    drift_ppm: int = 10_000
    slack_ns: int = 50_000_000

    @property
    def wait_ns(self) -> int:
        """After this time every lease that was granted before has ended: 1.01 ttl + 50 ms."""
        drift_ns = -(-self.ttl_ns * self.drift_ppm // 1_000_000)
        return self.ttl_ns + drift_ns + self.slack_ns

    @property
    def renewal_ns(self) -> int:
        """Time between renewals: a third of the lease, so that one may fail."""
        return self.ttl_ns // 3


def lease_terms(ttl_s: float) -> LeaseTerms:
    """The terms of leases that last this long."""
    return LeaseTerms(ttl_ns=int(ttl_s * 1_000_000_000))


class LeaseRow(msgspec.Struct, frozen=True):
    """What a replica says about itself in ``replica_lease``."""

    replica_id: str
    renewal_seq: int
    applied_position: int
    epoch: str
    ttl_ns: int


# The replica's side


def lease_deadline(t0_ns: int, terms: LeaseTerms) -> int:
    """When a lease ends whose row was written after ``t0_ns``."""
    return t0_ns + terms.ttl_ns


def lease_valid(deadline_ns: int, now_ns: int) -> bool:
    """Whether a worker may answer from memory."""
    return now_ns < deadline_ns


def may_grant(
    *, applied_position: int, replica_epoch: str, head_position: int, head_epoch: str
) -> bool:
    """Whether the deadline may be set, given the head that was read after the row's commit."""
    return replica_epoch == head_epoch and applied_position >= head_position


# The logout's side


class Evidence(msgspec.Struct, frozen=True):
    """What somebody knows of the present incarnation.

    ``age_ns``: it has lasted for this long at least. ``empty``: the log was empty in it.
    """

    age_ns: int
    empty: bool = False

    def completes(self, wait_ns: int, *, of_this_log: bool) -> bool:
        """Whether the rows are complete, as far as it matters to a command of this kind.

        ``of_this_log``: it has found what it ended, and it has done that in this incarnation.
        """
        return self.age_ns >= wait_ns or (self.empty and of_this_log)

    def and_of(self, other: Evidence) -> Evidence:
        """What both together know of the same incarnation."""
        return Evidence(max(self.age_ns, other.age_ns), self.empty or other.empty)


NO_EVIDENCE = Evidence(age_ns=0)


class Verdict(Enum):
    """What the barrier knows after a look at the rows. YOUNG_EPOCH: they may not be complete."""

    ACKNOWLEDGED = "acknowledged"
    WAITED_OUT = "waited_out"
    REPLICA_BEHIND = "replica_behind"
    YOUNG_EPOCH = "young_epoch"

    @property
    def may_answer(self) -> bool:
        return self in (Verdict.ACKNOWLEDGED, Verdict.WAITED_OUT)


def acknowledges(row: LeaseRow, epoch: str, position: int) -> bool:
    """Whether this replica has applied everything up to ``position`` of this epoch."""
    return row.epoch == epoch and row.applied_position >= position


def full_wait_ns(rows: Iterable[LeaseRow], terms: LeaseTerms) -> int:
    """How long a logout waits at most: for the longest lease among these rows and its own."""
    longest = max((row.ttl_ns for row in rows), default=terms.ttl_ns)
    return msgspec.structs.replace(terms, ttl_ns=max(longest, terms.ttl_ns)).wait_ns


def barrier_verdict(
    rows: Iterable[LeaseRow],
    *,
    epoch: str,
    evidence: Evidence,
    of_this_log: bool,
    position: int,
    elapsed_ns: int,
    terms: LeaseTerms,
) -> Verdict:
    """Whether a command whose commit returned ``elapsed_ns`` ago may be answered now.

    ``rows`` and ``epoch`` were read together, on the primary, after the commit had returned;
    ``evidence`` is what was known of the incarnation then; ``of_this_log``: see ``Evidence``.
    """
    seen = list(rows)
    wait_ns = full_wait_ns(seen, terms)
    if elapsed_ns >= wait_ns:
        return Verdict.WAITED_OUT
    if not evidence.completes(wait_ns, of_this_log=of_this_log):
        return Verdict.YOUNG_EPOCH
    if all(acknowledges(row, epoch, position) for row in seen):
        return Verdict.ACKNOWLEDGED
    return Verdict.REPLICA_BEHIND


# The incarnation


class Incarnation(msgspec.Struct, frozen=True):
    """The incarnation as a process knows it: since when, and whether the log was empty then."""

    name: str
    since_ns: int
    empty: bool = False

    def evidence(self, now_ns: int) -> Evidence:
        """What a process knows that has read this name again, by a statement sent at ``now_ns``."""
        return Evidence(now_ns - self.since_ns, self.empty)


def incarnation_seen(
    before: Incarnation | None, name: str, now_ns: int, *, head: int
) -> Incarnation:
    """What a process knows after it read ``name`` and ``head``; ``now_ns`` is from after that."""
    if before is not None and before.name == name:
        return before
    return Incarnation(name, now_ns, empty=head == 0)


def worth_noting(own: Evidence, noted: Evidence, wait_ns: int) -> bool:
    """Whether those who start later learn something from this that the note does not say."""
    known_longer = own.age_ns >= wait_ns > noted.age_ns
    return known_longer or (own.empty and not noted.empty)


# Removing the rows of replicas that are gone


class Sighting(msgspec.Struct, frozen=True):
    """A row as somebody watches it: since when it has stood at this ``renewal_seq``."""

    renewal_seq: int
    since_ns: int
    ttl_ns: int


def sighted(
    before: Mapping[str, Sighting], rows: Iterable[LeaseRow], now_ns: int
) -> dict[str, Sighting]:
    """The sightings after a look at the rows; ``now_ns`` was taken after the read."""
    after = {}
    for row in rows:
        known = before.get(row.replica_id)
        if known is None or known.renewal_seq != row.renewal_seq:
            known = Sighting(row.renewal_seq, now_ns, row.ttl_ns)
        after[row.replica_id] = known
    return after


def may_reap(sighting: Sighting, now_ns: int, terms: LeaseTerms) -> bool:
    """Whether a row may be removed, if its ``renewal_seq`` is still the one of the sighting."""
    own = msgspec.structs.replace(terms, ttl_ns=sighting.ttl_ns)
    return now_ns - sighting.since_ns >= own.wait_ns
