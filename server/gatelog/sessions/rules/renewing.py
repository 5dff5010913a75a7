"""To record that sessions are used, for as many as are due.

Rules:

- It is decided under the lock of the log, by its clock and on the sessions as they are then: many
  processes may ask for the same session, and it is renewed once in a quarter of its idle time,
  a token once a day.
- What has ended or expired by then stays so, however long ago it was used.
"""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

from gatelog.log.rules.kinds import Command, Decision, Need, World
from gatelog.sessions.rules.events import SessionsRenewed
from gatelog.sessions.rules.state import Sessions, SessionsBehind


class RenewSessions(Command, frozen=True, kw_only=True):
    """The sessions behind these tokens are used; at most ``MOST_RENEWED`` of them."""

    event_id: UUID
    token_digests: tuple[bytes, ...]

    @property
    def first_event_id(self) -> UUID:
        return self.event_id

    def needs(self) -> Iterator[Need]:
        yield SessionsBehind(self.token_digests)

    def decide(self, world: World) -> Decision:
        sessions, now = world.of(Sessions), world.now
        renewed = []
        for digest in dict.fromkeys(self.token_digests):
            session = sessions.behind(digest)
            if session is not None and session.renews(now):
                renewed.append(digest)
        if not renewed:
            return Decision()
        event = SessionsRenewed(
            event_id=self.event_id, occurred_at=now, token_digests=tuple(renewed)
        )
        return Decision((event,))
