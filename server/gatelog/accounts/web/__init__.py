"""The handlers of accounts, and the key by which they find the use cases."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from gatelog.accounts.service.accounts import Accounts

ACCOUNTS: Final = web.AppKey("accounts", Accounts)
