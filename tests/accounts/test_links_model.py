"""Links against an obvious model, driven by random commands: which one works, and for whom.

The model keeps a plain list of what was made, and says in one line when a link works.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Literal
from uuid import UUID

import pytest
from gatelog.accounts.rules.administration import ChangeUser, EraseUser
from gatelog.accounts.rules.events import (
    CredentialChanged,
    LinkMade,
    LinkUsed,
    MailAddressVerified,
    UserDisabled,
    UserEnabled,
)
from gatelog.accounts.rules.links import LIFETIMES_S, link_digest
from gatelog.accounts.rules.recovery import MakeLink, SetPassword, VerifyAddress
from gatelog.accounts.rules.users import Users
from gatelog.clock import new_event_id
from gatelog.errors import GatelogError, LinkUnusable, NotFound
from gatelog.log.rules.kinds import Command, Decision, World
from gatelog.privacy.rules import UserErased
from gatelog.sessions.rules.state import Sessions
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from tests.builders import NOON, registration, start

Purpose = Literal["reset", "invitation", "address"]
PEOPLE = st.integers(0, 1)
PURPOSES = st.sampled_from(["reset", "invitation", "address"])


class MadeLink:
    """What the model knows of a link."""

    def __init__(self, person: int, purpose: Purpose, ends_s: int) -> None:
        self.person, self.purpose, self.ends_s = person, purpose, ends_s
        self.over = False


class LinksModel(RuleBasedStateMachine):
    """Runs commands in the service's core and in the model."""

    @initialize()
    def begin(self) -> None:
        self.now_s = 0
        self.world = World(now=NOON)
        self.ids: list[UUID] = []
        self.links: list[MadeLink] = []
        self.gone = [False, False]
        self.disabled = [False, False]
        for login in ("ada", "bob"):
            command = registration(login)
            self.world.take(command.decide(self.world))
            self.ids.append(command.event.subject_id)

    def run(self, command: Command) -> Decision | GatelogError:
        try:
            decision = command.decide(self.world)
        except GatelogError as error:
            return error
        self.world.take(decision)
        return decision

    def about(self, person: int) -> dict[str, object]:
        return {
            "event_id": new_event_id(),
            "occurred_at": self.world.now,
            "subject_id": self.ids[person],
        }

    def over(self, person: int) -> None:
        for link in self.links:
            link.over = link.over or link.person == person

    @rule(seconds=st.sampled_from([1, 899, 900, 90_000, 700_000]))
    def time_passes(self, seconds: int) -> None:
        self.now_s += seconds
        self.world.now = NOON + timedelta(seconds=self.now_s)

    @rule(person=PEOPLE)
    def log_in(self, person: int) -> None:
        user = self.world.of(Users).find(self.ids[person])
        assert user is not None
        self.run(start(self.ids[person], credential_version=user.credential_version))

    @rule(person=PEOPLE, purpose=PURPOSES)
    def make(self, person: int, purpose: Purpose) -> None:
        event = LinkMade(**self.about(person), what=purpose)  # type: ignore[arg-type]
        digest, sealed = (
            link_digest(str(len(self.links))),
            b"sealed" if purpose != "reset" else None,
        )
        outcome = self.run(MakeLink(event=event, digest=digest, sealed=sealed))
        if self.gone[person]:
            assert isinstance(outcome, NotFound)
            self.links.append(MadeLink(person, purpose, 0))
            return
        assert isinstance(outcome, Decision)
        self.links.append(MadeLink(person, purpose, self.now_s + LIFETIMES_S[purpose]))

    @rule(data=st.data(), person=PEOPLE, verifies=st.booleans())
    def use(self, data: st.DataObject, person: int, *, verifies: bool) -> None:
        number = data.draw(st.integers(0, len(self.links)))  # one more than there are
        digest = link_digest(str(number))
        command: Command
        if verifies:
            made = MailAddressVerified(**self.about(person))  # type: ignore[arg-type]
            command = VerifyAddress(event=made, digest=digest)
        else:
            used = LinkUsed(**self.about(person), what="reset")  # type: ignore[arg-type]
            command = SetPassword(event=used, digest=digest, password_hash="hash")
        outcome = self.run(command)
        link = self.links[number] if number < len(self.links) else None
        if not (
            link is not None
            and not link.over
            and self.now_s < link.ends_s
            and link.person == person
            and (link.purpose == "address") == verifies
            and not self.gone[person]
            and not self.disabled[person]
        ):
            assert isinstance(outcome, LinkUnusable) and str(outcome) == LinkUnusable.title
            return
        assert isinstance(outcome, Decision)
        link.over = True
        if not verifies:
            self.over(person)
            assert any(isinstance(event, CredentialChanged) for event in outcome.events)
            assert list(self.world.of(Sessions).of(self.ids[person])) == []

    @rule(person=PEOPLE, which=st.sampled_from([UserDisabled, UserEnabled]))
    def disable_or_enable(self, person: int, which: type[UserDisabled] | type[UserEnabled]) -> None:
        self.run(ChangeUser(event=which(**self.about(person))))  # type: ignore[arg-type]
        if not self.gone[person]:
            self.disabled[person] = which is UserDisabled

    @rule(person=PEOPLE, really=st.integers(0, 9))
    def erase(self, person: int, really: int) -> None:
        if really == 0:
            self.run(EraseUser(event=UserErased(**self.about(person))))  # type: ignore[arg-type]
            self.gone[person] = True
            self.over(person)


LinksModel.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestLinks = pytest.mark.timeout(300)(LinksModel.TestCase)
