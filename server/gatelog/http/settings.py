"""The settings that handlers go by, as the application was built with them."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from gatelog.config import Config

CONFIG: Final = web.AppKey("config", Config)
