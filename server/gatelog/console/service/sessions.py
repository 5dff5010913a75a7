"""Who is in now: everybody's sessions, by user, device and address.

Rules:

- Every way of asking goes along a key: of all sessions, of a user's, of what an address has done.
- What device a session has is sealed in the event that started it, so it is looked at where a
  session has been found. Of a page some ``SCANNED_AT_ONCE`` are looked at: so it may be short, or
  empty, and still have a next one, which goes on where the search stopped.
- What is personal is opened for auditors and administrators, as the audit log does it. What people
  call their sessions is theirs, and not shown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import msgspec

from gatelog.accounts.service.devices import devices_of
from gatelog.accounts.store.names import SessionNames
from gatelog.accounts.store.users import Users
from gatelog.audit.rules.shown import MAX_POSITION
from gatelog.clock import utc_now
from gatelog.console.rules.paging import FIRST, Key, parse_key, parse_position
from gatelog.console.store.sessions import SessionsNow
from gatelog.privacy.rules import Personal
from gatelog.privacy.service.personal import PersonalData
from gatelog.sessions.rules.state import ActiveSession

SCANNED_AT_ONCE: Final = 500
# A session starts by the clock of a host and is recorded by that of the database.
CLOCKS_DIFFER: Final = timedelta(days=1)


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which sessions are asked for, and which page of them.

    ``device``: words that its name has; ``address``: in its normal spelling.
    """

    limit: int
    user: UUID | None = None
    device: str = ""
    address: str | None = None
    cursor: str | None = None


class SessionNow(msgspec.Struct, frozen=True):
    """A session, and whose it is. What is not known (any more) is None."""

    session: ActiveSession
    login: str | None
    device: str | None
    agent: str | None
    address: str | None


class SessionsPage(msgspec.Struct, frozen=True):
    """Some sessions; ``next``: the cursor of those after them, None at the end."""

    sessions: list[SessionNow]
    next: str | None


class _Candidates(msgspec.Struct, frozen=True):
    """Sessions along a key, each with the cursor behind it, and that behind all of them."""

    found: list[tuple[str, ActiveSession]]
    next: str | None


class WhoIsIn:
    """The use cases of who looks at everybody's sessions."""

    def __init__(
        self,
        *,
        sessions: SessionsNow,
        personal: PersonalData,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._sessions = sessions
        self._users = Users(sessions.database)
        self._names = SessionNames(sessions.database)
        self._personal = personal
        self._now = now

    async def page(self, wanted: Wanted) -> SessionsPage:
        """A page of the sessions that fit, those that started last first.

        Raises InvalidInput for a cursor that is none of ours, KeysUnavailable.
        """
        chooses = bool(wanted.device) or (wanted.user is not None and wanted.address is not None)
        count = SCANNED_AT_ONCE if chooses else wanted.limit
        if wanted.address is not None and wanted.user is None:
            candidates = await self._from_address(wanted.address, wanted.cursor, SCANNED_AT_ONCE)
        else:
            candidates = await self._newest(wanted.user, wanted.cursor, count)
        return await self._chosen(wanted, candidates)

    async def described(self, sessions: Sequence[ActiveSession]) -> list[SessionNow]:
        """These sessions, each with whose it is and how it started."""
        starts = await self._names.starts([session.session_id for session in sessions])
        opened = await self._personal.open_personal(list(starts.values()))
        personal = dict(zip(starts, opened, strict=True))
        devices = await devices_of(p.agent for p in opened if p is not None and p.agent)
        logins = await self._users.logins({session.subject_id for session in sessions})

        def described(session: ActiveSession) -> SessionNow:
            known = personal.get(session.session_id) or Personal()
            device = devices.get(known.agent) if known.agent else None
            login = logins.get(session.subject_id)
            return SessionNow(session, login, device, known.agent, known.address)

        return [described(session) for session in sessions]

    async def _newest(self, user: UUID | None, cursor: str | None, count: int) -> _Candidates:
        before = parse_key(cursor) if cursor is not None else FIRST
        now = self._now()
        if user is None:
            found = await self._sessions.newest(before, count + 1, now)
        else:
            found = await self._sessions.newest_of(user, before, count + 1, now)
        keyed = [(str(Key(each.started_at, each.session_id)), each) for each in found[:count]]
        return _Candidates(keyed, keyed[-1][0] if len(found) > count else None)

    async def _from_address(self, address: str, cursor: str | None, count: int) -> _Candidates:
        before = parse_position(cursor) if cursor is not None else MAX_POSITION
        index = await self._personal.address_index(address)
        oldest = await self._sessions.oldest_start()
        if oldest is None:
            return _Candidates([], None)
        since = oldest - CLOCKS_DIFFER
        found = await self._sessions.started_from(index, before, count + 1, self._now(), since)
        keyed = [(str(e.position), e.session) for e in found[:count] if e.session is not None]
        return _Candidates(keyed, str(found[count - 1].position) if len(found) > count else None)

    async def _chosen(self, wanted: Wanted, candidates: _Candidates) -> SessionsPage:
        """Of these candidates those that fit, as many as a page has."""
        described = await self.described([session for _, session in candidates.found])
        fitting = [
            (cursor, each)
            for (cursor, _), each in zip(candidates.found, described, strict=True)
            if _fits(wanted, each)
        ]
        shown = [each for _, each in fitting[: wanted.limit]]
        if len(fitting) > wanted.limit:
            return SessionsPage(shown, fitting[wanted.limit - 1][0])
        return SessionsPage(shown, candidates.next)


def _fits(wanted: Wanted, found: SessionNow) -> bool:
    device = (found.device or found.agent or "").casefold()
    return (wanted.address is None or found.address == wanted.address) and all(
        word in device for word in wanted.device.casefold().split()
    )
