"""Where new session tokens come from."""

from __future__ import annotations

import secrets

from gatelog.sessions.rules.tokens import TOKEN_BYTES, token_from_random


def new_token() -> str:
    return token_from_random(secrets.token_bytes(TOKEN_BYTES))
