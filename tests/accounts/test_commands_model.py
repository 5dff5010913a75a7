"""decide and evolve against an obvious model, driven by random commands.

The model keeps plain sets and knows nothing of events. After every step both must tell the same
sessions and must have given the same answer; and a second world, folded from the events alone,
must be the same as the first.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID

from gatelog.accounts.rules.administration import ChangeUser, EraseUser
from gatelog.accounts.rules.ending import EndSession, EndSessions, ExpireSessions
from gatelog.accounts.rules.events import (
    CredentialChanged,
    LoginFailed,
    RoleGranted,
    RoleRevoked,
    UserDisabled,
    UserEnabled,
)
from gatelog.accounts.rules.login import ChangeCredential, RecordLoginFailure, Replaced
from gatelog.accounts.rules.tokens import CreateToken
from gatelog.accounts.rules.users import Users
from gatelog.audit.rules.commands import RecordRead
from gatelog.audit.rules.events import AuditRead
from gatelog.clock import new_event_id, new_random_id
from gatelog.errors import GatelogError
from gatelog.log.rules import events as ev
from gatelog.log.rules.kinds import Command, World
from gatelog.privacy.rules import UserErased
from gatelog.sessions.rules.events import (
    SessionEnded,
    SessionsRenewed,
    SessionStarted,
    TokenCreated,
)
from gatelog.sessions.rules.renewing import RenewSessions
from gatelog.sessions.rules.state import Sessions
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.builders import NOON, failure, registration, start

MAX_SESSIONS = 3
MAX_TOKENS = 2
LOGINS = ["ada", "bob", "cyd"]


class ModelSession:
    """What the model knows of a session: when it was used, in whole seconds as all else here."""

    def __init__(self, event: SessionStarted | TokenCreated, roles: Iterable[str] = ()) -> None:
        self.id, self.digest = event.session_id, event.token_digest
        self.last = event.expires_at
        idle_s = getattr(event, "idle_s", None)
        self.idle = timedelta(seconds=idle_s) if idle_s else None
        self.used = event.occurred_at
        self.token = isinstance(event, TokenCreated)
        self.roles = set(roles)
        self.days: set[date] = set()  # on which the use of a token was recorded

    def due(self, now: datetime) -> bool:
        """Whether its use is to be recorded."""
        if self.token:
            return now.date() not in self.days
        return self.idle is not None and now - self.used >= self.idle / 4

    def over(self, now: datetime) -> str | None:
        """Why it is over, if it is."""
        if self.idle is not None and self.used + self.idle < self.last:
            return "idle_timeout" if now - self.used >= self.idle else None
        return "absolute_timeout" if now >= self.last else None


class ModelUser:
    """What the model knows of a user."""

    def __init__(self, login: str) -> None:
        self.login = login
        self.disabled = False
        self.version = 1
        self.roles: set[str] = set()
        self.erased = False
        self.sessions: list[ModelSession] = []  # oldest first

    @property
    def is_admin(self) -> bool:
        return "admin" in self.roles and not self.disabled


class SessionsModel(RuleBasedStateMachine):
    """Runs every command in the service's core and in the model."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.events: list[ev.Event] = []
        self.model: dict[UUID, ModelUser] = {}
        self.now = NOON
        self.gone: list[ModelSession] = []  # what has ended, for who tries to revive it
        self.ends: dict[UUID, str | None] = {}  # those by time, and why
        self.looked_at = 0

    def run_command(self, command: Command) -> str:
        """Decide and apply; returns the error's code, or how many sessions ended."""
        self.now += timedelta(seconds=1)
        self.world.now = self.now
        try:
            decision = command.decide(self.world)
        except GatelogError as error:
            return error.code
        for event in decision.events:
            assert ev.decode(ev.encode(event)) == event
            self.events.append(event)
        self.world.take(decision)
        return str(sum(isinstance(event, SessionEnded) for event in decision.events))

    def user(self, data: Any) -> tuple[UUID, ModelUser]:
        subject_id = data.draw(st.sampled_from(list(self.model)))
        return subject_id, self.model[subject_id]

    def actor(self, data: Any) -> tuple[UUID | None, bool]:
        """Nobody, or any user; and whether that one may act on others."""
        actor_id = data.draw(st.sampled_from([None, *self.model]))
        return actor_id, actor_id is None or self.model[actor_id].is_admin

    def is_last_admin(self, user: ModelUser) -> bool:
        return [other for other in self.model.values() if other.is_admin] == [user]

    @rule(login=st.sampled_from(LOGINS), first=st.booleans())
    def register(self, login: str, first: bool) -> None:
        command = registration(login, only_first=first)
        answer = self.run_command(command)
        if first and self.model:
            assert answer == "registration_closed"
        elif any(user.login == login and not user.erased for user in self.model.values()):
            assert answer == "login_taken"
        else:
            assert answer == "0"
            self.model[command.event.subject_id] = ModelUser(login)

    @rule()
    def login_fails(self) -> None:
        assert self.run_command(failure()) == "0"

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def known_login_fails(self, data: Any) -> None:
        subject_id, user = self.user(data)
        event = LoginFailed(
            event_id=new_event_id(),
            occurred_at=self.now,
            subject_id=subject_id,
            reason="wrong_password",
            sealed=b"personal",
        )
        assert self.run_command(RecordLoginFailure(event=event)) == "0"
        assert self.events[-1].sealed == (None if user.erased else b"personal")

    @rule(lifetime_s=st.integers(1, 20))
    def unknown_user_logs_in(self, lifetime_s: int) -> None:
        assert self.run_command(start(new_random_id())) == "invalid_credentials"

    @precondition(lambda self: self.model)
    @rule(
        data=st.data(),
        lifetime_s=st.integers(1, 40),
        idle_s=st.one_of(st.none(), st.integers(1, 16)),
        behind=st.sampled_from([0, 0, 0, 1]),
        refuse=st.booleans(),
        over=st.booleans(),
    )
    def log_in(
        self,
        data: Any,
        lifetime_s: int,
        idle_s: int | None,
        behind: int,
        *,
        refuse: bool,
        over: bool,
    ) -> None:
        subject_id, user = self.user(data)
        before = self.a_session(data) if over else None
        command = start(
            subject_id,
            at=self.now,
            lifetime_s=lifetime_s,
            idle_s=idle_s,
            credential_version=user.version - behind,
            max_sessions=MAX_SESSIONS,
            refuse=refuse,
            replaces=Replaced(before[0], before[1].id) if before else None,
        )
        answer = self.run_command(command)
        if user.disabled or user.erased or behind:
            assert answer == "invalid_credentials"
            return
        replaced = [before[1]] if before and before[1] not in self.gone else []
        alive = [
            session
            for session in user.sessions
            if not session.token and not session.over(self.now) and session not in replaced
        ]
        surplus = max(0, len(alive) + 1 - MAX_SESSIONS)
        if refuse and surplus:
            assert answer == "too_many_sessions"
            return
        assert answer == str(len(replaced) + surplus)
        for session in [*replaced, *alive[:surplus]]:
            self.end(session)
        user.sessions.append(ModelSession(command.event, user.roles))
        started = self.world.of(Sessions).find(subject_id, command.event.session_id)
        assert started is not None
        assert set(started.roles) == user.roles

    def end(self, session: ModelSession) -> None:
        for user in self.model.values():
            if session in user.sessions:
                user.sessions.remove(session)
                self.ends[session.id] = session.over(self.now)
                self.gone.append(session)

    def a_session(self, data: Any) -> tuple[UUID, ModelSession] | None:
        """Any session of anybody, ended or not, if there is one."""
        found = [(key, session) for key, user in self.model.items() for session in user.sessions]
        found += [(key, session) for key in self.model for session in self.gone[-3:]]
        return data.draw(st.sampled_from(found)) if found else None

    @precondition(lambda self: self.model)
    @rule(data=st.data(), after_s=st.integers(0, 12))
    def use(self, data: Any, after_s: int) -> None:
        """Some sessions are used: those that have ended or expired stay so, whatever was asked."""
        self.now += timedelta(seconds=after_s)
        everything = [s for user in self.model.values() for s in user.sessions] + self.gone
        asked = data.draw(st.lists(st.sampled_from(everything), max_size=6)) if everything else []
        command = RenewSessions(
            event_id=new_event_id(), token_digests=tuple(session.digest for session in asked)
        )
        count = len(self.events)
        assert self.run_command(command) == "0"
        renewed = set()
        for session in asked:
            if session.due(self.now) and session not in self.gone and not session.over(self.now):
                renewed.add(session.digest)
        for session in asked:
            if session.digest in renewed:
                session.used = self.now
                session.days.add(self.now.date())
        new = self.events[count:]
        assert [type(event) for event in new] == [SessionsRenewed] * bool(renewed)
        for event in new:
            assert isinstance(event, SessionsRenewed)
            assert sorted(event.token_digests) == sorted(renewed)

    @precondition(lambda self: any(s.token for u in self.model.values() for s in u.sessions))
    @rule()
    def a_night_passes(self) -> None:
        self.now += timedelta(hours=13)

    @precondition(lambda self: self.model)
    @rule(
        data=st.data(),
        roles=st.sets(st.sampled_from(["admin", "auditor"])),
        lifetime_s=st.sampled_from([10, 100_000, 200_000]),
    )
    def create_token(self, data: Any, roles: set[str], lifetime_s: int) -> None:
        subject_id, user = self.user(data)
        by = data.draw(st.sampled_from([None, *user.sessions]))
        event = TokenCreated(
            event_id=new_event_id(),
            occurred_at=self.now,
            subject_id=subject_id,
            session_id=new_random_id(),
            token_digest=new_random_id().bytes * 2,
            expires_at=self.now + timedelta(seconds=lifetime_s),
            roles=tuple(sorted(roles)),
        )
        answer = self.run_command(
            CreateToken(event=event, by=by.id if by else new_random_id(), max_tokens=MAX_TOKENS)
        )
        if by is None or user.disabled or by.over(self.now):
            assert answer == "not_authenticated"
        elif by.token:
            assert answer == "token_not_allowed"
        elif not roles <= user.roles:
            assert answer == "forbidden"
        elif sum(s.token and not s.over(self.now) for s in user.sessions) >= MAX_TOKENS:
            assert answer == "too_many_tokens"
        else:
            assert answer == "0"
            user.sessions.append(ModelSession(event, roles))

    @precondition(lambda self: self.model)
    @rule(data=st.data(), known=st.booleans())
    def end_one(self, data: Any, known: bool) -> None:
        subject_id, user = self.user(data)
        ids = [session.id for session in user.sessions] if known else []
        target = data.draw(st.sampled_from(ids)) if ids else new_random_id()
        command = EndSession(
            event_id=new_event_id(),
            at=self.now,
            subject_id=subject_id,
            session_id=target,
            reason="logout",
        )
        assert self.run_command(command) == str(len(ids) and 1)
        for session in [item for item in user.sessions if item.id == target]:
            self.end(session)
        assert self.run_command(command) == "0"  # ending what has ended is nothing

    @precondition(lambda self: self.model)
    @rule(data=st.data(), keeping=st.sampled_from(["none", "own", "other"]), tokens=st.booleans())
    def end_many(self, data: Any, keeping: str, tokens: bool) -> None:
        subject_id, user = self.user(data)
        actor_id, may = self.actor(data)
        keep = None
        if keeping == "own" and user.sessions:
            keep = user.sessions[-1].id
        elif keeping == "other":
            keep = new_random_id()
        command = EndSessions(
            event_id=new_event_id(),
            at=self.now,
            subject_id=subject_id,
            reason="revoked",
            keep=keep,
            tokens=tokens,
            actor_id=actor_id,
            sealed=b"personal",
        )
        answer = self.run_command(command)
        if keeping == "other" or not may:
            assert answer == "not_authenticated"
            return
        ended = self.events[len(self.events) - int(answer) :]
        asked = [e for e in ended if isinstance(e, SessionEnded) and e.reason == "revoked"]
        assert [e.sealed for e in asked] == [b"personal", *[None] * (len(asked) - 1)][: len(asked)]
        assert all(event.sealed is None for event in ended if event not in asked)
        ending = [s for s in user.sessions if s.id != keep and (tokens or not s.token)]
        assert answer == str(len(ending))
        for session in ending:
            self.end(session)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def expire(self, data: Any) -> None:
        subject_id, user = self.user(data)
        command = ExpireSessions(event_id=new_event_id(), subject_id=subject_id)
        count = len(self.events)
        answer = self.run_command(command)
        over = [(item, why) for item in user.sessions if (why := item.over(self.now))]
        assert answer == str(len(over))
        ends = {e.session_id: e for e in self.events[count:] if isinstance(e, SessionEnded)}
        for session, why in over:
            assert ends[session.id].reason == why
            assert ends[session.id].occurred_at <= self.now
            self.end(session)

    @precondition(lambda self: self.model)
    @rule(data=st.data(), behind=st.integers(0, 1), active=st.booleans())
    def change_password(self, data: Any, behind: int, active: bool) -> None:
        subject_id, user = self.user(data)
        active = active and bool(user.sessions)
        session = start(subject_id, at=self.now).event
        command = ChangeCredential(
            event=CredentialChanged(
                event_id=new_event_id(), occurred_at=self.now, subject_id=subject_id
            ),
            password_hash="new",
            credential_version=user.version - behind,
            session_id=user.sessions[0].id if active else new_random_id(),
            session=session,
        )
        answer = self.run_command(command)
        if not active:
            assert answer == "not_authenticated"
        elif behind or user.disabled:
            assert answer == "invalid_credentials"
        else:
            assert answer == str(len(user.sessions))
            user.version += 1
            self.end_all(user)
            user.sessions = [ModelSession(session, user.roles)]

    @precondition(lambda self: self.model)
    @rule(data=st.data(), disable=st.booleans(), guarded=st.booleans())
    def disable_or_enable(self, data: Any, disable: bool, guarded: bool) -> None:
        subject_id, user = self.user(data)
        actor_id, may = self.actor(data)
        cls = UserDisabled if disable else UserEnabled
        event = cls(
            event_id=new_event_id(),
            occurred_at=self.now,
            subject_id=subject_id,
            actor_id=actor_id,
        )
        answer = self.run_command(ChangeUser(event=event, keep_an_admin=guarded))
        if refusal := self.refusal(may, user, guarded and disable):
            assert answer == refusal
            return
        assert answer == str(len(user.sessions) if disable and not user.disabled else 0)
        if disable and not user.disabled:
            self.end_all(user)
        user.disabled = disable

    @precondition(lambda self: self.model)
    @rule(
        data=st.data(),
        role=st.sampled_from(["admin", "auditor"]),
        grant=st.booleans(),
        guarded=st.booleans(),
    )
    def change_role(self, data: Any, role: str, grant: bool, guarded: bool) -> None:
        subject_id, user = self.user(data)
        actor_id, may = self.actor(data)
        cls = RoleGranted if grant else RoleRevoked
        event = cls(
            event_id=new_event_id(),
            occurred_at=self.now,
            subject_id=subject_id,
            actor_id=actor_id,
            role=role,
        )
        changes = grant != (role in user.roles)
        ending = [s for s in user.sessions if not s.token or (not grant and role in s.roles)]
        answer = self.run_command(ChangeUser(event=event, keep_an_admin=guarded))
        if refusal := self.refusal(may, user, guarded and not grant and role == "admin"):
            assert answer == refusal
            return
        assert answer == str(len(ending) if changes else 0)
        if changes:
            for session in ending:
                self.end(session)
            user.roles ^= {role}

    def end_all(self, user: ModelUser) -> None:
        for session in list(user.sessions):
            self.end(session)

    def refusal(self, may: bool, user: ModelUser, admin_must_stay: bool) -> str | None:
        """How a change of a user is refused, if it is."""
        if not may:
            return "not_authenticated"
        if user.erased:
            return "not_found"
        return "last_admin" if admin_must_stay and self.is_last_admin(user) else None

    @precondition(lambda self: self.model)
    @rule(data=st.data(), guarded=st.booleans(), now_and_then=st.integers(0, 3))
    def erase(self, data: Any, guarded: bool, now_and_then: int) -> None:
        subject_id, user = self.user(data)
        actor_id, may = self.actor(data)
        if now_and_then:
            return
        event = UserErased(
            event_id=new_event_id(),
            occurred_at=self.now,
            subject_id=subject_id,
            actor_id=actor_id,
        )
        answer = self.run_command(EraseUser(event=event, keep_an_admin=guarded))
        if not may:
            assert answer == "not_authenticated"
        elif user.erased:
            assert answer == "0"
        elif guarded and self.is_last_admin(user):
            assert answer == "last_admin"
        else:
            assert answer == str(len(user.sessions))
            self.end_all(user)
            user.roles, user.erased = set(), True

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def read_about_others(self, data: Any) -> None:
        subject_id, user = self.user(data)
        event = AuditRead(
            event_id=new_event_id(), occurred_at=self.now, subject_id=subject_id, what="log"
        )
        answer = self.run_command(RecordRead(event=event))
        may = user.roles & {"admin", "auditor"} and not user.disabled and not user.erased
        assert answer == ("0" if may else "not_authenticated")
        assert (self.events[-1:] == [event]) == bool(may)

    @rule()
    def change_unknown_user(self) -> None:
        event = UserDisabled(
            event_id=new_event_id(), occurred_at=self.now, subject_id=new_random_id()
        )
        assert self.run_command(ChangeUser(event=event)) == "not_found"

    @invariant()
    def same_sessions(self) -> None:
        for subject_id, user in self.model.items():
            found = {s.session_id: s for s in self.world.of(Sessions).of(subject_id)}
            assert list(found) == [session.id for session in user.sessions]
            for session in user.sessions:
                over = found[session.id].expires_at <= self.now
                assert over == (session.over(self.now) is not None)
                assert found[session.id].last_seen_at == session.used

    @invariant()
    def the_log_tells_the_same(self) -> None:
        folded = World()
        for event in self.events:
            folded.apply(event)
        assert list(folded.of(Users)) == list(self.world.of(Users))
        for subject_id in self.model:
            assert folded.of(Sessions).of(subject_id) == self.world.of(Sessions).of(subject_id)

    @invariant()
    def what_was_over_by_time_has_ended_of_that(self) -> None:
        for event in self.events[self.looked_at :]:
            if isinstance(event, SessionEnded):
                timeout = event.reason in {"idle_timeout", "absolute_timeout"}
                assert timeout == (self.ends[event.session_id] is not None)
                assert not timeout or (event.reason == self.ends[event.session_id])
        self.looked_at = len(self.events)

    @invariant()
    def no_event_id_twice(self) -> None:
        ids = [event.event_id for event in self.events]
        assert len(ids) == len(set(ids))


TestSessions = SessionsModel.TestCase
TestSessions.settings = settings(
    max_examples=150,
    stateful_step_count=40,
    suppress_health_check=[HealthCheck.too_slow],
)
