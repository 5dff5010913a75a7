"""Sessions as aiohttp-session and aiohttp-security know them, and the key of the use cases."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from gatelog.session_data.service.data import SessionData

SESSION_DATA: Final = web.AppKey("session_data", SessionData)
