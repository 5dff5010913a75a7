"""To create a token for a machine.

Rules:

- Who creates one is logged in, by a session that is no token itself. A token has roles of that
  session and no others, and is as well authenticated as it: ``authenticated_at`` and ``amr`` are
  its.
- A token need not be used. It ends as a session does, and at a moment that was said before.
- A user has so many at most; beyond them none is created, and none ends for it.
- What ends them: a new password, the loss of a role that it has, disabling and erasing, whoever
  ends it, and time. A role that is granted ends none: it has those that it was made with.
"""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

import msgspec

from gatelog.accounts.rules.acting import UserCommand
from gatelog.accounts.rules.users import Users
from gatelog.errors import Forbidden, NotAuthenticated, TokenNotAllowed, TooManyTokens
from gatelog.log.rules.kinds import Decision, Need, World
from gatelog.sessions.rules.events import TokenCreated
from gatelog.sessions.rules.state import Sessions, SessionsOf

MAX_LIFETIME_S = 366 * 86_400


class CreateToken(UserCommand, frozen=True, kw_only=True):
    """Create a token, as the session ``by`` asks; the user has ``max_tokens`` at most."""

    event: TokenCreated
    by: UUID
    max_tokens: int

    @property
    def prepared(self) -> TokenCreated:
        return self.event

    def needs(self) -> Iterator[Need]:
        yield from super().needs()
        yield SessionsOf(self.event.subject_id)

    def decide_permitted(self, world: World) -> Decision:
        event, subject_id = self.event, self.event.subject_id
        user, sessions = world.of(Users).there(subject_id), world.of(Sessions)
        creator = sessions.find(subject_id, self.by)
        if user is None or user.disabled or creator is None or creator.expires_at <= world.now:
            raise NotAuthenticated()
        if creator.is_token:
            raise TokenNotAllowed()
        if not {*event.roles} <= {*user.roles} & {*creator.roles}:
            raise Forbidden("A token has no role that you do not have.")
        others = [s for s in sessions.of(subject_id) if s.is_token and s.expires_at > world.now]
        if len(others) >= self.max_tokens:
            raise TooManyTokens(f"You have {len(others)} tokens; end one of them first.")
        event = msgspec.structs.replace(
            event, authenticated_at=creator.authenticated_at, amr=creator.amr
        )
        return Decision((event,))
