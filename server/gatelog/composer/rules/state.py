"""The draft and the build that is live, as kinds of state, and what changes them.

Rules:

- Who replaces the draft says which one they have seen; so does who builds it. What came between is
  not overwritten, and nobody makes live what they have not looked at.
- Compositions stand beside the log, by their SHA-256, which the log has. Nothing is built whose
  content is another.
- Changes have a limit a day, and what an endpoint records of a user has one an hour: the log does
  not grow faster, whoever asks for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from hashlib import sha256
from uuid import UUID

import msgspec

from gatelog.accounts.rules.users import TheUser, Users, is_admin
from gatelog.composer.rules.events import AppRecorded, CompositionBuilt, DraftChanged
from gatelog.errors import (
    DraftOutdated,
    NotAuthenticated,
    NothingToBuild,
    TooManyChanges,
    TooManyRecords,
)
from gatelog.log.rules.events import Event
from gatelog.log.rules.kinds import Beside, Command, Decision, Need, State, Trace, World
from gatelog.privacy.rules import UserErased
from gatelog.sessions.rules.state import Sessions, SessionsBehind

MAX_CHANGES_A_DAY = 5_000
HOUR_S = 3_600


class ComposerNow(Need, frozen=True):
    """Which draft there is, and which build is live."""


class Standing(msgspec.Struct, frozen=True):
    """Which draft and build there are, by their SHA-256; ``changes``: on this ``day``."""

    draft: bytes = b""
    build: int = 0
    live: bytes = b""
    day: str = ""
    changes: int = 0


class NewDraft(msgspec.Struct, frozen=True):
    """A draft, with its content, as it is stored."""

    digest: bytes
    content: bytes
    changed_at: datetime
    changed_by: UUID | None


class NewBuild(msgspec.Struct, frozen=True):
    """A build, with its content, as it is stored."""

    build: int
    digest: bytes
    content: bytes
    position: int
    built_at: datetime
    built_by: UUID | None
    restored: int | None


class Composing(State):
    """What there is of drafts and builds, and what a batch makes of it."""

    concerns = (DraftChanged, CompositionBuilt)

    def __init__(self) -> None:
        self.standing = Standing()
        self.drafts: list[NewDraft] = []
        self.builds: list[NewBuild] = []
        self.changed = False
        self._undecided: list[tuple[Event, int]] = []

    def enter(self, standing: Standing) -> None:
        """Take in how it stands."""
        self.standing = standing

    def apply(self, event: Event, position: int, trace: Trace | None) -> None:
        """Content comes after its event; the two are put together there (``put``)."""
        self._undecided.append((event, position))

    def put(self, digest: bytes, content: bytes, day: str) -> None:
        """Take in the content of what has just been decided."""
        for event, position in self._undecided:
            if isinstance(event, DraftChanged):
                self.drafts.append(NewDraft(digest, content, event.occurred_at, event.subject_id))
                self.standing = msgspec.structs.replace(self.standing, draft=digest)
            elif isinstance(event, CompositionBuilt):
                self.builds.append(
                    NewBuild(
                        event.build,
                        digest,
                        content,
                        position,
                        event.occurred_at,
                        event.subject_id,
                        event.restored,
                    )
                )
                build = event.build
                self.standing = msgspec.structs.replace(self.standing, build=build, live=digest)
        changes = self.changes_on(day) + len(self._undecided)
        self.standing = msgspec.structs.replace(self.standing, day=day, changes=changes)
        self.changed = True
        self._undecided.clear()

    def changes_on(self, day: str) -> int:
        """How many changes there were on this day."""
        return self.standing.changes if self.standing.day == day else 0


class Content(Beside, frozen=True):
    """The composition that a decision is about, and on which day."""

    digest: bytes
    content: bytes
    day: str

    def enter(self, world: World) -> None:
        world.of(Composing).put(self.digest, self.content, self.day)


class _Change(Command, frozen=True, kw_only=True):
    """A change by somebody (None: an operator) at a moment, told in ``data``.

    ``seen``: the SHA-256 of the draft that they have seen; ``sealed``: from where they do it.
    """

    event_id: UUID
    at: datetime
    by: UUID | None
    sealed: bytes | None = None
    content: bytes
    seen: bytes
    data: str = "[]"

    @property
    def first_event_id(self) -> UUID:
        return self.event_id

    def needs(self) -> Iterable[Need]:
        return (ComposerNow(),) if self.by is None else (ComposerNow(), TheUser(self.by))

    def _standing(self, world: World) -> Standing:
        """How it stands. Raises NotAuthenticated, DraftOutdated, TooManyChanges."""
        state = world.of(Composing)
        actor = world.of(Users).find(self.by) if self.by is not None else None
        if self.by is not None and (actor is None or not is_admin(actor)):
            raise NotAuthenticated()
        if state.standing.draft != self.seen:
            raise DraftOutdated("Somebody has changed the draft meanwhile: look at it again.")
        if state.changes_on(_day(world)) >= MAX_CHANGES_A_DAY:
            raise TooManyChanges("There were too many changes today.", retry_after_s=HOUR_S)
        return state.standing

    def _content(self, world: World, digest: bytes) -> tuple[Content]:
        return (Content(digest, self.content, _day(world)),)


class ChangeDraft(_Change, frozen=True, kw_only=True):
    """Make this content the draft; that of the draft itself changes nothing."""

    def decide(self, world: World) -> Decision:
        standing, digest = self._standing(world), sha256(self.content).digest()
        if digest == standing.draft:
            return Decision()
        event = DraftChanged(
            event_id=self.event_id,
            occurred_at=self.at,
            subject_id=self.by,
            sealed=self.sealed,
            digest=digest,
            data=self.data,
        )
        return Decision((event,), self._content(world, digest))


class Build(_Change, frozen=True, kw_only=True):
    """Make this content live. ``live``: the build that ``data`` compares it with.

    ``restored``: which earlier build it is from; without one it is the draft.
    """

    live: int
    restored: int | None = None

    def decide(self, world: World) -> Decision:
        standing, digest = self._standing(world), sha256(self.content).digest()
        if standing.build != self.live or (self.restored is None and digest != standing.draft):
            raise DraftOutdated("Somebody has built meanwhile: look at it again.")
        if digest == standing.live:
            raise NothingToBuild("This is live already.")
        event = CompositionBuilt(
            event_id=self.event_id,
            occurred_at=self.at,
            subject_id=self.by,
            sealed=self.sealed,
            build=standing.build + 1,
            digest=digest,
            restored=self.restored,
            data=self.data,
        )
        return Decision((event,), self._content(world, digest))


def _day(world: World) -> str:
    return world.now.date().isoformat()


# --- what composed endpoints record


class RecordsOf(Need, frozen=True):
    """How often a user has been recorded with this name, in its hour."""

    subject_id: UUID
    name: str


class Records(State):
    """How often users were recorded in the hour that began last, by user and name."""

    concerns = (AppRecorded, UserErased)

    def __init__(self) -> None:
        self.hours: dict[tuple[UUID, str], tuple[datetime, int]] = {}
        self.changed: dict[tuple[UUID, str], None] = {}
        self.erased: list[UUID] = []

    def enter(self, subject_id: UUID, name: str, since: datetime, count: int) -> None:
        """Take in what was counted."""
        self.hours[subject_id, name] = since, count

    def in_hour(self, subject_id: UUID, name: str, now: datetime) -> tuple[datetime, int]:
        """When the present hour of this user and name began, and how many there were in it."""
        since, count = self.hours.get((subject_id, name), (now, 0))
        return (since, count) if now - since < timedelta(seconds=HOUR_S) else (now, 0)

    def note(self, subject_id: UUID, name: str, now: datetime) -> None:
        """One more."""
        since, count = self.in_hour(subject_id, name, now)
        self.hours[subject_id, name] = since, count + 1
        self.changed[subject_id, name] = None

    def apply(self, event: Event, position: int, trace: Trace | None) -> None:
        if isinstance(event, UserErased):
            self.erased.append(event.subject_id)
            for key in [key for key in self.changed if key[0] == event.subject_id]:
                del self.changed[key]


class Counted(Beside, frozen=True):
    """That a user was recorded with this name, at this moment of the log."""

    subject_id: UUID
    name: str
    at: datetime

    def enter(self, world: World) -> None:
        world.of(Records).note(self.subject_id, self.name, self.at)


class RecordApp(Command, frozen=True, kw_only=True):
    """Append this event, if the session behind ``token_digest`` is active, and its user's own.

    Raises NotAuthenticated, and TooManyRecords for more than ``per_hour``.
    """

    event: AppRecorded
    token_digest: bytes
    per_hour: int

    @property
    def prepared(self) -> Event:
        return self.event

    def needs(self) -> Iterable[Need]:
        subject_id, name = self.event.subject_id, self.event.name
        session = SessionsBehind((self.token_digest,))
        return (TheUser(subject_id), session, RecordsOf(subject_id, name))

    def decide(self, world: World) -> Decision:
        event = self.event
        session = world.of(Sessions).behind(self.token_digest)
        if session is None or session.session_id != event.session_id:
            raise NotAuthenticated("The session has just ended.")
        since, count = world.of(Records).in_hour(event.subject_id, event.name, world.now)
        if count >= self.per_hour:
            left = timedelta(seconds=HOUR_S) - (world.now - since)
            raise TooManyRecords(retry_after_s=max(1, int(left.total_seconds()) + 1))
        return Decision((event,), (Counted(event.subject_id, event.name, world.now),))
