"""What a login gives: a session, and its token to whoever has logged in."""

from __future__ import annotations

import msgspec

from gatelog.log.store.batch import Recorded
from gatelog.sessions.rules.state import ActiveSession, PutSession, evolve


class Grant(msgspec.Struct, frozen=True):
    """A fresh session and its token, which exists nowhere else.

    ``position``: of the event that says so, of a changed password or of the session's start.
    ``device`` is the token by which the device is known from now on, if it keeps one.
    """

    token: str
    session: ActiveSession
    position: int
    device: str | None = None


def started_session(recorded: Recorded) -> ActiveSession:
    """The session that this has started."""
    for event in recorded.events:
        for change in evolve(event):
            if isinstance(change, PutSession):
                return change.session
    raise AssertionError("a login without a session")
