"""What clients did and saw, on one monotonic clock, and the check that it was allowed.

Rules that a history must keep:

1. No 200 to a check that began after the end of its session had been answered.
2. No 401 to a check between the answer to its login and the first request that may end it.
3. Of a session that may idle for a while only, rule 2 holds for that while after its login. No 200
   to a check that began later than that while, and as long as use may be on its way to the log,
   after everything that was asked with it; and after a 401 to it no 200 any more.
4. Nothing but 200, 401 and 503 to a check, and 404 to a revocation. 503 and no answer at all
   say nothing.

An end without an answer, or answered 503 or 404, is an open interval: the session may have ended
at any moment from its request on, or never. 404, because a client or a proxy sends a DELETE again
when its connection broke: the first one may have done it. A change of the password is an end of
all the user's sessions but the one that it starts, and of the tokens for machines. A token is a
session here; an end of many spares it unless it says that it does not.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import msgspec

_NS = 1_000_000_000
RECORDED_WITHIN_S = 10.0  # use, or never: gatelog.sessions.service.renewals
Scope = Literal["one", "others", "all"]


class Login(msgspec.Struct, frozen=True, tag="login"):
    """An answered login. Times are nanoseconds of CLOCK_MONOTONIC.

    ``idle_s``: how long the session may idle. ``token``: it is one for a machine.
    """

    session: str
    user: str
    began: int
    answered: int
    idle_s: float | None = None
    token: bool = False


class End(msgspec.Struct, frozen=True, tag="end"):
    """A request that ends ``session``, or the user's ``others`` beside it, or ``all`` of them.

    ``started`` is the session that the answer brought in their place. ``tokens``: of many, the
    tokens for machines, too.
    """

    session: str
    user: str
    scope: Scope
    worker: str
    began: int
    answered: int
    status: int | None
    started: str | None = None
    tokens: bool = False

    def may_end(self, login: Login) -> bool:
        if self.status == 401 or self.started == login.session:
            return False
        if self.scope == "one":
            return self.session == login.session
        if login.token and not self.tokens:
            return False
        if self.status == 200 and self.answered < login.began:
            return False
        spared = self.scope == "others" and self.session == login.session
        return self.user == login.user and not spared

    def must_end(self, login: Login) -> bool:
        certain = self.scope == "one" or login.answered < self.began
        return self.status == 200 and certain and self.may_end(login)


class Check(msgspec.Struct, frozen=True, tag="check"):
    session: str
    worker: str
    began: int
    answered: int
    status: int | None


class Incident(msgspec.Struct, frozen=True, tag="incident"):
    """What was done to the service meanwhile; for who reads a history."""

    what: str
    at: int


Record = Login | End | Check | Incident


class Violation(msgspec.Struct, frozen=True):
    rule: str
    login: Login
    check: Check | End
    end: End | None = None

    def __str__(self) -> str:
        late = ""
        if self.end is not None:
            late = f", {(self.check.began - self.end.answered) / 1e6:.1f} ms after {self.end}"
        return f"{self.rule}: {self.check}{late}"


class History(msgspec.Struct, frozen=True):
    records: list[Record] = []

    def add(self, record: Record) -> None:
        self.records.append(record)

    def write(self, path: Path) -> None:
        """As JSON, one record a line, for an outside checker."""
        encode = msgspec.json.Encoder().encode
        path.write_bytes(b"".join(encode(record) + b"\n" for record in self.records))

    @staticmethod
    def read(path: Path) -> History:
        decode = msgspec.json.Decoder(Record).decode
        return History([decode(line) for line in path.read_bytes().splitlines()])

    def violations(self) -> list[Violation]:
        of_one: dict[str, list[End]] = {}  # ends, by session
        of_many: dict[str, list[End]] = {}  # ends, by user
        checks: dict[str, list[Check]] = {}
        logins = []
        for record in self.records:
            if isinstance(record, End) and record.scope == "one":
                of_one.setdefault(record.session, []).append(record)
            elif isinstance(record, End):
                of_many.setdefault(record.user, []).append(record)
            elif isinstance(record, Check):
                checks.setdefault(record.session, []).append(record)
            elif isinstance(record, Login):
                logins.append(record)
        return [
            violation
            for login in logins
            for violation in _violations(
                login,
                [*of_one.get(login.session, ()), *of_many.get(login.user, ())],
                checks.get(login.session, []),
            )
        ]

    def joined_while_ending(self, joins: Iterable[int]) -> int:
        """How many of these moments were while a request was under way that ended something."""
        ends = [r for r in self.records if isinstance(r, End) and r.status == 200]
        return sum(any(end.began < at < end.answered for end in ends) for at in joins)

    def lingered(self) -> int:
        """How many sessions were accepted that would have idled too long, had use not counted."""
        idle = {r.session: r for r in self.records if isinstance(r, Login) and r.idle_s}
        return len(
            {
                r.session
                for r in self.records
                if isinstance(r, Check)
                and r.status == 200
                and (login := idle.get(r.session)) is not None
                and r.began > login.answered + (login.idle_s or 0) * _NS
            }
        )

    def tokens_ended(self) -> dict[Scope, int]:
        """How many tokens for machines were accepted, ended by an answered request, and refused
        then; by how many that request has ended."""
        tokens = {r.session: r for r in self.records if isinstance(r, Login) and r.token}
        checks = [r for r in self.records if isinstance(r, Check) and r.session in tokens]
        good = {check.session for check in checks if check.status == 200}
        refused = {check.session for check in checks if check.status == 401}
        of_user: dict[str, list[Login]] = {}
        for session in good & refused:
            of_user.setdefault(tokens[session].user, []).append(tokens[session])
        counts: dict[Scope, int] = {"one": 0, "all": 0}
        for end in self.records:
            if isinstance(end, End) and end.scope in counts:
                counts[end.scope] += sum(map(end.must_end, of_user.get(end.user, ())))
        return counts

    def idled(self) -> int:
        """How many sessions nobody has tried to end, and were refused."""
        ended = {r.session for r in self.records if isinstance(r, End)}
        refused = {r.session for r in self.records if isinstance(r, Check) and r.status == 401}
        tokens = {r.session for r in self.records if isinstance(r, Login) and r.token}
        return len(refused - ended - tokens)

    def checks_between(self, first: str, then: str) -> int:
        """How many checks were sent and answered after one incident and before the other."""
        since: int | None = None
        spans = []
        for record in self.records:
            if isinstance(record, Incident) and record.what == first:
                since = record.at
            elif isinstance(record, Incident) and record.what == then and since is not None:
                spans.append((since, record.at))
                since = None
        checks = [r for r in self.records if isinstance(r, Check) and r.status is not None]
        return sum(any(a < c.began and c.answered < b for a, b in spans) for c in checks)

    def counts(self) -> dict[str, int]:
        """How much of what there is; a run that saw nothing has shown nothing."""
        counts: dict[str, int] = {}
        for record in self.records:
            name = type(record).__name__.lower()
            if not isinstance(record, Login | Incident):
                name += f" {record.status}"
            counts[name] = counts.get(name, 0) + 1
        return dict(sorted(counts.items()))


def _violations(login: Login, ends: list[End], checks: Iterable[Check]) -> Iterable[Violation]:
    must = min((e for e in ends if e.must_end(login)), key=lambda e: e.answered, default=None)
    may = min((e for e in ends if e.may_end(login)), key=lambda e: e.began, default=None)
    for check in checks:
        if check.status == 200 and must is not None and check.began > must.answered:
            yield Violation("accepted after its end", login, check, must)
        if (
            check.status == 401
            and check.began > login.answered
            and (may is None or check.answered < may.began)
            and (login.idle_s is None or check.answered < login.began + login.idle_s * _NS)
        ):
            yield Violation("refused while active", login, check)
        if check.status not in (200, 401, 503, None):
            yield Violation("an answer that means nothing", login, check)
    for end in ends:
        if end.session == login.session and end.status not in (200, 401, 404, 503, None):
            yield Violation("an answer that means nothing", login, end)
    if login.idle_s is not None:
        yield from _idle_violations(login, login.idle_s, may, ends, list(checks))


def _idle_violations(
    login: Login, idle_s: float, may: End | None, ends: list[End], checks: list[Check]
) -> Iterable[Violation]:
    """Where a session was used that had idled too long, or had been found to."""
    asked: list[Check | End] = [*checks, *(e for e in ends if e.user == login.user)]
    asked.sort(key=lambda record: record.began)
    used_until = login.answered
    refused: Check | None = None
    for record in asked:
        if isinstance(record, Check) and record.status == 200:
            if record.began > used_until + (idle_s + RECORDED_WITHIN_S) * _NS:
                yield Violation("accepted after it idled too long", login, record)
            if refused is not None and record.began > refused.answered:
                yield Violation("revived", login, record)
        by_time = may is None or record.answered < may.began
        if isinstance(record, Check) and record.status == 401 and by_time and refused is None:
            refused = record if record.began > login.answered else None
        used_until = max(used_until, record.answered)
