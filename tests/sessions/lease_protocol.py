"""What can happen in the small world that ``test_lease_model`` explores, as it is meant to be."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from gatelog.sessions.rules.lease import (
    NO_EVIDENCE,
    Evidence,
    Incarnation,
    LeaseRow,
    incarnation_seen,
    lease_deadline,
    may_grant,
    sighted,
    worth_noting,
)

from tests.sessions.lease_states import (
    EPOCHS,
    INCARNATIONS,
    NO,
    NOTHING_LEFT,
    TERMS,
    WAIT,
    Log,
    Logout,
    Look,
    Replica,
    State,
    accepts,
    answered,
    is_reapable,
    known,
    lease_row,
    may_answer,
    older,
    with_logout,
    with_replica,
)

Step = tuple[str, State]


class Protocol:
    """The steps, as they are meant to be."""

    def __init__(
        self,
        *,
        incidents: tuple[str, ...] = (),
        starts: bool = False,
        eager: bool = True,
        past: int = 1,
        every_state: bool = False,
    ) -> None:
        """``past``: for how many ticks answers and deadlines that are over are told apart.

        ``incidents``: how the names of those begin that may happen. ``starts``: processes may be
        started anew. ``eager``, ``every_state``: see ``test_lease_model``.
        """
        self.incidents = incidents
        self.starts = starts
        self.eager = eager
        self.past = past
        self.every_state = every_state
        self.replica_steps = cache(self._replica_steps)
        self.settled_replica = cache(self._settled_replica)
        self.plain_state = cache(self.plain)
        self.plain_replica = cache(self._plain_replica)
        self.plain_logout = cache(self._plain_logout)
        self.older_replica = cache(self._older_replica)
        self.older_logout = cache(self._older_logout)

    def steps(self, s: State) -> Iterator[Step]:
        """What can happen next."""
        for name, after in self.taken_steps(s):
            yield name, after if self.every_state else self.plain_state(after)

    def taken_steps(self, s: State) -> Iterator[Step]:
        for name, after in self.free_steps(s):
            yield name, self.settled(after) if self.eager else after
        if not self.eager:
            yield from self.prompt_steps(s)

    def free_steps(self, s: State) -> Iterator[Step]:
        yield "tick", self.tick(s)
        for index, replica in enumerate(s.replicas):
            for name, after in self.replica_steps(replica, s.log):
                yield name, with_replica(s, index, after)
        for index, logout in enumerate(s.logouts):
            if logout.position == NO:
                yield from self.commit_steps(s, index, logout)
                if self.starts and s.incarnation:  # before, there is a note that makes up for it
                    yield "process started", with_logout(s, index, Logout(known=NO, age=NO))
        if self.incidents and not s.incarnation:
            steps = self.incident_steps(s)
            yield from (step for step in steps if step[0].startswith(self.incidents))

    def prompt_steps(self, s: State) -> Iterator[Step]:
        for index, replica in enumerate(s.replicas):
            for name, after in self.row_steps(replica):
                yield name, with_replica(s, index, after)
        for index, logout in enumerate(s.logouts):
            for name, seen in self.prompt_logout_steps(s, logout):
                yield name, with_logout(s, index, seen)
        yield from self.witness_steps(s)

    def settled(self, s: State) -> State:
        """The state after all prompt steps that can be taken."""
        replicas = tuple(sorted(self.settled_replica(r, s.log) for r in s.replicas))
        s = State(replicas, *s[1:])
        while (step := next(self.prompt_steps(s), None)) is not None:
            s = step[1]
        return s

    def _settled_replica(self, r: Replica, log: Log) -> Replica:
        if not self.every_state:
            if r.t0_age != NO and r.head == NO and r.epoch == log.epoch:
                r = self.read_head(r, log)
            if r.head != NO and self.may_grant(r):
                r = self.grant(r)
        while (step := next(self.row_steps(r), None)) is not None:
            r = step[1]
        return r

    # What makes no difference

    def plain(self, s: State) -> State:
        """The state without what cannot make a difference any more; see ``test_lease_model``."""
        logouts = tuple(
            g
            for g in s.logouts
            if g.answered == NO or any(accepts(r, g, s.log) for r in s.replicas)
        )
        if not logouts:
            return NOTHING_LEFT
        past = max(0, *(g.answered for g in logouts))
        calm = bool(s.incarnation or not self.incidents)
        ended = calm and all(g.position != NO for g in logouts)
        replicas = tuple(
            sorted(
                self.plain_replica(r, past, calm and r.epoch == s.log.epoch)
                for r in s.replicas
                if not (ended and r.epoch == s.log.epoch and r.applied == s.log.head)
            )
        )
        s = s._replace(replicas=replicas, logouts=logouts)
        return self.plain_after_incident(s) if s.incarnation else s

    def plain_after_incident(self, s: State) -> State:
        if s.log.epoch and all(r.epoch for r in s.replicas):
            s = s._replace(log=s.log._replace(kept=0, renamed=True), lost=False)
        noted = s.noted == WAIT
        if noted:
            s = s._replace(seen_empty=False, noted_empty=False)
        elif s.noted > 0:
            s = s._replace(noted=0)
        logouts = tuple(sorted(self.plain_logout(g, noted) for g in s.logouts))
        return s._replace(logouts=logouts)

    def _plain_logout(self, g: Logout, noted: bool) -> Logout:
        if g.answered == NO and (noted or g.elapsed == WAIT):
            return g._replace(known=1, age=WAIT, empty=False, ended_in=NO)
        return g

    def _plain_replica(self, r: Replica, past: int, stays: bool) -> Replica:
        deadline = max(r.deadline, -past)
        reads = r.head == NO and not stays
        if r.t0_age != NO and not reads and lease_deadline(-r.t0_age, TERMS) <= deadline:
            return r._replace(deadline=deadline, t0_age=NO, head=NO)
        return r._replace(deadline=deadline)

    # Time

    def tick(self, s: State) -> State:
        replicas = tuple(sorted(map(self.older_replica, s.replicas)))
        logouts = tuple(sorted(map(self.older_logout, s.logouts)))
        return s._replace(replicas=replicas, logouts=logouts, seen=older(s.seen))

    def _older_replica(self, r: Replica) -> Replica:
        t0_age, head = (r.t0_age + 1, r.head) if r.t0_age != NO else (NO, NO)
        if t0_age >= TERMS.ttl_ns + self.past:  # a grant would come to nothing
            t0_age, head = NO, NO
        deadline = max(r.deadline - 1, -self.past)
        return r._replace(deadline=deadline, t0_age=t0_age, head=head, watched=older(r.watched))

    def _older_logout(self, g: Logout) -> Logout:
        return g._replace(
            age=older(g.age),
            elapsed=older(g.elapsed),
            answered=min(g.answered + 1, self.past) if g.answered != NO else NO,
        )

    # The replica

    def _replica_steps(self, r: Replica, log: Log) -> list[tuple[str, Replica]]:
        ages = range(TERMS.ttl_ns + self.past if self.every_state else 1)
        steps = [(f"row written, t0 {age} ticks ago", self.write_row(r, age, log)) for age in ages]
        if r.t0_age != NO and r.head == NO:
            steps.append(("head read", self.read_head(r, log)))
        if r.head != NO and self.may_grant(r):
            steps.append(("lease granted", self.grant(r)))
        if log.continues(r.epoch, r.applied) and r.applied < log.head:
            applied = r._replace(epoch=log.epoch, applied=r.applied + 1)
            steps.append(("event applied", applied))
        return steps

    def write_row(self, r: Replica, t0_age: int, log: Log) -> Replica:
        return r._replace(t0_age=t0_age, head=NO, row_applied=r.applied, watched=NO)

    def read_head(self, r: Replica, log: Log) -> Replica:
        if log.continues(r.epoch, r.applied):
            return r._replace(epoch=log.epoch, head=log.head)
        return Replica(applied=log.head, epoch=log.epoch)  # revoked, its row removed, rebuilt

    def may_grant(self, r: Replica) -> bool:
        epoch = EPOCHS[0]  # read_head went on only in the replica's own epoch
        return may_grant(
            applied_position=r.applied,
            replica_epoch=epoch,
            head_position=r.head,
            head_epoch=epoch,
        )

    def grant(self, r: Replica) -> Replica:
        deadline = max(lease_deadline(-r.t0_age, TERMS), r.deadline)
        return r._replace(deadline=deadline, t0_age=NO, head=NO)

    # Its row

    def row_steps(self, r: Replica) -> Iterator[tuple[str, Replica]]:
        if r.row_applied == NO:
            return
        if r.row_applied < r.applied:
            yield "row acknowledges", r._replace(row_applied=r.applied)
        if r.watched == NO:
            seen = sighted({}, [lease_row(r.row_applied, EPOCHS[0])], 0)["replica"]
            yield "row sighted", r._replace(watched=-seen.since_ns)
        elif self.may_reap(r):
            yield "row removed", r._replace(row_applied=NO, watched=NO)

    def may_reap(self, r: Replica) -> bool:
        return is_reapable(r.watched)

    # The logout

    def commit_steps(self, s: State, index: int, g: Logout) -> Iterator[Step]:
        head = s.log.head + 1
        ended = g._replace(position=head, elapsed=0, session=int(s.log.new), ended_in=g.known)
        committed = s._replace(log=s.log._replace(head=head))
        yield "logout committed", with_logout(committed, index, ended)
        if s.lost:
            yield "nothing to end", with_logout(s, index, self.nothing_to_end(s, g))

    def nothing_to_end(self, s: State, g: Logout) -> Logout:
        return g._replace(position=s.log.head, elapsed=0, unknown=True)

    def prompt_logout_steps(self, s: State, g: Logout) -> Iterator[tuple[str, Logout]]:
        if g.answered != NO:
            return
        if g.known != s.incarnation:
            yield "incarnation seen", self.see(s, g)
        elif g.elapsed != NO and self.may_answer(s, g):
            yield "logout answered", answered(g)

    def see(self, s: State, g: Logout) -> Logout:
        before = None if g.known == NO else Incarnation(INCARNATIONS[g.known], -g.age)
        name = INCARNATIONS[s.incarnation]
        seen = incarnation_seen(before, name, 0, head=s.log.position)
        return g._replace(known=s.incarnation, age=-seen.since_ns, empty=seen.empty)

    def may_answer(self, s: State, g: Logout) -> bool:
        look = Look(
            self.rows(s),
            s.log.name(s.log.epoch),
            self.own(s, g).and_of(self.note(s)),
            self.of_this_log(s, g),
            g.position,
            g.elapsed,
        )
        return may_answer(look)

    def of_this_log(self, s: State, g: Logout) -> bool:
        return g.ended_in == s.incarnation

    def own(self, s: State, g: Logout) -> Evidence:
        """What the logout's process knows by itself."""
        return known(g.age, g.empty)

    def note(self, s: State) -> Evidence:
        """What the note says of the incarnation."""
        return known(s.noted, s.noted_empty)

    def rows(self, s: State) -> tuple[LeaseRow, ...]:
        return tuple(
            lease_row(r.row_applied, s.log.name(r.epoch)) for r in s.replicas if r.row_applied != NO
        )

    # The witness

    def witness_steps(self, s: State) -> Iterator[Step]:
        if s.seen == NO:
            seen = incarnation_seen(None, INCARNATIONS[1], 0, head=s.log.position)
            yield "witness sees", s._replace(seen=-seen.since_ns, seen_empty=seen.empty)
        elif self.worth_noting(known(s.seen, s.seen_empty), self.note(s)):
            yield "noted", s._replace(noted=s.seen, noted_empty=s.seen_empty)

    def worth_noting(self, own: Evidence, noted: Evidence) -> bool:
        return worth_noting(own, noted, WAIT)

    # Incidents

    def incident_steps(self, s: State) -> Iterator[Step]:
        """Each begins an incarnation that nobody has seen and no note is about."""
        s = s._replace(incarnation=1, seen=NO, noted=NO_EVIDENCE.age_ns)
        unacknowledged = (r._replace(row_applied=min(r.row_applied, 0)) for r in s.replicas)
        yield "database restarted", s._replace(replicas=tuple(sorted(unacknowledged)))
        rowless = tuple(sorted(r._replace(row_applied=NO, watched=NO) for r in s.replicas))
        promoted = s._replace(log=s.log._replace(epoch=1, kept=s.log.head))
        yield "failover", promoted
        yield from self.losses("failover", promoted, rowless)
        yield from self.losses("dump loaded elsewhere", promoted, rowless)
        same_name = promoted._replace(log=promoted.log._replace(renamed=False))
        yield from self.losses("older copy put back", same_name, rowless)
        for renamed in (True, False):
            log = Log(epoch=1, renamed=renamed, new=True)
            name = "new log" if renamed else "new log under the old name"
            yield name, s._replace(replicas=rowless, log=log, lost=True)

    def losses(self, what: str, s: State, replicas: tuple[Replica, ...]) -> Iterator[Step]:
        """Rows are lost; perhaps the last event, too, and what was promised for its logout."""
        yield f"{what}, rows lost", s._replace(replicas=replicas)
        if s.log.head:
            kept = s.log.head - 1
            yield (
                f"{what}, rows and an event lost",
                s._replace(
                    replicas=replicas,
                    logouts=tuple(g for g in s.logouts if g.position < s.log.head),
                    log=s.log._replace(head=kept, kept=kept),
                    lost=True,
                ),
            )


class RepeatedLogout(Protocol):
    """Both logouts are of one session: the later one finds it ended and appends nothing."""

    def commit_steps(self, s: State, index: int, g: Logout) -> Iterator[Step]:
        if s.log.head == 0:
            yield from super().commit_steps(s, index, g)
        else:
            yield "logout repeated", with_logout(s, index, self.repeated(s, g))

    def repeated(self, s: State, g: Logout) -> Logout:
        return g._replace(position=s.log.head, elapsed=0)
