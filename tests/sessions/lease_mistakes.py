"""The protocol with one rule broken: ``test_lease_model`` must find a violation for each.

At the end, the search with too much left out, which must be noticed.
"""

from __future__ import annotations

from collections.abc import Iterator

from gatelog.sessions.rules.lease import Evidence

from tests.sessions.lease_protocol import Protocol, RepeatedLogout, Step
from tests.sessions.lease_states import (
    NO,
    WAIT,
    Log,
    Logout,
    Replica,
    State,
    answered,
    known,
    with_logout,
)


class RowAndHeadInOneSnapshot(Protocol):
    """The transaction that writes the row reads the head too: before the row can be seen."""

    UNCOMMITTED = 100  # added to the head of a transaction that has not committed

    def write_row(self, r: Replica, t0_age: int, log: Log) -> Replica:
        return r._replace(t0_age=t0_age, head=self.UNCOMMITTED + log.head)

    def _replica_steps(self, r: Replica, log: Log) -> list[tuple[str, Replica]]:
        steps = super()._replica_steps(r, log)
        if r.head >= self.UNCOMMITTED:
            read = r.head - self.UNCOMMITTED
            row = r._replace(head=read, row_applied=r.applied, watched=NO)
            steps.append(("row and head committed", row))
        return steps


class DeadlineFromTheReply(Protocol):
    def grant(self, r: Replica) -> Replica:
        return super().grant(r._replace(t0_age=0))


class GrantBeforeCatchingUp(Protocol):
    def may_grant(self, r: Replica) -> bool:
        return True


class TimerBeforeTheCommit(Protocol):
    def commit_steps(self, s: State, index: int, g: Logout) -> Iterator[Step]:
        for name, after in super().commit_steps(s, index, g):
            place = next(i for i, new in enumerate(after.logouts) if new.position == after.log.head)
            for ago in range(WAIT + 1):
                started = after.logouts[place]._replace(elapsed=ago)
                yield f"{name}, timer {ago} ticks ago", with_logout(after, place, started)


class RowsAreAlwaysComplete(Protocol):
    """A process that has just seen the incarnation does not ask for how long it has lasted."""

    def own(self, s: State, g: Logout) -> Evidence:
        return known(WAIT, False)


class Misjudged(Protocol):
    """What an incident begins is taken for something that it is not."""

    def incident_steps(self, s: State) -> Iterator[Step]:
        for name, after in super().incident_steps(s):
            yield name, self.judged(name, s, after)

    def judged(self, name: str, before: State, after: State) -> State:
        raise NotImplementedError


class IncarnationIsTheEpoch(Misjudged):
    """Processes go on trusting rows when an older copy has the name of the epoch that they know."""

    def judged(self, name: str, before: State, after: State) -> State:
        if after.log.epoch and after.log.renamed:
            return after
        kept = (
            g._replace(known=1, ended_in=min(g.ended_in + 1, 1)) if g.answered == NO else g
            for g in after.logouts
        )
        return after._replace(logouts=tuple(sorted(kept)))


class NoteOfTheEpoch(Misjudged):
    """A note that came with an older copy counts, because the epoch has the same name."""

    def judged(self, name: str, before: State, after: State) -> State:
        renamed = after.log.epoch and after.log.renamed
        return after if renamed else after._replace(noted=before.noted)


class UptimeOfTheServer(Misjudged):
    """A server that has been up for long lacks no row: but a standby is that, too."""

    def judged(self, name: str, before: State, after: State) -> State:
        return after._replace(noted=WAIT) if name.startswith("failover") else after


class UptimeByTheWallClock(Protocol):
    """The time since the server's start, by its own clock, which somebody sets."""

    def free_steps(self, s: State) -> Iterator[Step]:
        yield from super().free_steps(s)
        promoted = s.log.epoch and s.log.renamed
        if s.incarnation and not promoted:
            yield "clock set", s._replace(noted=WAIT)


class NewClusterHasNoLeases(Misjudged):
    """A log in a cluster that was just made is taken for a new one: but it was loaded."""

    def judged(self, name: str, before: State, after: State) -> State:
        return after._replace(noted_empty=name.startswith(("dump", "new log")))


class NotedTooEarly(Protocol):
    """Who has just seen the incarnation notes that it has lasted."""

    def witness_steps(self, s: State) -> Iterator[Step]:
        yield from super().witness_steps(s)
        if NO < s.seen < WAIT and s.noted < WAIT:
            yield "noted too early", s._replace(noted=WAIT)


class EmptyLogForNothingToEnd(Protocol):
    """That the log was empty is held to be enough for a session that the log does not know."""

    def nothing_to_end(self, s: State, g: Logout) -> Logout:
        return super().nothing_to_end(s, g)._replace(ended_in=g.known)


class EmptyLogForAnEarlierCommit(Protocol):
    """The log was empty when the rows were read; what was committed went into another one."""

    def of_this_log(self, s: State, g: Logout) -> bool:
        return g.ended_in != NO


class GrantInAnotherEpoch(Protocol):
    """Positions are compared although they are of different histories."""

    def read_head(self, r: Replica, log: Log) -> Replica:
        return r._replace(head=log.head)


class LostRowIgnored(Protocol):
    """A renewal that finds no row to update goes on all the same."""

    def _replica_steps(self, r: Replica, log: Log) -> list[tuple[str, Replica]]:
        steps = super()._replica_steps(r, log)
        if r.row_applied == NO:
            steps.append(("no row updated", r._replace(t0_age=0, head=NO)))
        return steps


class RowRemovedTooEarly(Protocol):
    def may_reap(self, r: Replica) -> bool:
        return r.watched > 0


class RenewalSeqRepeats(Protocol):
    """A row that is written anew has the number of the removed one: a late removal hits it."""

    def write_row(self, r: Replica, t0_age: int, log: Log) -> Replica:
        written = super().write_row(r, t0_age, log)
        return written if r.row_applied != NO else written._replace(watched=WAIT)


class RepeatedLogoutAnsweredAtOnce(RepeatedLogout):
    def repeated(self, s: State, g: Logout) -> Logout:
        return answered(g._replace(position=s.log.head))


# Too much left out


class EarlyT0Only(Protocol):
    """A renewal's t0 lies before its row, never at the moment of the row."""

    def write_row(self, r: Replica, t0_age: int, log: Log) -> Replica:
        return super().write_row(r, max(t0_age, 1), log)


class EventsAppliedAtOnce(Protocol):
    """No replica lags."""

    def _settled_replica(self, r: Replica, log: Log) -> Replica:
        if log.continues(r.epoch, r.applied):
            r = r._replace(epoch=log.epoch, applied=log.head)
        return super()._settled_replica(r, log)


class EveryAnswerForgotten(Protocol):
    """An answered logout is of no interest, not even while a replica accepts its session."""

    def plain(self, s: State) -> State:
        plain = super().plain(s)
        return plain._replace(logouts=tuple(g for g in plain.logouts if g.answered == NO))


class RenewalsForgotten(Protocol):
    """A renewal while a lease lasts is held to be without effect."""

    def _plain_replica(self, r: Replica, past: int, stays: bool) -> Replica:
        plain = super()._plain_replica(r, past, stays)
        return plain._replace(t0_age=NO, head=NO) if plain.deadline > 0 else plain


class LostSessionsForgotten(Protocol):
    """After an incident nobody asks for a session that the log has lost."""

    def plain_after_incident(self, s: State) -> State:
        return super().plain_after_incident(s)._replace(lost=False)
