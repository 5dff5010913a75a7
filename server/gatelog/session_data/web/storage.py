"""``EventLogStorage``: the storage for aiohttp-session whose sessions are those of the log.

An application that uses ``get_session`` and the rest keeps doing so. Rules:

- Who is logged in has their data in the database; a cookie beside the token says which revision of
  it they have seen, and that is all. It is no secret, and helps nobody but its owner.
- Who is not, a visitor, has it in a sealed cookie: strangers fill nothing here. It is moved into
  the session at the first request after the login, if nothing is in that session yet: a cookie
  that somebody plants later changes nothing.
- ``invalidate()`` logs out: the response is sent when no replica accepts the token any more. What
  the handler puts in afterwards ("you are logged out") is a visitor's again.
- ``new_session`` gives who is logged in a new token, and the old one ends; the login stays the one
  it was: no longer lifetime, no fresher login. A bearer, who could not be told, keeps the token.
- The length of a session is the log's: ``max_age`` can only forget the data earlier.
"""

from __future__ import annotations

import json
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as NotBase64
from collections.abc import Callable
from typing import Any, cast

import aiohttp_session
from aiohttp import hdrs, web

from gatelog.accounts.web import ACCOUNTS
from gatelog.http.answers import forget_session_cookie, set_session_cookie
from gatelog.http.caller import Caller, caller_of
from gatelog.http.credentials import is_local
from gatelog.session_data.rules.data import Content, change_between
from gatelog.session_data.service.data import Held
from gatelog.session_data.web import SESSION_DATA
from gatelog.session_data.web.active import active_session
from gatelog.sessions.rules.record import Session, from_us, packed

COOKIE_NAME = "gatelog-data"
VISITOR_MAX_AGE_S = 30 * 86_400
_REVISION, _VISITOR = "r.", "v."


class _Kept(aiohttp_session.Session):
    """A session that knows what it held when it was read, and whether it was invalidated."""

    ended = False
    before: Held | None = None

    def invalidate(self) -> None:
        super().invalidate()
        self.ended = True


class EventLogStorage(aiohttp_session.AbstractStorage):
    """A storage for aiohttp-session on Gatelog's sessions: ``setup(app, EventLogStorage())``.

    The application is hosted by Gatelog or has it inside (``gatelog.setup``, which may be called
    before or after). Data is bounded to 4 KiB a session (2.8 KB for visitors, in their cookie):
    what is more is refused with SessionDataTooLarge (422). It is sealed under the user's key, and
    gone with the session. ``invalidate()`` logs out, everywhere; ``new_session`` gives a new token.
    An identity that is set is not used: only Gatelog makes tokens.

    ``max_age``: after how many seconds without a change the data is forgotten, as everywhere in
    aiohttp-session; a session's own end comes first. ``encoder``, ``decoder``: of each value.
    """

    def __init__(
        self,
        *,
        cookie_name: str = COOKIE_NAME,
        max_age: int | None = None,
        encoder: Callable[[object], str] = json.dumps,
        decoder: Callable[[str], Any] = json.loads,
    ) -> None:
        super().__init__(
            cookie_name=cookie_name,
            max_age=max_age,
            samesite="Lax",
            encoder=encoder,
            decoder=decoder,
        )

    # --- reading

    async def new_session(self) -> aiohttp_session.Session:
        """An empty session; saved for who is logged in, it comes with a new token."""
        return _Kept(None, data=None, new=True, max_age=self.max_age)

    async def load_session(self, request: web.Request) -> aiohttp_session.Session:
        """What is kept for whoever sent the request.

        Raises DatabaseUnavailable where that cannot be known, RuntimeError outside of Gatelog.
        """
        active = await active_session(request)
        cookie = request.cookies.get(self._name(is_local(request)), "")
        if active is None:
            visitor = await self._of_visitor(request, cookie)
            return self._session(None, Held(0, visitor) if visitor is not None else None)
        seen = _revision(cookie, active)
        held = await request.config_dict[SESSION_DATA].read(
            active.session_id, active.subject_id, seen
        )
        session = self._session(active, held)
        if held.revision == 0 and (moving := await self._of_visitor(request, cookie)) is not None:
            session.update(self._decoded(moving))
        if seen != held.revision and caller_of(request).by_cookie:
            session.changed()  # so that the cookie is sent; nothing is written for that
        return session

    def _session(self, active: Session | None, held: Held | None) -> _Kept:
        content = held.content if held is not None else Content()
        identity = active.session_text if active is not None else None
        new = not content.values and (held is None or held.revision == 0)
        data: aiohttp_session.SessionData | None = None
        if not new:
            data = {"created": content.created, "session": self._decoded(content)}
        session = _Kept(identity, data=data, new=new, max_age=self.max_age)
        session.before = held
        return session

    def _decoded(self, content: Content) -> dict[str, Any]:
        return {name: self._decoder(text) for name, text in content.values.items()}

    def _encoded(self, session: aiohttp_session.Session) -> dict[str, str]:
        return {name: self._encoder(value) for name, value in session.items()}

    async def _of_visitor(self, request: web.Request, cookie: str) -> Content | None:
        if not cookie.startswith(_VISITOR):
            return None
        try:
            sealed = urlsafe_b64decode(cookie.removeprefix(_VISITOR))
        except (NotBase64, ValueError):
            return None
        content = await request.config_dict[SESSION_DATA].open_for_visitor(sealed)
        longest = min(self.max_age or VISITOR_MAX_AGE_S, VISITOR_MAX_AGE_S)
        if content is None or time.time() - content.created > longest:
            return None
        return content

    # --- writing

    async def save_session(
        self,
        request: web.Request,
        response: web.StreamResponse,
        session: aiohttp_session.Session,
    ) -> None:
        """Write what the request changed, and tell the browser.

        Raises SessionDataTooLarge; NotAuthenticated when the session has ended meanwhile;
        Unavailable when it is not known to be written; RuntimeError outside of Gatelog.
        """
        kept, caller = cast(_Kept, session), caller_of(request)
        active = await active_session(request)
        if active is not None and getattr(kept, "ended", False):
            accounts = request.config_dict[ACCOUNTS]
            await accounts.sessions.log_out(caller.digest or b"", caller.client)
            forget_session_cookie(response, caller)
            active = None
        if active is None:
            await self._save_visitor(request, response, session)
        elif session.identity == active.session_text:
            await self._save_changes(request, response, kept, active)
        else:
            await self._save_new(request, response, session, active)

    async def _save_visitor(
        self, request: web.Request, response: web.StreamResponse, session: aiohttp_session.Session
    ) -> None:
        local = is_local(request)
        if session.empty:
            if self._name(local) in request.cookies:
                self._set_cookie(response, "", 0, local=local)
            return
        sealed = await request.config_dict[SESSION_DATA].seal_for_visitor(
            session.created, self._encoded(session)
        )
        value = _VISITOR + urlsafe_b64encode(sealed).decode()
        self._set_cookie(response, value, session.max_age, local=local)

    async def _save_changes(
        self, request: web.Request, response: web.StreamResponse, session: _Kept, active: Session
    ) -> None:
        before = session.before or Held(0, Content())
        change = change_between(before.content.values, self._encoded(session))
        held = before
        if change:
            held = await request.config_dict[SESSION_DATA].write(
                active.session_id, active.subject_id, change, session.created
            )
        self._tell_revision(response, caller_of(request), active, held)

    async def _save_new(
        self,
        request: web.Request,
        response: web.StreamResponse,
        session: aiohttp_session.Session,
        active: Session,
    ) -> None:
        """A new session in place of the one there is."""
        caller, data = caller_of(request), request.config_dict[SESSION_DATA]
        before = Held(0, Content())
        if caller.by_cookie and not active.is_token:
            accounts = request.config_dict[ACCOUNTS]
            grant = await accounts.logins.renew(active, caller.client)
            active = Session(packed(grant.session))
            set_session_cookie(response, caller, grant.token, _left_s(active))
        else:
            before = await data.read(active.session_id, active.subject_id, None)
        change = change_between(before.content.values, self._encoded(session))
        held = before
        if change:
            held = await data.write(active.session_id, active.subject_id, change, session.created)
        self._tell_revision(response, caller, active, held)

    # --- cookies

    def _tell_revision(
        self, response: web.StreamResponse, caller: Caller, active: Session, held: Held
    ) -> None:
        if caller.by_cookie:
            value = f"{_REVISION}{active.session_text}.{held.revision}"
            self._set_cookie(response, value, _left_s(active), local=caller.local)

    def _name(self, local: bool) -> str:
        """Beyond this machine it is a cookie that no neighbouring host can set."""
        return self.cookie_name if local else f"__Host-{self.cookie_name}"

    def _set_cookie(
        self, response: web.StreamResponse, value: str, max_age: int | None, *, local: bool
    ) -> None:
        age = "" if max_age is None else f"; Max-Age={max_age}"
        secure = "" if local else "; Secure"
        response.headers.add(
            hdrs.SET_COOKIE,
            f"{self._name(local)}={value}{age}; Path=/{secure}; HttpOnly; SameSite=Lax",
        )


def _revision(cookie: str, active: Session) -> int | None:
    """The revision that the cookie says of this session, if it says one."""
    own, _, number = cookie.removeprefix(_REVISION).partition(".")
    if not cookie.startswith(_REVISION) or own != active.session_text:
        return None
    return int(number) if number.isascii() and number.isdigit() and len(number) < 19 else None


def _left_s(active: Session) -> int:
    """For how many seconds the session lives at most."""
    left = active.absolute_at - from_us(time.time_ns() // 1000)
    return max(0, int(left.total_seconds()))
