"""Whose request it is, also where the handler is public and nobody has looked yet."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from gatelog.http.caller import caller_of
from gatelog.http.guard import SESSION
from gatelog.http.recheck import GATE
from gatelog.http.settings import CONFIG
from gatelog.sessions.rules.record import Session
from gatelog.sessions.service.gate import Gate


class _Looked:
    """What was found for a request to a public handler."""

    def __init__(self, session: Session | None) -> None:
        self.session = session


_LOOKED: Final = web.RequestKey("looked", _Looked)


async def active_session(request: web.Request) -> Session | None:
    """The active session of this request; None for a visitor.

    Raises DatabaseUnavailable when nobody can tell, and RuntimeError outside of Gatelog.
    """
    session: Session | None = request.get(SESSION)
    if session is not None:
        return session
    looked = request.get(_LOOKED)
    if looked is None:
        looked = request[_LOOKED] = _Looked(await _look(request))
    return looked.session


async def _look(request: web.Request) -> Session | None:
    if CONFIG not in request.config_dict:
        raise RuntimeError("gatelog.setup(app) comes first, or the application is to be hosted")
    digest = caller_of(request).digest
    if digest is None:
        return None
    gate: Gate = request.config_dict[GATE]
    session = gate.peek(digest)
    if session is None:
        session = await gate.find(digest)
    return session or None
