"""Challenges: what somebody must answer who has no session yet, or who enrols a factor.

Between password and factor there is no session. There is a random text, good for one right answer
(RFC 9470 calls the need for one step-up; the text is ours). Rules:

- The database has its SHA-256. It says who has to answer, for what, by when, and in which version
  of their credentials: a changed password or factor makes it void.
- One right answer uses it up, and so do ``MOST_WRONG`` wrong ones. Both are decided under the lock
  of the log's head: of two who give it at once, on whatever hosts, one is refused.
- A user has ``MOST_OF_A_USER`` at a time; a new one displaces the one that is over first.
- What enrols a factor is answered in the session that has asked for it.
- For a login by passkey alone everybody may ask, so nothing is kept until one is answered: it is
  signed (``accounts.service.passkeys``), and noted when it is ``answered``.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

import msgspec

from gatelog.errors import ChallengeOver
from gatelog.log.rules.events import Event
from gatelog.log.rules.kinds import Beside, Need, State, Trace, World
from gatelog.privacy.rules import UserErased

LIFETIME_S = 300
MOST_OF_A_USER = 5
MOST_WRONG = 5

# ``login``: after the password; ``passkey_login``: in its place; the others enrol such a factor.
Purpose = Literal["login", "passkey_login", "totp", "passkey"]


class Challenge(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody has to answer. ``answered``: somebody has, and it is only kept for that."""

    digest: bytes
    subject_id: UUID
    purpose: Purpose
    credential_version: int
    expires_at: datetime
    session_id: UUID | None = None
    wrong: int = 0
    answered: bool = False


def new_challenge(
    digest: bytes,
    subject_id: UUID,
    purpose: Purpose,
    *,
    credential_version: int,
    now: datetime,
    session_id: UUID | None = None,
) -> Challenge:
    """One that begins now."""
    return Challenge(
        digest=digest,
        subject_id=subject_id,
        purpose=purpose,
        credential_version=credential_version,
        expires_at=now + timedelta(seconds=LIFETIME_S),
        session_id=session_id,
    )


class ChallengeOf(Need, frozen=True):
    """The challenge with this digest."""

    digest: bytes


class Challenges(State):
    """Some challenges, and what a batch changes of them."""

    concerns = (UserErased,)

    def __init__(self) -> None:
        self.new: dict[bytes, Challenge] = {}
        self.wrong: dict[bytes, int] = {}
        self.used: list[bytes] = []
        self._known: dict[bytes, Challenge] = {}

    def add(self, challenge: Challenge) -> None:
        """Take in a challenge as it is."""
        self._known[challenge.digest] = challenge

    def find(self, digest: bytes) -> Challenge | None:
        return self._known.get(digest)

    def open(self, challenge: Challenge) -> None:
        """Ask it, from now on."""
        self.new[challenge.digest] = challenge
        self.add(challenge)

    def use_up(self, digest: bytes) -> None:
        """It is answered, and gone."""
        self.used.append(digest)
        self._forget(digest)

    def answer_wrongly(self, digest: bytes) -> None:
        """One more wrong answer, of which the last one uses it up."""
        known = self._known.get(digest)
        if known is None:
            return
        if known.wrong + 1 >= MOST_WRONG:
            self.use_up(digest)
            return
        self.add(msgspec.structs.replace(known, wrong=known.wrong + 1))
        if digest in self.new:
            self.new[digest] = self._known[digest]
        else:
            self.wrong[digest] = known.wrong + 1

    def _forget(self, digest: bytes) -> None:
        for place in (self._known, self.new, self.wrong):
            place.pop(digest, None)

    def apply(self, event: Event, position: int, trace: Trace | None) -> None:
        for digest, known in list(self._known.items()):
            if known.subject_id == event.subject_id:
                self._forget(digest)


def refuse_unless_open(
    world: World,
    digest: bytes,
    *,
    subject_id: UUID,
    purpose: Purpose,
    credential_version: int,
    session_id: UUID | None = None,
) -> None:
    """Raises ChallengeOver unless this challenge waits for an answer: of that user, for that, in
    that session, with credentials of that version."""
    found = world.of(Challenges).find(digest)
    if (
        found is None
        or found.answered
        or found.expires_at <= world.now
        or found.subject_id != subject_id
        or found.purpose != purpose
        or found.session_id != session_id
        or found.credential_version != credential_version
    ):
        raise ChallengeOver()


class NewChallenge(Beside, frozen=True):
    """Somebody is asked; or, where it is ``answered``, has been."""

    challenge: Challenge

    def enter(self, world: World) -> None:
        world.of(Challenges).open(self.challenge)


class ChallengeUsed(Beside, frozen=True):
    """The right answer has come."""

    digest: bytes

    def enter(self, world: World) -> None:
        world.of(Challenges).use_up(self.digest)


class WrongAnswer(Beside, frozen=True):
    """A wrong answer has come."""

    digest: bytes

    def enter(self, world: World) -> None:
        world.of(Challenges).answer_wrongly(self.digest)
