"""The handlers of the console, and the keys by which they find their use cases."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from gatelog.console.service.overview import Looking
from gatelog.console.service.sessions import WhoIsIn
from gatelog.console.service.users import FindUsers

FIND_USERS: Final = web.AppKey("find_users", FindUsers)
WHO_IS_IN: Final = web.AppKey("who_is_in", WhoIsIn)
LOOKING: Final = web.AppKey("looking", Looking)
