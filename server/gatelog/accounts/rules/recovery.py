"""Ways back in: to ask for a link, to make one, and to use it.

Rules:

- Who asks by a login is told the same whether there is such a user, and nothing is looked up while
  they wait: an event and a request are recorded, and answered later by who sends mails.
- A link that was used sets a password, ends all sessions, forgives failed logins and ends all other
  links. It starts no session: whoever has a second factor still needs it.
- Each of these is an event, with what it writes beside it in the same transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from uuid import UUID

import msgspec

from gatelog.accounts.rules.acting import UserCommand, ended_by
from gatelog.accounts.rules.administration import NO_SUCH_USER
from gatelog.accounts.rules.events import (
    CredentialChanged,
    LinkMade,
    LinkUsed,
    MailAddressRemoved,
    MailAddressVerified,
    RecoveryAsked,
)
from gatelog.accounts.rules.links import (
    SETTING_A_PASSWORD,
    VERIFYING,
    Answered,
    LinkOf,
    NewLink,
    NewRequest,
    NoAddress,
    UsedLink,
    Verified,
    usable,
)
from gatelog.accounts.rules.login import RegisterUser
from gatelog.accounts.rules.logins import NewPassword
from gatelog.accounts.rules.throttling import AdmitTry
from gatelog.accounts.rules.users import Users
from gatelog.errors import NotFound
from gatelog.ids import derived_event_id
from gatelog.log.rules.events import UserEvent
from gatelog.log.rules.kinds import Beside, Command, Decision, Need, World
from gatelog.mail.rules.outbox import Mail, mailed
from gatelog.sessions.rules.state import Sessions, SessionsOf


class AskRecovery(Command, frozen=True, kw_only=True):
    """Record that somebody wants a link for a login, if they may ask now."""

    event: RecoveryAsked
    admission: AdmitTry

    @property
    def prepared(self) -> RecoveryAsked:
        return self.event

    def needs(self) -> Iterable[Need]:
        return self.admission.needs()

    def decide(self, world: World) -> Decision:
        admitted = self.admission.decide(world)
        request = NewRequest(self.event.event_id, self.event.occurred_at)
        return Decision((self.event,), (*admitted.beside, request))


class MakeLink(UserCommand, frozen=True, kw_only=True):
    """Make a link for a user, and the mail that it goes out with, if it does.

    ``answers``: the request that it answers.
    """

    event: LinkMade
    digest: bytes
    sealed: bytes | None = None
    mail: Mail | None = None
    answers: UUID | None = None

    @property
    def prepared(self) -> LinkMade:
        return self.event

    def decide_permitted(self, world: World) -> Decision:
        event = self.event
        user = world.of(Users).there(event.subject_id)
        if user is None:
            raise NotFound(NO_SUCH_USER)
        link = NewLink(
            digest=self.digest,
            subject_id=event.subject_id,
            purpose=event.what,
            credential_version=user.credential_version,
            sealed=self.sealed,
        )
        beside: list[Beside] = [link, *mailed(self.mail)]
        if self.answers is not None:
            beside.append(Answered(self.answers))
        return Decision((event,), tuple(beside))


class InviteUser(RegisterUser, frozen=True, kw_only=True):
    """Create a user whose password fits nothing, and the link by which they choose one."""

    digest: bytes
    sealed: bytes | None = None
    mail: Mail | None = None

    def decide_permitted(self, world: World) -> Decision:
        event = self.event
        decision = super().decide_permitted(world)
        made = LinkMade(
            event_id=derived_event_id(event.event_id, len(decision.events)),
            occurred_at=event.occurred_at,
            subject_id=event.subject_id,
            actor_id=event.actor_id,
            what="invitation",
        )
        link = NewLink(
            digest=self.digest,
            subject_id=event.subject_id,
            purpose="invitation",
            sealed=self.sealed,
        )
        return Decision((*decision.events, made), (*decision.beside, link, *mailed(self.mail)))


class SetPassword(UserCommand, frozen=True, kw_only=True):
    """Use a link: it sets the password, ends all sessions, and proves the address it was sent to.

    ``mail`` says so. Raises LinkUnusable.
    """

    event: LinkUsed
    digest: bytes
    password_hash: str
    mail: Mail | None = None

    @property
    def prepared(self) -> LinkUsed:
        return self.event

    def needs(self) -> Iterator[Need]:
        yield from super().needs()
        yield SessionsOf(self.event.subject_id)
        yield LinkOf(self.digest)

    def decide_permitted(self, world: World) -> Decision:
        event, subject_id = self.event, self.event.subject_id
        link, _ = usable(world, self.digest, subject_id, SETTING_A_PASSWORD)
        if link.purpose != event.what:
            event = msgspec.structs.replace(event, what=link.purpose)
        changed = CredentialChanged(
            event_id=derived_event_id(event.event_id, 1),
            occurred_at=event.occurred_at,
            subject_id=subject_id,
        )
        events: list[UserEvent] = [event, changed]
        beside: list[Beside] = [UsedLink(self.digest), NewPassword(subject_id, self.password_hash)]
        if link.sealed is not None:
            events.append(
                MailAddressVerified(
                    event_id=derived_event_id(event.event_id, 2),
                    occurred_at=event.occurred_at,
                    subject_id=subject_id,
                )
            )
            beside.append(Verified(subject_id, link.sealed))
        sessions = world.of(Sessions).of(subject_id)
        events += ended_by(event, sessions, "credential_changed", len(events), world.now)
        return Decision(tuple(events), (*beside, *mailed(self.mail)))


class VerifyAddress(UserCommand, frozen=True, kw_only=True):
    """Use a link that was sent to an address: it is the user's from here on.

    ``mail`` goes to the address that was before. Raises LinkUnusable.
    """

    event: MailAddressVerified
    digest: bytes
    mail: Mail | None = None

    @property
    def prepared(self) -> MailAddressVerified:
        return self.event

    def needs(self) -> Iterator[Need]:
        yield from super().needs()
        yield LinkOf(self.digest)

    def decide_permitted(self, world: World) -> Decision:
        subject_id = self.event.subject_id
        link, _ = usable(world, self.digest, subject_id, VERIFYING)
        beside = (UsedLink(self.digest), Verified(subject_id, link.sealed or b""))
        return Decision((self.event,), (*beside, *mailed(self.mail)))


class RemoveAddress(UserCommand, frozen=True, kw_only=True):
    """The user has no address of mail any more; ``mail`` tells the address that was."""

    event: MailAddressRemoved
    mail: Mail | None = None

    @property
    def prepared(self) -> MailAddressRemoved:
        return self.event

    def decide_permitted(self, world: World) -> Decision:
        subject_id = self.event.subject_id
        if world.of(Users).there(subject_id) is None:
            raise NotFound(NO_SUCH_USER)
        return Decision((self.event,), (NoAddress(subject_id), *mailed(self.mail)))
